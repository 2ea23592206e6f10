//! The state machine against a model of the kernel: whatever happens in whatever order, each entry
//! leaves the table on the account of who it was charged to when it entered.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use conntrack_ebpf::charge::{self, Flow, Table};
use conntrack_ebpf::owner::{Claim, FIRST, FLAG_TAGGED, HOST, Party, UNKNOWN};
use proptest::prelude::*;

use super::{address, claim_in, pod};
use crate::owners::discovery::FoundOwner;
use crate::owners::slots::*;

const HOST_ADDRESS: u8 = 0;
const GRACE: Duration = Duration::from_mins(1);

#[derive(Clone, Debug)]
enum Step {
    /// A pod begins, or gets another address.
    Begin {
        pod: u8,
        address: u8,
    },
    End {
        pod: u8,
    },
    /// The host gets or loses an address.
    Host {
        address: u8,
        has: bool,
    },
    /// An entry enters the table. `socket`: it is sent by that pod's socket, if from the host.
    Open {
        address: u8,
        socket: Option<u8>,
    },
    /// An entry enters the table of a pod's own network namespace.
    Inside {
        pod: u8,
        source: u8,
        server: u8,
    },
    /// The entry with this number, modulo all, leaves.
    Close {
        entry: usize,
    },
    /// All entries with an address leave.
    CloseAll {
        address: u8,
    },
    /// All entries of a pod's own table leave.
    Flush {
        pod: u8,
    },
    /// Somebody looks, and the changes are made.
    Look {
        seconds: u8,
        whole: bool,
    },
    /// A census is made.
    Census,
}

fn step() -> impl Strategy<Value = Step> {
    let (pod, address) = (0..6_u8, 0..5_u8);
    prop_oneof![
        3 => (pod.clone(), address.clone()).prop_map(|(pod, address)| Step::Begin { pod, address }),
        2 => pod.clone().prop_map(|pod| Step::End { pod }),
        1 => (address.clone(), any::<bool>()).prop_map(|(address, has)| Step::Host { address, has }),
        6 => (address.clone(), prop::option::of(pod.clone())).prop_map(|(address, socket)| Step::Open { address, socket }),
        3 => (pod.clone(), 0..7_u8, 0..7_u8).prop_map(|(pod, source, server)| Step::Inside { pod, source, server }),
        1 => pod.clone().prop_map(|pod| Step::Flush { pod }),
        3 => any::<usize>().prop_map(|entry| Step::Close { entry }),
        2 => address.prop_map(|address| Step::CloseAll { address }),
        8 => (0..80_u8, prop::bool::weighted(0.9)).prop_map(|(seconds, whole)| Step::Look { seconds, whole }),
        1 => Just(Step::Census),
    ]
}

struct Entry {
    netns: u32,
    address: u8,
    server: u8,
    tag: Option<Party>,
    charged: Party,
}

/// The host's network namespace, and that of a pod.
const HOST_NETNS: u32 = 1;
const fn netns(pod: u8) -> u32 {
    100 + pod as u32
}

/// An address that is nobody's.
const ELSEWHERE: u8 = 250;

/// The kernel's maps, its table and its counts.
#[derive(Default)]
struct Kernel {
    maps: SlotMaps,
    table: Vec<Entry>,
    live: HashMap<u32, i64>,
}

impl Kernel {
    fn claim(&self, of: u8) -> Option<Claim> {
        claim_in(&self.maps, address(of))
    }

