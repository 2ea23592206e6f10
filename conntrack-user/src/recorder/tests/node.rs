//! A node that is made up: owners whose entries come and go, in a time of its own.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use ctpressure_model::pressure::{
    destinations::{Destination, Top},
    state::Pressure,
};

use crate::{
    agent::{AgentState, OwnerSample, Owners, Snapshot, Table, Tables},
    kernel::stats::KernelStats,
    owners::Owner,
};

pub(super) struct Node {
    snapshot: Snapshot,
    pub(super) wall: SystemTime,
    began: Instant,
    seconds: u64,
    random: u64,
    /// Inserts and deletes so far, by second.
    pub(super) totals: [u64; 2],
    pub(super) losses: u64,
}

impl Node {
    /// With so many pods, all of which move each second.
    pub(super) fn new(owners: u32) -> Self {
        let samples = (0..owners).map(|index| OwnerSample {
            slot: index + 2,
            owner: Owner::pod(
                &format!("3a7c0a52-0d5e-4d4c-9d3b-{index:012}"),
                Some(("shop", &format!("service-{index}-7d9c5b6f4-x2x{index}"))),
            ),
            present: true,
            egress: <_>::default(),
            ingress: <_>::default(),
            held_at_most: 0,
            activity: <_>::default(),
            destinations: <_>::default(),
        });
        let table = Table {
            netns: 4_026_531_840,
            name: "host".to_owned(),
            stats: Some(KernelStats::default()),
            ..Table::default()
        };
        Self {
            snapshot: Snapshot {
                state: AgentState::Attached,
                reason: None,
                ready: true,
                begun: true,
                tables: Tables {
                    limit: Some(262_144),
                    buckets: Some(65_536),
                    table_bytes: Some(80 << 20),
                    expectation_limit: None,
                    list: vec![table],
                },
                owners: Owners {
                    list: samples.collect(),
                    ..Owners::default()
                },
                ..Snapshot::default()
            },
            wall: SystemTime::UNIX_EPOCH + Duration::from_hours(500_000),
            began: Instant::now(),
            seconds: 0,
            random: 0x2545_f491_4f6c_dd1d,
            totals: [0; 2],
            losses: 0,
        }
    }

    /// Another limit from now on.
    pub(super) fn limit(&mut self, limit: u64) {
        self.snapshot.tables.limit = Some(limit);
    }

    /// The table is called so from now on.
    pub(super) fn call_table(&mut self, name: &str) {
        name.clone_into(&mut self.snapshot.tables.list[0].name);
    }

    /// A number below `below`: xorshift64*.
    pub(super) fn number(&mut self, below: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }

    /// What is known after one more second.
    pub(super) fn second(&mut self) -> (Arc<Snapshot>, SystemTime) {
        self.seconds += 1;
        self.wall += Duration::from_secs(1);
        let mut snapshot = self.snapshot.clone();
        snapshot.at = self.began + Duration::from_secs(self.seconds);
        snapshot.uptime_seconds += 1.0;
        let storm = self.seconds % 3600 < 120;
        let mut entries = 0;
        let mut owners = std::mem::take(&mut snapshot.owners.list);
        for owner in &mut owners {
            let (inserts, deletes) = (self.number(40), self.number(40));
            let totals = &mut owner.egress;
            let deletes = deletes.min(totals.live.unwrap_or(0) + inserts);
            totals.inserts += inserts;
            totals.deletes += deletes;
            totals.live = Some(totals.live.unwrap_or(0) + inserts - deletes);
            self.totals[0] += inserts;
            self.totals[1] += deletes;
            if storm && self.number(4) == 0 {
                let lost = 1 + self.number(5);
                totals.drops[0] += lost;
                owner.ingress.victims += 1;
                self.losses += lost + 1;
                *snapshot.probes.totals.drops.table_full.get_or_insert(0) += lost;
            }
            entries += owner.live();
            if self.seconds.is_multiple_of(10) {
                owner.activity.insert_share = 0.01;
                owner.activity.live_share = 0.01;
                owner.destinations.inserts = self.top();
            }
            if self.seconds.is_multiple_of(60) {
                owner.activity.states = vec![
                    ("established".to_owned(), owner.egress.live.unwrap_or(0) / 2),
                    ("time_wait".to_owned(), owner.egress.live.unwrap_or(0) / 3),
                ];
            }
        }
        snapshot.owners.list = owners;
        snapshot.owners.census.times = 1 + self.seconds / 60;
        [
            snapshot.probes.totals.inserts,
            snapshot.probes.totals.deletes,
        ] = self.totals.map(Some);
        let table = &mut snapshot.tables.list[0];
        table.entries = entries;
        table.pressure = if storm {
            Pressure::Full
        } else {
            Pressure::Calm
        };
        if let (true, Some(stats)) = (storm, &mut table.stats) {
            stats.drop += 3;
            stats.early_drop += 7;
            stats.chain_too_long = Some(stats.chain_too_long.unwrap_or(0) + 1);
        }
        self.snapshot = snapshot.clone();
        (Arc::new(snapshot), self.wall)
    }

    fn top(&mut self) -> Top {
        let destinations = (0..5).map(|index| Destination {
            address: [10, 96, 0, u8::try_from(self.number(250)).unwrap_or(0)].into(),
            port: Some(5000 + index),
            protocol: "tcp".to_owned(),
            count: 100.0 / f64::from(index + 1),
            error: 1.0,
            share: 0.2,
            per_second: 3.0,
        });
        Top {
            destinations: destinations.collect(),
            ..Top::default()
        }
    }
}
