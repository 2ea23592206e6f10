//! Rules for a table that was short of room.

use ctpressure_journal::{ChangeResult, ChangedBy};

use super::super::*;
use super::{FULL, LIMIT, calm, destination, evidence, given, says, set};
use crate::evidence::SeenChange;

#[test]
fn stop_flood_at_its_source() {
    let mut evidence = evidence();
    (
        evidence.owners[0].inserts_ingress,
        evidence.owners[0].victims,
    ) = (600, 40);
    let advice = given(stop_flood, &evidence, CauseKind::SynFlood);
    says(
        advice.as_ref(),
        "stop_flood",
        "for what comes in to shop/a",
        "600 connections came in, 40 of its entries were evicted",
    );
    let advice = given(stop_flood, &evidence, CauseKind::OneWayUdp);
    says(
        advice.as_ref(),
        "stop_flood",
        "Have shop/a send its UDP to 10.0.0.9:8080/tcp from one socket",
        "100 % of all new entries",
    );
    assert_eq!(given(stop_flood, &evidence, CauseKind::Burst), None);
    evidence.owners.clear();
    assert_eq!(given(stop_flood, &evidence, CauseKind::SynFlood), None);
}

#[test]
fn dont_raise_for_a_flood_that_filled_the_table() {
    let full = evidence();
    let advice = given(dont_raise, &full, CauseKind::SynFlood);
    // 1,000 entries and 300 refused, and 15 % more.
    says(
        advice.as_ref(),
        "dont_raise",
        "it would have to be 1,500 and more",
        "1,000 entries + 300 connections that were refused",
    );
    assert_eq!(set(advice.as_ref()), None);
    assert_eq!(given(dont_raise, &full, CauseKind::Burst), None);
    assert_eq!(given(dont_raise, &calm(), CauseKind::SynFlood), None);
}

#[test]
fn raise_to_what_would_have_held_with_its_cost() {
    let mut full = evidence();
    let advice = given(raise, &full, CauseKind::Burst);
    says(
        advice.as_ref(),
        "raise",
        "Set the limit (nf_conntrack_max) to 1,500: that would have held",
        "1,300 would have been there",
    );
    assert_eq!(set(advice.as_ref()), Some(("nf_conntrack_max", 1_500)));
    // 500 entries of 256 bytes, or of 384 with extensions.
    says(advice.as_ref(), "raise", "takes 125 to 188 KiB more", "");
    // Chains of 8 are fine; of more, there is to be a bucket for each entry.
    full.node.buckets = Some(256);
    let advice = given(raise, &full, CauseKind::Burst);
    says(
        advice.as_ref(),
        "raise",
        "and nf_conntrack_buckets to 1,536",
        "",
    );
    // It was raised meanwhile.
    if let Some(last) = full.points.last_mut() {
        last.limit = 2_000;
    }
    let advice = given(raise, &full, CauseKind::Burst);
    says(advice.as_ref(), "raise", "Keep the limit at 2,000", "");
    assert_eq!(set(advice.as_ref()), Some(("nf_conntrack_max", 2_000)));
}

#[test]
fn raise_is_no_advice_for_floods_room_and_unlimited_tables() {
    let mut full = evidence();
    assert_eq!(given(raise, &full, CauseKind::OneWayUdp), None);
    assert_eq!(given(raise, &full, CauseKind::Clash), None);
    assert_eq!(given(raise, &calm(), CauseKind::Burst), None);
    for point in &mut full.points {
        point.limit = 0;
    }
    assert_eq!(given(raise, &full, CauseKind::Burst), None);
}

#[test]
fn who_lowers_it_when_it_was_somebody_else() {
    let mut full = evidence();
    full.changes = vec![SeenChange {
        at: full.at(FULL - 1),
        limit: [Some(2_000), Some(LIMIT)],
        by: ChangedBy::Other,
        who: "perhaps kube-proxy (process 7)".to_owned(),
        result: ChangeResult::Seen,
        ..SeenChange::default()
    }];
    let advice = given(who_lowers, &full, CauseKind::LimitLowered);
    says(
        advice.as_ref(),
        "who_lowers",
        "Keep perhaps kube-proxy (process 7) from doing it again",
        "1970-01-12T13:47:39Z",
    );
    assert!(given(who_lowers, &full, CauseKind::LimitLoweredAndGrowth).is_some());
    assert_eq!(given(who_lowers, &full, CauseKind::Burst), None);
    full.changes[0].who.clear();
    let advice = given(who_lowers, &full, CauseKind::LimitLowered);
    says(
        advice.as_ref(),
        "who_lowers",
        "Keep whoever lowered the limit from",
        "",
    );
    full.changes[0].by = ChangedBy::Hand;
    assert_eq!(given(who_lowers, &full, CauseKind::LimitLowered), None);
}

