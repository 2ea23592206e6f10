//! The limit controller: raises `nf_conntrack_max` when it must, as far as the node can afford,
//! never lowers what somebody else set, says what it did and why, and puts things back. If it may, it
//! shortens one timeout for a while when nothing else helps.
//!
//! * `settings`: what it may do, checked before anything is loaded;
//! * `policy`: when to change the limit, and to what: pure, over samples;
//! * `ceiling`: how far the node's memory lets the limit be raised: pure;
//! * `ledger`: what has to be remembered;
//! * `controller`: ties it together, and carries a change out step by step;
//! * `knobs`: the sysctls that are written; `store`: the state on disk; `lock`: one controller a node;
//! * `node`, `look`, `culprit`: what is read of the node, of a table, and who may have set the limit;
//! * [`change`]: the record of one change, and the history of them;
//! * `report`: what the controller says of itself, handed on by `control`; `follow`: each change once.

pub(crate) mod ceiling;
pub(crate) mod control;
pub(crate) mod controller;
pub(crate) mod culprit;
pub(crate) mod follow;
pub(crate) mod knobs;
pub(crate) mod ledger;
pub(crate) mod lock;
pub(crate) mod look;
pub(crate) mod node;
pub(crate) mod policy;
pub(crate) mod report;
pub(crate) mod settings;
pub(crate) mod store;
#[cfg(test)]
mod tests;

pub(crate) use control::Control;
pub(crate) use controller::{Controller, ControllerPlace, ControllerSample};
pub use ctpressure_model::limit_change::{self as change, Change};
pub(crate) use follow::Following;
pub use report::Report;
pub(crate) use settings::{Mode, Settings, SettingsError};
