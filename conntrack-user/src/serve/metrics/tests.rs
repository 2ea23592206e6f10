use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ctpressure_model::{
    pressure::state::Pressure,
    verdict::{KNOWN, Verdict, VerdictKind},
};

use super::*;
use crate::{
    agent::{
        Activity, AgentState, Bounds, Drift, LossCounts, NatTold, NodeLosses, NodeStates, Own,
        OwnerSample, OwnerTotals, Owners, PortsUsed, Probed, Recount, StateEntries, Table, Tables,
        Tops,
    },
    census::PortSpace,
    kernel::stats::KernelStats,
    kube_events::EventsStatus,
    limit::{
        Mode, Report,
        change::{By, ChangeOutcome},
        report::{ChangeTally, Fight, ShortenedTimeout, Standing},
    },
    owners::{Owner, Workload},
    probes::{
        ArmedFor, ArmingStatus, DropTotals, HookStatus, Lost, Mechanism, ProbeStatus, ProgramTime,
        Totals,
    },
    recorder::JournalStatus,
};

/// Every family has a sample.
pub(in crate::serve) fn full() -> Snapshot {
    let now = Instant::now();
    Snapshot {
        at: now,
        state: AgentState::Attached,
        reason: None,
        ready: true,
        begun: true,
        tables: Tables {
            limit: Some(1000),
            buckets: Some(1024),
            table_bytes: Some(65_536),
            expectation_limit: Some(4096),
            list: tables(),
        },
        probes: Probed {
            status: status(),
            totals: totals(),
            unexplained: LossCounts {
                drops: 2,
                evictions: 0,
            },
            node_losses: NodeLosses {
                drops: Some(1538),
                evictions: Some(20),
                chain_too_long: Some(0),
            },
            watchers_lost: 4,
            drift: Some(Drift {
                entries: 900,
                expected: 899,
                difference: 1,
            }),
            programs: vec![run_time(), run_time()],
        },
        owners: Owners {
            list: owners(),
            held: Some(12),
            census: Recount {
                ended: now.checked_sub(Duration::from_secs(7)),
                ..Recount::default()
            },
            states: Some(Arc::new(states())),
            nat: Some(Arc::new(nat())),
            ..Owners::default()
        },
        own: Own {
            rss_bytes: 9_000_000,
            cpu_seconds: 1.25,
            start_time_seconds: 1_700_000_000.0,
            open_fds: 12,
        },
        ..Snapshot::default()
    }
}

/// Of the host's table, and of one that is gone since.
fn nat() -> NatTold {
    let used = |netns, seconds_to_full| PortsUsed {
        netns,
        space: PortSpace {
            address: [192, 0, 2, 1].into(),
            destination: [198, 51, 100, 7].into(),
            port: 443,
            protocol: 6,
        },
        ports: 51_200,
        seconds_to_full,
    };
    NatTold {
        spaces: vec![used(1, Some(93.5)), used(4_000_000, None)],
        stale: 3,
        ..NatTold::default()
    }
}

/// Slots 1 and 2 are in the list, the other owner is gone since.
fn states() -> NodeStates {
    let part = |protocol: &str, state: &str, evictable, entries| StateEntries {
        protocol: protocol.to_owned(),
        state: state.to_owned(),
        evictable,
        entries,
    };
    let of_one = vec![part("tcp", "ESTABLISHED", false, 7)];
    NodeStates {
        all: vec![
            part("tcp", "ESTABLISHED", false, 12),
            part("other", "UNREPLIED", true, 3),
        ],
        foremost: vec![(1, of_one.clone()), (4_000_000, of_one)],
    }
}

fn status() -> ProbeStatus {
    let hook = HookStatus {
        event: "insert",
        function: "__nf_conntrack_hash_insert".to_owned(),
        mechanism: Some(Mechanism::Fentry),
        at_return: false,
        module: Some("nf_conntrack".to_owned()),
        waits: false,
        attached: true,
        reason: None,
    };
    let at_return = HookStatus {
        event: "eviction",
        function: "early_drop".to_owned(),
        at_return: true,
        ..hook.clone()
    };
    let missing = HookStatus {
        event: "delete",
        attached: false,
        mechanism: None,
        ..hook.clone()
    };
    ProbeStatus {
        hooks: vec![hook, at_return, missing],
        arming: Some(ArmingStatus {
            armed: true,
            reason: Some(ArmedFor::Room),
            times: 2,
            ..ArmingStatus::default()
        }),
        fields: Vec::new(),
    }
}

