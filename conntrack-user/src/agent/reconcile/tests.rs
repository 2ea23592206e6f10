use super::*;
use crate::probes::DropTotals;

fn table(netns: u32, drop: u64, early_drop: u64) -> TableSample {
    TableSample {
        netns,
        name: netns.to_string(),
        entries: 0,
        stats: Some(KernelStats {
            drop,
            early_drop,
            chain_too_long: Some(drop / 2),
            ..KernelStats::default()
        }),
    }
}

/// What the probes counted, where they count everything.
fn ours(drops: u64, evictions: u64) -> Totals {
    Totals {
        evictions: Some(evictions),
        drops: DropTotals {
            table_full: Some(drops),
            clash: Some(0),
            chain_too_long: Some(0),
            dying: Some(0),
        },
        ..Totals::default()
    }
}

/// What no probe explained, where probes count everything.
fn add(reconciler: &mut Reconciler, tables: &[TableSample], ours: Totals) -> LossCounts {
    let found = reconciler.add(tables, &ours, &ours);
    assert_eq!((found.node.drops, found.node.evictions), (None, None));
    found.unexplained
}

#[test]
fn what_was_counted_before_attaching_is_no_difference() {
    let mut reconciler = Reconciler::default();
    for _ in 0..3 {
        let found = add(&mut reconciler, &[table(1, 500, 70)], ours(0, 0));
        assert_eq!(found, LossCounts::default());
    }
    let found = add(&mut reconciler, &[table(1, 510, 75)], ours(10, 5));
    assert_eq!(found, LossCounts::default());
}

#[test]
fn what_comes_while_the_first_sample_is_read_is_no_difference() {
    let mut reconciler = Reconciler::default();
    reconciler.add(&[table(1, 500, 70)], &ours(2, 1), &ours(20, 7));
    for _ in 0..3 {
        let found = add(&mut reconciler, &[table(1, 530, 80)], ours(32, 11));
        assert_eq!(found, LossCounts::default());
    }
}

#[test]
fn a_difference_that_stays_is_told_and_not_taken_back() {
    let mut reconciler = Reconciler::default();
    add(&mut reconciler, &[table(1, 0, 0)], ours(0, 0));
    assert_eq!(
        add(&mut reconciler, &[table(1, 9, 4)], ours(5, 4)).drops,
        0,
        "once is no proof"
    );
    assert_eq!(add(&mut reconciler, &[table(1, 9, 4)], ours(5, 4)).drops, 4);
    assert_eq!(add(&mut reconciler, &[table(1, 9, 4)], ours(5, 4)).drops, 4);
    let late = add(&mut reconciler, &[table(1, 9, 4)], ours(9, 4));
    assert_eq!(
        late,
        LossCounts {
            drops: 4,
            evictions: 0
        }
    );
}

#[test]
fn reading_at_different_times_is_no_difference() {
    let mut reconciler = Reconciler::default();
    add(&mut reconciler, &[table(1, 0, 0)], ours(0, 0));
    // The kernel's side was read a little earlier: 20 drops behind, all through the storm.
    for second in 1..=30 {
        let found = add(
            &mut reconciler,
            &[table(1, second * 1000 - 20, 0)],
            ours(second * 1000, 0),
        );
        assert_eq!(found, LossCounts::default());
    }
    for _ in 0..3 {
        let found = add(&mut reconciler, &[table(1, 30_000, 0)], ours(30_000, 0));
        assert_eq!(found, LossCounts::default());
    }
}

#[test]
fn a_namespace_that_ended_leaves_no_gap_to_hide_in() {
    let mut reconciler = Reconciler::default();
    add(&mut reconciler, &[table(1, 0, 0)], ours(0, 0));
    // Namespace 2 came and went between two samples; the probes saw its 50 drops.
    for _ in 0..=REST {
        assert_eq!(
            add(&mut reconciler, &[table(1, 0, 0)], ours(50, 0)).drops,
            0
        );
    }
    for _ in 0..2 {
        add(&mut reconciler, &[table(1, 7, 0)], ours(50, 0));
    }
    assert_eq!(
        add(&mut reconciler, &[table(1, 7, 0)], ours(50, 0)).drops,
        7
    );
}

#[test]
fn a_new_namespace_counts_from_zero_and_an_ended_one_is_kept() {
    let mut reconciler = Reconciler::default();
    add(&mut reconciler, &[table(1, 0, 0)], ours(0, 0));
    for _ in 0..3 {
        let found = add(
            &mut reconciler,
            &[table(1, 0, 0), table(2, 30, 3)],
            ours(30, 3),
        );
        assert_eq!(found, LossCounts::default());
    }
    for _ in 0..3 {
        assert_eq!(
            add(&mut reconciler, &[table(1, 5, 0)], ours(35, 3)),
            LossCounts::default()
        );
    }
    // Its inode number is used again.
    for _ in 0..3 {
        let found = add(
            &mut reconciler,
            &[table(1, 5, 0), table(2, 4, 0)],
            ours(37, 3),
        );
        assert_eq!(found.evictions, 0);
    }
    let found = add(
        &mut reconciler,
        &[table(1, 5, 0), table(2, 4, 0)],
        ours(37, 3),
    );
    assert_eq!(found.drops, 2);
}

