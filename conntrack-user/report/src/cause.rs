//! Why it happened. Each rule looks at a [`Reading`] and either names a cause or passes; the first one in
//! `RULES` that names one is right, so the more special come first.

use conntrack_ebpf::record::DropReason;
use ctpressure_model::{
    pressure::state::Pressure,
    words::{
        allowance_drops, allowance_name, figure, grouped, per_second, plural, seconds, share_f64,
    },
};
use serde::Serialize;

use super::{
    evidence::{NamedDestination, OwnerEvidence},
    reading::{Reading, part, ratio},
};

mod filling;

pub(super) use filling::foremost;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum CauseKind {
    /// The journal has nothing of most of the time.
    NotWatched,
    /// Nothing was lost, but packets could not be tracked.
    Invalid,
    NotConntrack,
    /// The machine under the node dropped packets, beyond an allowance of its own.
    InstanceAllowance,
    /// NAT found no free port.
    NatExhausted,
    /// Two packets raced for the same tuple.
    Clash,
    /// Entries were removed before their first packet had passed.
    Dying,
    /// Hash chains were too long.
    LongChains,
    /// Only requests of ctnetlink or BPF were refused.
    Requests,
    /// The limit was lowered.
    LimitLowered,
    /// The limit was lowered, and one owner came to hold more.
    LimitLoweredAndGrowth,
    /// Packets that wait hold entries which no list has.
    Held,
    /// The outer packets of an overlay network.
    Overlay,
    /// One-way connections of another kind than those below.
    Flood,
    /// Connections from outside that nobody finishes.
    SynFlood,
    /// UDP that nobody answers.
    OneWayUdp,
    DnsStorm,
    /// Clients that try again and again.
    RetryStorm,
    /// Short connections that stay in `TIME_WAIT`.
    TimeWait,
    /// Established connections that nobody uses.
    EstablishedIdle,
    /// Connections that are opened and not closed.
    SlowLeak,
    /// An owner that had just started.
    NewOwner,
    /// An owner that came to know more destinations.
    MoreDestinations,
    /// Many connections in a short time.
    Burst,
    /// Many owners, none of them foremost.
    ManyOwners,
    /// An owner holds much, and it is not known why.
    Growth,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Cause {
    /// What kind it is.
    pub(crate) kind: CauseKind,
    /// It, as the end of a sentence.
    pub(crate) why: String,
    /// What it was told by.
    pub(crate) evidence: String,
}

type CauseRule = fn(&Reading<'_>) -> Option<Cause>;

/// All rules, the more special first.
const RULES: &[CauseRule] = &[
    not_watched,
    nat_exhausted,
    clash,
    dying,
    long_chains,
    requests,
    instance_allowance,
    not_conntrack,
    filling::limit_lowered,
    filling::held_or_overlay,
    filling::syn_flood,
    filling::one_way_udp,
    filling::flood,
    filling::dns_storm,
    filling::retry_storm,
    filling::time_wait,
    filling::established_idle,
    filling::new_owner,
    filling::more_destinations,
    filling::many_owners,
    filling::slow_leak,
    filling::burst,
];

impl Cause {
    fn new(kind: CauseKind, why: String, evidence: String) -> Self {
        Self {
            kind,
            why,
            evidence,
        }
    }

    /// The cause; [`Kind::Growth`] when no rule fits.
    pub(crate) fn find(reading: &Reading<'_>) -> Self {
        RULES
            .iter()
            .find_map(|rule| rule(reading))
            .unwrap_or_else(|| filling::growth(reading))
    }
}

impl CauseKind {
    /// Whether there is somebody who filled the table.
    pub(crate) const fn is_filling(self) -> bool {
        !matches!(
            self,
            Self::NotWatched
                | Self::Invalid
                | Self::NotConntrack
                | Self::InstanceAllowance
                | Self::NatExhausted
                | Self::Clash
                | Self::Dying
                | Self::LongChains
                | Self::Requests
        )
    }

    /// Whether there had been room until somebody took it.
    pub(crate) const fn is_lowered(self) -> bool {
        matches!(self, Self::LimitLowered | Self::LimitLoweredAndGrowth)
    }

    /// Whether a higher limit would only be filled as well.
    pub(crate) const fn is_flood(self) -> bool {
        matches!(
            self,
            Self::Held | Self::Overlay | Self::Flood | Self::SynFlood | Self::OneWayUdp
        )
    }
}

fn not_watched(reading: &Reading<'_>) -> Option<Cause> {
    let focus = reading.evidence.focus;
    let missing: u64 = reading
        .evidence
        .gaps
        .iter()
        .map(|gap| {
            gap.until
                .min(focus.until)
                .saturating_sub(gap.from.max(focus.from))
        })
        .sum();
    (reading.lost + reading.evictions == 0 && missing * 2 > focus.seconds()).then(|| {
        Cause::new(
            CauseKind::NotWatched,
            format!(
                "the journal has nothing of {} of the {}",
                seconds(missing),
                seconds(focus.seconds())
            ),
            "ctpressure did not run then, or could not write its journal".to_owned(),
        )
    })
}

/// Only those beyond which packets are dropped: that bandwidth was used up for a moment says nothing about lost connections.
fn instance_allowance(reading: &Reading<'_>) -> Option<Cause> {
    let all = reading.evidence.node.allowances.iter();
    let dropped = all.filter(|allowance| allowance_drops(&allowance.allowance));
    let most =
        dropped.max_by_key(|allowance| (allowance.allowance == "conntrack", allowance.packets))?;
    if reading.lost + reading.evictions > 0 {
        return None;
    }
    let table = match reading.limit {
        0 => grouped(reading.entries),
        limit => format!("{} of {} entries", grouped(reading.entries), grouped(limit)),
    };
    let allowance = allowance_name(&most.allowance);
    Some(Cause::new(
        CauseKind::InstanceAllowance,
        format!(
            "it was not this node's table, which held {table} at most, but the instance: it dropped {} beyond its {allowance}",
            plural(most.packets, "packet", "packets"),
        ),
        format!(
            "the driver of {} counted them: {}",
            most.interface,
            exceeded(reading)
        ),
    ))
}

/// All that the instance dropped, by statistic.
pub(crate) fn exceeded(reading: &Reading<'_>) -> String {
    let all = reading.evidence.node.allowances.iter();
    let all: Vec<String> = all
        .map(|one| {
            let packets = grouped(one.packets);
            format!(
                "{}_allowance_exceeded {packets} on {}",
                one.allowance, one.interface
            )
        })
        .collect();
    all.join(", ")
}

fn not_conntrack(reading: &Reading<'_>) -> Option<Cause> {
    if reading.lost + reading.evictions > 0 || reading.pressure >= Pressure::High {
        return None;
    }
    let invalid = reading.evidence.kernel.invalid;
    let fullest = match reading.limit {
        0 => grouped(reading.entries),
        limit => format!("{} of {} entries", grouped(reading.entries), grouped(limit)),
    };
    // A few there are always.
    if invalid >= 100 {
        return Some(Cause::new(
            CauseKind::Invalid,
            format!(
                "no conntrack drop was seen in this time, but {} did not belong to any connection that conntrack \
                 knew (INVALID), and a firewall rule may have dropped them",
                plural(invalid, "packet", "packets")
            ),
            format!(
                "the kernel's own statistic `invalid` rose by {}; the table held {fullest} at most",
                grouped(invalid)
            ),
        ));
    }
    Some(Cause::new(
        CauseKind::NotConntrack,
        format!(
            "no conntrack drop was seen in this time: the table held {fullest} at most, nothing was refused and \
             nothing was evicted"
        ),
        format!(
            "the kernel's own statistics say the same: drop {}, early_drop {}, insert_failed {}",
            reading.evidence.kernel.drop,
            reading.evidence.kernel.early_drop,
            reading.evidence.kernel.insert_failed
        ),
    ))
}

/// The main reason is this one, and it is more than what a full table cost.
fn mainly(reading: &Reading<'_>, reason: DropReason) -> Option<u64> {
    (reading.main_reason() == Some(reason)).then(|| reading.dropped(reason))
}

fn nat_exhausted(reading: &Reading<'_>) -> Option<Cause> {
    let clashes = mainly(reading, DropReason::Clash)?;
    let found = reading.evidence.kernel.found;
    // NAT looks at 8 to 248 tuples before it gives up; a race finds none or few.
    (found >= clashes.saturating_mul(5)).then(|| {
        let to = NamedDestination::after(" for ", reading.lost_to());
        Cause::new(
            CauseKind::NatExhausted,
            format!(
                "NAT had no free port left{to}, so {} clashed",
                plural(clashes, "new connection", "new connections")
            ),
            format!(
                "the kernel tried {} taken ports (`found`), {} for each packet lost",
                grouped(found),
                found / clashes.max(1)
            ),
        )
    })
}

fn clash(reading: &Reading<'_>) -> Option<Cause> {
    let clashes = mainly(reading, DropReason::Clash)?;
    let dns = reading.lost_to().is_some_and(|first| first.port == 53);
    let how = if dns {
        "pairs of DNS queries from one socket raced each other to get an entry"
    } else {
        "packets of the same connection raced each other to get an entry"
    };
    Some(Cause::new(
        CauseKind::Clash,
        format!("{how} (clash)"),
        format!(
            "{} lost by clash; NAT tried {} taken ports, too few for a shortage of ports",
            plural(clashes, "packet", "packets"),
            grouped(reading.evidence.kernel.found)
        ),
    ))
}

fn dying(reading: &Reading<'_>) -> Option<Cause> {
    let lost = mainly(reading, DropReason::Dying)?;
    Some(Cause::new(
        CauseKind::Dying,
        "entries were removed while their first packet was still under way, as happens when a table is flushed or \
         a namespace or an address goes away"
            .to_owned(),
        format!("{} lost for that reason (dying)", plural(lost, "packet", "packets")),
    ))
}

fn long_chains(reading: &Reading<'_>) -> Option<Cause> {
    let lost = mainly(reading, DropReason::ChainTooLong)?;
    let node = &reading.evidence.node;
    let chain = node
        .buckets
        .map(|buckets| ratio(2 * node.all_entries.max(reading.entries), buckets));
    let why = match (node.buckets, chain) {
        (Some(buckets), Some(chain)) => format!(
            "the hash has only {} for {} entries, {} in each on average, and the kernel refuses more than 50 to 80",
            plural(buckets, "bucket", "buckets"),
            grouped(node.all_entries.max(reading.entries)),
            figure(chain)
        ),
        _ => "the chains of the hash were too long: the kernel refuses more than 50 to 80 entries in one".to_owned(),
    };
    Some(Cause::new(
        CauseKind::LongChains,
        why,
        format!(
            "{} lost by chain_too_long; the kernel's own count is {}",
            plural(lost, "packet", "packets"),
            grouped(reading.evidence.kernel.chain_too_long)
        ),
    ))
}

fn requests(reading: &Reading<'_>) -> Option<Cause> {
    let refused = mainly(reading, DropReason::TableFullRequest)?;
    (reading.lost == 0 && reading.evictions == 0).then(|| {
        Cause::new(
            CauseKind::Requests,
            format!(
                "a program asked the kernel for {} (by ctnetlink or BPF) while the table was full and got none; no \
                 packet was lost",
                plural(refused, "entry", "entries")
            ),
            format!("{} refused (table_full_request), no packet lost", grouped(refused)),
        )
    })
}

/// `93 % of the entries`
pub(super) fn of_entries(reading: &Reading<'_>, owner: &OwnerEvidence) -> String {
    format!("{} of the entries", share_f64(reading.share(owner)))
}

pub(super) fn rate(rate: f64) -> String {
    format!("{} a second", per_second(rate))
}

/// The part of an owner's entries in a state, 0 to 1.
pub(super) fn in_state(owner: &OwnerEvidence, state: &str) -> f64 {
    part(&owner.states, state)
}
