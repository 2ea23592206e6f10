//! Causes of a table that was full, or nearly: somebody filled it, or somebody made it smaller.

use ctpressure_model::{
    verdict::VerdictKind,
    words::{grouped, plural, seconds, share, share_f64, time},
};

use super::{
    super::{
        evidence::{NamedDestination, OwnerEvidence},
        reading::{Reading, part},
    },
    Cause, CauseKind, in_state, of_entries, rate,
};

/// Seconds of climbing up to which it is a burst.
const BURST: u64 = 300;
/// Seconds of climbing from which on it is slow.
const SLOW: u64 = 600;
/// Different sources from which on they are many.
const MANY_SOURCES: u64 = 100;

/// Its entries became many more.
fn grew(owner: &OwnerEvidence) -> bool {
    owner.live_at_peak * 10 >= owner.live_before * 15 && owner.growth() > 0
}

/// `from 1,800 to 3,600 entries`
fn from_to(owner: &OwnerEvidence) -> String {
    format!(
        "from {} to {} entries",
        grouped(owner.live_before),
        grouped(owner.live_at_peak)
    )
}

/// `, most of them to 10.0.0.1:80/tcp`; empty if there is none that has most.
fn mostly_to(owner: &OwnerEvidence) -> String {
    NamedDestination::after(", most of them to ", foremost(owner))
}

/// The destination of more than half of an owner's connections, as asked for if that is known.
pub(in super::super) fn foremost(owner: &OwnerEvidence) -> Option<&NamedDestination> {
    fn half(destinations: &[NamedDestination]) -> Option<&NamedDestination> {
        destinations.iter().find(|first| first.share > 0.5)
    }
    half(&owner.services).or_else(|| {
        half(if owner.destinations.is_empty() {
            &owner.lost.destinations
        } else {
            &owner.destinations
        })
    })
}

pub(super) fn limit_lowered(reading: &Reading<'_>) -> Option<Cause> {
    let change = reading.evidence.changes.get(reading.lowered?)?;
    let (from, to) = change.lowered()?;
    let from = if from == 0 {
        "none at all".to_owned()
    } else {
        grouped(from)
    };
    let by = match (change.ours(), change.who.as_str()) {
        (true, "") => " by ctpressure".to_owned(),
        (true, who) => format!(" by ctpressure for {who}"),
        (false, "") => " by somebody else than ctpressure".to_owned(),
        (false, who) => format!(" by {who}"),
    };
    let lowered = format!(
        "the limit was lowered from {from} to {} at {}{by}",
        grouped(to),
        time::near(change.at, reading.evidence.focus.from)
    );
    let evidence = format!(
        "the limit changed at {}; {} were there at most",
        time::rfc3339(change.at),
        plural(reading.entries, "entry", "entries")
    );
    // With those that found no room.
    let wanted = |owner: &&OwnerEvidence| {
        let more = owner.lost.flows;
        let wants = owner.live_at_peak + more;
        wants * 10 >= owner.live_before * 15 && (owner.growth() + more) * 10 >= to
    };
    if let Some(owner) = reading.culprit.filter(wanted) {
        return Some(Cause::new(
            CauseKind::LimitLoweredAndGrowth,
            format!(
                "{lowered}, and {} came to want more than before",
                owner.name
            ),
            format!(
                "{evidence}; {} had {} before, and {} were refused",
                owner.name,
                plural(owner.live_before, "entry", "entries"),
                plural(
                    owner.lost.flows,
                    "new connection of its",
                    "new connections of its"
                )
            ),
        ));
    }
    Some(Cause::new(CauseKind::LimitLowered, lowered, evidence))
}

