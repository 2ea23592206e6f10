//! Owners: what each did, step by step.

use std::collections::{BTreeMap, HashMap};

use conntrack_ebpf::{owner::Direction, record::DropReason};
use ctpressure_journal::{
    DestinationSum, DestinationsOf, JournalError, Loss, OwnerId, Recording, What,
};
use ctpressure_model::{
    pressure::{as_count, as_f64, lifetime::FlowCounts},
    protocol::{is_icmp, protocol_number},
    words::time::unix,
};

use super::{
    super::{
        evidence::{Evidence, NamedDestination, OwnerEvidence, OwnerStep, OwnerWorkload, Span},
        reading::ratio,
    },
    clean, sane,
};

/// Owners with their own points; the others, which had least, are left out.
const MOST: usize = 500;
/// Destinations of an owner.
const DESTINATIONS: usize = 10;

/// Step by step over what is shown.
pub(super) fn shown(
    evidence: &mut Evidence,
    shown: &Recording<'_>,
) -> Result<BTreeMap<OwnerId, OwnerEvidence>, JournalError> {
    let mut owners = named(evidence, shown)?;
    let ids: Vec<OwnerId> = owners.keys().copied().collect();
    add_points(evidence, &mut owners, shown, &ids)?;
    let peak = evidence.peak();
    for owner in owners.values_mut() {
        let point = owner.points.get(peak);
        owner.live_at_peak = point.map_or(0, |point| u64::from(point.live));
    }
    add_states(&mut owners, shown)?;
    Ok(owners)
}

/// Destinations that owners have in a time before.
pub(super) fn known(
    before: &Recording<'_>,
) -> Result<BTreeMap<OwnerId, DestinationsOf>, JournalError> {
    before.destinations(What::Inserts, 4 * DESTINATIONS)
}

/// What is told of the focus as a whole.
pub(super) fn add_focus(
    focus: Span,
    owners: &mut BTreeMap<OwnerId, OwnerEvidence>,
    within: &Recording<'_>,
    known: &BTreeMap<OwnerId, DestinationsOf>,
) -> Result<(), JournalError> {
    add_sums(focus, owners, within)?;
    add_states(owners, within)?;
    for (id, of) in within.destinations(What::Inserts, DESTINATIONS)? {
        if let Some(owner) = owners.get_mut(&id) {
            owner.destinations = destinations(&of, known.get(&id));
        }
    }
    for (id, of) in within.destinations(What::ServiceInserts, DESTINATIONS)? {
        if let Some(owner) = owners.get_mut(&id) {
            owner.services = destinations(&of, None);
        }
    }
    Ok(())
}

/// States by the censuses of this time, if there was one.
fn add_states(
    owners: &mut BTreeMap<OwnerId, OwnerEvidence>,
    recording: &Recording<'_>,
) -> Result<(), JournalError> {
    for (id, mix) in recording.state_mixes()? {
        if let Some(owner) = owners.get_mut(&id) {
            owner.states = mix
                .into_iter()
                .map(|(state, entries)| (clean(&state), as_count(entries)))
                .collect();
        }
    }
    Ok(())
}

/// Owners that had anything in what is shown, with what they had at its begin.
fn named(
    evidence: &Evidence,
    shown: &Recording<'_>,
) -> Result<BTreeMap<OwnerId, OwnerEvidence>, JournalError> {
    let mut weights: HashMap<OwnerId, (u64, u64)> = HashMap::new();
    for sum in shown.owner_sums()? {
        let (weight, first) = weights.entry(sum.owner).or_default();
        let moved = [sum.live_max, sum.inserts, sum.deletes];
        for more in moved.into_iter().chain([lost(&sum.losses)]) {
            *weight = weight.saturating_add(more);
        }
        *first += sane(sum.live_first);
    }
    let mut foremost: Vec<(OwnerId, (u64, u64))> = weights
        .into_iter()
        .filter(|(_, (weight, _))| *weight > 0)
        .collect();
    foremost.sort_unstable_by_key(|(id, (weight, _))| (std::cmp::Reverse(*weight), *id));
    foremost.truncate(MOST);
    let names = shown.owners()?;
    Ok(foremost
        .into_iter()
        .filter_map(|(id, (_, first))| {
            let known = names.get(&id)?;
            let mut owner =
                OwnerEvidence::new(&clean(&known.name()), known.kind, evidence.points.len());
            owner.live_before = first;
            owner.workload = known.workload.as_ref().map(|workload| OwnerWorkload {
                namespace: clean(&known.namespace),
                kind: clean(&workload.kind),
                name: clean(&workload.name),
            });
            Some((id, owner))
        })
        .collect())
}

/// Packets and entries, each once.
fn lost(losses: &BTreeMap<Loss, u64>) -> u64 {
    let counts = losses.iter().filter(|(loss, _)| !loss.is_detail());
    counts.fold(0, |all, (_, number)| all.saturating_add(*number))
}

