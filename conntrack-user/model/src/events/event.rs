//! The printable form of a record and its JSON.
//!
//! One object a line. Every event has `kind`, `time` (RFC 3339, UTC, nanoseconds), `netns` (inode
//! number), `netns_name`, `cpu`, `weight` (events that it stands for) and `protocol` (a name, a
//! number in digits, or null when the tuple is not known). A tuple has `source`, `source_port`,
//! `destination`, `destination_port`; for ICMP `icmp_id`, `icmp_type`, `icmp_code` instead of ports;
//! for GRE the ports are the keys.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::SystemTime,
};

use conntrack_ebpf::{
    owner::Direction,
    record::{self, FLAG_CAUSE_KNOWN, FLAG_INGRESS, FLAG_VICTIM_INGRESS, View},
};
use serde::{Deserialize, Serialize};

use super::{OwnersBySlot, Reason, Who};
use crate::{
    protocol::{is_icmp, protocol_name},
    verdict::Verdict,
    words::time,
};

/// `IPS_SEEN_REPLY`, `include/uapi/linux/netfilter/nf_conntrack_common.h`
const SEEN_REPLY: u64 = 1 << 1;
/// `IPS_ASSURED`
const ASSURED: u64 = 1 << 2;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Something that happened in a conntrack table, or that was lost on the way here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Event {
    /// A confirmed entry entered the table.
    Insert(InsertEvent),
    /// A packet was lost because of conntrack.
    Drop(DropEvent),
    /// A live entry was removed to make room.
    Eviction(EvictionEvent),
    /// Events were lost since the last line.
    Lost(LostEvent),
    /// It was found out what a full table is full of that a higher limit would only hold more of.
    Verdict(VerdictEvent),
}

/// What a full table is full of: see [`Event::Verdict`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct VerdictEvent {
    /// Time of day, RFC 3339 in JSON.
    #[serde(with = "time::json")]
    #[cfg_attr(any(test, feature = "testing"), schemars(with = "String"))]
    pub time: SystemTime,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// `host`, the name in /run/netns, or the inode number in digits.
    pub netns_name: String,
    /// What a higher limit would only hold more of.
    pub verdict: Verdict,
    /// The same in words, with what to do.
    pub advice: String,
}

/// When and where something was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct Occurrence {
    /// Time of day, RFC 3339 in JSON.
    #[serde(with = "time::json")]
    #[cfg_attr(any(test, feature = "testing"), schemars(with = "String"))]
    pub time: SystemTime,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// `host`, whose it is, what it is kept as in /run/netns, or the inode number in digits.
    pub netns_name: String,
    /// CPU on which it happened.
    pub cpu: u32,
    /// Events that this one stands for.
    pub weight: u32,
    /// Name or number in digits; `None`: not known.
    pub protocol: Option<String>,
}

/// Where the packet came from, as far as it could be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct Origin {
    /// The conntrack zone's id, 0 by default.
    pub zone: u16,
    /// Interface by which the packet came in; `None`: sent from this host, or unknown.
    pub ifindex: Option<u32>,
    /// cgroup v2 id of the sending socket; `None`: no socket, or unknown.
    pub cgroup: Option<u64>,
}

/// One direction of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct Tuple {
    /// Who sends in this direction.
    pub source: IpAddr,
    /// Source port or GRE key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// Who receives in this direction.
    pub destination: IpAddr,
    /// Destination port or GRE key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    /// Identifier of an ICMP query, instead of ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_id: Option<u16>,
    /// Type of an ICMP query, instead of ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// Code of an ICMP query, instead of ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
}

/// An entry entered a table: see [`Event::Insert`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct InsertEvent {
    /// When and where it was seen.
    #[serde(flatten)]
    pub(crate) seen: Occurrence,
    /// Whose connection it is.
    pub(crate) owner: Who,
    /// As the opener sent it.
    pub(crate) original: Option<Tuple>,
    /// The direction that answers come in, after NAT.
    reply: Option<Tuple>,
    /// Where its first packet came from.
    #[serde(flatten)]
    origin: Origin,
}

