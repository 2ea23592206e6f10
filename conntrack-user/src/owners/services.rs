//! Who is behind a Service address, learned from the entries that got through.
//!
//! A packet that was lost because the table is full has no entry: no NAT rule saw it, and its
//! destination is the address of a Service, or the host's with the port of a pod. Entries that
//! reached the table have both: what was asked for, and who answers. If all of them that came from
//! outside were charged to one owner, so is a packet that got none. If there were several, nothing
//! tells which one would have got it, and it stays with whoever has the address that was asked for.
//!
//! * Only entries count whose source nobody has: others are charged to their source, as is a lost
//!   packet. Rules may send those elsewhere.
//! * What was seen counts as long as the address of the server is still its owner's: a slot that is
//!   freed, or an address that changes hands, takes it away. After [`FADING`] without an entry it
//!   is forgotten. That there were several owners is remembered for as long, so that the last of
//!   those that are replaced one after another is not taken for all of them.
//! * Below [`ENOUGH`] entries nothing is told: of two equal servers, one alone gets so many in a row
//!   once in 128 times.
//!
//! NAT rules themselves are not read: they come in as many forms as there are ways to write them
//! (iptables, nftables, IPVS), and what they decide is what entries show.
//!
//! Pure: no clock, no map, no kernel.

use std::{
    collections::{HashMap, hash_map::Entry as Place},
    time::Duration,
};

use conntrack_ebpf::{
    owner::{Address, Direction, MOST_SERVICES, Party, Service, UNKNOWN},
    record::Tuple,
};
use serde::Serialize;

use super::SlotMaps;

/// How long what was seen counts when nothing more is seen.
const FADING: Duration = Duration::from_mins(10);
/// Entries that have to be seen before an owner is told.
const ENOUGH: u32 = 8;
/// Servers of one Service that are told apart.
const MOST_SERVERS: usize = 8;
/// Services are forgotten from this number on, to have room for new ones.
const CROWDED: usize = MOST / 8 * 7;
const MOST: usize = MOST_SERVICES as usize;

/// One entry that tells who is behind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sighting {
    service: Service,
    server: Address,
    slot: u32,
    /// The server is not what was asked for.
    translated: bool,
}

impl Sighting {
    /// What an entry of the table of `netns` tells that was charged to `party`; `None`: nothing.
    pub fn of(original: &Tuple, reply: &Tuple, netns: u32, party: Party) -> Option<Self> {
        let from_outside = party.direction() == Direction::Ingress || party.slot() == UNKNOWN;
        if !from_outside || !has_ports(original.protonum) {
            return None;
        }
        let service = Service::asked(original, netns);
        let server = Address::of_family(reply.src, reply.l3num);
        Some(Self {
            service,
            server,
            slot: party.slot(),
            translated: (service.address, service.port) != (server, reply.src_port),
        })
    }
}

/// TCP, UDP, DCCP, SCTP and UDP-Lite; what others have for ports says nothing of a Service.
const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
}

/// How many Services there are, for the agent's own state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ServiceCounts {
    /// Addresses that were seen to lead elsewhere.
    pub seen: usize,
    /// Those with one owner behind them: packets that got no entry are charged to it.
    pub told: usize,
}

#[derive(Clone, Copy, Debug)]
struct ServiceServer {
    address: Address,
    slot: u32,
    entries: u32,
    seen: Duration,
}

/// What was seen behind one Service.
#[derive(Debug, Default)]
struct Behind {
    servers: Vec<ServiceServer>,
    /// When there were last several owners.
    shared: Option<Duration>,
}

/// What is known of Services.
#[derive(Debug, Default)]
pub struct Services {
    known: HashMap<Service, Behind>,
    now: Duration,
    counts: ServiceCounts,
}

impl Services {
    /// An entry has entered the table.
    pub fn entered(&mut self, sighting: &Sighting) {
        self.note(sighting, |before| before.saturating_add(1));
    }

    /// A census found so many `entries` that tell the same. Those that were seen entering are among
    /// them.
    pub fn found(&mut self, sighting: &Sighting, entries: u32) {
        self.note(sighting, |before| before.max(entries));
    }

