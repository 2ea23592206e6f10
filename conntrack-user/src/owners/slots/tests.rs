use std::net::Ipv4Addr;
use std::time::Duration;

use conntrack_ebpf::owner::{Claim, DEFAULT_SLOTS, FLAG_SOCKET, FLAG_TAGGED};

use super::addresses::{LOOPBACK, MOST_FORMER_HOST};

use super::*;
use crate::owners::discovery::FoundOwner;

mod model;

fn address(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, number))
}

fn pod(number: u8, addresses: &[u8]) -> FoundOwner {
    let uid = format!("00000000-0000-0000-0000-0000000000{number:02x}");
    FoundOwner {
        owner: Owner::pod(&uid, Some(("shop", &format!("pod-{number}")))),
        cgroups: vec![u64::from(number)],
        netns: Some(4000 + u32::from(number)),
        addresses: addresses.iter().copied().map(address).collect(),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "compared with what a map has")]
const fn claim(slot: u32, base: u32, flags: u32) -> Option<Claim> {
    Some(Claim { slot, base, flags })
}

fn claim_in(maps: &SlotMaps, address: IpAddr) -> Option<Claim> {
    maps.addresses.get(&Address::of(address)).copied()
}

const fn plain(slot: u32) -> Option<Claim> {
    claim(slot, slot, 0)
}

const fn tagged(slot: u32, base: u32) -> Option<Claim> {
    claim(slot, base, FLAG_TAGGED)
}

fn tables(held: &[(u32, Option<Claim>)]) -> HashMap<u32, Claim> {
    let held = held.iter();
    held.filter_map(|(netns, claim)| Some((*netns, (*claim)?)))
        .collect()
}

/// A node on which somebody looks once a second.
struct Node {
    slots: Slots,
    now: Instant,
    busy: HashSet<u32>,
    entries: bool,
}

impl Node {
    fn new(slots: u32) -> Self {
        Self {
            slots: Slots::new(SlotLimits {
                slots,
                ..SlotLimits::default()
            }),
            now: Instant::now(),
            busy: HashSet::new(),
            entries: false,
        }
    }

    /// One that has looked at nothing yet, or at an empty node.
    fn known() -> Self {
        let mut node = Self::new(DEFAULT_SLOTS);
        node.look(&[]);
        node
    }

    fn look(&mut self, owners: &[FoundOwner]) -> Changes {
        self.look_at(|found| found.owners = owners.to_vec())
    }

    fn look_at(&mut self, change: impl FnOnce(&mut Discovery)) -> Changes {
        self.now += Duration::from_secs(1);
        let mut found = Discovery::empty(self.now);
        change(&mut found);
        self.slots
            .apply(&found, |slot| !self.busy.contains(&slot), |_| self.entries)
    }

    fn claim(&self, number: u8) -> Option<Claim> {
        claim_in(self.slots.maps(), address(number))
    }

    fn slot(&self, number: u8) -> Option<u32> {
        self.slots.slot_of(&pod(number, &[]).owner.key())
    }
}

const A: u32 = FIRST;
const B: u32 = FIRST + 1;
const C: u32 = FIRST + 2;

#[test]
fn the_first_look() {
    let mut node = Node::new(DEFAULT_SLOTS);
    node.entries = true;
    let changes = node.look_at(|found| {
        found.owners = vec![pod(1, &[1, 11]), pod(2, &[])];
        found.host_addresses = vec![address(200)];
    });
    let host = claim(HOST, HOST, FLAG_TAGGED | FLAG_SOCKET);
    assert_eq!((node.claim(1), node.claim(11)), (plain(A), plain(A)));
    assert_eq!(node.claim(200), host);
    for loopback in LOOPBACK {
        assert_eq!(claim_in(node.slots.maps(), loopback), host);
    }
    assert_eq!(changes.given.len(), 2);
    assert_eq!(node.slots.maps().addresses.len(), 5);
    assert!(changes.maps);
    assert_eq!(node.slots.maps().cgroups, HashMap::from([(1, A), (2, B)]));
    assert_eq!(
        node.slots.maps().netns,
        tables(&[(4001, plain(A)), (4002, plain(B))])
    );
    assert_eq!(node.slots.owner(A).unwrap().name(), "shop/pod-1");
    assert_eq!(node.slots.owner(HOST).unwrap().name(), "host");
    assert_eq!(node.slots.owner(UNKNOWN).unwrap().name(), "unknown");
    assert_eq!(node.slots.owner(C), None);
    let again = node.look_at(|found| {
        found.owners = vec![pod(1, &[1, 11]), pod(2, &[])];
        found.host_addresses = vec![address(200)];
    });
    assert!(again.is_empty(), "{again:?}");
}

