//! What the evidence adds up to: the numbers that the rules of causes and advice ask for.

use conntrack_ebpf::record::DropReason;
use ctpressure_model::{
    cost::{MemoryRange, Sharing, WhenFull},
    pressure::{as_f64, state::Pressure},
    verdict::{Verdict, VerdictKind},
};

use super::{
    demand::{self, Demand},
    evidence::{ByReason, Evidence, LostFlows, NamedDestination, OwnerEvidence, lost},
};

/// Kernel default of `nf_conntrack_udp_timeout`, seconds.
const UDP_TIMEOUT: u64 = 30;
/// Seconds at the begin of what is shown of which the rates before are taken.
const BEFORE: u64 = 60;
/// Seconds of which the highest rate is taken.
const BUSIEST: u64 = 10;
/// Kernel defaults of `nf_conntrack_tcp_timeout_syn_sent` and `_syn_recv`, seconds.
const SYN_SENT: u64 = 120;
const SYN_RECV: u64 = 60;

/// The evidence, added up.
#[derive(Debug)]
pub(crate) struct Reading<'a> {
    /// What it is made from.
    pub(crate) evidence: &'a Evidence,
    /// Packets lost, by reason.
    drops: ByReason,
    /// Packets lost, for any reason.
    pub(crate) lost: u64,
    /// Live entries removed to make room.
    pub(crate) evictions: u64,
    pub(crate) pressure: Pressure,
    /// Most entries in the table.
    pub(crate) entries: u64,
    /// The limit then; 0: none or not known.
    pub(crate) limit: u64,
    /// When there were most, seconds since 1970.
    pub(crate) peak_at: u64,
    /// When the first packet was lost or the first entry evicted, seconds since 1970.
    pub(crate) first_loss: Option<u64>,
    /// When the first packet was lost, seconds since 1970.
    pub(crate) first_drop: Option<u64>,
    pub(crate) culprit: Option<&'a OwnerEvidence>,
    /// Who lost packets or entries, most first.
    pub(crate) sufferers: Vec<&'a OwnerEvidence>,
    /// The lowering of the limit before the first loss, the last one: index in the changes.
    pub(crate) lowered: Option<usize>,
    /// What would have been there with room for all.
    pub(crate) demand: Demand,
}

impl<'a> Reading<'a> {
    pub(crate) fn new(evidence: &'a Evidence) -> Self {
        let focus = evidence.focus_points();
        let points = &evidence.points[focus.clone()];
        let peak = evidence.peak();
        let drops = evidence.drops();
        let when = |found: &dyn Fn(usize) -> bool| {
            focus
                .clone()
                .find(|at| found(*at))
                .map(|at| evidence.at(at))
        };
        let owners_first = evidence
            .owners
            .iter()
            .filter_map(|owner| owner.first_drop)
            .min();
        let first_drop = evidence
            .first_drop_ns
            .map(|nanoseconds| nanoseconds / 1_000_000_000)
            .or(owners_first)
            .or_else(|| when(&|at| evidence.points[at].lost() > 0));
        let first_eviction = when(&|at| evidence.points[at].evictions > 0);
        let mut reading = Self {
            evidence,
            drops,
            lost: lost(&drops),
            evictions: evidence.evictions(),
            pressure: points
                .iter()
                .map(|point| point.pressure)
                .max()
                .unwrap_or_default(),
            entries: evidence
                .points
                .get(peak)
                .map_or(0, |point| point.entries_most),
            limit: evidence.points.get(peak).map_or(0, |point| point.limit),
            peak_at: evidence.at(peak),
            first_loss: first_drop.into_iter().chain(first_eviction).min(),
            first_drop,
            culprit: None,
            sufferers: sufferers(evidence),
            lowered: None,
            demand: Demand::default(),
        };
        reading.culprit = reading.find_culprit();
        reading.lowered = reading.find_lowered();
        reading.demand = demand::demand(evidence, |owner| reading.longest(owner));
        reading
    }

    /// The tables that share the limit, as they were at the peak.
    pub(crate) fn sharing(&self) -> Sharing {
        let others = self.evidence.other_tables.iter();
        let others = others.map(|other| other.entries);
        Sharing::of(others.chain([self.entries]), self.limit)
    }

    /// The tables when they are full, with the limit and the buckets of the peak.
    pub(crate) fn when_full(&self) -> Option<WhenFull> {
        let node = &self.evidence.node;
        WhenFull::of(
            &node.entry_cost(),
            self.limit,
            node.buckets?,
            &self.sharing(),
        )
    }