    fn note(&mut self, sighting: &Sighting, entries: impl Fn(u32) -> u32) {
        let full = self.known.len() >= MOST;
        let behind = match self.known.entry(sighting.service) {
            Place::Occupied(known) => known.into_mut(),
            // What leads nowhere else is no Service. What finds no room comes again.
            Place::Vacant(_) if full || !sighting.translated => return,
            Place::Vacant(vacant) => vacant.insert(Behind::default()),
        };
        let servers = &mut behind.servers;
        let is = |server: &ServiceServer| {
            (server.address, server.slot) == (sighting.server, sighting.slot)
        };
        let at = servers.iter().position(is);
        let seen = ServiceServer {
            address: sighting.server,
            slot: sighting.slot,
            entries: entries(at.map_or(0, |at| servers[at].entries)),
            seen: self.now,
        };
        let at =
            at.or_else(|| (servers.len() >= MOST_SERVERS).then(|| least(servers, sighting.slot)));
        match at {
            Some(at) => servers[at] = seen,
            None => servers.push(seen),
        }
    }

    /// Who is behind each Service, by what the programs are told of addresses: one slot for each that
    /// has only one. `now` since any fixed time; to be called about once a second, and before a slot
    /// is given to another owner. Sightings are taken to be of the time that was told last.
    pub fn told(&mut self, maps: &SlotMaps, now: Duration) -> HashMap<Service, u32> {
        self.now = self.now.max(now);
        let now = self.now;
        let counts = |server: &ServiceServer| {
            let claim = maps.addresses.get(&server.address);
            claim.map_or(UNKNOWN, |claim| claim.slot) == server.slot
                && now.saturating_sub(server.seen) < FADING
        };
        self.known.retain(|_, behind| {
            behind.servers.retain(counts);
            if behind.is_shared() {
                behind.shared = Some(now);
            }
            behind
                .shared
                .take_if(|shared| now.saturating_sub(*shared) >= FADING);
            !behind.servers.is_empty() || behind.shared.is_some()
        });
        self.make_room();
        let told: HashMap<Service, u32> = self
            .known
            .iter()
            .filter_map(|(service, behind)| Some((*service, behind.only_owner()?)))
            .collect();
        self.counts = ServiceCounts {
            seen: self.known.len(),
            told: told.len(),
        };
        told
    }

    /// How many there were when last told.
    pub const fn counts(&self) -> ServiceCounts {
        self.counts
    }

    /// Forgets a quarter of the Services, those not seen for longest.
    fn make_room(&mut self) {
        if self.known.len() < CROWDED {
            return;
        }
        let mut by_age: Vec<_> = self
            .known
            .iter()
            .map(|(service, behind)| (behind.seen(), *service))
            .collect();
        by_age.sort_unstable();
        by_age.truncate(by_age.len() / 4);
        for (_, service) in by_age {
            self.known.remove(&service);
        }
    }
}

impl Behind {
    /// Whether there are several owners.
    fn is_shared(&self) -> bool {
        self.servers
            .windows(2)
            .any(|pair| pair[0].slot != pair[1].slot)
    }

    /// The owner of all servers, if enough was seen, and none of others for long.
    fn only_owner(&self) -> Option<u32> {
        let entries = self.servers.iter().map(|server| server.entries);
        let entries = entries.fold(0, u32::saturating_add);
        let told = entries >= ENOUGH && self.shared.is_none();
        self.servers
            .first()
            .filter(|_| told)
            .map(|server| server.slot)
    }

    /// When there was last anything to see.
    fn seen(&self) -> Option<Duration> {
        self.servers.iter().map(|server| server.seen).max()
    }
}

/// The server that is missed least when one of `slot` is added: of an owner that has several, so
/// that the number of owners is kept.
fn least(servers: &[ServiceServer], slot: u32) -> usize {
    let others = |of: u32| servers.iter().filter(|other| other.slot == of).count();
    let missed = |server: &ServiceServer| {
        let kept = server.slot == slot || others(server.slot) > 1;
        (!kept, server.seen)
    };
    let places = servers.iter().enumerate();
    let least = places.min_by_key(|(_, server)| missed(server));
    least.map_or(0, |(at, _)| at)
}

#[cfg(test)]
mod tests;