/// What the limit controller and `doctor` said of the table at that time.
fn verdict(reading: &Reading<'_>) -> Option<Cause> {
    let verdict = reading.verdict()?;
    let (kind, why) = match &verdict.kind {
        VerdictKind::Held => (
            CauseKind::Held,
            "packets that waited held entries which no list shows; whoever was in the list was not to blame".to_owned(),
        ),
        VerdictKind::Overlay { tunnel, .. } => (
            CauseKind::Overlay,
            format!("the outer packets of an overlay network, {tunnel}, had an entry for each flow inside of it"),
        ),
        VerdictKind::Flood { who } => (
            CauseKind::Flood,
            format!("one-way connections of {who} filled it (flood)"),
        ),
    };
    Some(Cause::new(kind, why, verdict.seen()))
}

pub(super) fn held_or_overlay(reading: &Reading<'_>) -> Option<Cause> {
    verdict(reading).filter(|cause| cause.kind != CauseKind::Flood)
}

/// A flood of which is not known more.
pub(super) fn flood(reading: &Reading<'_>) -> Option<Cause> {
    verdict(reading)
}

pub(super) fn syn_flood(reading: &Reading<'_>) -> Option<Cause> {
    let owner = reading.culprit?;
    let from_outside = owner.inserts_ingress * 10 >= owner.inserts * 8;
    let half_open = in_state(owner, "SYN_RECV") + in_state(owner, "SYN_SENT");
    let sources = owner.lost.sources.max(owner.evicted.sources);
    let evicted_tcp = part(&owner.evicted.protocols, "tcp");
    let unfinished = half_open > 0.5
        || (owner.evicted.detailed >= 100
            && evicted_tcp > 0.8
            && owner.victims * 2 > owner.inserts);
    (from_outside && unfinished && (sources >= MANY_SOURCES || half_open > 0.5)).then(|| {
        let [lost, evicted, opened] = [
            &owner.lost.destinations,
            &owner.evicted.destinations,
            &owner.destinations,
        ]
        .map(|destinations| destinations.first());
        let to = NamedDestination::after(" at ", lost.or(evicted).or(opened));
        Cause::new(
            CauseKind::SynFlood,
            format!(
                "a flood of TCP connections came in from outside for {}{to}, {}, and none was finished (SYN flood)",
                owner.name,
                rate(reading.attempts_climbing(owner))
            ),
            format!(
                "{} of its entries were half open (SYN_SENT, SYN_RECV); {} seen with detail{}",
                share_f64(half_open),
                if sources > 0 {
                    plural(sources, "different source was", "different sources were")
                } else {
                    "no source was".to_owned()
                },
                if owner.evicted.detailed > 0 {
                    format!(", {} of its evicted entries were TCP", share_f64(evicted_tcp))
                } else {
                    String::new()
                }
            ),
        )
    })
}

/// The part of what an owner opens that goes to port 53, 0 to 1.
fn dns_part(owner: &OwnerEvidence) -> f64 {
    let to_dns = |destinations: &[NamedDestination]| {
        destinations
            .iter()
            .filter(|one| one.port == 53)
            .map(|one| one.share)
            .sum::<f64>()
    };
    to_dns(&owner.destinations)
        .max(to_dns(&owner.services))
        .max(to_dns(&owner.evicted.destinations))
}

pub(super) fn one_way_udp(reading: &Reading<'_>) -> Option<Cause> {
    let owner = reading.culprit?;
    let unreplied = in_state(owner, "UNREPLIED");
    let evicted = &owner.evicted;
    let evicted_unanswered = evicted.detailed >= 100
        && part(&evicted.protocols, "udp") > 0.8
        && evicted.unanswered * 10 >= evicted.detailed * 8;
    let one_way = unreplied > 0.5 || (owner.states.is_empty() && evicted_unanswered);
    (one_way && dns_part(owner) < 0.5).then(|| {
        Cause::new(
            CauseKind::OneWayUdp,
            format!(
                "{} sent UDP that nobody answers, from a new port each time: {}{}",
                owner.name,
                rate(reading.attempts_climbing(owner)),
                mostly_to(owner)
            ),
            if owner.states.is_empty() {
                format!(
                    "{} of its evicted entries had never been answered",
                    share(evicted.unanswered, evicted.detailed)
                )
            } else {
                format!("{} of its entries were UNREPLIED", share_f64(unreplied))
            },
        )
    })
}

