//! The parser against what another crate writes, and against bytes that nobody should write.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{DefaultNla, Emitable as _, Nla};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Protocol,
    Status as OtherStatus, Tuple as OtherTuple,
};
use proptest::prelude::*;

use super::*;
use crate::sys::netlink::Attributes;

/// What the other crate leaves as bytes.
fn raw(kind: u16, value: &[u8]) -> DefaultNla {
    DefaultNla::new(kind, value.to_vec())
}

fn nested(kind: u16, parts: &[DefaultNla]) -> DefaultNla {
    const NESTED: u16 = 0x8000;
    raw(kind | NESTED, &emitted(parts))
}

fn emitted<T: Nla>(attributes: &[T]) -> Vec<u8> {
    attributes
        .iter()
        .flat_map(|attribute| {
            let mut bytes = vec![0; attribute.buffer_len()];
            attribute.emit(&mut bytes);
            bytes
        })
        .collect()
}

fn other_tuple(tuple: &EntryTuple) -> Vec<OtherTuple> {
    let mut protocol = vec![ProtoTuple::Protocol(Protocol::from(tuple.protocol))];
    match tuple.layer4 {
        Layer4::Addresses => {}
        Layer4::Ports {
            source,
            destination,
        } => protocol.extend([
            ProtoTuple::SourcePort(source),
            ProtoTuple::DestinationPort(destination),
        ]),
        Layer4::Icmp { id, kind, code } => {
            // CTA_PROTO_ICMP_ID and the two after it, or those of ICMPv6.
            let first = if tuple.protocol == 1 { 4 } else { 7 };
            protocol.extend(
                [
                    raw(first, &id.to_be_bytes()),
                    raw(first + 1, &[kind]),
                    raw(first + 2, &[code]),
                ]
                .map(ProtoTuple::Other),
            );
        }
    }
    vec![
        OtherTuple::Ip(vec![
            IPTuple::SourceAddress(tuple.source),
            IPTuple::DestinationAddress(tuple.destination),
        ]),
        OtherTuple::Proto(protocol),
    ]
}

/// The entry as the other crate writes it, with attributes in between that mean nothing here.
fn attributes(entry: &TableEntry) -> Vec<u8> {
    let mut list = vec![
        ConntrackAttribute::CtaTupleOrig(other_tuple(&entry.original)),
        ConntrackAttribute::CtaTupleReply(other_tuple(&entry.reply)),
        ConntrackAttribute::Other(raw(99, b"not known")),
        ConntrackAttribute::CtaStatus(OtherStatus::from_bits_retain(entry.status.0)),
    ];
    match entry.state {
        EntryState::Tcp(number) => {
            list.push(ConntrackAttribute::CtaProtoInfo(vec![ProtoInfo::TCP(
                vec![
                    ProtoInfoTCP::State(number),
                    ProtoInfoTCP::OriginalWindowScale(7),
                    ProtoInfoTCP::ReplyWindowScale(9),
                ],
            )]));
        }
        EntryState::Sctp(number) => {
            list.push(ConntrackAttribute::CtaProtoInfo(vec![ProtoInfo::Other(
                nested(3, &[raw(1, &[number]), raw(2, &[1, 2, 3, 4])]),
            )]));
        }
        EntryState::Dccp(number) => {
            list.push(ConntrackAttribute::CtaProtoInfo(vec![ProtoInfo::Other(
                nested(2, &[raw(1, &[number]), raw(2, &[0])]),
            )]));
        }
        EntryState::Unreplied
        | EntryState::Replied
        | EntryState::Assured
        | EntryState::Offloaded => {}
    }
    list.extend(entry.timeout.map(ConntrackAttribute::CtaTimeout));
    list.push(ConntrackAttribute::CtaMark(entry.mark));
    list.push(ConntrackAttribute::Other(raw(12, &entry.id.to_be_bytes())));
    if entry.zone != 0 {
        list.push(ConntrackAttribute::Other(raw(
            18,
            &entry.zone.to_be_bytes(),
        )));
    }
    if let Some(start) = entry.start {
        list.push(ConntrackAttribute::Other(nested(
            20,
            &[raw(1, &start.to_be_bytes())],
        )));
    }
    emitted(&list)
}

