//! The limit controller: raises `nf_conntrack_max` when it must, as far as the node can afford,
//! never lowers what somebody else set, says what it did and why, and puts things back.
//!
//! * [`change`]: the record of one change, and the history of them;
//! * [`report`]: what the controller says of itself, part of each snapshot.

pub mod change;
pub mod report;

pub use change::Change;
pub use report::{Mode, Report};
