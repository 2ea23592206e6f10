//! The limit controller: raises `nf_conntrack_max` when it must, as far as the node can afford,
//! never lowers what somebody else set, says what it did and why, and puts things back. If it may, it
//! shortens one timeout for a while when nothing else helps.
//!
//! * [`settings`]: what it may do, checked before anything is loaded;
//! * [`policy`]: when to change the limit, and to what: pure, over samples;
//! * [`cost`]: what a limit costs in memory and chain length, and the ceiling: pure;
//! * [`flood`]: when a larger limit is the wrong answer: pure;
//! * [`ledger`]: what has to be remembered;
//! * [`controller`]: ties it together, and carries a change out step by step;
//! * [`knobs`]: the sysctls that are written; [`store`]: the state on disk; [`lock`]: one controller a node;
//! * [`node`], [`look`], [`culprit`]: what is read of the node, of a table, and who may have set the limit;
//! * [`change`]: the record of one change, and the history of them;
//! * [`report`]: what the controller says of itself, part of each snapshot; [`follow`]: each change once.

pub mod change;
pub mod control;
pub mod controller;
pub mod cost;
pub mod culprit;
pub mod flood;
pub mod follow;
pub mod knobs;
pub mod ledger;
pub mod lock;
pub mod look;
pub mod node;
pub mod policy;
pub mod report;
pub mod settings;
#[cfg(test)]
mod simulation;
pub mod store;

pub use change::Change;
pub use control::Control;
pub use controller::{Controller, Place, Sample};
pub use follow::Following;
pub use report::{Mode, Report};
pub use settings::{Settings, SettingsError};
