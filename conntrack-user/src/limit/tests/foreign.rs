//! Tables of others: what they do raises nothing, adds nothing to what is raised, and is said.

use std::time::Duration;

use ctpressure_model::{cost::EntryCost, verdict::Composition};
use proptest::prelude::*;

use crate::{
    kernel::memory::NodeMemory,
    limit::{
        Settings,
        change::{Purpose, Size},
        ledger::LimitLedger,
        policy::{Decision, Observation, Policy, TableLosses, TableSeen},
    },
};

const LIMIT: u64 = 10_000;
const GIB: u64 = 1 << 30;

fn table(name: &str, netns: u32, entries: u64) -> TableSeen {
    TableSeen {
        netns,
        name: name.to_owned(),
        entries,
        losses: Some(TableLosses::default()),
        ..TableSeen::default()
    }
}

fn losing(table: TableSeen, drop: u64) -> TableSeen {
    TableSeen {
        losses: Some(TableLosses {
            drop,
            ..TableLosses::default()
        }),
        ..table
    }
}

fn at(second: u64, tables: Vec<TableSeen>) -> Observation {
    Observation {
        at: Duration::from_secs(10_000 + second),
        size: Size {
            limit: LIMIT,
            buckets: 16_384,
            time_wait: Some(120),
        },
        tables,
        flow: None,
        memory: NodeMemory {
            total: 64 * GIB,
            available: 32 * GIB,
        },
        cost: EntryCost::of(None, Some((6, 12)), |_| None),
    }
}

/// What the policy says for as many seconds, up to the first action.
fn watch(
    policy: &mut Policy,
    seconds: u64,
    seen: impl Fn(u64) -> Observation,
    composition: &Composition,
) -> Decision {
    let mut last = Decision::default();
    for second in 0..seconds {
        last = policy.observe(&seen(second), &mut |_| Some(composition.clone()));
        if last.action.is_some() {
            break;
        }
    }
    last
}

fn policy(settings: Settings) -> Policy {
    Policy::new(settings, LimitLedger::default())
}

#[test]
fn a_full_table_of_somebody_else_raises_nothing_and_is_told() {
    let seen = |second: u64| {
        let own = losing(table("cni-1", 7, LIMIT), second * 500);
        let own = TableSeen {
            seconds_to_full: Some(1.0),
            ..own
        };
        at(second, vec![table("host", 1, 40), own])
    };
    let answered = Composition::default();
    let last = watch(&mut policy(Settings::default()), 300, seen, &answered);
    assert_eq!(last.action, None);
    assert_eq!(last.now, "nothing to do");
    let [advice] = last.advice.as_slice() else {
        panic!("{last:?}");
    };
    for word in ["table cni-1 holds 10,000 of 10,000", "--raise-netns cni-1"] {
        assert!(advice.contains(word), "{advice}");
    }
    // Named, it does.
    let named = Settings {
        raise_netns: vec!["cni-1".to_owned()],
        ..Settings::default()
    };
    let last = watch(&mut policy(named), 300, seen, &answered);
    let action = last.action.expect("a raise");
    assert_eq!(action.purpose, Purpose::Raise);
    assert!(action.reason.contains("in table cni-1"), "{action:?}");
    assert_eq!(last.advice, [""; 0]);
}

#[test]
fn of_many_full_tables_some_are_named_and_one_that_is_not_there_is_said() {
    let mut tables = vec![table("host", 1, 40)];
    tables.extend((0..9).map(|number| table(&format!("pod-{number}"), 10 + number, LIMIT)));
    let settings = Settings {
        raise_netns: vec!["ingress_sbox".to_owned()],
        ..Settings::default()
    };
    let last = watch(
        &mut policy(settings),
        3,
        |second| at(second, tables.clone()),
        &Composition::default(),
    );
    assert_eq!(last.advice.len(), 5, "{last:?}");
    assert!(last.advice[3].contains("6 more tables"), "{last:?}");
    assert!(last.advice[4].contains("ingress_sbox"), "{last:?}");
}

#[test]
fn without_the_hosts_table_nothing_is_raised() {
    let last = watch(
        &mut policy(Settings::default()),
        300,
        |second| at(second, vec![table("4026531999", 1, LIMIT)]),
        &Composition::default(),
    );
    assert_eq!(last.action, None);
    assert!(last.now.contains("no table is seen"), "{last:?}");
}

#[test]
fn entries_that_are_in_no_list_are_no_demand() {
    let held = Composition {
        entries: 59,
        count: Some(9_900),
        ..Composition::default()
    };
    let seen = |second: u64| at(second, vec![losing(table("host", 1, 9_900), second * 10)]);
    let last = watch(&mut policy(Settings::default()), 300, seen, &held);
    assert_eq!(last.action, None);
    assert!(
        last.now.contains("9,841 of 9,900 entries are in no list"),
        "{last:?}"
    );
    assert!(last.advice[0].contains("ip neigh"), "{last:?}");
    // What is listed still counts, as far as it goes.
    let listed = Composition {
        entries: 9_000,
        count: Some(18_100),
        ..Composition::default()
    };
    let last = watch(&mut policy(Settings::default()), 300, seen, &listed);
    let action = last.action.expect("a raise");
    assert_eq!(action.after.limit, 15_360, "{action:?}");
}

