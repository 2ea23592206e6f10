//! What the limit controller does; not there while it is off.

use crate::{
    limit::{
        Mode, Report,
        change::{By, ChangeOutcome},
        report::Standing,
    },
    serve::family::{Family, f},
};

/// The states of `ctpressure_limit_controller`.
const STATES: [&str; 5] = ["starting", "dry_run", "acting", "standby", "blocked"];

pub(super) fn families(report: &Report) -> [Family; 7] {
    let pairs = By::ALL
        .into_iter()
        .flat_map(|by| ChangeOutcome::ALL.map(|outcome| (by, outcome)));
    let state = match (&report.standing, report.mode) {
        (Standing::Starting, _) => "starting",
        (Standing::Acting, Mode::On) => "acting",
        (Standing::Acting, Mode::Off | Mode::DryRun) => "dry_run",
        (Standing::Standby(_), _) => "standby",
        (Standing::Blocked(_), _) => "blocked",
    };
    let fight = report.fight.as_ref();
    [
        Family::counter(
            "ctpressure_limit_changes_total",
            "Changes of the limit, of the buckets or of a timeout, by who made them (controller, hand, somebody_else) and what came of them.",
        )
        .each(pairs, |family, (by, outcome)| {
            let number = report
                .tallies
                .iter()
                .filter(|tally| (tally.by, tally.outcome) == (by, outcome))
                .map(|tally| tally.number)
                .sum();
            family.with(&[("by", by.name()), ("result", outcome.name())], f(number))
        }),
        Family::gauge(
            "ctpressure_limit_controller",
            "State of the limit controller: 1 for the one that it is in.",
        )
        .each(STATES, |family, name| {
            family.with(&[("state", name)], f64::from(u8::from(name == state)))
        }),
        Family::gauge(
            "ctpressure_limit_ceiling",
            "The highest limit that the controller would set now, by memory and --max-limit.",
        )
        .maybe(&[], report.ceiling.map(f)),
        Family::gauge(
            "ctpressure_limit_raised_from",
            "What the limit was before the controller raised it; absent while it is not the controller's.",
        )
        .maybe(&[], report.raised_from.map(f)),
        Family::gauge(
            "ctpressure_limit_timeout_shortened_from_seconds",
            "What nf_conntrack_tcp_timeout_time_wait was before the controller shortened it for a while; absent while it is not shortened.",
        )
        .maybe(
            &[],
            report.shortened.as_ref().map(|timeout| f(timeout.from)),
        ),
        Family::gauge(
            "ctpressure_limit_fight_rounds",
            "How often somebody else lowered the limit below what the traffic needs; 0 again after a quiet hour.",
        )
        .with(&[], fight.map_or(0.0, |fight| f64::from(fight.rounds))),
        Family::gauge(
            "ctpressure_limit_fight_given_up",
            "1 while the controller leaves the limit as it is, since somebody else keeps lowering it. Alert on this.",
        )
        .with(&[], fight.map_or(0.0, |fight| f64::from(u8::from(fight.given_up)))),
    ]
}
