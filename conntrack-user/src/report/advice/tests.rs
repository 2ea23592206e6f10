//! Each rule by itself: what makes it give its advice, with which numbers, and what does not.

use super::*;
use crate::{
    owners::OwnerKind,
    report::evidence::{Destination, Evidence, OwnerPoint, Point, Span},
};

mod room;

/// Seconds of the evidence; the table is full from [`FULL`] on.
const SECONDS: usize = 120;
const FULL: usize = 60;
const LIMIT: u64 = 1_000;

/// A table of 1,000 that shop/a fills; 300 connections are refused, all told in detail.
fn evidence() -> Evidence {
    let mut owner = OwnerEvidence::new("shop/a", OwnerKind::Pod, SECONDS);
    let mut points = vec![
        Point {
            seconds: 1,
            entries: 400,
            entries_most: 400,
            limit: LIMIT,
            ..Point::default()
        };
        SECONDS
    ];
    for (at, point) in points.iter_mut().enumerate().skip(FULL) {
        (point.entries, point.entries_most, point.pressure) = (LIMIT, LIMIT, Pressure::Full);
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
    (owner.live_before, owner.live_at_peak, owner.live_most) = (350, 950, 950);
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
        *point = Point {
            seconds: 1,
            entries: 400,
            entries_most: 400,
            limit: LIMIT,
            ..Point::default()
        };
    }
    let owner = &mut evidence.owners[0];
    owner.points.fill(OwnerPoint::default());
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

fn destination(address: &str, port: u16, protocol: &str) -> Destination {
    Destination {
        name: format!("{address}:{port}/{protocol}"),
        port,
        protocol: protocol.to_owned(),
        count: 100,
        share: 1.0,
        new: false,
    }
}

fn of(kind: Kind) -> Cause {
    Cause {
        kind,
        why: "for a test".to_owned(),
        evidence: "what the cause was told by".to_owned(),
    }
}

/// What one rule says of this evidence and cause.
fn given(rule: Rule, evidence: &Evidence, kind: Kind) -> Option<Advice> {
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
fn look_elsewhere_when_conntrack_lost_nothing() {
    let mut evidence = calm();
    let advice = given(look_elsewhere, &evidence, Kind::NotConntrack);
    says(
        advice.as_ref(),
        "look_elsewhere",
        "Look elsewhere",
        "every hook was attached",
    );
    evidence.problems = vec!["no hook for drops".to_owned()];
    let advice = given(look_elsewhere, &evidence, Kind::NotConntrack);
    says(advice.as_ref(), "look_elsewhere", "", "no hook for drops");
    assert_eq!(given(look_elsewhere, &evidence, Kind::Burst), None);
}

#[test]
fn be_liberal_unless_it_is_already() {
    let mut evidence = calm();
    evidence.kernel.invalid = 1_200;
    let advice = given(be_liberal, &evidence, Kind::Invalid);
    says(
        advice.as_ref(),
        "be_liberal",
        "Set nf_conntrack_tcp_be_liberal to 1",
        "1,200 packets were INVALID: 10 a second",
    );
    let name = "nf_conntrack_tcp_be_liberal";
    evidence.node.facts.insert(name.to_owned(), "1".to_owned());
    let advice = given(be_liberal, &evidence, Kind::Invalid);
    says(advice.as_ref(), "be_liberal", "is set already", "");
    assert_eq!(given(be_liberal, &evidence, Kind::NotConntrack), None);
}

#[test]
fn nat_ports_for_who_ran_out_of_them() {
    let mut evidence = lost_by(DropReason::Clash);
    let advice = given(nat_ports, &evidence, Kind::NatExhausted);
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
    let advice = given(nat_ports, &evidence, Kind::NatExhausted);
    says(
        advice.as_ref(),
        "nat_ports",
        "have the clients use fewer",
        "",
    );
    assert_eq!(given(nat_ports, &evidence, Kind::Clash), None);
}

#[test]
fn clash_tells_dns_from_the_rest() {
    let mut evidence = lost_by(DropReason::Clash);
    evidence.kernel.clash_resolve = 7;
    let advice = given(dns_clash, &evidence, Kind::Clash);
    says(
        advice.as_ref(),
        "clash",
        "wait for the first answer",
        "7 clashes were resolved without loss, 50 packets were lost",
    );
    evidence.owners[0].lost.destinations = vec![destination("10.96.0.10", 53, "udp")];
    let advice = given(dns_clash, &evidence, Kind::Clash);
    says(
        advice.as_ref(),
        "clash",
        "Have shop/a ask DNS one query at a time",
        "",
    );
    assert_eq!(given(dns_clash, &evidence, Kind::NatExhausted), None);
}

#[test]
fn flushed_says_what_removes_entries() {
    let evidence = lost_by(DropReason::Dying);
    let advice = given(flushed, &evidence, Kind::Dying);
    says(
        advice.as_ref(),
        "flushed",
        "Find what removes entries",
        "50 packets were lost as dying",
    );
    assert_eq!(given(flushed, &evidence, Kind::Clash), None);
}

#[test]
fn requests_that_were_refused_hurt_no_traffic() {
    let evidence = lost_by(DropReason::TableFullRequest);
    let advice = given(requests, &evidence, Kind::Requests);
    says(
        advice.as_ref(),
        "requests",
        "no traffic was hurt",
        "400 of 1,000 entries",
    );
    assert_eq!(given(requests, &evidence, Kind::Burst), None);
}

#[test]
fn buckets_for_the_entries_of_all_tables() {
    let mut evidence = lost_by(DropReason::ChainTooLong);
    (evidence.node.buckets, evidence.node.all_entries) = (Some(1_024), 60_000);
    let advice = given(buckets_now, &evidence, Kind::LongChains);
    // 60,000 / 4 = 15,000, up to a power of two.
    says(
        advice.as_ref(),
        "buckets",
        "takes 128 KiB of kernel memory",
        "1,024 buckets for 60,000 entries",
    );
    assert_eq!(set(advice.as_ref()), Some(("nf_conntrack_buckets", 16_384)));
    assert_eq!(given(buckets_now, &evidence, Kind::Burst), None);
}

#[test]
fn watch_when_nothing_was_recorded() {
    let mut evidence = calm();
    evidence.gaps = vec![Span {
        from: 1_000_000,
        until: 1_000_100,
    }];
    let advice = given(watch, &evidence, Kind::NotWatched);
    says(
        advice.as_ref(),
        "watch",
        "Keep `ctpressure run --journal` running",
        "1 gap in the journal",
    );
    assert_eq!(given(watch, &evidence, Kind::NotConntrack), None);
}
