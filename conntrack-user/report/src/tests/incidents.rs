//! Incidents of different kinds; what the report says of each is in `golden/`.

use super::scene::{Actor, Scene};

const SHOP: &[(&str, u16)] = &[
    ("10.96.12.1", 443),
    ("10.96.12.2", 443),
    ("10.96.12.3", 443),
];
const DNS: &[(&str, u16)] = &[("10.96.0.10", 53)];

/// Something that is always there.
fn web() -> Actor {
    Actor::new("shop/web", |_| 10, 20).to(SHOP)
}

fn of(limit: fn(u64) -> u64, seconds: u64, actors: Vec<Actor>) -> Scene {
    let mut scene = Scene::new(limit, actors);
    scene.run(seconds);
    scene
}

pub(super) fn slow_leak() -> Scene {
    let leak = Actor {
        states: &[("ESTABLISHED", 99), ("CLOSE_WAIT", 1)],
        retries: 3,
        ..Actor::new("shop/api", |_| 2, 1 << 40)
    };
    of(|_| 4_000, 2_100, vec![web(), leak])
}

pub(super) fn burst() -> Scene {
    let batch = Actor::new(
        "batch/report-29",
        |at| if (200..220).contains(&at) { 300 } else { 1 },
        60,
    );
    of(|_| 4_000, 400, vec![web(), batch])
}

pub(super) fn near_miss() -> Scene {
    let batch = Actor::new(
        "batch/report-29",
        |at| if (200..220).contains(&at) { 160 } else { 1 },
        60,
    );
    of(|_| 4_000, 400, vec![web(), batch])
}

pub(super) fn unit_of_the_host() -> Scene {
    let backup = Actor::new(
        "backup.service",
        |at| if (200..215).contains(&at) { 400 } else { 1 },
        120,
    );
    of(|_| 4_000, 420, vec![web(), backup.to(&[("10.0.0.9", 873)])])
}

pub(super) fn syn_flood() -> Scene {
    let flood = Actor {
        ingress: true,
        evictable: true,
        many_sources: true,
        states: &[("SYN_RECV", 97), ("ESTABLISHED", 3)],
        ..Actor::new(
            "shop/web",
            |at| if (120..180).contains(&at) { 400 } else { 2 },
            60,
        )
    };
    let other = Actor::new("shop/cart", |_| 5, 20).to(SHOP);
    of(|_| 4_000, 300, vec![flood.to(&[("10.42.1.5", 443)]), other])
}

pub(super) fn one_way_udp() -> Scene {
    let statsd = Actor::new(
        "metrics/emitter",
        |at| if (120..200).contains(&at) { 300 } else { 3 },
        30,
    );
    of(
        |_| 4_000,
        300,
        vec![web(), statsd.udp(false).to(&[("10.96.7.7", 8125)])],
    )
}

pub(super) fn dns_storm() -> Scene {
    let crawler = Actor::new(
        "shop/crawler",
        |at| if (120..200).contains(&at) { 250 } else { 2 },
        30,
    );
    of(|_| 4_000, 300, vec![web(), crawler.udp(true).to(DNS)])
}

pub(super) fn evictions_without_drops() -> Scene {
    let game = Actor::new(
        "game/lobby",
        |at| if (120..160).contains(&at) { 250 } else { 10 },
        30,
    );
    let to = [("10.96.20.1", 7777), ("10.96.20.2", 7777)];
    of(|_| 4_000, 300, vec![web(), game.udp(true).to(&to)])
}

pub(super) fn nat_ports() -> Scene {
    let proxy = Actor::new("shop/proxy", |_| 20, 30)
        .to(&[("203.0.113.9", 443)])
        .loses(
            (2, "clash"),
            |at| if (120..180).contains(&at) { 12 } else { 0 },
        );
    let mut scene = Scene::new(|_| 262_144, vec![web(), proxy]);
    scene.found = |at| {
        if (120..180).contains(&at) {
            12 * 248
        } else {
            1
        }
    };
    scene.run(300);
    scene
}

pub(super) fn clash_storm() -> Scene {
    let php = Actor::new("shop/php", |_| 30, 30)
        .udp(true)
        .to(DNS)
        .loses((2, "clash"), |at| u64::from((120..180).contains(&at)) * 3);
    of(|_| 262_144, 300, vec![web(), php])
}

pub(super) fn long_chains() -> Scene {
    let mesh = Actor {
        held: 20_000,
        ..Actor::new("mesh/gateway", |_| 50, 30)
    };
    let mesh = mesh.loses((3, "chain_too_long"), |at| {
        u64::from((60..120).contains(&at)) * 9
    });
    let mut scene = Scene::new(|_| 262_144, vec![web(), mesh]);
    scene.buckets = 1_024;
    scene.run(200);
    scene
}

pub(super) fn dying() -> Scene {
    let api = Actor::new("shop/api", |_| 20, 30)
        .loses((4, "dying"), |at| u64::from((100..110).contains(&at)) * 4);
    of(|_| 262_144, 200, vec![web(), api])
}

pub(super) fn requests_refused() -> Scene {
    let sync = Actor {
        held: 3_700,
        ..Actor::new("conntrackd.service", |_| 0, 30)
    };
    let sync = sync.loses((5, "table_full_request"), |at| {
        u64::from((100..150).contains(&at)) * 7
    });
    of(|_| 4_000, 200, vec![sync])
}

