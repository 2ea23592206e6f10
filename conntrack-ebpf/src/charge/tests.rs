use std::{cell::RefCell, collections::HashMap};

use proptest::prelude::*;

use super::*;
use crate::owner::FIRST;

type Claims = HashMap<u32, Claim>;

const HOST_NETNS: u32 = 1;
const POD_NETNS: u32 = 7;

/// A connection between addresses that are numbers, and what is known of it beside.
#[derive(Clone, Debug)]
struct Connection {
    source: u32,
    server: u32,
    table: Table<'static>,
    tag: Option<Party>,
    service: Option<u32>,
    /// The slot of its socket's cgroup.
    socket: Option<u32>,
    /// What was asked for.
    read: RefCell<Vec<&'static str>>,
}

impl Connection {
    fn new((source, server): (u32, u32)) -> Self {
        Self {
            source,
            server,
            table: Table::Host,
            tag: None,
            service: None,
            socket: None,
            read: RefCell::default(),
        }
    }

    fn reads<T>(&self, field: &'static str, value: T) -> T {
        self.read.borrow_mut().push(field);
        value
    }

    fn flow<'a>(&'a self, claims: &'a Claims) -> Flow<'a, impl Fn() -> Option<&'a Claim>> {
        Flow {
            source: claims.get(&self.source),
            table: self.table,
            server: || self.reads("server", claims.get(&self.server)),
        }
    }

    fn enters(&self, claims: &Claims) -> Entering {
        self.flow(claims).entering()
    }

    fn leaves(&self, claims: &Claims) -> Party {
        self.flow(claims).leaving(|of| match of {
            TagFor::Source => self.reads("tag of source", self.tag),
            TagFor::Server => self.reads("tag of server", self.tag),
            TagFor::Table => self.reads("tag of table", self.tag),
        })
    }

    fn is_refused(&self, claims: &Claims) -> Party {
        self.flow(claims).refused(
            || self.reads("service", self.service),
            || self.reads("socket", self.socket),
        )
    }

    fn asks_socket(&self, claims: &Claims) -> bool {
        let table = || self.reads("table", self.table);
        asks_socket(claims.get(&self.source), table)
    }

    /// Enters; gives who is charged for it, and it with its tag, for which there is room or not.
    fn entered(&self, claims: &Claims, room: bool) -> (Party, Self) {
        let mut entering = self.enters(claims);
        assert_eq!(entering.asks_socket(), self.asks_socket(claims));
        if entering.asks_socket() {
            entering = by_socket(self.socket);
        }
        if entering.is_tagged() && !room {
            return (self.flow(claims).untagged(), self.clone());
        }
        let tag = entering.is_tagged().then_some(entering.party);
        let tagged = Self {
            tag,
            ..self.clone()
        };
        (entering.party, tagged)
    }
}

const fn claim(slot: u32, base: u32, flags: u32) -> Claim {
    Claim { slot, base, flags }
}

const OF_2: Table<'_> = Table::Owned(&claim(2, 2, 0));
const OF_2_LATE: Table<'_> = Table::Owned(&claim(2, UNKNOWN, FLAG_TAGGED));
const OF_2_AFTER_3: Table<'_> = Table::Owned(&claim(2, 3, FLAG_TAGGED));

const OF_HOST: Claim = claim(HOST, HOST, FLAG_TAGGED | FLAG_SOCKET);

/// 2 and 3 have their addresses, 4 has that of 3, 5 one that nobody had; 1 is the host.
fn node() -> Claims {
    [
        (1, OF_HOST),
        (2, claim(2, 2, 0)),
        (3, claim(3, 3, 0)),
        (4, claim(4, 3, FLAG_TAGGED)),
        (5, claim(5, UNKNOWN, FLAG_TAGGED)),
    ]
    .into()
}

#[test]
fn the_source_before_the_server() {
    let nobody = Party::NOBODY;
    // Source and server; who is charged when it enters, and when it leaves without a tag.
    for (ends, enters, leaves) in [
        ((2, 9), egress(2), egress(2)),
        ((2, 3), egress(2), egress(2)),
        ((9, 3), ingress(3), ingress(3)),
        ((9, 1), ingress(HOST), ingress(HOST)),
        ((9, 8), nobody, nobody),
        ((1, 9), egress(HOST), egress(HOST)),
        ((4, 9), egress(4), egress(3)),
        ((5, 9), egress(5), nobody),
        ((5, 3), egress(5), ingress(3)),
        ((5, 5), egress(5), nobody),
        ((9, 4), ingress(4), ingress(3)),
        ((9, 5), ingress(5), nobody),
    ] {
        let connection = Connection::new(ends);
        assert_eq!(connection.enters(&node()).party, enters, "{ends:?}");
        assert_eq!(connection.leaves(&node()), leaves, "{ends:?}");
    }
}