    /// A connection in the table of a network namespace.
    fn flow<'a>(
        &'a self,
        netns: u32,
        source: u8,
        server: u8,
    ) -> Flow<'a, impl Fn() -> Option<&'a Claim>> {
        let claim = move |of| self.maps.addresses.get(&Address::of(address(of)));
        Flow {
            source: claim(source),
            table: Table::of(netns, HOST_NETNS, |netns| self.maps.netns.get(&netns)),
            server: move || claim(server),
        }
    }

    fn open(&mut self, netns: u32, source: u8, server: u8, socket: Option<u8>) {
        let mut entering = self.flow(netns, source, server).entering();
        if entering.asks_socket() {
            let slot = socket.and_then(|pod| self.maps.cgroups.get(&cgroup(pod)));
            entering = charge::by_socket(slot.copied());
        }
        let charged = entering.party;
        *self.live.entry(charged.slot()).or_default() += 1;
        self.table.push(Entry {
            netns,
            address: source,
            server,
            tag: entering.is_tagged().then_some(charged),
            charged,
        });
    }

    fn close(&mut self, at: usize) -> Result<(), TestCaseError> {
        let entry = self.table.swap_remove(at);
        let slot = {
            let flow = self.flow(entry.netns, entry.address, entry.server);
            flow.leaving(|_| entry.tag).slot()
        };
        prop_assert_eq!(
            slot,
            entry.charged.slot(),
            "of {} in {}: {:?}, {:?}",
            entry.address,
            entry.netns,
            self.claim(entry.address),
            self.maps.netns.get(&entry.netns)
        );
        *self.live.entry(slot).or_default() -= 1;
        Ok(())
    }

    /// All that are so leave.
    fn close_all(&mut self, which: impl Fn(&Entry) -> bool) -> Result<(), TestCaseError> {
        while let Some(at) = self.table.iter().position(&which) {
            self.close(at)?;
        }
        Ok(())
    }

    fn make(&mut self, changes: &Changes, maps: &SlotMaps) {
        assert_eq!(changes.maps, self.maps != *maps);
        self.maps.clone_from(maps);
        for slot in &changes.sweep_tags {
            for at in 0..self.table.len() {
                let table = self.maps.netns.get(&self.table[at].netns).copied();
                let needed = table
                    .or_else(|| self.claim(self.table[at].address))
                    .is_some_and(|claim| claim.flags & FLAG_TAGGED != 0);
                if !needed && self.table[at].tag.map(Party::slot) == Some(*slot) {
                    self.table[at].tag = None;
                }
            }
        }
        for slot in &changes.freed {
            assert_eq!(self.live.remove(slot).unwrap_or(0), 0, "slot {slot}");
        }
        for (slot, _) in &changes.given {
            assert!(!self.live.contains_key(slot), "slot {slot} was never freed");
            assert!(!changes.freed.contains(slot), "slot {slot} at once");
        }
    }
}

const fn cgroup(pod: u8) -> u64 {
    1000 + pod as u64
}

fn run(steps: &[Step], slots: u32) -> Result<(), TestCaseError> {
    let limits = SlotLimits {
        slots,
        grace: GRACE,
        ..SlotLimits::default()
    };
    let mut machine = Slots::new(limits);
    let mut kernel = Kernel::default();
    let mut now = Instant::now();
    let mut pods: BTreeMap<u8, u8> = BTreeMap::new();
    let mut host = BTreeSet::from([HOST_ADDRESS]);
    for step in steps.iter().chain([&Step::Look {
        seconds: 1,
        whole: true,
    }]) {
        match *step {
            Step::Begin { pod, address } => {
                pods.insert(pod, address);
            }
            Step::End { pod } => {
                pods.remove(&pod);
            }
            Step::Host { address, has: true } => {
                host.insert(address);
            }
            Step::Host {
                address,
                has: false,
            } => {
                host.remove(&address);
            }
            Step::Open { address, socket } => kernel.open(HOST_NETNS, address, ELSEWHERE, socket),
            Step::Inside {
                pod,
                source,
                server,
            } => kernel.open(netns(pod), source, server, None),
            Step::Flush { pod } => kernel.close_all(|entry| entry.netns == netns(pod))?,
            Step::Close { entry } if !kernel.table.is_empty() => {
                kernel.close(entry % kernel.table.len())?;
            }
            Step::Close { .. } => {}
            Step::CloseAll { address } => kernel.close_all(|entry| entry.address == address)?,
            Step::Census => {
                census(&mut machine, &kernel);
            }
            Step::Look { seconds, whole } => {
                now += Duration::from_secs(seconds.into());
                let mut found = Discovery::empty(now);
                found.whole = whole;
                found.host_addresses = host.iter().map(|of| address(*of)).collect();
                found.owners = pods
                    .iter()
                    .map(|(number, of)| FoundOwner {
                        cgroups: vec![cgroup(*number)],
                        netns: Some(netns(*number)),
                        ..pod(*number, &[*of])
                    })
                    .collect();
                let changes = machine.apply(
                    &found,
                    |slot| kernel.live.get(&slot).copied().unwrap_or(0) <= 0,
                    |asked| {
                        kernel.table.iter().any(|entry| match asked {
                            Place::Address(asked) => address(entry.address) == asked,
                            Place::Table(asked) => entry.netns == asked,
                        })
                    },
                );
                let before = kernel.maps.clone();
                kernel.make(&changes, machine.maps());
                check(&machine, &kernel, &before, &pods, &host)?;
            }
        }
    }
    while !kernel.table.is_empty() {
        kernel.close(0)?;
    }
    prop_assert!(
        kernel.live.values().all(|live| *live == 0),
        "{:?}",
        kernel.live
    );
    Ok(())
}