#[test]
fn an_address_that_was_in_use_before_it_was_known() {
    let mut node = Node::known();
    node.look(&[pod(1, &[1])]);
    assert_eq!(node.claim(1), plain(A), "no entry has it");

    node.entries = true;
    let both = [pod(1, &[1]), pod(2, &[2])];
    node.look(&both);
    assert_eq!(node.claim(2), tagged(B, UNKNOWN));
    assert_eq!(node.slots.unconfirmed().collect::<Vec<_>>(), [address(2)]);
    node.busy.extend([UNKNOWN, B]);
    node.look(&both);
    assert_eq!(node.claim(2), tagged(B, UNKNOWN), "it stays so");
    node.slots.confirm_untagged_gone(address(2));
    let changes = node.look(&both);
    assert_eq!(node.claim(2), plain(B));
    assert!(changes.sweep_tags.is_empty(), "its table has tags");
    assert_eq!(node.slots.unconfirmed().count(), 0);
    let table = |node: &Node| node.slots.maps().netns.get(&4002).copied();
    assert_eq!(table(&node), tagged(B, UNKNOWN));
    node.slots.confirm_table_empty(4002);
    let changes = node.look(&both);
    assert_eq!((table(&node), changes.sweep_tags), (plain(B), vec![B]));
}

#[test]
fn an_address_changes_hands() {
    let mut node = Node::known();
    node.look(&[pod(1, &[1])]);
    node.busy.insert(A);
    node.look(&[pod(2, &[1])]);
    assert_eq!(node.claim(1), tagged(B, A), "the one before has entries");
    node.look(&[pod(2, &[1])]);
    assert_eq!(node.claim(1), tagged(B, A));
    node.busy.insert(B);
    node.look(&[pod(2, &[]), pod(3, &[1])]);
    assert_eq!(node.claim(1), tagged(C, A), "tags tell the two");
    node.busy.remove(&A);
    node.look(&[pod(2, &[]), pod(3, &[1])]);
    assert_eq!(node.claim(1), tagged(C, C), "the second still has some");
    node.busy.remove(&B);
    let changes = node.look(&[pod(2, &[]), pod(3, &[1])]);
    assert_eq!((node.claim(1), changes.sweep_tags), (plain(C), vec![C]));
}

#[test]
fn nothing_left_is_believed_only_after_the_change_was_made() {
    let mut node = Node::known();
    node.look(&[pod(1, &[1])]);
    node.look(&[pod(2, &[1])]);
    assert_eq!(
        node.claim(1),
        tagged(B, A),
        "it was idle, but could still get entries until now"
    );
    node.look(&[pod(2, &[1])]);
    assert_eq!(node.claim(1), plain(B));
}

#[test]
fn tags_are_swept_when_no_address_needs_them() {
    let mut node = Node::known();
    let before = [pod(1, &[1]), pod(2, &[2])];
    let after = [pod(1, &[]), pod(2, &[]), pod(3, &[1, 2])];
    node.look(&before);
    node.busy.extend([A, B]);
    node.look(&after);
    node.busy.remove(&A);
    let changes = node.look(&after);
    assert_eq!((node.claim(1), node.claim(2)), (plain(C), tagged(C, B)));
    assert!(changes.sweep_tags.is_empty(), "the other address has tags");
    node.busy.remove(&B);
    let changes = node.look(&after);
    assert_eq!((node.claim(2), changes.sweep_tags), (plain(C), vec![C]));
}

#[test]
fn an_owner_that_goes() {
    let mut node = Node::known();
    node.look(&[pod(1, &[1])]);
    node.busy.insert(A);
    for _ in 0..100 {
        node.look(&[]);
    }
    assert_eq!(node.claim(1), tagged(UNKNOWN, A), "it has entries");
    assert!(matches!(
        node.slots.occupants().next().unwrap().1.state,
        OccupantState::Gone(_)
    ));
    assert_eq!(node.slots.maps().cgroups, HashMap::from([(1, A)]));
    assert_eq!(node.slots.maps().netns, tables(&[(4001, plain(A))]));
    assert_eq!(node.slots.owner(A).unwrap().name(), "shop/pod-1");
    node.busy.clear();
    let changes = node.look(&[]);
    assert_eq!(changes.freed, [A]);
    assert_eq!((node.claim(1), node.slots.owner(A)), (None, None));
    assert!(node.slots.maps().cgroups.is_empty() && node.slots.maps().netns.is_empty());
}

