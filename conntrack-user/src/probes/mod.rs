//! Which kernel function is probed, by which mechanism, and what the probes count.

mod options;
mod totals;

pub use options::{Mechanism, Options, UnknownMechanism};
pub use totals::{Drops, Lost, Totals};
