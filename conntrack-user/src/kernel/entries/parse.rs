//! One message of ctnetlink, read onto the stack (`ctnetlink_fill_info`, `nf_conntrack_netlink.c`), and how one entry is named to it.
//!
//! Attributes that are not known, or not of the length that they should have, are passed over: an
//! entry is what its other attributes say, and without both tuples it is none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{EntryState, EntryStatus, EntryTuple, Layer4, TableEntry};
use crate::sys::netlink::{Attributes, put, put_nested};

mod cta {
    pub(super) const TUPLE_ORIG: u16 = 1;
    pub(super) const TUPLE_REPLY: u16 = 2;
    pub(super) const STATUS: u16 = 3;
    pub(super) const PROTOINFO: u16 = 4;
    pub(super) const TIMEOUT: u16 = 7;
    pub(super) const MARK: u16 = 8;
    pub(super) const ID: u16 = 12;
    pub(super) const ZONE: u16 = 18;
    pub(super) const TIMESTAMP: u16 = 20;
    pub(super) const TUPLE_IP: u16 = 1;
    pub(super) const TUPLE_PROTO: u16 = 2;
    pub(super) const TUPLE_ZONE: u16 = 3;
    pub(super) const IP_V4_SRC: u16 = 1;
    pub(super) const IP_V4_DST: u16 = 2;
    pub(super) const IP_V6_SRC: u16 = 3;
    pub(super) const IP_V6_DST: u16 = 4;
    pub(super) const PROTO_NUM: u16 = 1;
    pub(super) const PROTO_SRC_PORT: u16 = 2;
    pub(super) const PROTO_DST_PORT: u16 = 3;
    pub(super) const PROTO_ICMP_ID: u16 = 4;
    pub(super) const PROTO_ICMP_TYPE: u16 = 5;
    pub(super) const PROTO_ICMP_CODE: u16 = 6;
    pub(super) const PROTO_ICMPV6_ID: u16 = 7;
    pub(super) const PROTO_ICMPV6_TYPE: u16 = 8;
    pub(super) const PROTO_ICMPV6_CODE: u16 = 9;
    pub(super) const PROTOINFO_TCP: u16 = 1;
    pub(super) const PROTOINFO_DCCP: u16 = 2;
    pub(super) const PROTOINFO_SCTP: u16 = 3;
    /// Of each of the three: its state comes first.
    pub(super) const PROTOINFO_STATE: u16 = 1;
    pub(super) const TIMESTAMP_START: u16 = 1;
}

/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// The entry that these attributes describe; `None` without both tuples.
pub(crate) fn parse(attributes: Attributes<'_>) -> Option<TableEntry> {
    let mut original = None;
    let mut reply = None;
    let mut zone = None;
    let mut status = EntryStatus::default();
    let mut state = None;
    let mut timeout = None;
    let mut mark = 0;
    let mut id = 0;
    let mut start = None;
    for (kind, value) in attributes {
        match kind {
            cta::TUPLE_ORIG => {
                let (tuple, of_direction) = tuple(value);
                original = tuple;
                zone = zone.or(of_direction);
            }
            cta::TUPLE_REPLY => reply = tuple(value).0,
            cta::STATUS => status = EntryStatus(word(value).unwrap_or_default()),
            cta::PROTOINFO => state = protocol_state(value),
            cta::TIMEOUT => timeout = word(value),
            cta::MARK => mark = word(value).unwrap_or_default(),
            cta::ID => id = word(value).unwrap_or_default(),
            cta::ZONE => zone = half(value).or(zone),
            cta::TIMESTAMP => start = begin(value),
            _ => {}
        }
    }
    Some(TableEntry {
        original: original?,
        reply: reply?,
        zone: zone.unwrap_or_default(),
        status,
        state: state.unwrap_or_else(|| EntryState::of(status)),
        timeout,
        mark,
        id,
        start,
    })
}

/// The family of an entry (`nfgen_family`), and the attributes that name it and no other one: its original tuple, zone and number.
pub(crate) fn name_of_entry(entry: &TableEntry) -> (u8, Vec<u8>) {
    let mut attributes = Vec::new();
    let tuple = &entry.original;
    put_nested(&mut attributes, cta::TUPLE_ORIG, |own| {
        put_nested(own, cta::TUPLE_IP, |ip| {
            match (tuple.source, tuple.destination) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    put(ip, cta::IP_V4_SRC, &source.octets());
                    put(ip, cta::IP_V4_DST, &destination.octets());
                }
                (source, destination) => {
                    let octets = |address| match address {
                        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                        IpAddr::V6(v6) => v6.octets(),
                    };
                    put(ip, cta::IP_V6_SRC, &octets(source));
                    put(ip, cta::IP_V6_DST, &octets(destination));
                }
            }
        });
        put_nested(own, cta::TUPLE_PROTO, |protocol| {
            put(protocol, cta::PROTO_NUM, &[tuple.protocol]);
            put_layer4(protocol, tuple);
        });
    });
    put(&mut attributes, cta::ZONE, &entry.zone.to_be_bytes());
    put(&mut attributes, cta::ID, &entry.id.to_be_bytes());
    let family = if tuple.source.is_ipv4() { IPV4 } else { IPV6 };
    (family, attributes)
}