#[test]
fn a_table_that_was_in_use_stays_counted_while_it_is_there() {
    let mut policy = policy(Settings::default());
    let look = |policy: &mut Policy, second, entries: u64, there: bool| {
        let mut tables = vec![table("host", 1, 40)];
        tables.extend(there.then(|| table("pod", 7, entries)));
        let seen = at(second, tables);
        policy.observe(&seen, &mut |_| None);
        let tables = policy.full_tables(&seen);
        (tables.in_use.busy, tables.all.busy)
    };
    assert_eq!(look(&mut policy, 0, 0, true), (1, 2));
    assert_eq!(look(&mut policy, 1, 1, true), (2, 2));
    assert_eq!(look(&mut policy, 2, 0, true), (2, 2));
    assert_eq!(look(&mut policy, 3, 0, false), (1, 1));
    assert_eq!(look(&mut policy, 4, 0, true), (1, 2));
}

#[test]
fn what_others_hold_is_not_taken_from_them() {
    let settings = Settings {
        give_back: Some(Duration::from_hours(1)),
        ..Settings::default()
    };
    let raised = |busy: u64| {
        let mut policy = policy(settings.clone());
        let answered = Composition::default();
        let seen = |second: u64| at(second, vec![table("host", 1, 9_000)]);
        let action = watch(&mut policy, 300, seen, &answered)
            .action
            .expect("a raise");
        policy.done(&action, true, Duration::from_secs(10_300));
        let calm = |second: u64| {
            let mut seen = at(
                second * 10,
                vec![table("host", 1, 4), table("pod", 7, busy)],
            );
            seen.at += Duration::from_secs(400);
            seen.size = action.after;
            seen
        };
        watch(&mut policy, 1_000, calm, &answered).action
    };
    let back = raised(20).expect("given back");
    assert_eq!(back.purpose, Purpose::GiveBack);
    assert_eq!(raised(9_500), None, "the pod's table would be nearly full");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever others insert, lose and hold, what is raised for the host's table is no more than without them.
    #[test]
    fn others_add_nothing_to_a_raise(
        growth in 0_u64..200,
        lost in 0_u64..100,
        inserts in 0_u64..50_000,
        calm in 0_u64..50_000,
        losses in 0_u64..10_000,
        held in 0_u64..20_000,
    ) {
        let watched = |others: bool| {
            let mut policy = policy(Settings::default());
            let seen = |second: u64| {
                let entries = (6_000 + growth * second).min(LIMIT);
                let host = losing(table("host", 1, entries), lost * second);
                let mut tables = vec![host];
                let rate = if second < 40 { calm } else { inserts };
                // In balance, so that a lifetime is known, then not any more.
                let mut flow = 100 * second;
                if others {
                    tables.push(losing(table("pod", 7, held), losses * second));
                    flow += if second < 40 { rate * second } else { calm * 40 + rate * (second - 40) };
                }
                let mut seen = at(second, tables);
                // Without it nothing bounds what the growth of the host's table comes to.
                seen.flow = others.then_some((flow + growth * second, flow));
                seen
            };
            watch(&mut policy, 120, seen, &Composition::default()).action
        };
        let [alone, beside] =
            [false, true].map(|others| watched(others).map_or(LIMIT, |action| action.after.limit));
        prop_assert!(beside <= alone, "{beside} > {alone}");
    }
}

#[test]
fn a_table_raises_by_a_name_that_only_root_can_give() {
    let named = |name: &str| Settings {
        raise_netns: vec![name.to_owned()],
        ..Settings::default()
    };
    let called = |name: &str, kept_as: Option<&str>, of_pod| TableSeen {
        name: name.to_owned(),
        kept_as: kept_as.map(str::to_owned),
        of_pod,
        ..TableSeen::default()
    };
    let host = called("host", None, false);
    assert!(host.raises(&Settings::default()));
    // Somebody called his control group as the file is called that root made.
    let impostor = called("ingress_sbox", Some("4026532199"), false);
    assert!(!impostor.raises(&named("ingress_sbox")));
    assert!(impostor.raises(&named("4026532199")));
    assert!(called("ingress_sbox", None, false).raises(&named("ingress_sbox")));
    let pod = called("shop/router", Some("cni-1"), true);
    assert!(pod.raises(&named("shop/router")) && pod.raises(&named("cni-1")));
    assert!(!pod.raises(&named("router")) && !pod.raises(&Settings::default()));
    // What a shell would read, or a number, is advised as the inode number.
    let odd = TableSeen {
        netns: 4_026_532_200,
        ..called("7", None, false)
    };
    assert!(odd.raises(&named("4026532200")) && !pod.raises(&named("4026532200")));
}