fn add_points(
    evidence: &mut Evidence,
    owners: &mut BTreeMap<OwnerId, OwnerEvidence>,
    shown: &Recording<'_>,
    ids: &[OwnerId],
) -> Result<(), JournalError> {
    // Where a direction did not move it holds what it held.
    let mut held: BTreeMap<(OwnerId, bool), Vec<(usize, u64)>> = BTreeMap::new();
    // Refusals and evictions of which it is known whether they were the first of their flow.
    let mut told: BTreeMap<OwnerId, [u64; 2]> = BTreeMap::new();
    let bucket = std::time::Duration::from_secs(evidence.step);
    for point in shown.owner_points(bucket, ids)? {
        let Some(at) = evidence.step_at(point.at) else {
            continue;
        };
        let Some((owner, to)) = owners.get_mut(&point.owner).and_then(|owner| {
            let to = owner.points.get(at).copied()?;
            Some((owner, to))
        }) else {
            continue;
        };
        let of = |loss| sane(point.losses.get(&loss).copied().unwrap_or(0));
        let mut packets = 0_u64;
        for (loss, number) in &point.losses {
            if let Loss::Packet(reason) = *loss {
                evidence.points[at].drops[reason as usize - 1] += sane(*number);
                if reason.loses_packet() {
                    packets += sane(*number);
                }
            }
        }
        owner.points[at] = OwnerStep {
            inserts: add32(to.inserts, point.inserts),
            deletes: add32(to.deletes, point.deletes),
            drops: add32(to.drops, packets),
            refused: add32(to.refused, of(Loss::Packet(DropReason::TableFull))),
            victims: add32(to.victims, of(Loss::Victim)),
            refused_first: add32(to.refused_first, of(Loss::RefusedFirst)),
            victims_again: add32(to.victims_again, of(Loss::EvictedAgain)),
            ..to
        };
        let told = told.entry(point.owner).or_default();
        told[0] += of(Loss::RefusedFirst) + of(Loss::RefusedAgain);
        told[1] += of(Loss::EvictedFirst) + of(Loss::EvictedAgain);
        let ingress = point.direction == Direction::Ingress;
        held.entry((point.owner, ingress))
            .or_default()
            .push((at, point.live));
    }
    let mut before: BTreeMap<(OwnerId, bool), u64> = BTreeMap::new();
    for sum in shown.owner_sums()? {
        before.insert(
            (sum.owner, sum.direction == Direction::Ingress),
            sane(sum.live_first),
        );
    }
    for (id, owner) in owners.iter_mut() {
        let [refused, evicted] = told.get(id).copied().unwrap_or_default();
        tell_the_others(&mut owner.points, refused, evicted);
        let mut seen: Option<usize> = None;
        for ingress in [false, true] {
            let mut live = before.get(&(*id, ingress)).copied().unwrap_or(0);
            let mut changes = held.get(&(*id, ingress)).into_iter().flatten().peekable();
            let first = changes.peek().map(|(at, _)| *at);
            seen = seen.into_iter().chain(first).min();
            for (at, point) in owner.points.iter_mut().enumerate() {
                while let Some((_, now)) = changes.next_if(|(change, _)| *change <= at) {
                    live = *now;
                }
                point.live = add32(point.live, live);
            }
        }
        // It had nothing when the report begins, and there was time to see that.
        owner.appeared = seen
            .filter(|first| owner.live_before == 0 && *first > 1)
            .map(|first| evidence.at(first));
    }
    Ok(())
}

/// What was not seen with detail is taken to be like what was: the same part of it the first of their flows.
/// If nothing was seen, all of it.
fn tell_the_others(points: &mut [OwnerStep], refused: u64, evicted: u64) {
    let sum = |of: fn(&OwnerStep) -> u32| -> u64 {
        points.iter().map(|point| u64::from(of(point))).sum()
    };
    let (all_refused, all_victims) = (sum(|point| point.refused), sum(|point| point.victims));
    let scaled =
        |number: u32, by: f64| u32::try_from(as_count(f64::from(number) * by)).unwrap_or(u32::MAX);
    for point in points {
        if refused == 0 {
            point.refused_first = point.refused;
        } else if all_refused > refused {
            point.refused_first = scaled(point.refused_first, ratio(all_refused, refused));
        }
        if all_victims > evicted {
            point.victims_again = scaled(point.victims_again, ratio(all_victims, evicted.max(1)));
        }
    }
}

