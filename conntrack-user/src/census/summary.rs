//! What a census came to, and its JSON.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr};

use ctpressure_model::{
    events::{Tuple, direction_name},
    protocol::protocol_name,
    words::time,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Labels;
use super::groups::{Counts, Groups};
use super::key::{By, Endpoint, Nat, Part, Span};
use super::vacant::{VacantRow, translated};
use crate::kernel::entries::{EntryState, EntryTuple, TableEntry};
use crate::sys::netns::Inode;

/// Entries in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateCount {
    pub state: EntryState,
    pub entries: u64,
}

/// The result of a census.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Entries that were looked at.
    pub seen: u64,
    /// Those of them that were asked for; every other number is about these.
    pub totals: Counts,
    pub translated: u64,
    /// By state, the most frequent first.
    pub states: Vec<StateCount>,
    /// By whatever was asked for.
    pub groups: Vec<Group>,
}

/// The largest keys of one grouping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// What the key is made of.
    pub by: Vec<By>,
    /// Different keys; where [`Group::untold`] is not 0 there are more.
    pub keys: u64,
    pub rows: Vec<Row>,
    /// What is not in the rows. Rows and others are the total.
    pub others: Others,
    /// Entries of keys that could not be counted one by one, because there were too many different
    /// ones. No key that is missing has more.
    pub untold: u64,
    /// By how many entries a row may be too low; 0 unless keys were let go to make room for those of
    /// another table.
    pub too_low_by: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// One part for each [`Group::by`].
    pub key: Vec<Part>,
    pub counts: Counts,
}

/// All keys that have no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Others {
    /// How many different ones, as far as they were counted.
    pub keys: u64,
    pub counts: Counts,
}

impl Group {
    pub(super) fn new(by: &[By], groups: &Groups, totals: Counts, top: usize) -> Self {
        let rows: Vec<Row> = groups
            .top(top)
            .into_iter()
            .map(|(key, counts)| Row {
                key: read(by, key),
                counts,
            })
            .collect();
        let told = rows.iter().fold(Counts::default(), |sum, row| Counts {
            entries: sum.entries + row.counts.entries,
            evictable: sum.evictable + row.counts.evictable,
        });
        Self {
            by: by.to_vec(),
            keys: groups.len(),
            others: Others {
                keys: groups.len().saturating_sub(rows.len() as u64),
                counts: totals.without(told),
            },
            rows,
            untold: groups.untold,
            too_low_by: groups.too_low_by,
        }
    }

    fn rows(&self, labels: &Labels<'_>) -> GroupRows {
        let rows = self.rows.iter().map(|row| KeyRow {
            key: self
                .by
                .iter()
                .zip(&row.key)
                .flat_map(|(by, part)| part_json(*by, *part, labels))
                .collect(),
            counts: row.counts,
        });
        GroupRows {
            by: self.by.clone(),
            keys: self.keys,
            rows: rows.collect(),
            others: OtherKeys {
                keys: self.others.keys,
                counts: self.others.counts,
            },
            untold_entries: self.untold,
            too_low_by: self.too_low_by,
        }
    }
}

/// A [`Summary`] as JSON.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct SummaryRows {
    /// Entries that were looked at.
    seen: u64,
    /// Those of them that were asked for; every other number is about these.
    #[serde(flatten)]
    totals: Counts,
    /// Those with NAT.
    nat: u64,
    /// By state, the most frequent first.
    states: Vec<StateRow>,
    /// By whatever was asked for.
    groups: Vec<GroupRows>,
}

/// A [`StateCount`] as JSON.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct StateRow {
    state: String,
    /// Whose state it is; null: any protocol's.
    protocol: Option<&'static str>,
    entries: u64,
}

