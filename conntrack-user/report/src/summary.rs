//! What happened, in three sentences: the cause, the owner, the remedy.

use conntrack_ebpf::record::DropReason;
use ctpressure_model::words::{a_second, grouped, list, plural, share, share_f64, time};

use super::{
    advice::Advice,
    cause::{Cause, CauseKind, foremost},
    evidence::{NamedDestination, OwnerEvidence},
    reading::Reading,
};

/// Owners that are named in one sentence.
const NAMED: usize = 3;

pub(super) fn sentences(reading: &Reading<'_>, cause: &Cause, advice: &[Advice]) -> [String; 3] {
    [
        sentence(&format!(
            "{}: {}{}",
            head(reading, cause),
            cause.why,
            loss(reading)
        )),
        sentence(&owner(reading, cause)),
        advice.first().map_or_else(
            || "There is nothing to do: nothing was lost, and there was room left.".to_owned(),
            |first| first.text.clone(),
        ),
    ]
}

/// With one full stop at its end.
fn sentence(text: &str) -> String {
    format!("{}.", text.trim_end_matches('.'))
}

/// When, and what could be seen.
fn head(reading: &Reading<'_>, cause: &Cause) -> String {
    let evidence = reading.evidence;
    let focus = evidence.focus;
    let when = format!(
        "On {} from {} UTC",
        time::date(focus.from),
        time::between(focus.from, focus.until, focus.from)
    );
    let table = match evidence.table.name.as_str() {
        "" | "host" => "the table of the host".to_owned(),
        name => format!("the table of the network namespace {name} (not the host's)"),
    };
    if !cause.kind.is_filling() {
        return when;
    }
    if reading.dropped(DropReason::TableFull) + reading.evictions > 0 {
        return format!("{when} {table} was full");
    }
    format!(
        "{when} {table} was {} full ({} of {})",
        share(reading.entries, reading.limit),
        grouped(reading.entries),
        grouped(reading.limit)
    )
}

/// What was lost, as a continuation.
fn loss(reading: &Reading<'_>) -> String {
    let day = reading.evidence.focus.from;
    let mut parts = Vec::new();
    if reading.lost > 0 {
        let first = reading.first_drop.map_or_else(String::new, |at| {
            let what = if reading.lost == 1 { "" } else { "the first " };
            format!(", {what}at {}", time::near(at, day))
        });
        let were = if reading.lost == 1 { "was" } else { "were" };
        parts.push(format!(
            "{} {were} lost{first}",
            plural(reading.lost, "packet", "packets")
        ));
    }
    if reading.evictions > 0 {
        let were = if reading.evictions == 1 {
            "was"
        } else {
            "were"
        };
        parts.push(format!(
            "{} {were} evicted to make room",
            plural(reading.evictions, "live entry", "live entries")
        ));
        if reading.lost == 0 {
            parts.push("no packet was lost".to_owned());
        }
    }
    match parts.as_slice() {
        [] => String::new(),
        parts => format!("; {}", list(parts)),
    }
}

/// Who did it, and who suffered.
fn owner(reading: &Reading<'_>, cause: &Cause) -> String {
    match cause.kind {
        CauseKind::NotWatched => {
            return "Who had entries then is not known".to_owned();
        }
        CauseKind::NotConntrack
        | CauseKind::InstanceAllowance
        | CauseKind::Invalid
        | CauseKind::Requests => {
            return reading.evidence.owners.first().map_or_else(
                || "No owner had entries".to_owned(),
                |first| {
                    format!(
                        "Most entries were those of {}: {}{}, and it lost nothing to conntrack",
                        first.name,
                        grouped(first.live_at_peak),
                        of_limit(reading)
                    )
                },
            );
        }
        CauseKind::Held => {
            return format!(
                "No owner had them in the table, so nobody is named for them{}",
                suffered(reading, None)
            );
        }
        CauseKind::ManyOwners => {
            let first: Vec<String> = reading
                .evidence
                .owners
                .iter()
                .take(NAMED)
                .map(|owner| format!("{} ({})", owner.name, share_f64(reading.share(owner))))
                .collect();
            return format!(
                "Most entries were those of {}{}",
                list(&first),
                suffered(reading, None)
            );
        }
        _ => {}
    }
    let Some(culprit) = reading.culprit else {
        return format!(
            "Whose entries they were is not known{}",
            suffered(reading, None)
        );
    };
    if !cause.kind.is_filling() && cause.kind != CauseKind::LongChains {
        let to = NamedDestination::after(", most of them to ", reading.lost_to());
        return format!(
            "It was {} that lost {} of these packets, {}{to}{}",
            culprit.name,
            share(culprit.dropped(), reading.lost),
            grouped(culprit.dropped()),
            suffered(reading, Some(culprit))
        );
    }
    let to = NamedDestination::after(" to ", foremost(culprit));
    let rate = reading.attempts_climbing(culprit);
    let opened = if rate >= 0.05 {
        let verb = if culprit.inserts_ingress * 2 > culprit.inserts {
            "took"
        } else {
            "opened"
        };
        format!(
            " and {verb} up to {}{to}",
            a_second(rate, "connection", "connections")
        )
    } else {
        String::new()
    };
    format!(
        "{} held {} of the entries at the peak ({} of {}){opened}{}",
        culprit.name,
        share_f64(reading.share(culprit)),
        grouped(culprit.live_at_peak),
        grouped(reading.entries),
        suffered(reading, None)
    )
}

/// ` of a limit of 4,000`
fn of_limit(reading: &Reading<'_>) -> String {
    if reading.limit == 0 {
        String::new()
    } else {
        format!(" of a limit of {}", grouped(reading.limit))
    }
}

/// Who lost packets, else entries, but for one; as a continuation.
fn suffered(reading: &Reading<'_>, but: Option<&OwnerEvidence>) -> String {
    let others = || {
        let but = but.map(|owner| owner.name.as_str());
        reading
            .sufferers
            .iter()
            .filter(move |owner| Some(owner.name.as_str()) != but)
    };
    let by = |value: fn(&OwnerEvidence) -> u64, what: &str| {
        let losers: Vec<_> = others().filter(|owner| value(owner) > 0).collect();
        let mut named: Vec<String> = losers
            .iter()
            .take(NAMED)
            .map(|owner| format!("{} ({})", owner.name, grouped(value(owner))))
            .collect();
        if losers.len() > NAMED {
            named.push(plural((losers.len() - NAMED) as u64, "other", "others"));
        }
        (!named.is_empty()).then(|| format!("; {what} {}", list(&named)))
    };
    by(OwnerEvidence::dropped, "packets were lost by")
        .or_else(|| by(|owner| owner.victims, "entries were evicted of"))
        .unwrap_or_default()
}
