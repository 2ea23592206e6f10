//! Who did what.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use conntrack_ebpf::owner::Direction;
use ctpressure_model::owner::{Details, Owner, OwnerKind, Workload};

use super::{recording::Recording, tables::LOOK_BACK};
use crate::{JournalError, Loss, OwnerId, OwnerPoint, OwnerSum};

/// An owner in one direction.
type Party = (OwnerId, u8);

const fn direction(number: u8) -> Direction {
    if number == 0 {
        Direction::Egress
    } else {
        Direction::Ingress
    }
}

/// A row of `flow`.
#[derive(Clone, Copy)]
struct Flow {
    inserts: u64,
    deletes: u64,
    live: u64,
}

fn kind(label: &str) -> OwnerKind {
    [OwnerKind::Pod, OwnerKind::Cgroup, OwnerKind::Host]
        .into_iter()
        .find(|kind| kind.label() == label)
        .unwrap_or(OwnerKind::Unknown)
}

/// What made a pod, where the Kubernetes API was asked.
fn workload(kind: Option<String>, name: Option<String>) -> Option<Workload> {
    let (kind, name) = kind.zip(name)?;
    Some(Workload { kind, name })
}

impl Recording<'_> {
    /// All owners that have rows in this journal, also outside the range.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn owners(&self) -> Result<BTreeMap<OwnerId, Owner>, JournalError> {
        let query =
            "SELECT id, kind, uid, namespace, pod, unit, workload_kind, workload FROM owner";
        self.rows(query, [], |row| {
            let owner = Details {
                kind: kind(&row.get::<_, String>(1)?),
                uid: row.get(2)?,
                namespace: row.get(3)?,
                pod: row.get(4)?,
                unit: row.get(5)?,
                workload: workload(row.get(6)?, row.get(7)?),
                ..Details::default()
            };
            Ok((OwnerId(row.get(0)?), owner.into()))
        })
    }

    /// What each owner did in the range, by owner and direction. Those that had entries and did
    /// nothing are in it too.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn owner_sums(&self) -> Result<Vec<OwnerSum>, JournalError> {
        self.ask(|_| self.sums())
    }

    fn sums(&self) -> rusqlite::Result<Vec<OwnerSum>> {
        let mut sums: BTreeMap<Party, OwnerSum> = BTreeMap::new();
        let new = |party: Party, live: u64| OwnerSum {
            owner: party.0,
            direction: direction(party.1),
            inserts: 0,
            deletes: 0,
            live_first: live,
            live_max: live,
            live_last: live,
            losses: BTreeMap::new(),
        };
        for (party, live) in self.live_before()? {
            sums.insert(party, new(party, live));
        }
        self.each_flow(|_, party, flow| {
            let sum = sums.entry(party).or_insert_with(|| {
                new(
                    party,
                    (flow.live + flow.deletes).saturating_sub(flow.inserts),
                )
            });
            sum.inserts = sum.inserts.saturating_add(flow.inserts);
            sum.deletes = sum.deletes.saturating_add(flow.deletes);
            sum.live_max = sum.live_max.max(flow.live);
            sum.live_last = flow.live;
        })?;
        self.each_loss(|_, party, loss, number| {
            let sum = sums.entry(party).or_insert_with(|| new(party, 0));
            let lost = sum.losses.entry(loss).or_default();
            *lost = lost.saturating_add(number);
        })?;
        Ok(sums.into_values().collect())
    }

    /// What these owners did, by bucket, in order of time. A bucket in which one did not move has
    /// no point of it.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn owner_points(
        &self,
        bucket: Duration,
        owners: &[OwnerId],
    ) -> Result<Vec<OwnerPoint>, JournalError> {
        self.ask(|_| self.points(bucket, owners))
    }

    fn points(&self, bucket: Duration, owners: &[OwnerId]) -> rusqlite::Result<Vec<OwnerPoint>> {
        let wanted: HashSet<OwnerId> = owners.iter().copied().collect();
        let mut points: BTreeMap<(i64, Party), OwnerPoint> = BTreeMap::new();
        let new = |index: i64, party: Party| OwnerPoint {
            at: self.begin_of(index, bucket),
            owner: party.0,
            direction: direction(party.1),
            inserts: 0,
            deletes: 0,
            live: 0,
            losses: BTreeMap::new(),
        };
        let mut live: HashMap<Party, u64> = self.live_before()?.into_iter().collect();
        self.each_flow(|index, party, flow| {
            if wanted.contains(&party.0) {
                let index = self.bucket_of(self.ticks[index], bucket);
                let point = points
                    .entry((index, party))
                    .or_insert_with(|| new(index, party));
                point.inserts = point.inserts.saturating_add(flow.inserts);
                point.deletes = point.deletes.saturating_add(flow.deletes);
                point.live = flow.live;
            }
        })?;
        let mut only_lost = Vec::new();
        self.each_loss(|index, party, loss, number| {
            if wanted.contains(&party.0) {
                let index = self.bucket_of(self.ticks[index], bucket);
                let point = points.entry((index, party)).or_insert_with(|| {
                    only_lost.push((index, party));
                    new(index, party)
                });
                let lost = point.losses.entry(loss).or_default();
                *lost = lost.saturating_add(number);
            }
        })?;
        // Whoever lost something and did not move has what it had before.
        let only_lost: HashSet<_> = only_lost.into_iter().collect();
        for (key, point) in &mut points {
            if only_lost.contains(key) {
                point.live = live.get(&key.1).copied().unwrap_or(0);
            } else {
                live.insert(key.1, point.live);
            }
        }
        Ok(points.into_values().collect())
    }

    /// Entries that parties had before the range.
    fn live_before(&self) -> rusqlite::Result<BTreeMap<Party, u64>> {
        let [first, _] = self.bounds();
        let mut statement = self.transaction.prepare(
            "SELECT owner, direction, live FROM flow WHERE tick >= ?1 AND tick < ?2 ORDER BY tick",
        )?;
        let mut rows = statement.query([first.saturating_sub(LOOK_BACK), first])?;
        let mut live = BTreeMap::new();
        while let Some(row) = rows.next()? {
            live.insert((OwnerId(row.get(0)?), row.get(1)?), row.get(2)?);
        }
        live.retain(|_, live| *live > 0);
        Ok(live)
    }

    /// Rows of `flow` in order of time, with the index of their tick.
    fn each_flow(&self, mut visit: impl FnMut(usize, Party, Flow)) -> rusqlite::Result<()> {
        let query = "SELECT tick, owner, direction, inserts, deletes, live FROM flow \
                     WHERE tick BETWEEN ?1 AND ?2 ORDER BY tick";
        self.each_row(query, |tick, row| {
            let flow = Flow {
                inserts: row.get(3)?,
                deletes: row.get(4)?,
                live: row.get(5)?,
            };
            visit(tick, (OwnerId(row.get(1)?), row.get(2)?), flow);
            Ok(())
        })
    }

    fn each_loss(&self, mut visit: impl FnMut(usize, Party, Loss, u64)) -> rusqlite::Result<()> {
        let query = "SELECT tick, owner, direction, what, number FROM loss \
                     WHERE tick BETWEEN ?1 AND ?2 ORDER BY tick";
        self.each_row(query, |tick, row| {
            // A kind that this version does not know is no damage.
            if let Some(loss) = Loss::from_number(row.get(3)?) {
                visit(tick, (OwnerId(row.get(1)?), row.get(2)?), loss, row.get(4)?);
            }
            Ok(())
        })
    }
}