/// A packet was lost: see [`Event::Drop`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct DropEvent {
    /// Why; in JSON its name.
    pub reason: Reason,
    /// When and where it was seen.
    #[serde(flatten)]
    pub seen: Occurrence,
    /// Whose connection was refused.
    pub owner: Who,
    /// As the opener sent it.
    pub original: Option<Tuple>,
    /// As answers would come; not known when the table was full.
    pub reply: Option<Tuple>,
    /// Where the packet came from.
    #[serde(flatten)]
    pub origin: Origin,
}

/// An entry was removed to make room: see [`Event::Eviction`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct EvictionEvent {
    /// When and where; the protocol is the victim's.
    #[serde(flatten)]
    pub seen: Occurrence,
    /// Whose entry was removed.
    pub victim_owner: Who,
    /// Whose new connection needed room; unknown with its tuple.
    pub cause_owner: Who,
    /// Original direction of the removed entry.
    pub victim: Option<Tuple>,
    /// The victim's reply direction, after NAT.
    pub victim_reply: Option<Tuple>,
    /// The new flow that needed room.
    pub cause: Option<Tuple>,
    /// The new flow's protocol; `None` with its tuple.
    pub cause_protocol: Option<String>,
    /// Whether the victim was ASSURED (`early_drop` spares those; the gc worker may not).
    pub assured: bool,
    /// Whether the victim had been answered.
    pub seen_reply: bool,
    /// Where the new flow's packet came from; the zone is the victim's.
    #[serde(flatten)]
    pub origin: Origin,
}

/// See [`Event::Lost`]. `records` is the sum of the other counts; all of them are missing lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct LostEvent {
    /// When it was noticed.
    #[serde(with = "time::json")]
    #[cfg_attr(any(test, feature = "testing"), schemars(with = "String"))]
    pub time: SystemTime,
    /// Lines that are missing.
    pub records: u64,
    /// Of those, records of any kind that this watcher was too slow to take (before its filter).
    pub watcher: u64,
    /// Of those, drop records that did not fit the ring.
    pub drops: u64,
    /// Of those, eviction records that did not fit the ring.
    pub evictions: u64,
    /// Of those, insert records that did not fit the ring.
    pub inserts: u64,
    /// Of those, drops beyond the budget of records.
    pub drops_not_detailed: u64,
    /// Of those, evictions beyond the budget of records.
    pub evictions_not_detailed: u64,
}

impl LostEvent {
    /// With `records` as the sum of the others.
    #[must_use]
    pub fn summed(self) -> Self {
        Self {
            records: self.watcher
                + self.drops
                + self.evictions
                + self.inserts
                + self.drops_not_detailed
                + self.evictions_not_detailed,
            ..self
        }
    }
}

/// Names of network namespaces by inode number, and owners by slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    namespaces: HashMap<u32, String>,
    /// What files call them.
    kept: HashMap<u32, String>,
    /// Who has which slot now.
    pub(crate) owners: OwnersBySlot,
}

impl Names {
    /// The same namespaces with these owners.
    #[must_use]
    pub fn with_owners(self, owners: OwnersBySlot) -> Self {
        Self { owners, ..self }
    }

    /// The same, also by what files call network namespaces.
    #[must_use]
    pub fn with_kept(self, kept: impl IntoIterator<Item = (u32, String)>) -> Self {
        Self {
            kept: kept.into_iter().collect(),
            ..self
        }
    }

    /// The name, or the inode number in digits.
    fn name(&self, netns: u32) -> String {
        self.namespaces
            .get(&netns)
            .cloned()
            .unwrap_or_else(|| netns.to_string())
    }

    /// Whether this namespace goes by `name`: by that of whose it is, or by that of the file that keeps it.
    pub(crate) fn is(&self, netns: u32, name: &str) -> bool {
        let names = [&self.namespaces, &self.kept];
        names
            .into_iter()
            .any(|names| names.get(&netns).is_some_and(|known| known == name))
    }
}

impl FromIterator<(u32, String)> for Names {
    fn from_iter<I: IntoIterator<Item = (u32, String)>>(names: I) -> Self {
        Self {
            namespaces: names.into_iter().collect(),
            kept: HashMap::new(),
            owners: OwnersBySlot::default(),
        }
    }
}

