use std::time::{Duration, SystemTime};

use ctpressure_model::events::{Occurrence, Origin};

use super::*;

fn refused(pod: &str, port: u16, seconds: u64) -> Event {
    Event::Drop(DropEvent {
        reason: DropReason::TableFull.into(),
        seen: Occurrence {
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds),
            netns: 1,
            netns_name: "host".to_owned(),
            cpu: 0,
            weight: 1,
            protocol: Some("tcp".to_owned()),
        },
        owner: who(pod),
        original: (port > 0).then(|| Tuple {
            source: [10, 88, 0, 2].into(),
            source_port: Some(port),
            destination: [10, 96, 0, 1].into(),
            destination_port: Some(80),
            icmp_id: None,
            icmp_type: None,
            icmp_code: None,
        }),
        reply: None,
        origin: Origin {
            zone: 0,
            ifindex: None,
            cgroup: None,
        },
    })
}

fn who(pod: &str) -> Who {
    Who {
        kind: "pod".to_owned(),
        namespace: "shop".to_owned(),
        pod: pod.to_owned(),
        workload: String::new(),
        unit: String::new(),
        direction: "egress".to_owned(),
    }
}

/// Events that are kept of a pod.
fn of(detail: &SecondDetail, pod: &str) -> usize {
    let kept = detail.drops.events.iter();
    kept.filter(|event| event.owner.pod == pod).count()
}

fn in_all(detail: &SecondDetail) -> u64 {
    detail.drops.events.len() as u64 + detail.drops.not_recorded
}

#[test]
fn all_of_few_are_kept() {
    let (mut detail, mut known) = (SecondDetail::default(), DetailFlows::default());
    for port in 1..=48 {
        detail.add(refused("a", port, 0), &mut known);
    }
    assert_eq!((of(&detail, "a"), detail.not_recorded()), (48, [0, 0]));
}

#[test]
fn flows_are_told_from_tries_also_of_those_that_are_not_kept() {
    let mut known = DetailFlows::default();
    for second in 0..4 {
        let mut detail = SecondDetail::default();
        for port in 1..=2_000 {
            detail.add(refused("a", port, second), &mut known);
        }
        // One that is not known is no flow.
        detail.add(refused("a", 0, second), &mut known);
        let (first, again) = if second == 0 { (2_000, 0) } else { (0, 2_000) };
        assert_eq!(detail.refused[&who("a")], FlowsLost { first, again });
        assert!(detail.evicted.is_empty());
        assert_eq!(in_all(&detail), 2_001);
    }
}

#[test]
fn another_reason_is_not_of_a_full_table() {
    let (mut detail, mut known) = (SecondDetail::default(), DetailFlows::default());
    let Event::Drop(mut event) = refused("a", 1, 0) else {
        unreachable!()
    };
    event.reason = DropReason::Clash.into();
    detail.add(Event::Drop(event), &mut known);
    assert!(detail.refused.is_empty() && of(&detail, "a") == 1);
}

#[test]
fn a_storm_hides_nobody_and_the_first_is_kept() {
    let (mut detail, mut known) = (SecondDetail::default(), DetailFlows::default());
    for port in 1..=5_000 {
        for storm in ["storm", "other storm"] {
            detail.add(refused(storm, port, 0), &mut known);
        }
        if port % 1_000 == 0 {
            detail.add(refused("victim", port, 0), &mut known);
        }
    }
    assert_eq!(of(&detail, "victim"), 5);
    assert_eq!(detail.drops.events.len(), MOST);
    assert_eq!(in_all(&detail), 10_005);
    assert_eq!(
        Event::Drop(detail.drops.events[0].clone()),
        refused("storm", 1, 0)
    );
}

#[test]
fn many_owners_share_the_room() {
    let (mut detail, mut known) = (SecondDetail::default(), DetailFlows::default());
    for port in 1..=1_000 {
        let pod = format!("pod-{}", port % 300);
        detail.add(refused(&pod, port, 0), &mut known);
    }
    assert_eq!(detail.drops.events.len(), MOST);
    assert_eq!(in_all(&detail), 1_000);
    assert_eq!(detail.refused.len(), 300);
}

#[test]
fn what_was_put_back_comes_first_and_nothing_is_lost_of_the_counts() {
    let mut known = DetailFlows::default();
    let (mut earlier, mut later) = (SecondDetail::default(), SecondDetail::default());
    for port in 1..=100 {
        earlier.add(refused("a", port, 0), &mut known);
        later.add(refused("a", port, 1), &mut known);
        later.add(refused("b", port, 1), &mut known);
    }
    later.put_back(earlier);
    assert_eq!(in_all(&later), 300);
    assert_eq!(
        (of(&later, "a") + of(&later, "b"), of(&later, "b") >= 16),
        (MOST, true)
    );
    let flows = later.refused[&who("a")];
    assert_eq!(
        flows,
        FlowsLost {
            first: 100,
            again: 100
        }
    );
    let first = later.drops.events[0].clone();
    assert_eq!(Event::Drop(first), refused("a", 1, 0));
}