pub(super) fn dns_storm(reading: &Reading<'_>) -> Option<Cause> {
    let owner = reading.culprit?;
    let dns = dns_part(owner);
    (dns >= 0.5).then(|| {
        let server = foremost(owner).filter(|first| first.port == 53);
        let server = NamedDestination::after(" to ", server);
        Cause::new(
            CauseKind::DnsStorm,
            format!(
                "{} sent DNS queries{server}, {}, each from a new port and so each with an entry of its own",
                owner.name,
                rate(reading.attempts_climbing(owner))
            ),
            format!("{} of its connections went to port 53", share_f64(dns)),
        )
    })
}

pub(super) fn retry_storm(reading: &Reading<'_>) -> Option<Cause> {
    let owner = reading.culprit?;
    let first = owner.first_drop.or(reading.first_drop)?;
    let evidence = reading.evidence;
    let before = reading.attempts(owner, first.saturating_sub(60), first);
    let after = reading.attempts(owner, first + evidence.step, evidence.focus.until);
    let refused: u64 = owner
        .points
        .iter()
        .map(|point| u64::from(point.refused_first))
        .sum();
    (before >= 1.0 && after >= before * 3.0 && refused >= 100).then(|| {
        Cause::new(
            CauseKind::RetryStorm,
            format!(
                "{} tried again and again when its connections were refused: {} before the first drop, {} after it",
                owner.name,
                rate(before),
                rate(after)
            ),
            format!(
                "{} of its refused packets were of new connections, not the same ones sent again",
                grouped(refused)
            ),
        )
    })
}

pub(super) fn time_wait(reading: &Reading<'_>) -> Option<Cause> {
    let owner = reading.culprit?;
    let closed =
        in_state(owner, "TIME_WAIT") + in_state(owner, "CLOSE") + in_state(owner, "LAST_ACK");
    (closed >= 0.5).then(|| {
        Cause::new(
            CauseKind::TimeWait,
            format!(
                "{} opened short TCP connections, {}{}, and each stays two minutes after its end (TIME_WAIT)",
                owner.name,
                rate(reading.attempts_climbing(owner)),
                mostly_to(owner)
            ),
            format!("{} of its entries were of connections already closed", share_f64(closed)),
        )
    })
}

pub(super) fn established_idle(reading: &Reading<'_>) -> Option<Cause> {
    let owner = reading.culprit?;
    let established = in_state(owner, "ESTABLISHED") + in_state(owner, "ASSURED");
    let still = (owner.inserts + owner.deletes) * 10 < owner.live_at_peak;
    (established >= 0.8 && still && owner.growth() * 10 < owner.live_at_peak).then(|| {
        Cause::new(
            CauseKind::EstablishedIdle,
            format!(
                "{} held {} that were established long before and hardly any of which ended",
                owner.name,
                plural(owner.live_at_peak, "connection", "connections")
            ),
            format!(
                "{} of its entries were ESTABLISHED; in {} only {} began and {} ended",
                share_f64(established),
                seconds(reading.evidence.focus.seconds()),
                grouped(owner.inserts),
                grouped(owner.deletes)
            ),
        )
    })
}

pub(super) fn new_owner(reading: &Reading<'_>) -> Option<Cause> {
    let owner = reading.culprit?;
    let appeared = owner
        .appeared
        .filter(|_| owner.live_before * 10 < owner.live_at_peak)?;
    Some(Cause::new(
        CauseKind::NewOwner,
        format!(
            "{}, which was first seen at {}, opened {}{}",
            owner.name,
            time::near(appeared, reading.evidence.focus.from),
            plural(owner.inserts, "connection", "connections"),
            mostly_to(owner)
        ),
        format!(
            "it held {} entries before and {} at the peak, {}",
            grouped(owner.live_before),
            grouped(owner.live_at_peak),
            of_entries(reading, owner)
        ),
    ))
}

