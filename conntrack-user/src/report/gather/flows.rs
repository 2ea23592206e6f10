//! What events with detail tell: which flows were refused or evicted, for the first time or again.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::RandomState},
    hash::BuildHasher as _,
    net::IpAddr,
    time::SystemTime,
};

use super::{
    super::{
        evidence::{Destination, Evidence, Flows, OwnerEvidence, OwnerPoint},
        reading::ratio,
        words::{clean, rounded},
    },
    Begins,
    owners::{destination_name, first_drop},
    seconds, time,
};
use crate::journal::{JournalError, OwnerId, Path, Reader};

/// Pieces of the focus that events are read in, so that not all of them are in memory at once.
const PIECES: u64 = 16;
/// Events of a piece that are read at most, of each kind.
const EVENTS: usize = 50_000;
/// Seconds before the sample that counts an event, at most, on a node that keeps up.
const BEFORE: u64 = 5;
/// Flows, sources and destinations that are told apart at most.
const FLOWS: usize = 1 << 20;
const SOURCES: usize = 1_000;
const DESTINATIONS: usize = 4_096;
/// Destinations that are kept in the end.
const FOREMOST: usize = 10;

/// What the events of one kind tell of one owner.
struct Tally {
    detailed: u64,
    flows: u64,
    unanswered: u64,
    sources: HashSet<IpAddr>,
    protocols: BTreeMap<String, u64>,
    destinations: HashMap<(IpAddr, u16, String), u64>,
    /// By point: events, and those that were not of a flow seen before.
    points: Vec<(u64, u64)>,
}

/// The events of one kind.
struct Kind {
    hash: RandomState,
    seen: HashSet<u64>,
    tallies: BTreeMap<OwnerId, Tally>,
    points: usize,
}

impl Kind {
    fn new(points: usize) -> Self {
        Self {
            hash: RandomState::new(),
            seen: HashSet::new(),
            tallies: BTreeMap::new(),
            points,
        }
    }

    fn add(&mut self, owner: OwnerId, path: Option<&Path>, point: Option<usize>, unanswered: bool) {
        let points = self.points;
        let tally = self.tallies.entry(owner).or_insert_with(|| Tally {
            detailed: 0,
            flows: 0,
            unanswered: 0,
            sources: HashSet::new(),
            protocols: BTreeMap::new(),
            destinations: HashMap::new(),
            points: vec![(0, 0); points],
        });
        let Some(path) = path else {
            return;
        };
        tally.detailed += 1;
        tally.unanswered += u64::from(unanswered);
        let flow = self.hash.hash_one((
            owner,
            &path.protocol,
            path.source,
            path.source_port,
            path.destination,
            path.destination_port,
        ));
        let first = self.seen.len() >= FLOWS || self.seen.insert(flow);
        tally.flows += u64::from(first);
        if tally.sources.len() < SOURCES {
            tally.sources.insert(path.source);
        }
        // There are no more than 256 protocols.
        *tally.protocols.entry(clean(&path.protocol)).or_default() += 1;
        let destination = (
            path.destination,
            path.destination_port,
            clean(&path.protocol),
        );
        if tally.destinations.len() < DESTINATIONS || tally.destinations.contains_key(&destination)
        {
            *tally.destinations.entry(destination).or_default() += 1;
        }
        if let Some((events, firsts)) = point.and_then(|at| tally.points.get_mut(at)) {
            *events += 1;
            *firsts += u64::from(first);
        }
    }
}

impl Tally {
    fn flows(self) -> Flows {
        let mut protocols: Vec<(String, u64)> = self.protocols.into_iter().collect();
        protocols.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
        let mut destinations: Vec<_> = self.destinations.into_iter().collect();
        destinations.sort_unstable_by(|(one, number), (other, more)| {
            more.cmp(number).then_with(|| one.cmp(other))
        });
        destinations.truncate(FOREMOST);
        Flows {
            detailed: self.detailed,
            flows: self.flows,
            sources: self.sources.len() as u64,
            unanswered: self.unanswered,
            protocols,
            destinations: destinations
                .into_iter()
                .map(|((address, port, protocol), count)| Destination {
                    name: destination_name(&address, port, &protocol),
                    port,
                    protocol,
                    count,
                    share: ratio(count, self.detailed),
                    new: false,
                })
                .collect(),
        }
    }
}