#[test]
fn a_slot_is_given_again_after_the_grace_time_and_a_turn() {
    let mut node = Node::new(FIRST + 1);
    node.look(&[]);
    let changes = node.look(&[pod(1, &[1])]);
    assert_eq!(changes.given.len(), 1);
    let changes = node.look(&[pod(2, &[2])]);
    assert_eq!(changes.problems.len(), 1, "{:?}", changes.problems);
    for _ in 0..59 {
        let changes = node.look(&[pod(2, &[2])]);
        assert!(changes.problems.is_empty(), "said once");
        assert_eq!((node.slot(1), node.slot(2)), (Some(A), None));
        assert_eq!(node.claim(2), plain(UNKNOWN));
        assert_eq!(node.slots.occupancy().without, 1);
    }
    let changes = node.look(&[pod(2, &[2])]);
    assert_eq!((changes.freed, changes.given.len()), (vec![A], 0));
    let changes = node.look(&[pod(2, &[2])]);
    assert_eq!(changes.given.len(), 1);
    assert_eq!((node.slot(1), node.slot(2)), (None, Some(A)));
    assert_eq!(node.claim(2), tagged(A, UNKNOWN));
}

#[test]
fn an_owner_that_comes_back() {
    let mut node = Node::known();
    node.look(&[pod(1, &[1])]);
    node.busy.insert(A);
    node.look(&[]);
    let changes = node.look(&[pod(1, &[1])]);
    assert!(changes.given.is_empty());
    assert_eq!((node.slot(1), node.claim(1)), (Some(A), tagged(A, A)));
    node.busy.insert(UNKNOWN);
    node.look(&[pod(1, &[1])]);
    assert_eq!(
        node.claim(1),
        tagged(A, A),
        "somebody may have used it meanwhile"
    );
    node.slots.confirm_nobodys_gone(|_| false);
    node.look(&[pod(1, &[1])]);
    assert_eq!(node.claim(1), plain(A));
    let mut other = pod(2, &[]);
    other.owner = other.owner.with(|details| details.pod = "pod-1".into());
    node.look(&[pod(1, &[1]), other]);
    assert_eq!(node.slot(2), Some(B), "the same name, another UID");
}

#[test]
fn an_address_stays_with_who_had_it_first() {
    let mut node = Node::known();
    node.busy.extend([UNKNOWN, A, B]);
    node.look(&[pod(1, &[1])]);
    let changes = node.look(&[pod(1, &[1]), pod(2, &[1])]);
    assert_eq!(node.claim(1), plain(A));
    let [problem] = changes.problems.as_slice() else {
        panic!("{changes:?}");
    };
    assert!(problem.contains("10.0.0.1 of shop/pod-2"), "{problem}");
    assert!(
        !problem.contains("shop/pod-1"),
        "the newcomer is named: {problem}"
    );
    assert!(node.look(&[pod(1, &[1]), pod(2, &[1])]).problems.is_empty());
    // Its process ended, and it has no other just now.
    let mut silent = pod(1, &[]);
    silent.netns = None;
    node.look(&[silent, pod(2, &[1])]);
    assert_eq!(node.claim(1), plain(A));
    node.look(&[pod(2, &[1])]);
    assert_eq!(node.claim(1), tagged(B, A), "the first is gone");
    node.busy.clear();
    node.look(&[pod(2, &[1])]);
    assert_eq!(node.claim(1), plain(B));
}

#[test]
fn an_address_of_two_that_came_at_once_is_nobodys() {
    let mut node = Node::known();
    let changes = node.look(&[pod(1, &[1]), pod(2, &[1])]);
    assert_eq!(node.claim(1), plain(UNKNOWN));
    let [problem] = changes.problems.as_slice() else {
        panic!("{changes:?}");
    };
    for part in ["10.0.0.1", "shop/pod-1", "shop/pod-2"] {
        assert!(problem.contains(part), "{problem}");
    }
    node.look(&[pod(2, &[1])]);
    assert_eq!(node.claim(1), tagged(B, UNKNOWN));
}

#[test]
fn who_takes_the_addresses_of_many_is_one_problem_with_a_count() {
    let mut node = Node::known();
    let mut owners: Vec<FoundOwner> = (1..=50).map(|number| pod(number, &[number])).collect();
    node.look(&owners);
    let all: Vec<u8> = (1..=50).collect();
    owners.push(pod(99, &all));
    let changes = node.look(&owners);
    let [problem] = changes.problems.as_slice() else {
        panic!("{changes:?}");
    };
    assert!(
        problem.contains("shop/pod-99") && problem.contains("and 47 more"),
        "{problem}"
    );
    for number in 1..=50 {
        assert_eq!(
            node.claim(number).unwrap().slot,
            FIRST + u32::from(number) - 1
        );
    }
}

