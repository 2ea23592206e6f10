//! What is wrong or risky on this node, what follows from it, what to do about it and what that costs.
//!
//! [`Facts`] are gathered once, by reading files and asking the kernel; nothing is changed. [`findings`] are
//! pure functions over them, one file for each group, with their [`thresholds`] in one place. So everything
//! that a finding says can be tested without a kernel that is in that state.
//!
//! What could not be looked at is said ([`Unseen`]): no finding means "looked at, and fine" only for
//! what is in [`Facts::looked`].

pub(crate) mod facts;
mod finding;
pub(crate) mod findings;
mod npd;
mod report;
pub(crate) mod thresholds;

#[cfg(test)]
mod tests;

pub(crate) use facts::{Facts, RefusedRequests};
pub(crate) use finding::{Finding, Severity, Unseen};
pub(crate) use npd::PluginAnswer;
pub(crate) use report::DoctorReport;
