//! The host table under the names of `node_exporter`, so that rules written for it run as they are.
//! All of them are gauges there, and `ignore` is what the kernel makes it: always 0.

use prometheus::proto::MetricFamily;

use super::family::{Family, f};
use crate::{agent::Snapshot, kernel::stats::KernelStats};

/// The statistics by their names, as the exporter describes them. `ignore` is always 0.
const STATISTICS: [(&str, &str); 8] = [
    ("found", "Number of searched entries which were successful."),
    (
        "invalid",
        "Number of packets seen which can not be tracked.",
    ),
    (
        "ignore",
        "Number of packets seen which are already connected to a conntrack entry.",
    ),
    ("insert", "Number of entries inserted into the list."),
    (
        "insert_failed",
        "Number of entries for which list insertion was attempted but failed.",
    ),
    (
        "drop",
        "Number of packets dropped due to conntrack failure.",
    ),
    (
        "early_drop",
        "Number of dropped conntrack entries to make room for new ones, if maximum table size was reached.",
    ),
    (
        "search_restart",
        "Number of conntrack table lookups which had to be restarted due to hashtable resizes.",
    ),
];

pub(super) fn families(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let host = snapshot
        .tables
        .list
        .iter()
        .find(|table| table.name == "host");
    let stats = host.and_then(|table| table.stats.as_ref());
    let statistics = STATISTICS.into_iter().map(|(name, help)| {
        let named = stats.map(KernelStats::named);
        let value = named.map(|named| {
            let value = named.into_iter().find(|(known, _)| *known == name);
            value.and_then(|(_, value)| value).unwrap_or(0)
        });
        Family::gauge(&format!("node_nf_conntrack_stat_{name}"), help).maybe(&[], value.map(f))
    });
    [
        Family::gauge(
            "node_nf_conntrack_entries",
            "Number of currently allocated flow entries for connection tracking.",
        )
        .maybe(&[], host.map(|table| f(table.entries))),
        Family::gauge(
            "node_nf_conntrack_entries_limit",
            "Maximum size of connection tracking table.",
        )
        .maybe(&[], snapshot.tables.limit.map(f)),
    ]
    .into_iter()
    .chain(statistics)
    .filter_map(Family::finish)
    .collect()
}