fn add_sums(
    focus: Span,
    owners: &mut BTreeMap<OwnerId, OwnerEvidence>,
    within: &Recording<'_>,
) -> Result<(), JournalError> {
    let mut live: HashMap<OwnerId, u64> = HashMap::new();
    for sum in within.owner_sums()? {
        let Some(owner) = owners.get_mut(&sum.owner) else {
            continue;
        };
        owner.inserts += sane(sum.inserts);
        owner.deletes += sane(sum.deletes);
        *live.entry(sum.owner).or_default() += sane(sum.live_last);
        let ingress = sum.direction == Direction::Ingress;
        if ingress {
            owner.inserts_ingress += sane(sum.inserts);
        }
        for (loss, number) in sum.losses {
            let number = sane(number);
            match loss {
                Loss::Victim => owner.victims += number,
                Loss::Cause => owner.causes += number,
                Loss::RefusedFirst => {
                    owner.lost.flows += number;
                    owner.lost.told += number;
                }
                Loss::RefusedAgain => owner.lost.told += number,
                Loss::EvictedFirst => {
                    owner.evicted.flows += number;
                    owner.evicted.told += number;
                }
                Loss::EvictedAgain => owner.evicted.told += number,
                Loss::Packet(reason) => {
                    owner.drops[reason as usize - 1] += number;
                    if ingress && reason.loses_packet() {
                        owner.drops_ingress += number;
                    }
                }
            }
        }
    }
    for (id, owner) in owners {
        let flow = FlowCounts {
            live: live.get(id).copied().unwrap_or(0),
            inserts: owner.inserts,
            deletes: owner.deletes,
            seconds: as_f64(focus.seconds()),
            watched: std::time::Duration::from_secs(focus.seconds()),
        };
        owner.lifetime = flow.lifetime();
    }
    Ok(())
}

fn destinations(of: &DestinationsOf, known: Option<&DestinationsOf>) -> Vec<NamedDestination> {
    // The mean over the samples of the owner: a destination that was not foremost in one has 0 there.
    let mean = |sum: &DestinationSum| sum.count * ratio(sum.samples, of.samples);
    let all: f64 = of.top.iter().map(mean).sum();
    of.top
        .iter()
        .map(|sum| NamedDestination {
            name: destination_name(&sum.address, sum.port, &clean(&sum.protocol)),
            port: sum.port,
            protocol: clean(&sum.protocol),
            count: as_count(mean(sum)),
            share: if all > 0.0 { mean(sum) / all } else { 0.0 },
            new: known.is_some_and(|known| {
                !known.top.iter().any(|one| {
                    (one.address, one.port) == (sum.address, sum.port)
                        && one.protocol == sum.protocol
                })
            }),
        })
        .collect()
}

pub(super) fn destination_name(address: &std::net::IpAddr, port: u16, protocol: &str) -> String {
    if port == 0 || protocol_number(protocol).is_some_and(is_icmp) {
        return format!("{address}/{protocol}");
    }
    format!("{}/{protocol}", std::net::SocketAddr::new(*address, port))
}

pub(super) fn add32(to: u32, more: u64) -> u32 {
    to.saturating_add(u32::try_from(more).unwrap_or(u32::MAX))
}

pub(super) fn first_drop(
    evidence: &mut Evidence,
    owner: &mut OwnerEvidence,
    at: std::time::SystemTime,
) {
    let second = unix(at);
    owner.first_drop = Some(owner.first_drop.map_or(second, |first| first.min(second)));
    let nanoseconds = at
        .duration_since(std::time::UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_nanos()).ok());
    let before = evidence.first_drop_ns;
    evidence.first_drop_ns = before.into_iter().chain(nanoseconds).min();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Refused and evicted in each step, and what came with detail: first refusals, evictions again.
    fn told(steps: &[[u32; 4]], refused: u64, evicted: u64) -> Vec<(u32, u32)> {
        let mut points: Vec<OwnerStep> = steps
            .iter()
            .map(|[refused, victims, first, again]| OwnerStep {
                refused: *refused,
                victims: *victims,
                refused_first: *first,
                victims_again: *again,
                ..OwnerStep::default()
            })
            .collect();
        tell_the_others(&mut points, refused, evicted);
        let told = points.iter();
        told.map(|point| (point.refused_first, point.victims_again))
            .collect()
    }

    #[test]
    fn what_is_told_with_detail_is_lost_once() {
        let losses = BTreeMap::from([
            (Loss::Packet(DropReason::TableFull), 100),
            (Loss::RefusedFirst, 60),
            (Loss::RefusedAgain, 40),
            (Loss::Victim, 7),
            (Loss::EvictedFirst, 7),
        ]);
        assert_eq!(lost(&losses), 107);
    }

    #[test]
    fn what_was_not_seen_is_like_what_was() {
        let steps = [[100, 20, 100, 0], [100, 20, 0, 10]];
        assert_eq!(told(&steps, 200, 40), [(100, 0), (0, 10)]);
        // Half of it came with detail.
        let steps = [[100, 20, 50, 0], [100, 20, 0, 5]];
        assert_eq!(told(&steps, 100, 20), [(100, 0), (0, 10)]);
    }

    #[test]
    fn without_detail_each_is_the_first_of_its_flow() {
        assert_eq!(told(&[[100, 20, 0, 0]], 0, 0), [(100, 0)]);
    }
}
