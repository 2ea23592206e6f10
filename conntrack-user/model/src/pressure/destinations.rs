//! Where the connections of each owner go: its top destinations, in bounded memory.
//!
//! For each owner and direction there are three sketches (see [`super::heavy`]), by [`What`]. Each
//! takes memory as keys come, so that an owner with two destinations costs two counters. When all
//! of them take more than they may (`Destinations::new`), the owners that have been quiet longest are
//! forgotten, a sixteenth at a time. What has faded
//! away is given back.
//!
//! Records of events are sampled over all owners together: a busy owner's events leave no record to a quiet one. So a record
//! counts as the one event that it is of, and once a second ([`Destinations::settle`]) an owner's counts are brought to what the
//! kernel has counted for it, exactly: what left no record is spread over its destinations as its records of the last two seconds
//! are, and is part of their error. The true count of a destination is at least `count - error`, always.
//!
//! Counts fade with a time constant of `FADING`: a count is that of about the last half minute.

use std::{
    hash::RandomState,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use conntrack_ebpf::{
    owner::{Address, Direction, MAX_SLOTS, Party},
    record::Tuple,
};
use serde::{Deserialize, Serialize};

use super::{
    as_f64,
    heavy::{Counted, SpaceSaving},
};
use crate::protocol::{is_icmp, protocol_name};

/// The time in which a count falls to 37 % when nothing comes.
const FADING: Duration = Duration::from_secs(30);
/// Bytes that all sketches may take, unless told otherwise.
const BYTES: usize = 4 << 20;
/// Counters of a sketch, by [`What`].
const COUNTERS: [usize; 3] = [32, 16, 16];
/// A sketch with less than this is empty.
const NOTHING: f64 = 0.5;

/// What is counted, and by which address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[repr(usize)]
pub enum What {
    /// Inserts by real destination: after DNAT.
    Inserts = 0,
    /// Inserts by Service address: the destination that the opener asked for, where DNAT made
    /// another of it.
    ServiceInserts = 1,
    /// Drops by the destination that the opener asked for. (For want of an entry nothing is
    /// translated when the table is full.)
    Drops = 2,
}

/// A destination as counted: as small as can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    address: [u32; 4],
    port: u16,
    protocol: u8,
    v4: bool,
}

impl Key {
    /// From words and a port as in a [`Tuple`].
    fn new(address: [u32; 4], port: u16, tuple: &Tuple) -> Self {
        // Without AF_INET6 only the first word is an address.
        let v4 = tuple.l3num != 10;
        Self {
            address: if v4 {
                Address::v4(address[0]).words
            } else {
                address
            },
            // An ICMP id is no part of where it goes.
            port: if is_icmp(tuple.protonum) { 0 } else { port },
            protocol: tuple.protonum,
            v4,
        }
    }

    /// Where the opener wants to go.
    fn asked(original: &Tuple) -> Self {
        Self::new(original.dst, original.dst_port, original)
    }

    /// Where the answers come from.
    fn real(reply: &Tuple) -> Self {
        Self::new(reply.src, reply.src_port, reply)
    }

    fn ip(&self) -> IpAddr {
        if self.v4 {
            return Ipv4Addr::from(self.address[3].to_ne_bytes()).into();
        }
        let mut octets = [0; 16];
        for (four, word) in octets.chunks_exact_mut(4).zip(self.address) {
            four.copy_from_slice(&word.to_ne_bytes());
        }
        Ipv6Addr::from(octets).into()
    }
}

/// One of the top destinations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct Destination {
    /// Address of the real server or of the service.
    pub address: IpAddr,
    /// Its port (or GRE key); `None`: the protocol has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Name or number in digits.
    pub protocol: String,
    /// Events in the window: those that were seen, and this destination's part of those that were not.
    pub count: f64,
    /// The true count is at least `count - error`.
    pub error: f64,
    /// `count` of all of the owner's events, 0 to 1.
    pub share: f64,
    /// `count` as a rate.
    pub per_second: f64,
}

/// The top destinations of one owner in one direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct Top {
    /// Length of the window: counts are those of about as many seconds. They fade, so nothing falls
    /// out of it at once; less for an owner that is younger.
    pub window_seconds: f64,
    /// All events in the window.
    pub total: f64,
    /// What is not in here has at most this count; all that left no record may be of it.
    pub others_at_most: f64,
    /// Those that are known, the highest count first.
    pub destinations: Vec<Destination>,
}

type Sketch = SpaceSaving<Key, RandomState>;

#[derive(Debug)]
struct Owner {
    sketches: [Sketch; 3],
    began: Duration,
    /// Up to when it has faded.
    faded: Duration,
    used: Duration,
}

impl Owner {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.sketches.iter().map(Sketch::bytes).sum::<usize>()
    }

    fn fade(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.faded);
        if !passed.is_zero() {
            let factor = (-passed.as_secs_f64() / FADING.as_secs_f64()).exp();
            for sketch in &mut self.sketches {
                sketch.fade(factor);
            }
            self.faded = now;
        }
    }
}