/// A [`Group`] as JSON.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct GroupRows {
    /// What the keys are made of.
    by: Vec<By>,
    /// Different keys; where `untold_entries` is not 0 there are more.
    keys: u64,
    rows: Vec<KeyRow>,
    /// What is not in the rows. Rows and others are the total.
    others: OtherKeys,
    /// Entries of keys that could not be counted one by one.
    untold_entries: u64,
    /// By how many entries a row may be too low.
    too_low_by: u64,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct KeyRow {
    /// A member for each of `by`.
    #[cfg_attr(test, schemars(with = "tests::Key"))]
    key: Map<String, Value>,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct OtherKeys {
    /// How many different ones, as far as they were counted.
    keys: u64,
    #[serde(flatten)]
    counts: Counts,
}

/// The parts of a key.
fn read(by: &[By], mut key: &[u64]) -> Vec<Part> {
    let mut parts = Vec::with_capacity(by.len());
    for by in by {
        // Never: each key was written by the same list.
        let Some((part, rest)) = by.read(key) else {
            break;
        };
        parts.push(part);
        key = rest;
    }
    parts
}

impl Summary {
    /// For JSON.
    pub(crate) fn rows(&self, labels: &Labels<'_>) -> SummaryRows {
        let states = self.states.iter().map(|count| StateRow {
            state: count.state.label(),
            protocol: count.state.protocol(),
            entries: count.entries,
        });
        SummaryRows {
            seen: self.seen,
            totals: self.totals,
            nat: self.translated,
            states: states.collect(),
            groups: self.groups.iter().map(|group| group.rows(labels)).collect(),
        }
    }
}

fn endpoint_json(endpoint: Endpoint) -> Value {
    json!({"address": endpoint.address, "port": endpoint.port,
        "protocol": protocol_name(endpoint.protocol)})
}

/// The fields of one part of a key: of a network namespace the number and the name, of anything
/// else one.
fn part_json(by: By, part: Part, labels: &Labels<'_>) -> Vec<(String, Value)> {
    let name = by.name();
    let value = match part {
        Part::Netns(inode) => {
            return vec![
                (name, inode.into()),
                ("netns_name".into(), labels.netns(inode).into()),
            ];
        }
        Part::Owner(slot) => labels.owners.name(slot).into(),
        Part::Workload(slot) => labels.owners.workload_name(slot).into(),
        Part::Direction(direction) => direction_name(direction).into(),
        Part::Destination(endpoint) => {
            let mut object = endpoint_json(endpoint);
            if let Some(vacant) = labels.owners.vacant(endpoint.address) {
                object["vacant"] = json!(vacant.row());
            }
            object
        }
        Part::Service(endpoint) => endpoint.map_or(Value::Null, endpoint_json),
        Part::Source(address) => json!(address),
        Part::Protocol(number) => protocol_name(number).into(),
        Part::State(state) => state.label().into(),
        Part::Age(age) => match age.span {
            Span::Since => json!({"age": age.range()}),
            Span::Left => json!({"expires": age.range()}),
            Span::Unknown => Value::Null,
        },
        Part::Evictable(evictable) => evictable.into(),
        Part::Nat(nat) => nat_name(nat).into(),
        Part::Zone(zone) => zone.into(),
    };
    vec![(name, value)]
}

/// `none`, `snat`, `dnat`, or `snat+dnat`.
pub(super) fn nat_name(nat: Nat) -> &'static str {
    match nat {
        Nat::None => "none",
        Nat::Source => "snat",
        Nat::Destination => "dnat",
        Nat::Both => "snat+dnat",
    }
}

/// A tuple as events have it.
pub(super) fn event_tuple(tuple: &EntryTuple) -> Tuple {
    let (ports, icmp) = (tuple.layer4.ports(), tuple.layer4.icmp());
    Tuple {
        source: tuple.source,
        source_port: ports.map(|(source, _)| source),
        destination: tuple.destination,
        destination_port: ports.map(|(_, destination)| destination),
        icmp_id: icmp.map(|(id, ..)| id),
        icmp_type: icmp.map(|(_, kind, _)| kind),
        icmp_code: icmp.map(|(.., code)| code),
    }
}