fn put_layer4(protocol: &mut Vec<u8>, tuple: &EntryTuple) {
    match tuple.layer4 {
        Layer4::Addresses => {}
        Layer4::Ports {
            source,
            destination,
        } => {
            put(protocol, cta::PROTO_SRC_PORT, &source.to_be_bytes());
            put(protocol, cta::PROTO_DST_PORT, &destination.to_be_bytes());
        }
        Layer4::Icmp { id, kind, code } => {
            let [of_id, of_kind, of_code] = if tuple.source.is_ipv4() {
                [
                    cta::PROTO_ICMP_ID,
                    cta::PROTO_ICMP_TYPE,
                    cta::PROTO_ICMP_CODE,
                ]
            } else {
                [
                    cta::PROTO_ICMPV6_ID,
                    cta::PROTO_ICMPV6_TYPE,
                    cta::PROTO_ICMPV6_CODE,
                ]
            };
            put(protocol, of_id, &id.to_be_bytes());
            put(protocol, of_kind, &[kind]);
            put(protocol, of_code, &[code]);
        }
    }
}

/// A tuple, if it is whole, and the zone of its direction.
#[inline]
fn tuple(value: &[u8]) -> (Option<EntryTuple>, Option<u16>) {
    let mut addresses = None;
    let mut protocol = None;
    let mut zone = None;
    for (kind, value) in Attributes::nested(value) {
        match kind {
            cta::TUPLE_IP => addresses = ip(value),
            cta::TUPLE_PROTO => protocol = layer4(value),
            cta::TUPLE_ZONE => zone = half(value),
            _ => {}
        }
    }
    let tuple = addresses
        .zip(protocol)
        .map(|((source, destination), (protocol, layer4))| EntryTuple {
            source,
            destination,
            protocol,
            layer4,
        });
    (tuple, zone)
}

/// Source and destination, of one family.
#[inline]
fn ip(value: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let mut source = None;
    let mut destination = None;
    let v4 = |value: &[u8]| <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
    let v6 = |value: &[u8]| <[u8; 16]>::try_from(value).ok().map(Ipv6Addr::from);
    for (kind, value) in Attributes::nested(value) {
        match kind {
            cta::IP_V4_SRC => source = v4(value).map(IpAddr::V4),
            cta::IP_V4_DST => destination = v4(value).map(IpAddr::V4),
            cta::IP_V6_SRC => source = v6(value).map(IpAddr::V6),
            cta::IP_V6_DST => destination = v6(value).map(IpAddr::V6),
            _ => {}
        }
    }
    source
        .zip(destination)
        .filter(|(source, destination)| source.is_ipv4() == destination.is_ipv4())
}

/// Protocol number, and what it has besides addresses.
#[inline]
fn layer4(value: &[u8]) -> Option<(u8, Layer4)> {
    let mut number = None;
    let (mut source, mut destination) = (None, None);
    let (mut id, mut kind_of_icmp, mut code) = (None, None, None);
    for (kind, value) in Attributes::nested(value) {
        match kind {
            cta::PROTO_NUM => number = byte(value),
            cta::PROTO_SRC_PORT => source = half(value),
            cta::PROTO_DST_PORT => destination = half(value),
            cta::PROTO_ICMP_ID | cta::PROTO_ICMPV6_ID => id = half(value),
            cta::PROTO_ICMP_TYPE | cta::PROTO_ICMPV6_TYPE => kind_of_icmp = byte(value),
            cta::PROTO_ICMP_CODE | cta::PROTO_ICMPV6_CODE => code = byte(value),
            _ => {}
        }
    }
    let layer4 = match (source, destination, id, kind_of_icmp, code) {
        (Some(source), Some(destination), ..) => Layer4::Ports {
            source,
            destination,
        },
        (_, _, Some(id), Some(kind), Some(code)) => Layer4::Icmp { id, kind, code },
        _ => Layer4::Addresses,
    };
    number.map(|number| (number, layer4))
}

fn protocol_state(value: &[u8]) -> Option<EntryState> {
    Attributes::nested(value).find_map(|(kind, value)| {
        let state: fn(u8) -> EntryState = match kind {
            cta::PROTOINFO_TCP => EntryState::Tcp,
            cta::PROTOINFO_SCTP => EntryState::Sctp,
            cta::PROTOINFO_DCCP => EntryState::Dccp,
            _ => return None,
        };
        Attributes::nested(value)
            .find(|(kind, _)| *kind == cta::PROTOINFO_STATE)
            .and_then(|(_, value)| byte(value))
            .map(state)
    })
}

fn begin(value: &[u8]) -> Option<u64> {
    Attributes::nested(value)
        .find(|(kind, _)| *kind == cta::TIMESTAMP_START)
        .and_then(|(_, value)| value.try_into().ok())
        .map(u64::from_be_bytes)
}

fn word(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

fn half(value: &[u8]) -> Option<u16> {
    value.try_into().ok().map(u16::from_be_bytes)
}

fn byte(value: &[u8]) -> Option<u8> {
    value.try_into().ok().map(u8::from_be_bytes)
}
