//! Each rule by itself: what makes it give its advice, with which numbers, and what does not.

use ctpressure_model::owner::OwnerKind;

use super::*;
use crate::evidence::{Evidence, EvidencePoint, NamedDestination, OwnerStep, Span};

mod room;
mod verdicts;

/// Seconds of the evidence; the table is full from [`FULL`] on.
const SECONDS: usize = 120;
const FULL: usize = 60;
const LIMIT: u64 = 1_000;

/// A table of 1,000 that shop/a fills; 300 connections are refused, all told in detail.
fn evidence() -> Evidence {
    let mut owner = OwnerEvidence::new("shop/a", OwnerKind::Pod, SECONDS);
    let mut points = vec![
        EvidencePoint {
            seconds: 1,
            entries_most: 400,
            limit: LIMIT,
            ..EvidencePoint::default()
        };
        SECONDS
    ];
    for (at, point) in points.iter_mut().enumerate().skip(FULL) {
        (point.entries_most, point.pressure) = (LIMIT, Pressure::Full);
        if at < FULL + 3 {
            point.drops[0] = 100;
            let of_owner = &mut owner.points[at];
            (of_owner.refused, of_owner.refused_first, of_owner.drops) = (100, 100, 100);
        }
    }
    for point in &mut owner.points[FULL - 6..FULL] {
        point.inserts = 100;
    }
    owner.drops[0] = 300;
    (owner.inserts, owner.deletes) = (600, 5);
    (owner.live_before, owner.live_at_peak) = (350, 950);
    (owner.lost.detailed, owner.lost.flows) = (300, 300);
    let to = destination("10.0.0.9", 8080, "tcp");
    owner.lost.destinations = vec![to.clone()];
    owner.destinations = vec![to];
    let span = Span {
        from: 1_000_000,
        until: 1_000_000 + SECONDS as u64,
    };
    let mut evidence = Evidence {
        focus: span,
        shown: span,
        step: 1,
        points,
        owners: vec![owner],
        ..Evidence::default()
    };
    evidence.node.buckets = Some(262_144);
    evidence.node.kernel = "6.12.0".to_owned();
    evidence
}

/// A table with room in which nothing is lost.
fn calm() -> Evidence {
    let mut evidence = evidence();
    for point in &mut evidence.points {
        *point = EvidencePoint {
            seconds: 1,
            entries_most: 400,
            limit: LIMIT,
            ..EvidencePoint::default()
        };
    }
    let owner = &mut evidence.owners[0];
    owner.points.fill(OwnerStep::default());
    owner.drops = [0; DropReason::ALL.len()];
    (owner.live_before, owner.live_at_peak) = (350, 350);
    evidence
}

/// The same with packets lost for another reason.
fn lost_by(reason: DropReason) -> Evidence {
    let mut evidence = calm();
    evidence.points[FULL].drops[reason as usize - 1] = 50;
    evidence.owners[0].drops[reason as usize - 1] = 50;
    evidence
}

fn destination(address: &str, port: u16, protocol: &str) -> NamedDestination {
    NamedDestination {
        name: format!("{address}:{port}/{protocol}"),
        port,
        protocol: protocol.to_owned(),
        count: 100,
        share: 1.0,
        new: false,
    }
}

fn of(kind: CauseKind) -> Cause {
    Cause {
        kind,
        why: "for a test".to_owned(),
        evidence: "what the cause was told by".to_owned(),
    }
}

/// What one rule says of this evidence and cause.
fn given(rule: AdviceRule, evidence: &Evidence, kind: CauseKind) -> Option<Advice> {
    rule(&Reading::new(evidence), &of(kind))
}

/// The rule gives advice with this name, these words and these in its evidence.
#[track_caller]
fn says(advice: Option<&Advice>, rule: &str, text: &str, evidence: &str) {
    let advice = advice.expect("no advice");
    assert_eq!(advice.rule, rule);
    assert!(advice.text.contains(text), "{advice:?}");
    assert!(advice.evidence.contains(evidence), "{advice:?}");
}

fn set(advice: Option<&Advice>) -> Option<(&str, u64)> {
    let (name, value) = advice?.set.as_ref()?;
    Some((name, *value))
}

#[test]
fn who_fills_the_table_can_be_contained_and_who_suffers_can_not() {
    let mut evidence = evidence();
    let advice = given(contain, &evidence, CauseKind::Burst);
    let line = "`ctpressure contain shop/a --delete-entries`";
    says(advice.as_ref(), "contain", line, "950 entries at the peak");
    assert_eq!(given(contain, &evidence, CauseKind::SynFlood), None);
    assert_eq!(given(contain, &calm(), CauseKind::Burst), None);
    // Others opened them.
    evidence.owners[0].inserts_ingress = 600;
    assert_eq!(given(contain, &evidence, CauseKind::Burst), None);
    evidence.owners[0].inserts_ingress = 0;
    evidence.owners[0].name = "nginx.service".to_owned();
    assert_eq!(given(contain, &evidence, CauseKind::Burst), None);
}