/// One of the tables has all, another nothing that can be absent, and an odd name; two are a pod's and the routing mesh's.
fn tables() -> Vec<Table> {
    let stats = KernelStats {
        found: 1,
        drop: 7,
        early_drop: 3,
        clash_resolve: Some(2),
        expect_create: Some(9),
        expect_delete: Some(5),
        ..KernelStats::default()
    };
    let host = Table {
        netns: 1,
        name: "host".to_owned(),
        entries: 900,
        pressure: Pressure::High,
        seconds_to_full: Some(12.5),
        verdicts: verdicts(),
        used: true,
        stats: Some(stats),
        ..Table::default()
    };
    let odd = Table {
        netns: 2,
        name: "a\"b\\c".to_owned(),
        used: true,
        ..Table::default()
    };
    let pod = Owner::pod("u-2", Some(("shop", "cart-1")));
    let of_pod = Table {
        netns: 3,
        name: pod.name(),
        kept_as: Some("cni-5c1d7e2a-1111-4222-8333-000000000003".to_owned()),
        owner: Some(pod),
        entries: 640,
        pressure: Pressure::Rising,
        used: true,
        stats: Some(KernelStats {
            drop: 1,
            expect_create: Some(0),
            ..KernelStats::default()
        }),
        ..Table::default()
    };
    let mesh = Owner::cgroup("ingress_sbox", "netns:/run/docker/netns/ingress_sbox");
    let of_mesh = Table {
        netns: 4,
        name: mesh.name(),
        owner: Some(mesh),
        entries: 1000,
        pressure: Pressure::Full,
        used: true,
        ..Table::default()
    };
    vec![host, odd, of_pod, of_mesh]
}

/// One of each kind.
fn verdicts() -> Vec<Verdict> {
    let kinds = [
        VerdictKind::Held,
        VerdictKind::Overlay {
            tunnel: KNOWN[0],
            ipv4: true,
            ipv6: false,
        },
        VerdictKind::Flood {
            who: "shop/cart-1".to_owned(),
        },
    ];
    let verdict = |(kind, entries)| Verdict {
        kind,
        entries,
        of: 900,
    };
    kinds
        .into_iter()
        .zip([250, 240, 230])
        .map(verdict)
        .collect()
}

fn totals() -> Totals {
    Totals {
        clash_inserts: 3,
        inserts: Some(5000),
        deletes: Some(4100),
        evictions: Some(3),
        evictions_cause_unknown: Some(1),
        drops: DropTotals {
            table_full: Some(6),
            clash: Some(1),
            chain_too_long: Some(0),
            dying: None,
        },
        refused_table_full: Some(0),
        lost: Lost {
            insert_records: 11,
            missed_runs: 1,
            ..Lost::default()
        },
    }
}

/// Nobody, the host, a pod with connections both ways, one without a name, a unit.
fn owners() -> Vec<OwnerSample> {
    let egress = |inserts, deletes, live| OwnerTotals {
        inserts,
        deletes,
        live: Some(live),
        ..OwnerTotals::default()
    };
    let owner = |slot, owner, egress| OwnerSample {
        slot,
        owner,
        present: true,
        egress,
        ingress: OwnerTotals::default(),
        held_at_most: 0,
        activity: Activity::default(),
        destinations: Tops::default(),
    };
    let unsure = |bounds: OwnerTotals| OwnerTotals {
        bounds: Some(Bounds {
            lower: 40,
            upper: 65,
        }),
        ..bounds
    };
    let mut pod = owner(
        2,
        Owner::pod("u-2", Some(("shop", "cart-1"))),
        OwnerTotals {
            victims: 3,
            drops: [6, 1, 0, 0, 9],
            // Only where there is no `live`, but every family is to have a sample.
            found: Some(480),
            ..egress(4000, 3500, 500)
        },
    );
    pod.ingress = OwnerTotals {
        causes: 2,
        ..egress(500, 300, 200)
    };
    vec![
        owner(0, Owner::unknown(), egress(100, 50, 50)),
        owner(1, Owner::host(), unsure(egress(300, 250, 50))),
        pod,
        owner(3, Owner::pod("u-3", None), egress(60, 0, 60)),
        owner(
            4,
            Owner::cgroup("sshd.service", "/system.slice/sshd.service"),
            egress(40, 0, 40),
        ),
    ]
}

fn run_time() -> ProgramTime {
    ProgramTime {
        program: "insert_fentry",
        function: "__nf_conntrack_hash_insert".to_owned(),
        seconds: 0.5,
        runs: 9,
    }
}