/// What a census says of the table.
fn census(machine: &mut Slots, kernel: &Kernel) {
    let doubtful: Vec<IpAddr> = machine.unconfirmed().collect();
    for of in 0..5 {
        let untagged = kernel.table.iter().any(|entry| {
            let is_nobodys = |tag: Party| tag.slot() == UNKNOWN;
            entry.netns == HOST_NETNS && entry.address == of && entry.tag.is_none_or(is_nobodys)
        });
        if doubtful.contains(&address(of)) && !untagged {
            machine.confirm_untagged_gone(address(of));
        }
    }
    let doubtful: Vec<u32> = machine.unconfirmed_tables().collect();
    for table in doubtful {
        let mut inside = kernel.table.iter().filter(|entry| entry.netns == table);
        if kernel.table.iter().all(|entry| entry.netns != table) {
            machine.confirm_table_empty(table);
        } else if inside.all(|entry| entry.tag.is_some()) {
            machine.confirm_table_untagged_gone(table);
        }
    }
}

/// What holds whenever the changes were made.
fn check(
    machine: &Slots,
    kernel: &Kernel,
    before: &SlotMaps,
    pods: &BTreeMap<u8, u8>,
    host: &BTreeSet<u8>,
) -> Result<(), TestCaseError> {
    let given = |slot: u32| slot < FIRST || machine.occupants.contains_key(&slot);
    let maps = &kernel.maps;
    for claim in maps.addresses.values().chain(maps.netns.values()) {
        prop_assert!(given(claim.slot) && given(claim.base), "{:?}", claim);
    }
    for slot in kernel.maps.cgroups.values() {
        prop_assert!(given(*slot));
    }
    // What enters from now on is charged to who has the address.
    for (number, of) in pods {
        let slot = machine
            .slot_of(&pod(*number, &[]).owner.key())
            .unwrap_or(UNKNOWN);
        let others = pods.iter().filter(|(_, other)| *other == of);
        let claimants: Vec<u32> = others
            .map(|(number, _)| machine.slot_of(&pod(*number, &[]).owner.key()))
            .map(|slot| slot.unwrap_or(UNKNOWN))
            .collect();
        let held = claim_in(before, address(*of)).map_or(UNKNOWN, |claim| claim.slot);
        let expected = match (host.contains(of), claimants.len()) {
            (true, _) => HOST,
            (false, 1) => slot,
            // Who had it has it still.
            (false, _) if claimants.contains(&held) => held,
            (false, _) => UNKNOWN,
        };
        prop_assert_eq!(kernel.claim(*of).map(|claim| claim.slot), Some(expected));
        if slot != UNKNOWN {
            prop_assert_eq!(kernel.maps.cgroups.get(&cgroup(*number)), Some(&slot));
            let table = kernel.maps.netns.get(&netns(*number));
            prop_assert_eq!(table.map(|claim| claim.slot), Some(slot));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn each_entry_leaves_on_the_account_it_came_on(
        steps in prop::collection::vec(step(), 1..80),
        slots in FIRST..FIRST + 8,
    ) {
        // The first look at an empty table: what is in it later was charged to somebody by the
        // maps.
        let first = [Step::Look { seconds: 0, whole: true }];
        let steps: Vec<Step> = first.into_iter().chain(steps).collect();
        run(&steps, slots)?;
    }
}