/// One entry, as `--list -o json` prints it.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[expect(clippy::struct_excessive_bools, reason = "an entry has as many")]
pub(crate) struct EntryLine {
    /// Inode number of the network namespace.
    netns: Inode,
    netns_name: String,
    /// By address: those that nobody on this node has.
    vacant: BTreeMap<IpAddr, VacantRow>,
    protocol: Cow<'static, str>,
    state: String,
    /// The kernel does not remove it early.
    assured: bool,
    seen_reply: bool,
    snat: bool,
    dnat: bool,
    offloaded: bool,
    dying: bool,
    /// Seconds until it expires; null: the kernel does not say.
    timeout: Option<u32>,
    /// When it began, RFC 3339; null: the kernel keeps no times.
    start: Option<String>,
    /// Seconds since it began.
    age: Option<u64>,
    zone: u16,
    mark: u32,
    /// As ctnetlink knows it.
    id: u32,
    /// As the opener sent it.
    original: Tuple,
    /// The direction that answers come in, after NAT.
    reply: Tuple,
}

impl EntryLine {
    /// What is known of it at `now`, nanoseconds since 1970.
    pub(crate) fn new(netns: Inode, entry: &TableEntry, now: u64, labels: &Labels<'_>) -> Self {
        let start = entry.start.map(|start| {
            let start = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(start);
            time::json::text(start)
        });
        let age = entry
            .start
            .map(|start| now.saturating_sub(start) / 1_000_000_000);
        let vacant = translated(entry).filter_map(|address| {
            let vacant = labels.owners.vacant(address)?;
            Some((address, vacant.row()))
        });
        Self {
            netns,
            netns_name: labels.netns(netns),
            vacant: vacant.collect(),
            protocol: protocol_name(entry.original.protocol),
            state: entry.state.label(),
            assured: entry.status.assured(),
            seen_reply: entry.status.seen_reply(),
            snat: entry.source_translated(),
            dnat: entry.destination_translated(),
            offloaded: entry.status.offloaded(),
            dying: entry.status.dying(),
            timeout: entry.timeout,
            start,
            age,
            zone: entry.zone,
            mark: entry.mark,
            id: entry.id,
            original: event_tuple(&entry.original),
            reply: event_tuple(&entry.reply),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a key may have: a member for each property that was asked for.
    #[derive(schemars::JsonSchema)]
    #[expect(dead_code, reason = "a shape for the schema")]
    pub(super) struct Key {
        #[schemars(skip_serializing_if = "absent")]
        netns: Inode,
        #[schemars(skip_serializing_if = "absent")]
        netns_name: String,
        #[schemars(skip_serializing_if = "absent")]
        owner: String,
        #[schemars(skip_serializing_if = "absent")]
        workload: String,
        #[schemars(skip_serializing_if = "absent")]
        direction: String,
        #[schemars(skip_serializing_if = "absent")]
        destination: KeyEndpoint,
        #[schemars(skip_serializing_if = "absent")]
        service: Option<KeyEndpoint>,
        #[schemars(skip_serializing_if = "absent")]
        source: IpAddr,
        #[schemars(skip_serializing_if = "absent")]
        protocol: String,
        #[schemars(skip_serializing_if = "absent")]
        state: String,
        #[schemars(skip_serializing_if = "absent")]
        age: Option<KeyAge>,
        #[schemars(skip_serializing_if = "absent")]
        evictable: bool,
        #[schemars(skip_serializing_if = "absent")]
        nat: String,
        #[schemars(skip_serializing_if = "absent")]
        zone: u16,
    }

    #[derive(schemars::JsonSchema)]
    #[expect(dead_code, reason = "a shape for the schema")]
    struct KeyEndpoint {
        address: IpAddr,
        /// Null: the protocol has none.
        port: Option<u16>,
        protocol: String,
        #[schemars(skip_serializing_if = "absent")]
        vacant: VacantRow,
    }

    #[derive(schemars::JsonSchema)]
    #[expect(dead_code, reason = "a shape for the schema")]
    struct KeyAge {
        /// Since it began.
        #[schemars(skip_serializing_if = "absent")]
        age: String,
        /// Until it expires.
        #[schemars(skip_serializing_if = "absent")]
        expires: String,
    }
}