/// The direction that a flag of a record says.
const fn direction(flags: u8, ingress: u8) -> Direction {
    if flags & ingress == 0 {
        Direction::Egress
    } else {
        Direction::Ingress
    }
}

impl Event {
    /// What a record says. `time` is the time of day at its `time_ns`.
    pub fn new(view: &View, time: SystemTime, names: &Names) -> Self {
        let header = view.header();
        let seen = |tuple: Option<&record::Tuple>| Occurrence {
            time,
            netns: header.netns,
            netns_name: names.name(header.netns),
            cpu: header.cpu,
            weight: header.weight,
            protocol: tuple.map(|tuple| protocol_name(tuple.protonum).into_owned()),
        };
        let owner = |origin: &record::Origin| {
            names.owners.who(
                u32::from(origin.owner),
                direction(header.flags, FLAG_INGRESS),
            )
        };
        match view {
            View::Insert(record) => Self::Insert(InsertEvent {
                seen: seen(Some(&record.original)),
                owner: owner(&record.origin),
                original: Tuple::new(&record.original),
                reply: Tuple::new(&record.reply),
                origin: Origin::new(record.origin),
            }),
            View::Drop(record) => {
                let known = (header.flags & FLAG_CAUSE_KNOWN != 0).then_some(&record.original);
                Self::Drop(DropEvent {
                    reason: Reason::from_number(header.reason),
                    seen: seen(known),
                    owner: owner(&record.origin),
                    original: known.and_then(Tuple::new),
                    reply: Tuple::new(&record.reply),
                    origin: Origin::new(record.origin),
                })
            }
            View::Eviction(record) => {
                let known = (header.flags & FLAG_CAUSE_KNOWN != 0).then_some(&record.cause);
                Self::Eviction(EvictionEvent {
                    seen: seen(Some(&record.victim)),
                    victim_owner: names.owners.who(
                        u32::from(record.victim_owner),
                        direction(header.flags, FLAG_VICTIM_INGRESS),
                    ),
                    cause_owner: owner(&record.origin),
                    victim: Tuple::new(&record.victim),
                    victim_reply: Tuple::new(&record.victim_reply),
                    cause: known.and_then(Tuple::new),
                    cause_protocol: known.map(|cause| protocol_name(cause.protonum).into_owned()),
                    assured: record.victim_status & ASSURED != 0,
                    seen_reply: record.victim_status & SEEN_REPLY != 0,
                    origin: Origin::new(record.origin),
                })
            }
        }
    }

    /// Appends the event as one line of JSON.
    pub fn write_json(&self, line: &mut Vec<u8>) {
        // Writing to memory can't fail and all keys are strings.
        if serde_json::to_writer(&mut *line, self).is_ok() {
            line.push(b'\n');
        }
    }
}

impl Origin {
    fn new(origin: record::Origin) -> Self {
        Self {
            zone: origin.zone,
            ifindex: (origin.ifindex != 0).then_some(origin.ifindex),
            cgroup: (origin.cgroup != 0).then_some(origin.cgroup),
        }
    }
}

impl Tuple {
    /// `None` when the record has no tuple here (no address family).
    fn new(tuple: &record::Tuple) -> Option<Self> {
        let (source, destination) = addresses(tuple)?;
        let icmp = is_icmp(tuple.protonum);
        let [icmp_type, icmp_code] = tuple.dst_port.to_ne_bytes();
        let source_port = u16::from_be(tuple.src_port);
        Some(Self {
            source,
            destination,
            source_port: (!icmp).then_some(source_port),
            destination_port: (!icmp).then_some(u16::from_be(tuple.dst_port)),
            icmp_id: icmp.then_some(source_port),
            icmp_type: icmp.then_some(icmp_type),
            icmp_code: icmp.then_some(icmp_code),
        })
    }
}

