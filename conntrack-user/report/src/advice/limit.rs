//! The limit that would have held, and what it costs.

use conntrack_ebpf::record::DropReason;
use ctpressure_model::{
    cost::buckets_for,
    verdict::{Verdict, limit_for},
    words::{bytes, grouped, list, plural, time},
};

use super::{
    super::{cause::Cause, reading::Reading},
    Advice, short_of_room,
};

/// Whether a higher limit would only be filled as well.
fn more_of_the_same(reading: &Reading<'_>, cause: &Cause) -> bool {
    if cause.kind.is_lowered() {
        false
    } else if reading.verdict().is_some() {
        limit_beside(reading).is_none()
    } else {
        cause.kind.is_flood()
    }
}

/// The limit in which fits what was needed beside what the verdicts are about; `None`: it fitted, or there are none.
fn limit_beside(reading: &Reading<'_>) -> Option<u64> {
    let verdicts = &reading.evidence.verdicts;
    let all = verdicts.iter().map(|verdict| verdict.of).max()?;
    let of_verdicts = verdicts.iter().map(|verdict| verdict.entries).sum();
    let limit = limit_for(all.saturating_sub(of_verdicts));
    (limit > reading.limit).then(|| limit.next_multiple_of(ROUND))
}

/// Of a flood: what a limit that holds would have to be.
pub(super) fn dont_raise(reading: &Reading<'_>, cause: &Cause) -> Option<Advice> {
    (more_of_the_same(reading, cause) && short_of_room(reading, cause)).then(|| {
        let demand = &reading.demand;
        Advice::new(
            "dont_raise",
            format!(
                "Leave the limit as it is: to hold all of it, it would have to be {} and more, and the next time it is more \
                 again.",
                grouped(demand.limit())
            ),
            demand_in_words(reading),
        )
    })
}

/// The limit beside a verdict is a multiple of this.
const ROUND: u64 = 1_024;

/// What is left as room: see `MARGIN` of `crate::demand`.
const ROOM: &str = "15 %";

fn demand_in_words(reading: &Reading<'_>) -> String {
    let demand = &reading.demand;
    let mut parts = vec![plural(demand.entries, "entry", "entries")];
    if demand.refused > 0 {
        parts.push(format!(
            "{} that were refused",
            plural(demand.refused, "connection", "connections")
        ));
    }
    if demand.evicted > 0 {
        parts.push(format!("{} that were evicted", grouped(demand.evicted)));
    }
    let sum = if parts.len() > 1 {
        format!(
            ": {} would have been there, and {ROOM} more are left as room",
            grouped(demand.entries_in_all())
        )
    } else {
        format!(" at most, and {ROOM} more are left as room")
    };
    let doubt = match demand.limit_at_least() {
        Some(least) => format!(
            "; what was refused may be fewer connections, tried again and again: only {} were there for sure",
            grouped(least)
        ),
        None if demand.exact => String::new(),
        None => "; not every lost packet was seen in detail, so it may be less".to_owned(),
    };
    format!(
        "{} at {}{sum}{doubt}",
        parts.join(" + "),
        time::near(demand.at, reading.evidence.focus.from)
    )
}

pub(super) fn raise(reading: &Reading<'_>, cause: &Cause) -> Option<Advice> {
    if !short_of_room(reading, cause) || more_of_the_same(reading, cause) || reading.limit == 0 {
        return None;
    }
    let evidence = reading.evidence;
    let beside = limit_beside(reading).filter(|_| !cause.kind.is_lowered());
    let limit = beside.unwrap_or_else(|| reading.demand.limit());
    let now = evidence
        .points
        .iter()
        .rev()
        .find(|point| point.seconds > 0)
        .map_or(reading.limit, |point| point.limit);
    let lost = reading.dropped(DropReason::TableFull) + reading.evictions > 0;
    if now == 0 || limit <= reading.limit && !lost {
        return None;
    }
    let sharing = reading.sharing();
    let buckets = evidence.node.buckets.unwrap_or(0);
    let wanted = match buckets {
        0 => 0,
        there => buckets_for(sharing.when_full(limit), there),
    };
    let each = evidence.node.entry_cost();
    let entries = limit.saturating_sub(now).saturating_mul(sharing.busy);
    let more = each.bytes(entries, wanted - buckets).in_words();
    let with_buckets = if wanted > buckets {
        format!(" and nf_conntrack_buckets to {}", grouped(wanted))
    } else {
        String::new()
    };
    let would = match reading.demand.limit_at_least() {
        _ if beside.is_some() => {
            let verdicts = evidence.verdicts.iter();
            let which: Vec<_> = verdicts.map(Verdict::which).collect();
            format!("has room for what was needed beside {}", list(&which))
        }
        Some(least) => format!(
            "would have held, as may have any from {} on",
            grouped(least)
        ),
        None if lost => "would have held".to_owned(),
        None => "leaves room".to_owned(),
    };
    let text = if now >= limit {
        format!(
            "Keep the limit at {}, as it is since: {} {would}.",
            grouped(now),
            grouped(limit)
        )
    } else {
        format!(
            "Set the limit (nf_conntrack_max) to {}{with_buckets}: that {would}, and takes {more} more of kernel \
             memory on this node when it is full.",
            grouped(limit)
        )
    };
    let ram = match evidence.node.ram_bytes {
        0 => String::new(),
        ram => format!("; the node has {}", bytes(ram)),
    };
    Some(
        Advice::new("raise", text, format!("{}{ram}", demand_in_words(reading)))
            .set("nf_conntrack_max", limit.max(now)),
    )
}

pub(super) fn who_lowers(reading: &Reading<'_>, cause: &Cause) -> Option<Advice> {
    let change = reading.evidence.changes.get(reading.lowered?)?;
    (cause.kind.is_lowered() && !change.ours()).then(|| {
        let who = if change.who.is_empty() {
            "whoever lowered the limit".to_owned()
        } else {
            change.who.clone()
        };
        Advice::new(
            "who_lowers",
            format!(
                "Keep {who} from doing it again: kube-proxy (conntrack.maxPerCore, conntrack.min), sysctl.d, a tuning \
                 DaemonSet and init containers write nf_conntrack_max."
            ),
            format!(
                "the limit was not what it had been from {} on",
                time::rfc3339(change.at)
            ),
        )
    })
}
