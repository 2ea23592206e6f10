//! A node that does its work: 8 GiB, 4 CPUs, Linux 6.12, kube-proxy 1.31 in iptables mode.

use ctpressure_model::{cost::Slab, verdict::Composition};

use super::facts::{
    CensusFacts, CountFacts, Facts, FirewallRules, KernelSettings, KubeProxy, Place, Program,
    ProxyMode, ProxySettings, Release, TableFacts, TableMakeup, Waiting,
    census::ClassCount,
    hooks::HookOutlook,
    rules::Forward,
    rules::{Backend, InvalidDrop},
};
use crate::kernel::stats::KernelStats;

/// No finding is to be made of it.
pub(super) fn healthy() -> Facts {
    let stats = KernelStats {
        clash_resolve: Some(40),
        chain_too_long: Some(0),
        found: 900,
        invalid: 700,
        insert_failed: 30,
        drop: 30,
        ..KernelStats::default()
    };
    let table = |name: &str, entries| TableFacts {
        netns: 4_026_532_177,
        name: name.to_owned(),
        entries,
        since_boot: Some(stats),
        between: Some(KernelStats {
            clash_resolve: Some(0),
            chain_too_long: Some(0),
            found: 2,
            ..KernelStats::default()
        }),
    };
    let forward = |ipv6| Forward {
        ipv6,
        backend: Backend::Nft,
        drop: Some(InvalidDrop { packets: Some(12) }),
    };
    Facts {
        release: Release::parse("6.12.118+deb13-amd64"),
        place: Place::default(),
        cpus: Some(4),
        memory: Some(8_100_000 * 1024),
        uptime: Some(864_000.0),
        loaded: true,
        settings: settings(),
        files: Vec::new(),
        slab: Some(Slab {
            object_bytes: 256,
            objects: 32,
            bytes: 8192,
            slabs: 1_000,
        }),
        counts: CountFacts {
            tables: vec![table("host", 30_000), table("4026532177", 50)],
            seconds: 0.5,
        },
        census: Some(census()),
        makeup: ["host", "4026532177"].map(makeup).into(),
        allowances: Vec::new(),
        waiting: Waiting {
            programs: Some(Vec::new()),
            interfaces: Some(Vec::new()),
            neighbours: Some(0),
        },
        proxy: Some(KubeProxy {
            process: 321,
            program: Program::KubeProxy,
            config: Some("/var/lib/kube-proxy/config.conf".into()),
            settings: Some(ProxySettings {
                max_per_core: 65_536,
                min: 131_072,
            }),
            minor: Some(31),
            version: Some("v1.31.4".to_owned()),
        }),
        bpf_tables: None,
        rules: FirewallRules {
            mode: Some(ProxyMode::Iptables),
            forward: vec![forward(false), forward(true)],
            complete: true,
            timeout_policies: Some(false),
        },
        listeners: Vec::new(),
        hooks: Some(HookOutlook {
            hooks: vec!["insert: fentry __nf_conntrack_hash_insert".to_owned()],
            ..HookOutlook::default()
        }),
        has_procfs: Some(true),
        looked: vec!["limit, buckets and timeouts"],
        refused: None,
        unseen: Vec::new(),
    }
}

/// A table of connections that are answered.
fn makeup(table: &str) -> TableMakeup {
    TableMakeup {
        table: table.to_owned(),
        composition: Composition {
            entries: 29_000,
            count: Some(29_000),
            one_way: 1_000,
            ..Composition::default()
        },
    }
}

fn settings() -> KernelSettings {
    let values = [
        ("acct", 0),
        ("events", 2),
        ("log_invalid", 0),
        ("tcp_be_liberal", 0),
        ("tcp_timeout_close_wait", 3_600),
        ("tcp_timeout_established", 86_400),
        ("tcp_timeout_syn_sent", 120),
        ("tcp_timeout_time_wait", 120),
        ("timestamp", 0),
        ("udp_timeout", 30),
        ("udp_timeout_stream", 120),
    ];
    KernelSettings {
        limit: Some(262_144),
        buckets: Some(262_144),
        values: values.into(),
    }
}

fn census() -> CensusFacts {
    let count = |entries, idle| ClassCount { entries, idle };
    CensusFacts {
        read: 29_000,
        counted: 30_000,
        whole: true,
        // Established, TIME_WAIT, CLOSE_WAIT, SYN_SENT, UDP streams, UDP.
        classes: [
            count(9_000, 500),
            count(9_000, 4_500),
            count(100, 50),
            count(20, 5),
            count(2_000, 0),
            count(8_000, 0),
        ],
        ports: None,
        strays: Vec::new(),
        expired: Some(1_000),
        held: Some(0),
    }
}
