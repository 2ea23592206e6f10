//! Of which servers manifests and chart are for.

/// The newest whose types are known (`xtask/objects`).
pub(super) const NEWEST: &str = "1.37.0";
/// The oldest that the chart takes, which is also what runs in guests.
pub(super) const OLDEST: &str = crate::kubernetes::VERSION;