/// What is counted exactly: inserts and drops.
const EXACT: [What; 2] = [What::Inserts, What::Drops];

/// An owner's exact counters against its records; each by [`EXACT`].
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// The counters when they were told last.
    told: [u64; 2],
    /// What they had grown by then. A record is read some time after its event was counted, so it is due a second later.
    due: [f64; 2],
    /// What was due so far, less what has been counted of it; negative while records are ahead. What nothing can be told of for want
    /// of a record fades like all the rest.
    owed: [f64; 2],
    /// Up to when it has faded.
    faded: Duration,
}

/// The top destinations of all owners.
#[derive(Debug)]
pub struct Destinations {
    /// By slot and direction: see [`place`].
    owners: Vec<Option<Box<Owner>>>,
    /// By slot, of what they opened.
    accounts: Vec<Account>,
    bytes: usize,
    bytes_most: usize,
    now: Duration,
    hasher: RandomState,
}

impl Default for Destinations {
    fn default() -> Self {
        Self::new(BYTES)
    }
}

const fn place(party: Party) -> usize {
    (party.slot() % MAX_SLOTS) as usize * 2 + party.direction() as usize
}

impl Destinations {
    /// Takes `bytes_most` bytes at most, but for one owner's sketches (9 KiB) if it is too small
    /// even for that.
    fn new(bytes_most: usize) -> Self {
        Self {
            owners: Vec::new(),
            accounts: Vec::new(),
            bytes: 0,
            bytes_most,
            now: Duration::ZERO,
            hasher: RandomState::new(),
        }
    }

