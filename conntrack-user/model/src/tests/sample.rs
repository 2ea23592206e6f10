//! Records for tests.

use std::time::SystemTime;

use conntrack_ebpf::record::{
    DropReason, DropRecord, EvictionRecord, FLAG_CAUSE_KNOWN, FLAG_VICTIM_INGRESS, Header,
    InsertRecord, Kind, Origin, Tuple, VERSION, View,
};

/// When they were seen.
pub const TIME: SystemTime = SystemTime::UNIX_EPOCH;

/// A tuple of IPv4, by addresses and ports.
pub fn tuple_v4(protonum: u8, from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Tuple {
    Tuple {
        src: [u32::from_ne_bytes(from.0), 0, 0, 0],
        src_port: from.1.to_be(),
        l3num: 2,
        dst: [u32::from_ne_bytes(to.0), 0, 0, 0],
        dst_port: to.1.to_be(),
        protonum,
        dir: 0,
    }
}

pub fn tuple_v6(protonum: u8, from: ([u16; 8], u16), to: ([u16; 8], u16)) -> Tuple {
    let words = |address: [u16; 8]| {
        let mut words = [0; 4];
        for (word, pair) in words.iter_mut().zip(address.chunks_exact(2)) {
            *word = ((u32::from(pair[0]) << 16) | u32::from(pair[1])).to_be();
        }
        words
    };
    Tuple {
        src: words(from.0),
        src_port: from.1.to_be(),
        l3num: 10,
        dst: words(to.0),
        dst_port: to.1.to_be(),
        protonum,
        dir: 0,
    }
}

pub fn header(kind: Kind) -> Header {
    Header {
        version: VERSION,
        kind: kind as u8,
        reason: if kind == Kind::Drop {
            DropReason::TableFull as u8
        } else {
            0
        },
        flags: FLAG_CAUSE_KNOWN,
        netns: 4_026_531_840,
        time_ns: 1_000_000_000,
        weight: 1,
        cpu: 1,
    }
}

/// DNS from 10.0.0.1 to 10.0.0.2 on the host.
pub fn insert() -> View {
    View::Insert(InsertRecord {
        header: header(Kind::Insert),
        original: tuple_v4(17, ([10, 0, 0, 1], 1234), ([10, 0, 0, 2], 53)),
        reply: tuple_v4(17, ([10, 0, 0, 2], 53), ([10, 0, 0, 1], 1234)),
        origin: Origin::default(),
    })
}

/// An echo request that came in by interface 2 of another namespace, zone 3.
pub fn icmpv6_drop() -> View {
    let address = |last| [0xfd00, 0, 0, 0, 0, 0, 0, last];
    View::Drop(DropRecord {
        header: Header {
            netns: 4_026_532_177,
            cpu: 0,
            ..header(Kind::Drop)
        },
        original: tuple_v6(58, (address(1), 7), (address(2), 128 << 8)),
        reply: Tuple::default(),
        origin: Origin {
            cgroup: 77,
            ifindex: 2,
            zone: 3,
            owner: 0,
        },
    })
}

/// A TCP entry that had been answered, evicted for a DNS query.
pub fn eviction() -> View {
    let header = header(Kind::Eviction);
    View::Eviction(EvictionRecord {
        header: Header {
            flags: header.flags | FLAG_VICTIM_INGRESS,
            ..header
        },
        victim: tuple_v4(6, ([10, 0, 0, 9], 40_000), ([10, 0, 0, 2], 80)),
        victim_reply: tuple_v4(6, ([10, 0, 0, 2], 80), ([10, 0, 0, 9], 40_000)),
        cause: tuple_v4(17, ([10, 0, 0, 1], 1234), ([10, 0, 0, 2], 53)),
        origin: Origin::default(),
        victim_status: 0b1010,
        victim_owner: 2,
        reserved: [0; 3],
    })
}