#[test]
fn a_pods_own_table_is_the_pods_and_the_hosts_is_nobodys() {
    for (ends, expected) in [
        ((2, 9), egress(2)),
        ((9, 2), ingress(2)),
        ((3, 2), ingress(2)),
        ((2, 2), egress(2)),
        ((127, 127), egress(2)),
        // There the host's address has no socket of the host.
        ((1, 9), egress(2)),
    ] {
        let connection = Connection {
            table: OF_2,
            ..Connection::new(ends)
        };
        let entering = connection.enters(&node());
        assert_eq!(entering, Entering::untagged(expected), "{ends:?}");
        assert_eq!(connection.leaves(&node()), expected, "{ends:?}");
        assert_eq!(connection.is_refused(&node()), expected, "{ends:?}");
        assert!(!connection.asks_socket(&node()), "{ends:?}");
    }
}

#[test]
fn a_namespace_is_the_hosts_or_has_an_owner_or_is_foreign() {
    const CLAIM: Claim = claim(2, 2, 0);
    let table = |netns| Table::of(netns, HOST_NETNS, |netns| (netns != 8).then_some(&CLAIM));
    assert_eq!(
        [POD_NETNS, 8, HOST_NETNS].map(table),
        [OF_2, Table::Foreign, Table::Host]
    );
}

#[test]
fn in_a_namespace_without_an_owner_addresses_mean_nothing() {
    for ends in [(2, 9), (9, 2), (1, 9), (1, 1), (4, 5), (9, 8)] {
        let connection = Connection {
            table: Table::Foreign,
            tag: Some(egress(4)),
            service: Some(3),
            socket: Some(6),
            ..Connection::new(ends)
        };
        assert_eq!(connection.enters(&node()), Entering::NOBODY, "{ends:?}");
        assert_eq!(connection.leaves(&node()), Party::NOBODY, "{ends:?}");
        assert_eq!(connection.is_refused(&node()), Party::NOBODY, "{ends:?}");
        assert!(!connection.asks_socket(&node()), "{ends:?}");
    }
}

#[test]
fn what_a_table_held_before_its_owner_was_known_is_nobodys() {
    let before = Connection {
        table: OF_2_LATE,
        ..Connection::new((9, 2))
    };
    assert_eq!(before.leaves(&node()), Party::NOBODY);
    let (party, since) = before.entered(&node(), true);
    assert_eq!(party, ingress(2));
    assert_eq!(since.leaves(&node()), party);
    let of_3 = Connection {
        table: OF_2_AFTER_3,
        ..Connection::new((9, 3))
    };
    assert_eq!(of_3.leaves(&node()), ingress(3));
    assert_eq!(of_3.enters(&node()).party, egress(2));
}

#[test]
fn an_owner_that_is_gone_keeps_the_direction_of_what_it_left() {
    let comes_in = Connection {
        table: OF_2,
        ..Connection::new((9, 2))
    };
    let mut claims = node();
    assert_eq!(comes_in.enters(&claims).party, ingress(2));
    claims.insert(2, claim(UNKNOWN, 2, FLAG_TAGGED));
    assert_eq!(comes_in.leaves(&claims), ingress(2));
}

#[test]
fn a_socket_of_the_host_tells_whose_it_is() {
    assert!(Connection::new((1, 9)).enters(&node()).asks_socket());
    // Who comes from elsewhere has no socket here, and no tag.
    let comes_in = Connection::new((9, 1)).enters(&node());
    assert_eq!(comes_in, Entering::untagged(ingress(HOST)));
    assert_eq!(by_socket(None), Entering::untagged(egress(HOST)));
    let of_unit = by_socket(Some(6));
    assert!(of_unit.party == egress(6) && of_unit.is_tagged());
}