    /// The time is now this (since any fixed time). To be called about once a second: events are
    /// taken to come at the time that was told last.
    pub fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
        for index in 0..self.owners.len() {
            let Some(owner) = &mut self.owners[index] else {
                continue;
            };
            // A hundredth of a count is left after five times the time constant.
            if self.now.saturating_sub(owner.used) > FADING * 2 {
                owner.fade(self.now);
                if owner.sketches.iter().all(|sketch| sketch.total() < NOTHING) {
                    self.drop_owner(index);
                }
            }
        }
    }

    /// A connection of an owner entered the table, and has a record.
    pub fn insert(&mut self, party: Party, original: &Tuple, reply: &Tuple) {
        let (asked, real) = (Key::asked(original), Key::real(reply));
        self.count(party, |owner| {
            owner.sketches[What::Inserts as usize].add(real, 1.0);
            if asked != real {
                owner.sketches[What::ServiceInserts as usize].add(asked, 1.0);
            }
        });
    }

    /// A packet of an owner was lost, and has a record.
    pub fn dropped(&mut self, party: Party, original: &Tuple) {
        let asked = Key::asked(original);
        self.count(party, |owner| {
            owner.sketches[What::Drops as usize].add(asked, 1.0);
        });
    }

    /// An owner has opened and lost so many (inserts and drops as the kernel counted them) by now; to be told once a second, after
    /// [`Self::advance`]. `most`: by how much those of all owners together have grown since the last time; an owner that takes over
    /// another one's counters has not grown by them.
    pub fn settle(&mut self, slot: u32, counted: [u64; 2], most: [u64; 2]) {
        let party = Party::new(slot, Direction::Egress);
        let index = (party.slot() % MAX_SLOTS) as usize;
        if index >= self.accounts.len() {
            self.accounts.resize(index + 1, Account::default());
        }
        let now = self.now;
        let account = &mut self.accounts[index];
        let passed = now.saturating_sub(account.faded).as_secs_f64();
        let factor = (-passed / FADING.as_secs_f64()).exp();
        account.faded = now;
        let mut owner = self.owners.get_mut(place(party)).and_then(Option::as_mut);
        if let Some(owner) = &mut owner {
            owner.fade(now);
        }
        for (exact, what) in EXACT.into_iter().enumerate() {
            let grown = counted[exact].saturating_sub(account.told[exact]);
            account.told[exact] = counted[exact];
            let due = std::mem::replace(&mut account.due[exact], as_f64(grown.min(most[exact])));
            let owed = &mut account.owed[exact];
            if *owed > 0.0 {
                *owed *= factor;
            }
            *owed += due;
            // Without a sketch there is no record either.
            let Some(owner) = &mut owner else { continue };
            let sketch = &owner.sketches[what as usize];
            *owed -= sketch.newly();
            let lately = sketch.lately();
            let unseen = owed.max(0.0);
            let services = (what == What::Inserts).then_some(What::ServiceInserts);
            for what in [Some(what), services].into_iter().flatten() {
                let sketch = &mut owner.sketches[what as usize];
                if lately > 0.0 {
                    sketch.spread(unseen / lately);
                }
                sketch.turn();
            }
            if lately > 0.0 {
                *owed -= unseen;
            }
        }
    }

    /// The slot was given to another owner, or to none.
    pub fn forget(&mut self, slot: u32) {
        for direction in [Direction::Egress, Direction::Ingress] {
            let index = place(Party::new(slot, direction));
            if index < self.owners.len() {
                self.drop_owner(index);
            }
        }
        if let Some(account) = self.accounts.get_mut((slot % MAX_SLOTS) as usize) {
            *account = Account::default();
        }
    }

    /// The `count` top destinations of an owner.
    pub fn top(&self, party: Party, what: What, count: usize) -> Top {
        let Some(Some(owner)) = self.owners.get(place(party)) else {
            return Top::default();
        };
        let sketch = &owner.sketches[what as usize];
        let constant = FADING.as_secs_f64();
        let fade = (-self.now.saturating_sub(owner.faded).as_secs_f64() / constant).exp();
        // A sketch that is younger than the window has seen less of it. Events have the time of
        // the last `advance`: a second old at most.
        let age = self.now.saturating_sub(owner.began).as_secs_f64().max(1.0);
        let window = constant * (1.0 - (-age / constant).exp());
        let account = self.accounts.get((party.slot() % MAX_SLOTS) as usize);
        let exact = EXACT.iter().position(|exact| *exact == what);
        let untold = match (account, exact, party.direction()) {
            (Some(account), Some(exact), Direction::Egress) => account.owed[exact].max(0.0),
            _ => 0.0,
        };
        let total = sketch.total() * fade + untold;
        let destinations = sketch
            .top(count)
            .into_iter()
            .filter(|counted| counted.count * fade >= NOTHING)
            .map(|counted| destination(&counted, fade, total, window))
            .collect::<Vec<_>>();
        let cut = (destinations.len() < sketch.len())
            .then(|| sketch.top(destinations.len() + 1).pop())
            .flatten()
            .map_or(0.0, |next| next.count);
        Top {
            window_seconds: window,
            total,
            // Of what left no record any of it may have gone there.
            others_at_most: (sketch.uncounted().max(cut) + sketch.spread_out()).min(sketch.total())
                * fade
                + untold,
            destinations,
        }
    }

    /// Bytes that are taken now.
    pub const fn bytes(&self) -> usize {
        self.bytes
            + self.owners.capacity() * size_of::<Option<Box<Owner>>>()
            + self.accounts.capacity() * size_of::<Account>()
    }

    fn count(&mut self, party: Party, add: impl FnOnce(&mut Owner)) {
        let index = place(party);
        if index >= self.owners.len() {
            self.owners.reserve_exact(index + 1 - self.owners.len());
            self.owners.resize_with(index + 1, || None);
        }
        let now = self.now;
        let hasher = &self.hasher;
        let (owner, before) = match &mut self.owners[index] {
            Some(owner) => {
                let before = owner.bytes();
                (owner, before)
            }
            none => {
                let owner = none.insert(Box::new(Owner {
                    sketches: COUNTERS
                        .map(|counters| SpaceSaving::with_hasher(counters, hasher.clone())),
                    began: now,
                    faded: now,
                    used: now,
                }));
                (owner, 0)
            }
        };
        owner.fade(now);
        owner.used = now;
        add(owner);
        let after = owner.bytes();
        // Sketches never shrink.
        self.bytes += after - before;
        if after > before && self.bytes() > self.bytes_most {
            self.make_room(index);
        }
    }

    /// Forgets a sixteenth of the owners, those quiet for longest, but not the one at `keep`.
    fn make_room(&mut self, keep: usize) {
        let mut quiet: Vec<(Duration, usize)> = self
            .owners
            .iter()
            .enumerate()
            .filter(|(index, _)| *index != keep)
            .filter_map(|(index, owner)| Some((owner.as_ref()?.used, index)))
            .collect();
        quiet.sort_unstable();
        let least = quiet.len().div_ceil(16);
        for (done, (_, index)) in quiet.into_iter().enumerate() {
            if done >= least && self.bytes() <= self.bytes_most {
                break;
            }
            self.drop_owner(index);
        }
    }

    fn drop_owner(&mut self, index: usize) {
        if let Some(owner) = self.owners[index].take() {
            self.bytes -= owner.bytes();
        }
    }
}

fn destination(counted: &Counted<Key>, fade: f64, total: f64, window: f64) -> Destination {
    let Counted { key, count, error } = *counted;
    let count = count * fade;
    Destination {
        address: key.ip(),
        port: (!is_icmp(key.protocol)).then(|| u16::from_be(key.port)),
        protocol: protocol_name(key.protocol).into_owned(),
        count,
        error: error * fade,
        share: if total > 0.0 { count / total } else { 0.0 },
        per_second: count / window,
    }
}

#[cfg(test)]
mod tests;