/// With a limit controller that has acted.
fn controlled() -> CompanionStatus {
    let tally = |by, number| ChangeTally {
        by,
        outcome: ChangeOutcome::Applied,
        number,
    };
    let report = Report {
        mode: Mode::On,
        standing: Standing::Acting,
        ceiling: Some(276_000),
        raised_from: Some(1000),
        shortened: Some(ShortenedTimeout {
            name: "nf_conntrack_tcp_timeout_time_wait".to_owned(),
            from: 120,
            to: 30,
        }),
        fight: Some(Fight {
            rounds: 6,
            given_up: true,
            who: None,
        }),
        tallies: vec![tally(By::Controller, 3), tally(By::Hand, 1)],
        ..Report::default()
    };
    CompanionStatus {
        limit: Some(Arc::new(report)),
        journal: Some(JournalStatus {
            bytes: 1_000_000,
            bytes_most: 64 << 20,
            samples_lost: 1,
            events_lost: 2,
            ..JournalStatus::default()
        }),
        kubernetes_events: Some(EventsStatus {
            lost: 3,
            ..EventsStatus::default()
        }),
        allowances: vec![InterfaceAllowances {
            interface: "eth0".to_owned(),
            driver: "ena".to_owned(),
            statistics: 80,
            exceeded: [("conntrack".to_owned(), 4_711), ("pps".to_owned(), 0)].into(),
            available: [("conntrack".to_owned(), 136_812)].into(),
        }],
        ..CompanionStatus::default()
    }
}

/// What is collected once.
struct Collected(Vec<MetricFamily>);

impl Collector for Collected {
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.0.clone()
    }
}

fn exposition(snapshot: &Snapshot, companions: &CompanionStatus, node_exporter: bool) -> String {
    let registry = Registry::new();
    let collected = Collected(families(
        snapshot,
        companions,
        node_exporter,
        &mut Exported::default(),
    ));
    registry
        .register(Box::new(collected))
        .expect("it is the first");
    let exporter = Exporter { registry };
    String::from_utf8(exporter.text().expect("metrics")).expect("UTF-8")
}

/// The whole text, which `promtool check metrics` accepts as it stands in the file.
#[test]
fn everything_in_text() {
    let text = exposition(&full(), &controlled(), true);
    let expected = include_str!("expected.prom").replace("VERSION", env!("CARGO_PKG_VERSION"));
    assert!(
        text == expected,
        "metrics have changed; now they are:\n{text}"
    );
}

#[test]
fn a_pod_made_anew_under_its_name_is_one_series() {
    let mut snapshot = full();
    let mut anew = snapshot.owners.list[2].clone();
    anew.slot = 9;
    anew.owner = Owner::pod("u-9", Some(("shop", "cart-1")));
    snapshot.owners.list.push(anew);
    let text = exposition(&snapshot, &CompanionStatus::default(), false);
    let series = r#"ctpressure_inserts_total{owner_kind="pod",namespace="shop",pod="cart-1",direction="egress"}"#;
    assert_eq!(text.matches(series).count(), 1, "{text}");
    assert!(text.contains(&format!("{series} 8000")), "{text}");
}

#[test]
fn nothing_is_claimed_before_the_first_sample() {
    let text = exposition(&Snapshot::default(), &CompanionStatus::default(), true);
    for name in [
        "inserts_total",
        "drops_total",
        "table_entries",
        "table_limit",
        "node_nf",
    ] {
        assert!(!text.contains(name), "{name} in:\n{text}");
    }
    for name in ["ctpressure_build_info", "ctpressure_events_lost_total"] {
        assert!(text.contains(name), "no {name} in:\n{text}");
    }
}

type Change<T> = fn(&mut T);