#[test]
fn statistics_that_come_late_are_no_difference() {
    let mut reconciler = Reconciler::default();
    let unread = TableSample {
        stats: None,
        ..table(2, 0, 0)
    };
    add(
        &mut reconciler,
        &[table(1, 0, 0), unread.clone()],
        ours(0, 0),
    );
    add(&mut reconciler, &[table(1, 0, 0), unread], ours(50, 0));
    // Its turn: 400 from before attaching, and some of the 50 since.
    for _ in 0..3 {
        let found = add(
            &mut reconciler,
            &[table(1, 0, 0), table(2, 450, 0)],
            ours(50, 0),
        );
        assert_eq!(found.drops, 0);
    }
    // Not read in one sample, then again.
    add(&mut reconciler, &[table(1, 0, 0)], ours(50, 0));
    for _ in 0..3 {
        let found = add(
            &mut reconciler,
            &[table(1, 0, 0), table(2, 451, 0)],
            ours(51, 0),
        );
        assert_eq!(found.drops, 0);
    }
}

#[test]
fn attached_anew_both_begin_at_zero_and_what_was_told_stays() {
    let mut reconciler = Reconciler::default();
    add(&mut reconciler, &[table(1, 0, 0)], ours(0, 0));
    for _ in 0..2 {
        add(&mut reconciler, &[table(1, 3, 0)], ours(0, 0));
    }
    reconciler.restart();
    for _ in 0..3 {
        assert_eq!(add(&mut reconciler, &[table(1, 0, 0)], ours(0, 0)).drops, 3);
    }
    for _ in 0..2 {
        add(&mut reconciler, &[table(1, 2, 0)], ours(0, 0));
    }
    assert_eq!(add(&mut reconciler, &[table(1, 2, 0)], ours(0, 0)).drops, 5);
}

#[test]
fn what_no_probe_counts_is_the_nodes_and_goes_on_when_its_namespace_ends() {
    let mut reconciler = Reconciler::default();
    let clashes = |clash| Totals {
        drops: DropTotals {
            clash: Some(clash),
            ..DropTotals::default()
        },
        ..Totals::default()
    };
    let mut began = false;
    let mut node = |tables: &[TableSample]| {
        let clash = if std::mem::replace(&mut began, true) {
            2
        } else {
            0
        };
        let found = reconciler.add(tables, &clashes(clash), &clashes(clash));
        assert_eq!(found.unexplained, LossCounts::default());
        let NodeLosses {
            drops,
            evictions,
            chain_too_long,
        } = found.node;
        [drops, evictions, chain_too_long].map(|number| number.expect("nothing counts it"))
    };
    // What was there before the agent was is not in it.
    assert_eq!(node(&[table(1, 100, 9)]), [0, 0, 0]);
    let both = [table(1, 102, 9), table(2, 30, 3)];
    node(&both);
    assert_eq!(
        node(&both),
        [30, 3, 16],
        "less the clashes that are charged"
    );
    for _ in 0..=FORGET {
        assert_eq!(node(&[table(1, 102, 9)]), [30, 3, 16]);
    }
    let again = [table(1, 104, 9), table(2, 10, 0)];
    node(&again);
    assert_eq!(node(&again), [42, 3, 22]);
}

#[test]
fn each_loss_has_one_home_when_what_is_counted_changes() {
    let mut reconciler = Reconciler::default();
    let nothing = Totals::default();
    for drops in [0, 7, 7] {
        reconciler.add(&[table(1, drops, 0)], &nothing, &nothing);
    }
    assert_eq!(
        reconciler
            .add(&[table(1, 7, 0)], &nothing, &nothing)
            .node
            .drops,
        Some(7)
    );
    reconciler.restart();
    for _ in 0..3 {
        let found = reconciler.add(&[table(1, 7, 0)], &ours(0, 0), &ours(0, 0));
        assert_eq!(
            (found.unexplained, found.node.drops),
            (LossCounts::default(), None),
            "the node's is not unexplained too"
        );
    }
    reconciler.restart();
    for _ in 0..3 {
        reconciler.add(&[table(1, 9, 0)], &nothing, &nothing);
    }
    reconciler.add(&[table(1, 12, 0)], &nothing, &nothing);
    let found = reconciler.add(&[table(1, 12, 0)], &nothing, &nothing);
    assert_eq!(found.node.drops, Some(10), "it goes on from 7");
}

#[test]
fn chains_that_no_probe_saw_are_the_nodes_though_a_probe_counts_some() {
    let mut reconciler = Reconciler::default();
    let mut chains = |kernel: u64, told: u64| {
        let mut ours = ours(0, 0);
        ours.drops.chain_too_long = Some(told);
        let tables = [table(1, 2 * kernel, 0)];
        reconciler.add(&tables, &ours, &ours);
        reconciler.add(&tables, &ours, &ours).node.chain_too_long
    };
    assert_eq!(chains(0, 0), None);
    assert_eq!(chains(5, 5), None, "a probe told all");
    assert_eq!(chains(8, 5), Some(3), "it was not attached");
    assert_eq!(chains(10, 7), Some(3));
}
