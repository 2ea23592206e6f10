//! The host table under the names of `node_exporter`, so that rules written for it run as they are.
//! All of them are gauges there, and `ignore` is what the kernel makes it: always 0.

use prometheus::proto::MetricFamily;

use super::metrics::{Family, f};
use crate::agent::Snapshot;

pub(super) fn families(snapshot: &Snapshot) -> Vec<MetricFamily> {
    let host = snapshot.tables.iter().find(|table| table.name == "host");
    let stats = host.and_then(|table| table.stats.as_ref());
    let stat = |name: &str, help: &str, value: Option<u64>| {
        Family::gauge(&format!("node_nf_conntrack_stat_{name}"), help).maybe(&[], value.map(f))
    };
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
        .maybe(&[], snapshot.limit.map(f)),
        stat(
            "found",
            "Number of searched entries which were successful.",
            stats.map(|stats| stats.found),
        ),
        stat(
            "invalid",
            "Number of packets seen which can not be tracked.",
            stats.map(|stats| stats.invalid),
        ),
        stat(
            "ignore",
            "Number of packets seen which are already connected to a conntrack entry.",
            stats.map(|_| 0),
        ),
        stat(
            "insert",
            "Number of entries inserted into the list.",
            stats.map(|stats| stats.insert),
        ),
        stat(
            "insert_failed",
            "Number of entries for which list insertion was attempted but failed.",
            stats.map(|stats| stats.insert_failed),
        ),
        stat(
            "drop",
            "Number of packets dropped due to conntrack failure.",
            stats.map(|stats| stats.drop),
        ),
        stat(
            "early_drop",
            "Number of dropped conntrack entries to make room for new ones, if maximum table size was reached.",
            stats.map(|stats| stats.early_drop),
        ),
        stat(
            "search_restart",
            "Number of conntrack table lookups which had to be restarted due to hashtable resizes.",
            stats.map(|stats| stats.search_restart),
        ),
    ]
    .into_iter()
    .filter_map(Family::finish)
    .collect()
}