pub(super) fn limit_lowered() -> Scene {
    let proxy = Actor {
        held: 2_600,
        states: &[("ESTABLISHED", 100)],
        ..Actor::new("shop/db-proxy", |_| 1, 60)
    };
    let scene = of(
        |at| if at < 200 { 4_000 } else { 2_000 },
        300,
        vec![web(), proxy.to(&[("10.0.0.5", 5432)])],
    );
    scene.change(200, Some("kube-proxy"), 4_000, 2_000);
    scene
}

pub(super) fn limit_halved_and_backends_doubled() -> Scene {
    let aggregator = Actor {
        retries: 4,
        later: Some((210, vec![("10.200.0.200", 7000), ("10.201.0.200", 7000)])),
        states: &[("ESTABLISHED", 100)],
        ..Actor::new(
            "shop/aggregator",
            |at| match at {
                60..65 | 210..215 => 360,
                _ => 0,
            },
            1 << 40,
        )
    };
    let scene = of(
        |at| if at < 200 { 4_000 } else { 2_000 },
        300,
        vec![
            web(),
            aggregator.to(&[("10.200.0.10", 7000), ("10.201.0.10", 7000)]),
        ],
    );
    scene.change(200, None, 4_000, 2_000);
    scene
}

pub(super) fn backends_doubled() -> Scene {
    let aggregator = Actor {
        held: 1_000,
        later: Some((200, vec![("10.200.0.200", 7000), ("10.201.0.200", 7000)])),
        states: &[("ESTABLISHED", 100)],
        ..Actor::new(
            "shop/aggregator",
            |at| if (200..260).contains(&at) { 30 } else { 1 },
            1 << 40,
        )
    };
    of(
        |_| 3_000,
        400,
        vec![
            web(),
            aggregator.to(&[("10.200.0.10", 7000), ("10.201.0.10", 7000)]),
        ],
    )
}

pub(super) fn table_of_a_pod() -> Scene {
    let mesh = Actor::new(
        "shop/sidecar",
        |at| if (200..230).contains(&at) { 200 } else { 2 },
        60,
    );
    let mut scene = Scene::new(|_| 4_000, vec![mesh.to(&[("10.96.3.3", 15001)])]);
    scene.table = "shop/sidecar";
    scene.run(350);
    scene
}

pub(super) fn not_conntrack() -> Scene {
    of(|_| 262_144, 300, vec![web()])
}

/// The instance drops packets, and then its driver is loaded anew; the table is all but empty.
pub(super) fn instance_allowance() -> Scene {
    let scene = not_conntrack();
    for (second, conntrack, bandwidth) in [(0, 70, 5), (60, 90, 5), (120, 1_270, 9), (180, 20, 0)] {
        let fact = |of: &str, value: u64| {
            scene.fact_at(
                second,
                &format!("allowance_exceeded.{of}"),
                &value.to_string(),
            );
        };
        fact("eth0.conntrack", conntrack);
        fact("eth0.7.bw_in", bandwidth);
    }
    scene
}

/// Somebody copied something: that is not why connections failed.
pub(super) fn instance_bandwidth() -> Scene {
    let scene = not_conntrack();
    scene.fact_at(0, "allowance_exceeded.eth0.bw_in", "5");
    scene.fact_at(120, "allowance_exceeded.eth0.bw_in", "905");
    scene
}

/// The same, while the table is full too: what is said of the table stays first.
pub(super) fn full_and_instance_allowance() -> Scene {
    let scene = burst();
    scene.fact_at(0, "allowance_exceeded.eth0.pps", "5");
    scene.fact_at(210, "allowance_exceeded.eth0.pps", "905");
    scene
}

pub(super) fn invalid_packets() -> Scene {
    let mut scene = Scene::new(|_| 262_144, vec![web()]);
    scene.invalid = |at| if (100..200).contains(&at) { 40 } else { 0 };
    scene.run(300);
    scene
}

pub(super) fn time_wait() -> Scene {
    let checkout = Actor {
        states: &[("TIME_WAIT", 93), ("ESTABLISHED", 7)],
        ..Actor::new("shop/checkout", |at| if at < 60 { 4 } else { 45 }, 120)
    };
    of(
        |_| 4_000,
        400,
        vec![web(), checkout.to(&[("10.96.5.5", 8443)])],
    )
}

pub(super) fn retry_storm() -> Scene {
    let worker = Actor {
        states: &[("ESTABLISHED", 80), ("SYN_SENT", 20)],
        ..Actor::new("jobs/worker", |at| if at < 160 { 12 } else { 240 }, 300)
    };
    of(
        |_| 2_000,
        320,
        vec![web(), worker.to(&[("10.96.8.8", 5672)])],
    )
}

pub(super) fn established_idle() -> Scene {
    let sockets = Actor {
        held: 3_750,
        states: &[("ESTABLISHED", 100)],
        ..Actor::new("chat/websocket", |at| u64::from(at.is_multiple_of(10)), 600)
    };
    of(|_| 4_000, 300, vec![web(), sockets])
}

pub(super) fn new_pod() -> Scene {
    let importer = Actor::new(
        "batch/importer-1",
        |at| if (200..240).contains(&at) { 150 } else { 0 },
        600,
    );
    of(
        |_| 4_000,
        400,
        vec![web(), importer.to(&[("10.0.0.7", 9200)])],
    )
}

pub(super) fn many_owners() -> Scene {
    let pods = (0..16).map(|number| {
        Actor::new(
            &format!("shop/worker-{number}"),
            |at| if at < 200 { 4 } else { 20 },
            20,
        )
    });
    of(|_| 4_000, 320, pods.collect())
}

pub(super) fn not_watched() -> Scene {
    let mut scene = Scene::new(|_| 262_144, vec![web()]);
    scene.asleep = |at| (60..270).contains(&at);
    scene.run(300);
    scene
}