fn layer4() -> impl Strategy<Value = Layer4> {
    prop_oneof![
        Just(Layer4::Addresses),
        any::<(u16, u16)>().prop_map(|(source, destination)| Layer4::Ports {
            source,
            destination
        }),
        any::<(u16, u8, u8)>().prop_map(|(id, kind, code)| Layer4::Icmp { id, kind, code }),
    ]
}

fn tuple() -> impl Strategy<Value = EntryTuple> {
    let v4 = any::<([u8; 4], [u8; 4])>().prop_map(|(source, destination)| {
        (
            IpAddr::V4(Ipv4Addr::from(source)),
            IpAddr::V4(Ipv4Addr::from(destination)),
        )
    });
    let v6 = any::<([u8; 16], [u8; 16])>().prop_map(|(source, destination)| {
        (
            IpAddr::V6(Ipv6Addr::from(source)),
            IpAddr::V6(Ipv6Addr::from(destination)),
        )
    });
    (prop_oneof![v4, v6], any::<u8>(), layer4()).prop_map(
        |((source, destination), protocol, layer4)| EntryTuple {
            source,
            destination,
            protocol,
            layer4,
        },
    )
}

fn entry() -> impl Strategy<Value = TableEntry> {
    let state = (0..4_u8, any::<u8>());
    let rest = (
        any::<u16>(),
        any::<u32>(),
        state,
        any::<Option<u32>>(),
        any::<(u32, u32)>(),
        any::<Option<u64>>(),
    );
    (tuple(), tuple(), rest).prop_map(
        |(original, reply, (zone, status, (class, number), timeout, (mark, id), start))| {
            let status = EntryStatus(status);
            TableEntry {
                original,
                reply,
                zone,
                status,
                state: match class {
                    0 => EntryState::Tcp(number),
                    1 => EntryState::Sctp(number),
                    2 => EntryState::Dccp(number),
                    _ => EntryState::of(status),
                },
                timeout,
                mark,
                id,
                start,
            }
        },
    )
}

proptest! {
    #[test]
    fn what_another_crate_writes_is_read(entry in entry()) {
        prop_assert_eq!(parse(Attributes::nested(&attributes(&entry))), Some(entry));
    }

    #[test]
    fn a_flipped_byte_changes_little_or_makes_it_unreadable(
        entry in entry(),
        at in any::<prop::sample::Index>(),
        with in 1..=u8::MAX,
    ) {
        let mut bytes = attributes(&entry);
        let at = at.index(bytes.len());
        bytes[at] ^= with;
        // It ends, and what it says is an entry or nothing.
        if let Some(read) = parse(Attributes::nested(&bytes)) {
            prop_assert_eq!(read.original.source.is_ipv4(), read.original.destination.is_ipv4());
        }
    }

    #[test]
    fn a_cut_message_gives_no_values_of_its_own(
        entry in entry(),
        at in any::<prop::sample::Index>(),
    ) {
        let bytes = attributes(&entry);
        let cut = &bytes[..at.index(bytes.len())];
        if let Some(read) = parse(Attributes::nested(cut)) {
            prop_assert_eq!(read.original, entry.original);
            prop_assert_eq!(read.reply, entry.reply);
            prop_assert!(read.mark == 0 || read.mark == entry.mark);
            prop_assert!(read.timeout.is_none() || read.timeout == entry.timeout);
            prop_assert!(read.start.is_none() || read.start == entry.start);
        }
    }

    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        drop(parse(Attributes::nested(&bytes)).map(|entry| entry.state.label()));
    }

    #[test]
    fn states_come_back(number: u8, class in 0..3_u8) {
        let state = match class {
            0 => EntryState::Tcp(number),
            1 => EntryState::Sctp(number),
            _ => EntryState::Dccp(number),
        };
        prop_assert_eq!(EntryState::from_bytes(state.to_bytes()), state);
        prop_assert!(!state.label().is_empty());
    }
}