#[test]
fn services_on_a_dummy_crowd_nobody_out() {
    let mut node = Node::known();
    node.slots.limits.addresses = 100;
    let services = (0..4300_u32).map(|number| Ipv4Addr::from_bits(0x0a60_0000 + number).into());
    let services: Vec<IpAddr> = services.collect();
    let changes = node.look_at(|found| {
        found.dummy_addresses.clone_from(&services);
        found.host_addresses = vec![address(200)];
        found.owners = vec![pod(1, &[1, 2, 3])];
    });
    let host = claim(HOST, HOST, FLAG_TAGGED | FLAG_SOCKET);
    assert_eq!(node.claim(200), host);
    assert_eq!((node.claim(1), node.claim(3)), (plain(A), plain(A)));
    assert_eq!(claim_in(node.slots.maps(), services[0]), host);
    assert_eq!(node.slots.maps().addresses.len(), 100);
    assert!(changes.problems[0].contains("and 4203 more"), "{changes:?}");
}

#[test]
fn an_address_of_the_host_is_the_hosts() {
    let mut node = Node::known();
    node.look(&[pod(1, &[1])]);
    node.busy.extend([HOST, UNKNOWN, A]);
    let changes = node.look_at(|found| {
        found.owners = vec![pod(1, &[1])];
        found.host_addresses = vec![address(1)];
    });
    assert!(
        changes.problems[0].contains("10.0.0.1 of shop/pod-1"),
        "{changes:?}"
    );
    assert_eq!(
        node.claim(1),
        tagged(HOST, A),
        "what has no tag is the pod's"
    );
    node.busy.remove(&A);
    node.look_at(|found| found.host_addresses = vec![address(1)]);
    assert_eq!(node.claim(1), claim(HOST, HOST, FLAG_TAGGED | FLAG_SOCKET));
    node.look(&[pod(1, &[1])]);
    assert_eq!(node.claim(1), tagged(A, HOST), "sockets have left tags");
    node.busy.clear();
    node.look(&[pod(1, &[1])]);
    assert_eq!(node.claim(1), tagged(A, HOST), "and whose is not known");
}

#[test]
fn nobody_is_gone_because_part_was_not_seen() {
    let mut node = Node::known();
    node.look(&[pod(1, &[1])]);
    for _ in 0..100 {
        node.look_at(|found| found.whole = false);
    }
    assert_eq!(
        (node.claim(1), node.slots.occupancy().present),
        (plain(A), 1)
    );
}

#[test]
fn a_network_without_a_process_stays_its_owners() {
    let mut node = Node::known();
    node.look(&[pod(1, &[1])]);
    node.busy.insert(A);
    let mut quiet = pod(1, &[]);
    quiet.netns = None;
    for _ in 0..100 {
        node.look(&[quiet.clone()]);
    }
    assert_eq!(node.claim(1), plain(A));
    assert_eq!(node.slots.maps().netns, tables(&[(4001, plain(A))]));
    // Its number was used again: then it is gone, and its table is empty.
    let mut other = pod(2, &[2]);
    other.netns = Some(4001);
    node.look(&[quiet, other]);
    assert_eq!(node.slots.maps().netns, tables(&[(4001, tagged(B, A))]));
}

#[test]
fn conntrack_is_loaded_anew() {
    let mut node = Node::known();
    node.look(&[pod(1, &[1])]);
    node.busy.insert(A);
    node.look(&[pod(2, &[1])]);
    node.slots.restart();
    node.entries = true;
    let changes = node.look(&[pod(2, &[1])]);
    assert_eq!((node.slot(2), node.claim(1)), (Some(B), plain(B)));
    assert_eq!(node.slots.maps().addresses.len(), 3, "all are set again");
    assert!(changes.maps);
    assert!(changes.given.is_empty());
}

#[test]
fn what_is_learnt_later_stays() {
    let mut node = Node::known();
    let mut nameless = pod(1, &[1]);
    nameless.owner = Owner::pod(&nameless.owner.uid, None);
    node.look(&[nameless.clone()]);
    assert!(node.slots.owner(A).unwrap().name().starts_with("pod 0000"));
    node.look(&[pod(1, &[1])]);
    let key = nameless.owner.key();
    let known = node.slots.describe(&key, |details| {
        details.labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
    });
    assert!(known);
    node.look(&[nameless]);
    let owner = node.slots.owner(A).unwrap();
    assert_eq!(
        (owner.name().as_str(), owner.labels.len()),
        ("shop/pod-1", 1)
    );
    assert!(!node.slots.describe(&Key::pod("none"), |_| ()));
}

