//! What events with detail tell: which flows lost packets or were evicted, and where they went.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::RandomState},
    hash::BuildHasher as _,
    net::IpAddr,
    time::SystemTime,
};

use conntrack_ebpf::record::DropReason;
use ctpressure_journal::{JournalError, OwnerId, Path, Reader};
use ctpressure_model::words::time::unix;

use super::{
    super::{
        evidence::{Evidence, LostFlows, NamedDestination, OwnerEvidence},
        reading::ratio,
    },
    clean,
    owners::{destination_name, first_drop},
    time,
};

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
#[derive(Default)]
struct FlowTally {
    detailed: u64,
    flows: u64,
    unanswered: u64,
    sources: HashSet<IpAddr>,
    protocols: BTreeMap<String, u64>,
    destinations: HashMap<(IpAddr, u16, String), u64>,
}

/// The events of one kind.
#[derive(Default)]
struct LossTallies {
    hash: RandomState,
    seen: HashSet<u64>,
    tallies: BTreeMap<OwnerId, FlowTally>,
}

impl LossTallies {
    /// An event, and whether its flow has to be counted here.
    fn add(&mut self, owner: OwnerId, path: Option<&Path>, count: bool, unanswered: bool) {
        let tally = self.tallies.entry(owner).or_default();
        let Some(path) = path else {
            return;
        };
        tally.detailed += 1;
        tally.unanswered += u64::from(unanswered);
        if count && self.seen.len() < FLOWS {
            let flow = self.hash.hash_one((
                owner,
                &path.protocol,
                path.source,
                path.source_port,
                path.destination,
                path.destination_port,
            ));
            tally.flows += u64::from(self.seen.insert(flow));
        }
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
    }
}

impl FlowTally {
    /// With what the counts told already.
    fn flows(self, counted: &LostFlows) -> LostFlows {
        let mut protocols: Vec<(String, u64)> = self.protocols.into_iter().collect();
        protocols.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
        let mut destinations: Vec<_> = self.destinations.into_iter().collect();
        destinations.sort_unstable_by(|(one, number), (other, more)| {
            more.cmp(number).then_with(|| one.cmp(other))
        });
        destinations.truncate(FOREMOST);
        LostFlows {
            detailed: self.detailed,
            flows: counted.flows + self.flows,
            told: counted.told,
            sources: self.sources.len() as u64,
            unanswered: self.unanswered,
            protocols,
            destinations: destinations
                .into_iter()
                .map(|((address, port, protocol), count)| NamedDestination {
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
) -> Result<(), JournalError> {
    let (mut drops, mut evictions) = (LossTallies::default(), LossTallies::default());
    let focus = evidence.focus;
    let piece = focus.seconds().div_ceil(PIECES).max(60);
    // What the first sample counts happened before it.
    let mut from = focus.from.saturating_sub(BEFORE);
    let counted = |sample: SystemTime| focus.contains(unix(sample));
    while from < focus.until {
        let until = (from + piece).min(focus.until);
        let within = reader.read(time(from), time(until))?;
        for row in within.drops(EVENTS)? {
            if !counted(row.sample) {
                continue;
            }
            // Flows that a full table refused are counted, whether their events are kept or not.
            let told = row.reason == DropReason::TableFull;
            drops.add(row.owner, row.path.as_ref(), !told, false);
            if row.reason != DropReason::TableFullRequest
                && let Some(owner) = owners.get_mut(&row.owner)
            {
                first_drop(evidence, owner, row.at);
            }
        }
        for row in within.evictions(EVENTS)? {
            if !counted(row.sample) {
                continue;
            }
            evictions.add(row.victim, row.path.as_ref(), false, !row.seen_reply);
        }
        from = until;
    }
    for (id, owner) in owners.iter_mut() {
        for (kind, flows) in [
            (&mut drops, &mut owner.lost),
            (&mut evictions, &mut owner.evicted),
        ] {
            let tally = kind.tallies.remove(id).unwrap_or_default();
            *flows = tally.flows(flows);
        }
        if owner.first_drop.is_none() {
            let at = owner.points.iter().position(|point| point.drops > 0);
            owner.first_drop = at.map(|at| evidence.at(at));
        }
    }
    Ok(())
}