pub(super) fn add(
    evidence: &mut Evidence,
    reader: &Reader,
    owners: &mut BTreeMap<OwnerId, OwnerEvidence>,
    begins: Begins,
) -> Result<(), JournalError> {
    let number = evidence.points.len();
    let (mut drops, mut full, mut evictions) =
        (Kind::new(number), Kind::new(number), Kind::new(number));
    let focus = evidence.focus;
    let piece = focus.seconds().div_ceil(PIECES).max(60);
    // What the first sample counts happened before it.
    let mut from = focus.from.saturating_sub(BEFORE);
    let counted = |sample: SystemTime| focus.contains(seconds(sample));
    while from < focus.until {
        let until = (from + piece).min(focus.until);
        let within = reader.read(time(from), time(until))?;
        // Its point is that of the sample that counts it, which may be of the next second.
        let point = |at: SystemTime| begins.point(at);
        for row in within.drops(EVENTS)? {
            if !counted(row.sample) {
                continue;
            }
            drops.add(row.owner, row.path.as_ref(), None, false);
            if row.reason == "table_full" {
                full.add(row.owner, row.path.as_ref(), point(row.sample), false);
            }
            if row.reason != "table_full_request"
                && let Some(owner) = owners.get_mut(&row.owner)
            {
                first_drop(evidence, owner, row.at);
            }
        }
        for row in within.evictions(EVENTS)? {
            if !counted(row.sample) {
                continue;
            }
            let unanswered = !row.seen_reply;
            evictions.add(
                row.victim.0,
                row.path.as_ref(),
                point(row.sample),
                unanswered,
            );
        }
        from = until;
    }
    for (id, owner) in owners.iter_mut() {
        let points = full.tallies.remove(id).map(|tally| tally.points);
        let firsts = spread(owner, points.as_deref(), |point| point.refused);
        for (point, first) in owner.points.iter_mut().zip(firsts) {
            point.refused_first = first;
        }
        let tally = evictions.tallies.remove(id);
        let firsts = spread(
            owner,
            tally.as_ref().map(|tally| &tally.points[..]),
            |point| point.victims,
        );
        for (point, first) in owner.points.iter_mut().zip(firsts) {
            point.victims_again = point.victims - first;
        }
        owner.evicted = tally.map(Tally::flows).unwrap_or_default();
        owner.lost = drops
            .tallies
            .remove(id)
            .map(Tally::flows)
            .unwrap_or_default();
        if owner.first_drop.is_none() {
            let at = owner.points.iter().position(|point| point.drops > 0);
            owner.first_drop = at.map(|at| begins.from + at as u64 * begins.step);
        }
    }
    Ok(())
}

/// How many of the exact counts were first ones of their flow, by point: as large a part as among
/// the events with detail since the point before. Without any they all are.
pub(in crate::report) fn spread(
    owner: &OwnerEvidence,
    events: Option<&[(u64, u64)]>,
    exact: impl Fn(&OwnerPoint) -> u32,
) -> Vec<u32> {
    let (mut pool, mut part) = ((0, 0), 1.0);
    owner
        .points
        .iter()
        .enumerate()
        .map(|(at, point)| {
            if let Some((events, firsts)) = events.and_then(|events| events.get(at)) {
                pool = (pool.0 + events, pool.1 + firsts);
            }
            let exact = exact(point);
            if exact == 0 {
                return 0;
            }
            if pool.0 > 0 {
                part = ratio(pool.1, pool.0);
                pool = (0, 0);
            }
            let first = rounded(f64::from(exact) * part);
            u32::try_from(first).unwrap_or(u32::MAX).min(exact)
        })
        .collect()
}