    /// Kernel memory of full tables with this limit and the buckets that it asks for.
    pub(crate) fn full_with_buckets(&self, limit: u64) -> Option<MemoryRange> {
        let node = &self.evidence.node;
        let buckets = node.buckets.unwrap_or(0);
        let full = WhenFull::with_buckets_for(&node.entry_cost(), limit, buckets, &self.sharing());
        full.map(|full| full.bytes)
    }

    /// Packets lost for this reason.
    pub(crate) const fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize - 1]
    }

    /// The reason of most packets lost.
    pub(crate) fn main_reason(&self) -> Option<DropReason> {
        DropReason::ALL
            .into_iter()
            .filter(|reason| self.dropped(*reason) > 0)
            .max_by_key(|reason| {
                let is_packet = reason.loses_packet();
                (
                    is_packet,
                    self.dropped(*reason),
                    std::cmp::Reverse(*reason as u8),
                )
            })
    }

    /// The one whose entries became more, when they are a good part of what the table grew by or
    /// holds; else who holds most. When packets were lost for other reasons than a full table, who
    /// lost most: a clash is made by its sender.
    fn find_culprit(&self) -> Option<&'a OwnerEvidence> {
        let evidence = self.evidence;
        // Whoever is in the list is not to blame for what is not.
        if matches!(self.verdict(), Some(verdict) if verdict.kind == VerdictKind::Held) {
            return None;
        }
        let most = |key: &dyn Fn(&OwnerEvidence) -> u64| {
            // The first of equals.
            let owners = evidence.owners.iter().rev();
            owners
                .max_by_key(|owner| key(owner))
                .filter(|owner| key(owner) > 0)
        };
        if let Some(reason @ (DropReason::Clash | DropReason::Dying)) = self.main_reason() {
            let loser = most(&|owner| owner.drops[reason as usize - 1]);
            if loser.is_some() {
                return loser;
            }
        }
        let grower = most(&OwnerEvidence::growth);
        let filler = most(&|owner| owner.inserts + owner.drops[0]);
        let inserts: u64 = evidence.owners.iter().map(|owner| owner.inserts).sum();
        // A flood may evict its own entries as fast as it makes them.
        let flood = filler.filter(|owner| {
            owner.inserts * 2 > inserts
                && self.evictions * 4 > inserts
                && owner.causes * 2 > self.evictions
        });
        let grown = grower.filter(|owner| {
            let growth = owner.growth();
            growth * 10 >= self.limit.max(self.entries) || growth * 4 >= self.entries
        });
        flood
            .or(grown)
            .or_else(|| most(&|owner| owner.live_at_peak))
            .or(filler)
    }

    /// Where most of the packets went that the culprit lost.
    pub(crate) fn lost_to(&self) -> Option<&'a NamedDestination> {
        self.culprit?.lost.destinations.first()
    }

    /// The last time that the limit was lowered before the first loss (or before the table was fullest),
    /// if there was not room for what was there.
    fn find_lowered(&self) -> Option<usize> {
        let end = self.first_loss.unwrap_or(self.peak_at) + self.evidence.step;
        let changes = self.evidence.changes.iter().enumerate();
        let tight = |(from, to): (u64, u64)| {
            (from == 0 || self.entries <= from) && self.entries * 10 >= to * 7
        };
        changes
            .filter(|(_, change)| change.at <= end && change.lowered().is_some_and(tight))
            .map(|(at, _)| at)
            .next_back()
    }

    /// Its entries by share of what the table holds at its fullest, 0 to 1.
    pub(crate) fn share(&self, owner: &OwnerEvidence) -> f64 {
        ratio(owner.live_at_peak, self.counted().max(1))
    }

    /// Entries at the peak that are counted and no owner's, and their part, if that is what matters: at least one in a hundred.
    /// `None`, too, where nobody's entries are known.
    pub(crate) fn held(&self) -> Option<(u64, f64)> {
        let owners = &self.evidence.owners;
        let live: u64 = owners.iter().map(|owner| owner.live_at_peak).sum();
        let held = self.counted().saturating_sub(live);
        (live > 0 && held.saturating_mul(100) >= self.counted())
            .then(|| (held, ratio(held, self.counted())))
    }

    /// Entries of all tables at the peak: as the kernel counts them, which may be more than those of all owners.
    fn counted(&self) -> u64 {
        let owners = &self.evidence.owners;
        let held: u64 = owners.iter().map(|owner| owner.live_at_peak).sum();
        held.max(self.entries)
    }

    /// What the table was full of that a higher limit would only have held more of.
    pub(crate) fn verdict(&self) -> Option<&'a Verdict> {
        self.evidence.verdicts.first()
    }

    /// Its connections opened or accepted by share of all in the focus, 0 to 1.
    pub(crate) fn insert_share(&self, owner: &OwnerEvidence) -> f64 {
        let inserts: u64 = self.evidence.owners.iter().map(|owner| owner.inserts).sum();
        ratio(owner.inserts, inserts.max(1))
    }

    /// Tries to open a connection, a second, in the span of time: what entered and what was refused at first.
    pub(crate) fn attempts(&self, owner: &OwnerEvidence, from: u64, until: u64) -> f64 {
        let (mut tries, mut seconds) = (0, 0);
        for (at, point) in owner.points.iter().enumerate() {
            let second = self.evidence.at(at);
            if (from..until).contains(&second) && self.evidence.points[at].seconds > 0 {
                tries += u64::from(point.inserts) + u64::from(point.refused_first);
                seconds += self.evidence.step;
            }
        }
        ratio(tries, seconds.max(1))
    }

    /// Tries a second at the begin of what is shown; `None`: nothing is known of before the focus.
    pub(crate) fn attempts_before(&self, owner: &OwnerEvidence) -> Option<f64> {
        let from = self.evidence.shown.from;
        let until = self.evidence.focus.from.min(from + BEFORE);
        (from + 2 * self.evidence.step <= until).then(|| self.attempts(owner, from, until))
    }

    /// Tries a second in the busiest `BUSIEST` seconds, up to those after the first loss.
    pub(crate) fn attempts_climbing(&self, owner: &OwnerEvidence) -> f64 {
        let Evidence { focus, step, .. } = *self.evidence;
        let window = BUSIEST.max(step);
        let last = self.first_loss.unwrap_or(self.peak_at).max(focus.from);
        let mut most = 0.0_f64;
        let mut from = focus
            .from
            .saturating_sub(window)
            .max(self.evidence.shown.from);
        while from <= last {
            most = most.max(self.attempts(owner, from, from + window));
            from += step.max(1);
        }
        most
    }

    /// Seconds from the begin of the focus until the table was fullest or lost something.
    pub(crate) fn climb(&self) -> u64 {
        let until = self.first_loss.unwrap_or(self.peak_at);
        until.saturating_sub(self.evidence.focus.from)
    }

    /// Seconds that an evicted entry of this owner would have lived at most: none is assured, so it
    /// ends by the timeout of connections that are not established.
    fn longest(&self, owner: &OwnerEvidence) -> Option<u64> {
        let LostFlows {
            detailed,
            unanswered,
            ref protocols,
            ..
        } = owner.evicted;
        if detailed == 0 {
            return None;
        }
        let timeout = |name: &str, default| self.evidence.node.fact(name).unwrap_or(default);
        if part(protocols, "udp") > 0.8 {
            return Some(timeout("nf_conntrack_udp_timeout", UDP_TIMEOUT));
        }
        let tcp = part(protocols, "tcp") > 0.8;
        tcp.then(|| {
            if unanswered * 2 > detailed {
                timeout("nf_conntrack_tcp_timeout_syn_sent", SYN_SENT)
            } else {
                timeout("nf_conntrack_tcp_timeout_syn_recv", SYN_RECV)
            }
        })
    }
}

fn sufferers(evidence: &Evidence) -> Vec<&OwnerEvidence> {
    let mut found: Vec<&OwnerEvidence> = evidence
        .owners
        .iter()
        .filter(|owner| owner.dropped() + owner.victims > 0)
        .collect();
    found.sort_by_key(|owner| std::cmp::Reverse((owner.dropped(), owner.victims)));
    found
}

/// The part that one name has of all, 0 to 1.
pub(crate) fn part(counts: &[(String, u64)], name: &str) -> f64 {
    let all: u64 = counts.iter().map(|(_, count)| count).sum();
    let of_name: u64 = counts
        .iter()
        .filter(|(other, _)| other == name)
        .map(|(_, count)| count)
        .sum();
    ratio(of_name, all.max(1))
}

pub(crate) fn ratio(number: u64, of: u64) -> f64 {
    as_f64(number) / as_f64(of.max(1))
}