#[test]
fn a_refused_packet_is_its_senders_else_the_servers() {
    for (ends, service, socket, expected) in [
        ((2, 9), Some(3), Some(6), egress(2)),
        ((1, 9), None, Some(6), egress(6)),
        ((1, 9), None, None, egress(HOST)),
        ((9, 3), None, Some(6), ingress(3)),
        ((9, 1), Some(3), None, ingress(3)),
        ((9, 3), Some(UNKNOWN), None, Party::NOBODY),
        ((9, 8), None, None, Party::NOBODY),
    ] {
        let packet = Connection {
            service,
            socket,
            ..Connection::new(ends)
        };
        assert_eq!(packet.is_refused(&node()), expected, "{ends:?}");
    }
}

#[test]
fn nothing_is_read_that_does_not_decide() {
    let read = |ends, table, of: &dyn Fn(&Connection)| {
        let connection = Connection {
            table,
            ..Connection::new(ends)
        };
        of(&connection);
        connection.read.take()
    };
    let claims = node();
    let enters = |connection: &Connection| _ = connection.enters(&claims);
    let leaves = |connection: &Connection| _ = connection.leaves(&claims);
    let refused = |connection: &Connection| _ = connection.is_refused(&claims);
    let asks = |connection: &Connection| _ = connection.asks_socket(&claims);
    let nothing: [&str; 0] = [];
    for of in [&enters as &dyn Fn(&Connection), &leaves, &refused, &asks] {
        assert_eq!(read((2, 3), Table::Host, of), nothing);
        assert_eq!(read((2, 3), OF_2, of), nothing);
    }
    assert_eq!(read((9, 3), Table::Host, &enters), ["server"]);
    assert_eq!(read((9, 3), Table::Host, &leaves), ["server"]);
    assert_eq!(read((9, 3), Table::Host, &refused), ["service", "server"]);
    assert_eq!(read((1, 3), Table::Host, &refused), ["socket"]);
    assert_eq!(read((4, 3), Table::Host, &leaves), ["tag of source"]);
    assert_eq!(
        read((9, 4), Table::Host, &leaves),
        ["server", "tag of server"]
    );
    // What comes in to the host has none.
    assert_eq!(read((9, 1), Table::Host, &leaves), ["server"]);
    // One tag for both ends.
    assert_eq!(
        read((5, 5), Table::Host, &leaves),
        ["tag of source", "server"]
    );
}

/// Claims as user space makes them, of few owners and few addresses.
fn claims() -> impl Strategy<Value = Claims> {
    let slot = UNKNOWN..6;
    let claim = prop_oneof![
        Just(OF_HOST),
        slot.clone().prop_map(|slot| claim(slot, slot, 0)),
        (slot.clone(), slot).prop_map(|(slot, base)| claim(slot, base, FLAG_TAGGED)),
    ];
    prop::collection::hash_map(1..6_u32, claim, 0..5)
}

fn table() -> impl Strategy<Value = Table<'static>> {
    prop_oneof![
        5 => Just(Table::Host),
        1 => Just(Table::Foreign),
        2 => Just(OF_2),
        1 => Just(OF_2_LATE),
        1 => Just(OF_2_AFTER_3),
    ]
}

fn connection() -> impl Strategy<Value = Connection> {
    let slot = prop::option::weighted(0.3, FIRST..6);
    (1..7_u32, 1..7_u32, table(), slot).prop_map(|(source, server, table, socket)| Connection {
        table,
        socket,
        ..Connection::new((source, server))
    })
}

proptest! {
    #[test]
    fn what_entered_leaves_on_the_same_account(
        claims in claims(),
        connection in connection(),
        room in any::<bool>(),
    ) {
        let (party, entry) = connection.entered(&claims, room);
        prop_assert_eq!(entry.leaves(&claims), party);
        if room {
            // So is the packet that would have opened it.
            prop_assert_eq!(connection.is_refused(&claims), party);
        }
    }

    #[test]
    fn also_when_addresses_have_changed_hands_meanwhile(
        mut claims in claims(),
        heirs in prop::collection::hash_map(1..6_u32, FIRST..6, 0..5),
        mut connection in connection(),
        room in any::<bool>(),
    ) {
        // What is nobody's by a claim is told from what nobody claims by a tag alone.
        claims.retain(|_, claim| claim.slot == claim.base && claim.slot != UNKNOWN);
        // A table does not change hands.
        connection.table = Table::Host;
        let (party, entry) = connection.entered(&claims, room);
        for (address, heir) in heirs {
            let claim = claims.entry(address).or_default();
            if claim.flags & FLAG_SOCKET == 0 {
                (claim.slot, claim.flags) = (heir, FLAG_TAGGED);
            }
        }
        prop_assert_eq!(entry.leaves(&claims), party);
    }
}
