//! The recorder: what writes the journal while the agent runs. `ctpressure-journal` has its format, and
//! reads it.

mod copying;
mod detail;
pub(crate) mod facts;
mod health;
mod known_flows;
mod queue;
mod second;
mod store;
mod writer;

pub(crate) use health::{Health, JournalStatus};
pub(crate) use queue::{Journal, JournalQueue};
pub(crate) use store::Bounds;
pub(crate) use writer::JournalOptions;

#[cfg(test)]
mod tests;