#[test]
fn look_elsewhere_when_conntrack_lost_nothing() {
    let mut evidence = calm();
    let advice = given(look_elsewhere, &evidence, CauseKind::NotConntrack);
    says(
        advice.as_ref(),
        "look_elsewhere",
        "Look elsewhere",
        "every hook was attached",
    );
    evidence.problems = vec!["no hook for drops".to_owned()];
    let advice = given(look_elsewhere, &evidence, CauseKind::NotConntrack);
    says(advice.as_ref(), "look_elsewhere", "", "no hook for drops");
    assert_eq!(given(look_elsewhere, &evidence, CauseKind::Burst), None);
}

#[test]
fn be_liberal_unless_it_is_already() {
    let mut evidence = calm();
    evidence.kernel.invalid = 1_200;
    let advice = given(be_liberal, &evidence, CauseKind::Invalid);
    says(
        advice.as_ref(),
        "be_liberal",
        "Set nf_conntrack_tcp_be_liberal to 1",
        "1,200 packets were INVALID: 10 a second",
    );
    let name = "nf_conntrack_tcp_be_liberal";
    evidence.node.facts.insert(name.to_owned(), "1".to_owned());
    let advice = given(be_liberal, &evidence, CauseKind::Invalid);
    says(advice.as_ref(), "be_liberal", "is set already", "");
    assert_eq!(given(be_liberal, &evidence, CauseKind::NotConntrack), None);
}

#[test]
fn nat_ports_for_who_ran_out_of_them() {
    let mut evidence = lost_by(DropReason::Clash);
    let advice = given(nat_ports, &evidence, CauseKind::NatExhausted);
    let to = "more room towards 10.0.0.9:8080/tcp";
    says(
        advice.as_ref(),
        "nat_ports",
        to,
        "the table itself held 400 entries at most of 1,000",
    );
    says(
        advice.as_ref(),
        "nat_ports",
        "have shop/a use fewer connections",
        "",
    );
    evidence.owners.clear();
    let advice = given(nat_ports, &evidence, CauseKind::NatExhausted);
    says(
        advice.as_ref(),
        "nat_ports",
        "have the clients use fewer",
        "",
    );
    assert_eq!(given(nat_ports, &evidence, CauseKind::Clash), None);
}

#[test]
fn clash_tells_dns_from_the_rest() {
    let mut evidence = lost_by(DropReason::Clash);
    evidence.kernel.clash_resolve = 7;
    let advice = given(dns_clash, &evidence, CauseKind::Clash);
    says(
        advice.as_ref(),
        "clash",
        "wait for the first answer",
        "7 clashes were resolved without loss, 50 packets were lost",
    );
    evidence.owners[0].lost.destinations = vec![destination("10.96.0.10", 53, "udp")];
    let advice = given(dns_clash, &evidence, CauseKind::Clash);
    says(
        advice.as_ref(),
        "clash",
        "Have shop/a ask DNS one query at a time",
        "",
    );
    assert_eq!(given(dns_clash, &evidence, CauseKind::NatExhausted), None);
}

#[test]
fn flushed_says_what_removes_entries() {
    let evidence = lost_by(DropReason::Dying);
    let advice = given(flushed, &evidence, CauseKind::Dying);
    says(
        advice.as_ref(),
        "flushed",
        "Find what removes entries",
        "50 packets were lost as dying",
    );
    assert_eq!(given(flushed, &evidence, CauseKind::Clash), None);
}

#[test]
fn requests_that_were_refused_hurt_no_traffic() {
    let evidence = lost_by(DropReason::TableFullRequest);
    let advice = given(requests, &evidence, CauseKind::Requests);
    says(
        advice.as_ref(),
        "requests",
        "no traffic was hurt",
        "400 of 1,000 entries",
    );
    assert_eq!(given(requests, &evidence, CauseKind::Burst), None);
}

#[test]
fn buckets_for_the_entries_of_all_tables() {
    let mut evidence = lost_by(DropReason::ChainTooLong);
    (evidence.node.buckets, evidence.node.all_entries) = (Some(1_024), 60_000);
    let advice = given(buckets_now, &evidence, CauseKind::LongChains);
    // One for each entry, up to a page of them.
    says(
        advice.as_ref(),
        "buckets",
        "takes 472 KiB of kernel memory",
        "1,024 buckets for 60,000 entries",
    );
    assert_eq!(set(advice.as_ref()), Some(("nf_conntrack_buckets", 60_416)));
    assert_eq!(given(buckets_now, &evidence, CauseKind::Burst), None);
}

#[test]
fn watch_when_nothing_was_recorded() {
    let mut evidence = calm();
    evidence.gaps = vec![Span {
        from: 1_000_000,
        until: 1_000_100,
    }];
    let advice = given(watch, &evidence, CauseKind::NotWatched);
    says(
        advice.as_ref(),
        "watch",
        "Keep `ctpressure run --journal` running",
        "1 gap in the journal",
    );
    assert_eq!(given(watch, &evidence, CauseKind::NotConntrack), None);
}