#[test]
fn memory_is_flat_under_churn() {
    let mut node = Node::new(FIRST + 124);
    node.look(&[]);
    let mut given = 0;
    for round in 0..5000_u32 {
        let pod = |number: u32| {
            let [_, high, middle, low] = number.to_be_bytes();
            let uid = format!("00000000-0000-0000-0000-{number:012x}");
            FoundOwner {
                owner: Owner::pod(&uid, Some(("churn", &uid))),
                cgroups: vec![u64::from(number), u64::from(number) + 1_000_000],
                netns: Some(number),
                addresses: vec![IpAddr::V4(Ipv4Addr::new(10, high, middle, low))],
            }
        };
        given += node.look(&[pod(2 * round), pod(2 * round + 1)]).given.len();
    }
    let slots = &node.slots;
    assert!(given > 9_000, "{given}");
    assert!(slots.occupants.len() <= 124 && slots.by_key.len() == slots.occupants.len());
    assert!(slots.held.len() < 140, "{}", slots.held.len());
    assert!(slots.maps.cgroups.len() <= 248 && slots.maps.netns.len() <= 124);
    assert!(slots.vacant.len() <= 124 && slots.sweep.is_empty());
    for _ in 0..70 {
        node.look(&[]);
    }
    assert_eq!(node.slots.occupancy(), Occupancy::default());
    assert_eq!(node.slots.held.len(), LOOPBACK.len());
}

#[test]
fn ten_thousand_at_once() {
    let mut node = Node::new(DEFAULT_SLOTS);
    let owners: Vec<FoundOwner> = (0..10_000_u32)
        .map(|number| {
            let [_, _, middle, low] = number.to_be_bytes();
            let uid = format!("00000000-0000-0000-0000-{number:012x}");
            FoundOwner {
                owner: Owner::pod(&uid, None),
                cgroups: vec![number.into(), u64::from(number) + 20_000],
                netns: Some(number),
                addresses: vec![
                    IpAddr::V4(Ipv4Addr::new(10, 1, middle, low)),
                    IpAddr::V4(Ipv4Addr::new(10, 2, middle, low)),
                ],
            }
        })
        .collect();
    let changes = node.look(&owners);
    let limits = SlotLimits::default();
    assert_eq!(changes.given.len(), 1022);
    assert_eq!(node.slots.occupancy().without, 10_000 - 1022);
    assert_eq!(node.slots.maps().addresses.len(), limits.addresses);
    assert_eq!(changes.problems.len(), 2, "{:?}", changes.problems);
    assert!(node.look(&owners).is_empty());
}

/// kubelet's order: the processes end, later the control group goes.
#[test]
fn who_is_silent_before_it_goes_had_its_addresses() {
    let former = |node: &Node, number| {
        let former = node.slots.former().get(&address(number));
        former.map(|former| (former.owner.name(), node.now - former.since))
    };
    let mut silent = pod(1, &[]);
    silent.netns = None;
    // The second time it is silent for so long that the addresses are let go of.
    for looks in [1, 70] {
        let mut node = Node::known();
        node.look(&[pod(1, &[1, 2, 3])]);
        for _ in 0..looks {
            node.look(&[silent.clone()]);
        }
        assert!(node.slots.former().is_empty(), "it may have them still");
        assert_eq!(node.claim(1).is_some(), looks == 1);
        // Another one has one of them meanwhile, and keeps it.
        node.look(&[silent.clone(), pod(2, &[3])]);
        node.look(&[pod(2, &[3])]);
        let gone = Some(("shop/pod-1".to_owned(), Duration::ZERO));
        assert_eq!((former(&node, 1), former(&node, 2)), (gone.clone(), gone));
        assert_eq!(former(&node, 3), None);
        node.look(&[pod(2, &[3, 1])]);
        assert_eq!(former(&node, 1), None, "somebody has it");
    }
    // It is there again, with one of them only.
    let mut node = Node::known();
    node.look(&[pod(1, &[1, 2])]);
    node.look(&[silent]);
    node.look(&[pod(1, &[2])]);
    assert!(former(&node, 1).is_some() && former(&node, 2).is_none());
}

#[test]
fn former_addresses_of_the_host_are_bounded() {
    let mut node = Node::known();
    node.busy.extend([HOST, UNKNOWN]);
    for round in 0..30_u8 {
        node.look_at(|found| {
            found.host_addresses = (0..100)
                .map(|number| IpAddr::V4(Ipv4Addr::new(10, 9, round, number)))
                .collect();
        });
    }
    let most = LOOPBACK.len() + 100 + MOST_FORMER_HOST;
    assert_eq!(node.slots.maps().addresses.len(), most);
}