#[test]
fn zones_of_one_direction_are_zones() {
    let mut bytes = Vec::new();
    let address = |kind: u16, last: u8| raw(kind, &[10, 0, 0, last]);
    for (kind, extra) in [(1, Some(raw(3, &7_u16.to_be_bytes()))), (2, None)] {
        let mut parts = vec![
            nested(1, &[address(1, 1), address(2, 2)]),
            nested(2, &[raw(1, &[17])]),
        ];
        parts.extend(extra);
        bytes.extend(emitted(&[nested(kind, &parts)]));
    }
    let entry = parse(Attributes::nested(&bytes)).unwrap();
    assert_eq!(entry.zone, 7);
    assert_eq!(entry.state, EntryState::Unreplied);
    assert_eq!(entry.timeout, None);
}

#[test]
fn the_status_says_what_has_no_state() {
    for (status, state) in [
        (0, EntryState::Unreplied),
        (1 << 1, EntryState::Replied),
        (1 << 1 | 1 << 2, EntryState::Assured),
        (1 << 1 | 1 << 2 | 1 << 14, EntryState::Offloaded),
    ] {
        assert_eq!(EntryState::of(EntryStatus(status)), state);
        assert_eq!(EntryState::from_bytes(state.to_bytes()), state);
    }
    let names = state_names();
    assert!(names.contains(&"SYN_SENT") && names.contains(&"UNREPLIED"));
    assert!(names.is_sorted() && names.windows(2).all(|two| two[0] != two[1]));
}

#[test]
fn what_nobody_answered_is_one_way_whatever_its_state_is_called() {
    const ANSWERED: u32 = 1 << 1;
    let end = EntryTuple {
        source: Ipv4Addr::LOCALHOST.into(),
        destination: Ipv4Addr::LOCALHOST.into(),
        protocol: 6,
        layer4: Layer4::Addresses,
    };
    let entry = |state, status| TableEntry {
        original: end,
        reply: end,
        zone: 0,
        status: EntryStatus(status),
        state,
        timeout: None,
        mark: 0,
        id: 0,
        start: None,
    };
    for (state, status, one_way) in [
        (EntryState::Tcp(3), 0, true),
        (EntryState::Tcp(3), ANSWERED, false),
        (EntryState::Tcp(7), ANSWERED, false),
        (EntryState::Tcp(2), ANSWERED, true),
        (EntryState::Sctp(4), 0, true),
        (EntryState::Sctp(3), ANSWERED, true),
        (EntryState::Unreplied, 0, true),
        (EntryState::Assured, ANSWERED | 1 << 2, false),
    ] {
        assert_eq!(
            entry(state, status).one_way(),
            one_way,
            "{state:?} {status}"
        );
    }
}

#[test]
fn conditions_have_names() {
    for (error, word) in [
        (NetlinkError::Refused(Errno::EPERM), "CAP_NET_ADMIN"),
        (NetlinkError::Refused(Errno::EINVAL), "nf_conntrack_netlink"),
        (
            NetlinkError::Socket(std::io::Error::from_raw_os_error(libc::EPROTONOSUPPORT)),
            "nf_conntrack_netlink",
        ),
        (NetlinkError::Malformed, "no sense"),
    ] {
        let error = EntriesError::from(error);
        assert!(error.to_string().contains(word), "{error}");
        assert!(!error.help().is_empty());
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("sys/module")).unwrap();
    let error = walk(&Root::at(folder.path()), |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, EntriesError::NotLoaded), "{error}");
}