#[test]
fn what_no_probe_counts_is_withheld_and_not_0() {
    let without = |change: fn(&mut Totals)| {
        let mut snapshot = full();
        change(&mut snapshot.probes.totals);
        exposition(&snapshot, &CompanionStatus::default(), false)
    };
    let all = without(|_| {});
    let families: [(&str, Change<Totals>); 6] = [
        ("ctpressure_inserts_total{", |totals| totals.inserts = None),
        ("ctpressure_entries{", |totals| totals.inserts = None),
        ("ctpressure_deletes_total{", |totals| totals.deletes = None),
        ("ctpressure_entries{", |totals| totals.deletes = None),
        ("ctpressure_evictions_total{", |totals| {
            totals.evictions = None;
        }),
        ("ctpressure_drops_total{", |totals| {
            totals.drops = DropTotals::default();
            totals.refused_table_full = None;
        }),
    ];
    for (family, change) in families {
        assert!(all.contains(family), "no {family} in:\n{all}");
        let text = without(change);
        assert!(!text.contains(family), "{family} in:\n{text}");
    }
    let reasons: [(&str, Change<DropTotals>); 3] = [
        ("table_full", |drops| drops.table_full = None),
        ("clash", |drops| drops.clash = None),
        ("chain_too_long", |drops| drops.chain_too_long = None),
    ];
    for (reason, change) in reasons {
        let series = format!("reason=\"{reason}\"");
        assert!(all.contains(&series), "no {series} in:\n{all}");
        let mut snapshot = full();
        change(&mut snapshot.probes.totals.drops);
        let text = exposition(&snapshot, &CompanionStatus::default(), false);
        assert!(!text.contains(&series), "{series} in:\n{text}");
        assert!(text.contains("ctpressure_drops_total{"), "{text}");
    }
}

#[test]
fn what_only_the_kernel_counts_is_nobodys() {
    let mut snapshot = full();
    let text = exposition(&snapshot, &CompanionStatus::default(), false);
    for line in [
        r#"ctpressure_node_drops_total{stat="drop"} 1538"#,
        r#"ctpressure_node_drops_total{stat="chain_too_long"} 0"#,
        "ctpressure_node_evictions_total 20",
    ] {
        assert!(text.contains(line), "no {line} in:\n{text}");
    }
    snapshot.probes.node_losses = NodeLosses::default();
    let text = exposition(&snapshot, &CompanionStatus::default(), false);
    assert!(!text.contains("ctpressure_node_"), "{text}");
}

#[test]
fn counters_stay_while_conntrack_is_unloaded() {
    let unloaded = Snapshot {
        state: AgentState::Waiting,
        tables: Tables::default(),
        ..full()
    };
    let text = exposition(&unloaded, &CompanionStatus::default(), false);
    assert!(
        text.contains(r#"ctpressure_inserts_total{owner_kind="unknown",direction="egress"} 100"#),
        "{text}"
    );
    assert!(!text.contains("ctpressure_table_entries{"), "{text}");
    assert!(text.contains("ctpressure_conntrack_loaded 0\n"), "{text}");
    let before = exposition(&Snapshot::default(), &CompanionStatus::default(), false);
    assert!(!before.contains("ctpressure_conntrack_loaded"), "{before}");
}

#[test]
fn the_limit_controller_has_metrics_only_while_there_is_one() {
    assert!(!exposition(&full(), &CompanionStatus::default(), false).contains("ctpressure_limit_"));
    let text = exposition(&full(), &controlled(), false);
    for line in [
        r#"ctpressure_limit_changes_total{by="controller",result="applied"} 3"#,
        r#"ctpressure_limit_changes_total{by="somebody_else",result="applied"} 0"#,
        r#"ctpressure_limit_controller{state="acting"} 1"#,
        r#"ctpressure_limit_controller{state="standby"} 0"#,
        "ctpressure_limit_ceiling 276000",
        "ctpressure_limit_raised_from 1000",
        "ctpressure_limit_timeout_shortened_from_seconds 120",
        "ctpressure_limit_fight_rounds 6",
        "ctpressure_limit_fight_given_up 1",
    ] {
        assert!(text.contains(line), "no {line} in:\n{text}");
    }
}

#[test]
fn node_exporters_names_only_when_asked_for() {
    assert!(!exposition(&full(), &CompanionStatus::default(), false).contains("node_nf_conntrack"));
}

#[test]
fn what_the_kubernetes_api_says_of_a_pod() {
    let mut snapshot = full();
    let known = Owner::pod("u-2", Some(("shop", "cart-1"))).with(|details| {
        details.workload = Some(Workload {
            kind: "Deployment".to_owned(),
            name: "cart".to_owned(),
        });
        details.labels = [("app.kubernetes.io/name".to_owned(), "shop".to_owned())].into();
    });
    snapshot.owners.list[2].owner = known;
    let text = exposition(&snapshot, &CompanionStatus::default(), false);
    let series = r#"ctpressure_inserts_total{owner_kind="pod",namespace="shop",pod="cart-1",workload="cart",direction="egress",label_app_kubernetes_io_name="shop"} 4000"#;
    assert!(text.contains(series), "{text}");
}

mod series;