pub(super) fn more_destinations(reading: &Reading<'_>) -> Option<Cause> {
    let owner = reading
        .culprit
        .filter(|owner| grew(owner) && owner.live_before > 0)?;
    let new: Vec<&NamedDestination> = owner.destinations.iter().filter(|one| one.new).collect();
    let share: f64 = new.iter().map(|one| one.share).sum();
    (share >= 0.4 && new.len() >= 2).then(|| {
        Cause::new(
            CauseKind::MoreDestinations,
            format!(
                "{} came to know more backends and grew {}",
                owner.name,
                from_to(owner)
            ),
            format!(
                "{} of its connections went to destinations that it did not have before, such as {}",
                share_f64(share),
                new[0].name
            ),
        )
    })
}

pub(super) fn many_owners(reading: &Reading<'_>) -> Option<Cause> {
    let owners = &reading.evidence.owners;
    let growth: u64 = owners.iter().map(OwnerEvidence::growth).sum();
    let (all, what): (u64, fn(&OwnerEvidence) -> u64) = if growth * 5 >= reading.entries {
        (growth, OwnerEvidence::growth)
    } else {
        let live = owners.iter().map(|owner| owner.live_at_peak).sum();
        (live, |owner| owner.live_at_peak)
    };
    let most = owners.iter().map(what).max()?;
    let taking_part = owners
        .iter()
        .filter(|owner| what(owner) * 100 >= all)
        .count();
    (all > 0 && most * 5 < all && taking_part >= 5).then(|| {
        Cause::new(
            CauseKind::ManyOwners,
            format!(
                "{} filled it together, and none of them is foremost",
                plural(taking_part as u64, "owner", "owners")
            ),
            format!("the first of them has {} of it", share(most, all)),
        )
    })
}

pub(super) fn slow_leak(reading: &Reading<'_>) -> Option<Cause> {
    let owner = reading.culprit?;
    let stay = owner.deletes * 5 < owner.inserts;
    (reading.climb() >= SLOW && stay && owner.growth() * 10 >= owner.live_at_peak).then(|| {
        Cause::new(
            CauseKind::SlowLeak,
            format!(
                "{} opened connections and did not close them: its entries rose {} within {}",
                owner.name,
                from_to(owner),
                seconds(reading.climb().max(1))
            ),
            format!(
                "{} entries of its came and only {} went",
                grouped(owner.inserts),
                grouped(owner.deletes)
            ),
        )
    })
}

pub(super) fn burst(reading: &Reading<'_>) -> Option<Cause> {
    let owner = reading.culprit.filter(|owner| grew(owner))?;
    let now = reading.attempts_climbing(owner);
    let before = reading.attempts_before(owner);
    (reading.climb() <= BURST && before.is_none_or(|before| now >= before * 3.0)).then(|| {
        let than = match before {
            Some(before) if before >= 0.05 => format!(", up from {} before", rate(before)),
            Some(_) => ", none before".to_owned(),
            None => String::new(),
        };
        Cause::new(
            CauseKind::Burst,
            format!(
                "{} opened connections in a burst, {}{than}{}",
                owner.name,
                rate(now),
                mostly_to(owner)
            ),
            format!(
                "its entries went {} within {}",
                from_to(owner),
                seconds(reading.climb().max(reading.evidence.step))
            ),
        )
    })
}

/// What is left when no rule fits.
pub(super) fn growth(reading: &Reading<'_>) -> Cause {
    let Some(owner) = reading.culprit else {
        return Cause::new(
            CauseKind::Growth,
            "the journal does not tell whose entries filled it".to_owned(),
            "no owner had entries in this time".to_owned(),
        );
    };
    let why = if grew(owner) {
        format!("the entries of {} went {}", owner.name, from_to(owner))
    } else {
        format!(
            "{} held {}, as it had before",
            owner.name,
            plural(owner.live_at_peak, "entry", "entries")
        )
    };
    Cause::new(
        CauseKind::Growth,
        why,
        format!(
            "it opened {}{}",
            rate(reading.attempts_climbing(owner)),
            mostly_to(owner)
        ),
    )
}
