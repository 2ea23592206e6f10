//! A node on which a pod fills the host's table and another one loses packets.

use std::net::IpAddr;

use conntrack_ebpf::record::DropReason;
use ctpressure_model::pressure::{
    destinations::{Destination, Top},
    lifetime::{Bound, Lifetime},
    rate::Rates,
    state::Pressure,
};

use crate::{
    agent::{
        Activity, AgentState, KernelInfo, OwnerSample, OwnerTotals, Owners, Recount, Snapshot,
        Table, Tables, Tops,
    },
    owners::Owner,
};

/// The same rate over each window.
pub(crate) const fn rates(rate: f64) -> Rates {
    Rates {
        second: Some(rate),
        ten_seconds: Some(rate),
        minute: Some(rate),
    }
}

/// Destinations `10.96.0.N:53`, as many as `counts`.
pub(crate) fn top(counts: &[f64]) -> Top {
    let total = counts.iter().sum::<f64>().max(1.0);
    Top {
        window_seconds: 30.0,
        total,
        others_at_most: 3.0,
        destinations: counts
            .iter()
            .zip(10_u8..)
            .map(|(count, last)| Destination {
                address: IpAddr::from([10, 96, 0, last]),
                port: Some(53),
                protocol: "udp".to_owned(),
                count: *count,
                error: 2.0,
                share: count / total,
                per_second: count / 30.0,
            })
            .collect(),
    }
}

/// An owner with nothing but entries.
pub(crate) fn owner(slot: u32, owner: Owner, live: u64) -> OwnerSample {
    OwnerSample {
        slot,
        owner,
        present: true,
        egress: OwnerTotals {
            inserts: live,
            live: Some(live),
            ..OwnerTotals::default()
        },
        ingress: OwnerTotals {
            live: Some(0),
            ..OwnerTotals::default()
        },
        held_at_most: 0,
        activity: Activity {
            inserts_per_second: rates(0.0),
            deletes_per_second: rates(0.0),
            drops_per_second: rates(0.0),
            ..Activity::default()
        },
        destinations: Tops::default(),
    }
}

/// The pod that fills the table.
fn filler() -> OwnerSample {
    let mut sample = owner(
        2,
        Owner::pod("u-2", Some(("metrics", "aggregator-0"))),
        1_700,
    );
    sample.egress.inserts = 11_500;
    sample.egress.deletes = 9_800;
    sample.egress.causes = 9_700;
    sample.activity = Activity {
        inserts_per_second: rates(1_500.0),
        deletes_per_second: rates(1_310.5),
        live_share: 0.85,
        limit_share: Some(0.85),
        insert_share: 0.99,
        lifetime: Some(Lifetime {
            is: Bound::AtLeast,
            seconds: 12.4,
            error: 0.2,
        }),
        states: vec![("UNREPLIED".to_owned(), 1_650), ("ASSURED".to_owned(), 50)],
        ..sample.activity
    };
    sample.destinations = Tops {
        inserts: top(&[30_000.0, 9_000.0]),
        services: top(&[39_000.0]),
        drops: Top::default(),
    };
    sample
}

/// The pod that loses packets.
fn victim() -> OwnerSample {
    let mut sample = owner(3, Owner::pod("u-3", Some(("shop", "cart-1"))), 200);
    sample.egress.victims = 41;
    sample.egress.drops[DropReason::TableFull as usize - 1] = 170;
    sample.egress.drops[DropReason::Clash as usize - 1] = 7;
    sample.activity.drops_per_second = rates(17.7);
    sample.activity.drop_share = 1.0;
    sample.activity.live_share = 0.1;
    sample.activity.limit_share = Some(0.1);
    sample.destinations.drops = top(&[120.0]);
    sample
}

pub(crate) fn snapshot() -> Snapshot {
    let table = |netns, name: &str, entries, pressure, seconds_to_full| Table {
        netns,
        name: name.to_owned(),
        entries,
        pressure,
        seconds_to_full,
        ..Table::default()
    };
    let mut snapshot = Snapshot {
        uptime_seconds: 61.0,
        state: AgentState::Attached,
        reason: None,
        ready: true,
        begun: true,
        kernel: KernelInfo {
            release: "6.12.0".to_owned(),
        },
        tables: Tables {
            limit: Some(2_000),
            buckets: Some(1_024),
            table_bytes: Some(700_000),
            expectation_limit: None,
            list: vec![
                table(4_026_531_840, "host", 1_990, Pressure::Full, Some(0.0)),
                table(4_026_532_177, "pod-b", 10, Pressure::Calm, None),
            ],
        },
        owners: Owners {
            list: vec![
                owner(0, Owner::unknown(), 0),
                owner(1, Owner::host(), 90),
                filler(),
                victim(),
                owner(
                    4,
                    Owner::cgroup("sshd.service", "/system.slice/sshd.service"),
                    10,
                ),
            ],
            census: Recount {
                times: 1,
                ..Recount::default()
            },
            ..Owners::default()
        },
        ..Snapshot::default()
    };
    let totals = &mut snapshot.probes.totals;
    totals.inserts = Some(11_800);
    totals.deletes = Some(9_800);
    totals.evictions = Some(9_700);
    totals.drops.table_full = Some(170);
    totals.drops.clash = Some(7);
    totals.drops.chain_too_long = Some(0);
    totals.drops.dying = Some(0);
    snapshot
}