#[test]
fn reuse_for_short_tcp_connections_that_linger() {
    let mut full = evidence();
    full.owners[0].states = vec![("TIME_WAIT".to_owned(), 60), ("ESTABLISHED".to_owned(), 40)];
    let advice = given(reuse, &full, CauseKind::Burst);
    says(
        advice.as_ref(),
        "reuse",
        "keep its connections to 10.0.0.9:8080/tcp open",
        "60 % of its entries were in TIME_WAIT, 570",
    );
    full.owners[0].states = vec![("ESTABLISHED".to_owned(), 100)];
    assert_eq!(given(reuse, &full, CauseKind::Burst), None);
    assert!(given(reuse, &full, CauseKind::TimeWait).is_some());
    full.owners[0].destinations = vec![destination("10.96.0.10", 53, "udp")];
    assert_eq!(given(reuse, &full, CauseKind::TimeWait), None);
}

#[test]
fn leak_for_what_is_opened_and_not_closed() {
    let full = evidence();
    let advice = given(leak, &full, CauseKind::SlowLeak);
    says(
        advice.as_ref(),
        "leak",
        "In shop/a, find what opens connections",
        "600 came and 5 went; it held 950 at the peak",
    );
    let advice = given(leak, &full, CauseKind::EstablishedIdle);
    says(advice.as_ref(), "leak", "close idle ones", "");
    assert_eq!(given(leak, &full, CauseKind::Burst), None);
}

#[test]
fn retries_need_longer_pauses() {
    let full = evidence();
    let advice = given(retries, &full, CauseKind::RetryStorm);
    says(
        advice.as_ref(),
        "retries",
        "Have shop/a wait longer between its tries",
        "what the cause was told by",
    );
    assert_eq!(given(retries, &full, CauseKind::Burst), None);
}

#[test]
fn dns_cache_for_a_storm_of_queries() {
    let full = evidence();
    let advice = given(dns_cache, &full, CauseKind::DnsStorm);
    says(
        advice.as_ref(),
        "dns_cache",
        "Have shop/a ask less",
        "what the cause was told by",
    );
    assert_eq!(given(dns_cache, &full, CauseKind::Clash), None);
}

#[test]
fn timeout_that_would_have_saved_most() {
    let mut full = evidence();
    full.owners[0].states = vec![("TIME_WAIT".to_owned(), 60), ("FIN_WAIT".to_owned(), 40)];
    let advice = given(timeouts::advice, &full, CauseKind::TimeWait);
    // 60 % of 950, and three quarters of those.
    says(
        advice.as_ref(),
        "timeout",
        "in TIME_WAIT that would have saved about 428, 42 % of the table",
        "570 entries were in TIME_WAIT",
    );
    assert_eq!(
        set(advice.as_ref()),
        Some(("nf_conntrack_tcp_timeout_time_wait", 30))
    );
    // It is as short as that already: the next one.
    let name = "nf_conntrack_tcp_timeout_time_wait";
    full.node.facts.insert(name.to_owned(), "30".to_owned());
    let advice = given(timeouts::advice, &full, CauseKind::TimeWait);
    assert_eq!(
        set(advice.as_ref()),
        Some(("nf_conntrack_tcp_timeout_fin_wait", 30))
    );
    // Established connections are only ended where they are idle.
    full.owners[0].states = vec![("ESTABLISHED".to_owned(), 100)];
    assert_eq!(given(timeouts::advice, &full, CauseKind::Burst), None);
    let advice = given(timeouts::advice, &full, CauseKind::EstablishedIdle);
    says(
        advice.as_ref(),
        "timeout",
        "among the 950 of shop/a",
        "keep-alive",
    );
    assert_eq!(
        set(advice.as_ref()),
        Some(("nf_conntrack_tcp_timeout_established", 7_200))
    );
    assert_eq!(
        given(timeouts::advice, &calm(), CauseKind::EstablishedIdle),
        None
    );
}