/// Source and destination of a record's tuple; `None` when it is not filled in.
pub(super) fn addresses(tuple: &record::Tuple) -> Option<(IpAddr, IpAddr)> {
    let address = |words: &[u32; 4]| match tuple.l3num {
        AF_INET => Some(IpAddr::V4(Ipv4Addr::from(words[0].to_ne_bytes()))),
        AF_INET6 => {
            let mut bytes = [0; 16];
            for (chunk, word) in bytes.chunks_exact_mut(4).zip(words) {
                chunk.copy_from_slice(&word.to_ne_bytes());
            }
            Some(IpAddr::V6(Ipv6Addr::from(bytes)))
        }
        _ => None,
    };
    Some((address(&tuple.src)?, address(&tuple.dst)?))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::tests::sample;

    fn as_json(view: &View) -> Value {
        let pod = crate::owner::Owner::pod("u-1", Some(("shop", "cart-1")));
        let names = [(4_026_531_840, "host".to_owned())]
            .into_iter()
            .collect::<Names>()
            .with_owners([(2, pod)].into_iter().collect());
        let event = Event::new(view, sample::TIME, &names);
        let mut line = Vec::new();
        event.write_json(&mut line);
        assert_eq!(line.last(), Some(&b'\n'));
        assert_eq!(line.split(|byte| *byte == b'\n').count(), 2);
        let read: Event = serde_json::from_slice(&line).expect("its own JSON");
        assert_eq!(read, event);
        let mut value: Value = serde_json::from_slice(&line).expect("JSON");
        let object = value.as_object_mut().expect("an object");
        let time = object.remove("time").expect("time");
        let time = time.as_str().expect("a string");
        assert!(time.ends_with('Z') && time.len() == "2026-01-01T00:00:00.000000000Z".len());
        value
    }

    #[test]
    fn an_insert_as_json() {
        assert_eq!(
            as_json(&sample::insert()),
            json!({"kind": "insert", "netns": 4_026_531_840_u32, "netns_name": "host", "cpu": 1,
                "weight": 1, "protocol": "udp",
                "owner": {"kind": "unknown", "direction": "egress"},
                "original": {"source": "10.0.0.1", "source_port": 1234,
                    "destination": "10.0.0.2", "destination_port": 53},
                "reply": {"source": "10.0.0.2", "source_port": 53,
                    "destination": "10.0.0.1", "destination_port": 1234},
                "zone": 0, "ifindex": null, "cgroup": null})
        );
    }

    #[test]
    fn a_drop_of_an_echo_request_as_json() {
        assert_eq!(
            as_json(&sample::icmpv6_drop()),
            json!({"kind": "drop", "reason": "table_full", "netns": 4_026_532_177_u32,
                "netns_name": "4026532177", "cpu": 0, "weight": 1, "protocol": "icmpv6",
                "owner": {"kind": "unknown", "direction": "egress"},
                "original": {"source": "fd00::1", "destination": "fd00::2", "icmp_id": 7,
                    "icmp_type": 128, "icmp_code": 0},
                "reply": null, "zone": 3, "ifindex": 2, "cgroup": 77})
        );
    }

    #[test]
    fn a_drop_without_a_known_flow_has_nulls() {
        let mut view = sample::icmpv6_drop();
        if let View::Drop(record) = &mut view {
            record.header.flags = 0;
        }
        let value = as_json(&view);
        assert_eq!(value["original"], Value::Null);
        assert_eq!(value["protocol"], Value::Null);
    }

    #[test]
    fn an_eviction_as_json() {
        assert_eq!(
            as_json(&sample::eviction()),
            json!({"kind": "eviction", "netns": 4_026_531_840_u32, "netns_name": "host", "cpu": 1,
                "weight": 1, "protocol": "tcp",
                "victim_owner": {"kind": "pod", "namespace": "shop", "pod": "cart-1",
                    "direction": "ingress"},
                "cause_owner": {"kind": "unknown", "direction": "egress"},
                "victim": {"source": "10.0.0.9", "source_port": 40000,
                    "destination": "10.0.0.2", "destination_port": 80},
                "victim_reply": {"source": "10.0.0.2", "source_port": 80,
                    "destination": "10.0.0.9", "destination_port": 40000},
                "cause": {"source": "10.0.0.1", "source_port": 1234,
                    "destination": "10.0.0.2", "destination_port": 53},
                "cause_protocol": "udp", "assured": false, "seen_reply": true,
                "zone": 0, "ifindex": null, "cgroup": null})
        );
    }
}
