//! What one owner has, at one second.

use std::ops::Add;

use conntrack_ebpf::{owner::Direction, record::DropReason};
use ctpressure_model::pressure::{destinations::Top, lifetime::Lifetime, rate::Rates};
use serde::{Deserialize, Serialize, Serializer};

use super::ownership::Bounds;
use crate::owners::Owner;

/// Counts of one owner in one direction, from when it was first seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OwnerTotals {
    /// Entries that entered a table.
    pub inserts: u64,
    /// Entries that left it.
    pub deletes: u64,
    /// Entries that are in it; `None`: not known yet. Where it is not known exactly it is a number within `bounds`, chosen so
    /// that the sum over all owners is what the tables hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<u64>,
    /// What is certain of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounds: Option<Bounds>,
    /// Entries that the last census found, where they are not counted: of what came and went since nothing is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<u64>,
    /// Live entries that were removed to make room.
    pub victims: u64,
    /// Live entries of anybody that were removed to make room for this owner's.
    pub causes: u64,
    /// Packets lost, by [`DropReason`] less 1; and requests that were refused, for which none was lost ([`DropReason::loses_packet`]).
    #[serde(serialize_with = "drops_by_name")]
    #[cfg_attr(test, schemars(with = "std::collections::BTreeMap<String, u64>"))]
    pub drops: [u64; DropReason::ALL.len()],
}

/// What an owner does now, over both directions.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Activity {
    /// Entries that enter, a second.
    pub inserts_per_second: Rates,
    /// Entries that leave, a second.
    pub deletes_per_second: Rates,
    /// Packets lost, a second.
    pub drops_per_second: Rates,
    /// Mean lifetime of its entries; `None`: too few inserts to say.
    pub lifetime: Option<Lifetime>,
    /// Its part of what the kernel counts in all tables, 0 to 1.
    pub live_share: f64,
    /// Its entries as a part of the limit, 0 to 1; `None`: there is no limit.
    pub limit_share: Option<f64>,
    /// Its part of what entered in the last ten seconds, 0 to 1.
    pub insert_share: f64,
    /// Its part of the packets lost in the last ten seconds, 0 to 1.
    pub drop_share: f64,
    /// States of its entries at the last census, most frequent first.
    pub states: Vec<(String, u64)>,
}

/// The most frequent destinations of one owner.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Tops {
    /// By connections opened, after DNAT.
    pub inserts: Top,
    /// By connections opened, as the opener asked for: Service addresses.
    pub services: Top,
    /// Where its lost packets were sent.
    pub drops: Top,
}

/// One owner in one second: totals, rates, destinations.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OwnerSample {
    /// The slot that the kernel side knows it by.
    pub slot: u32,
    /// Who it is, and its labels.
    pub owner: Owner,
    /// It is there; else it is gone and may still have entries.
    pub present: bool,
    /// Connections that it opened.
    pub egress: OwnerTotals,
    /// Connections that came in to it.
    pub ingress: OwnerTotals,
    /// Entries that left the table while packets held them, and that the kernel still counts: at most so many. They are not in `live`.
    pub held_at_most: u64,
    /// What it does now.
    pub activity: Activity,
    /// Where its connections go. Made of sampled events: each count has an error.
    pub destinations: Tops,
}

impl OwnerSample {
    /// What it opened, and what was opened to it.
    pub const fn by_direction(&self) -> [(Direction, &OwnerTotals); 2] {
        [
            (Direction::Egress, &self.egress),
            (Direction::Ingress, &self.ingress),
        ]
    }

    /// Entries in both directions, or those that the last census found; 0 while that is not known.
    pub fn live(&self) -> u64 {
        let [egress, ingress] =
            [&self.egress, &self.ingress].map(|totals| totals.live.or(totals.found));
        egress.unwrap_or(0) + ingress.unwrap_or(0)
    }
}

impl OwnerTotals {
    /// Packets lost, for any reason.
    pub fn lost(&self) -> u64 {
        let reasons = DropReason::ALL.into_iter();
        let reasons = reasons.filter(|reason| reason.loses_packet());
        reasons.map(|reason| self.dropped(reason)).sum()
    }

    /// Packets lost, or entries refused, for this reason.
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize - 1]
    }

    /// Nothing was ever counted, and nothing is there.
    pub fn is_zero(&self) -> bool {
        let counted = Self {
            live: self.live.filter(|live| *live > 0),
            found: self.found.filter(|found| *found > 0),
            bounds: None,
            ..*self
        };
        counted == Self::default()
    }
}

impl Add for OwnerTotals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let mut drops = self.drops;
        for (drop, more) in drops.iter_mut().zip(other.drops) {
            *drop += more;
        }
        Self {
            inserts: self.inserts + other.inserts,
            deletes: self.deletes + other.deletes,
            live: self.live.zip(other.live).map(|(one, other)| one + other),
            bounds: self
                .bounds
                .zip(other.bounds)
                .map(|(one, other)| one + other),
            found: self.found.zip(other.found).map(|(one, other)| one + other),
            victims: self.victims + other.victims,
            causes: self.causes + other.causes,
            drops,
        }
    }
}

fn drops_by_name<S: Serializer>(
    drops: &[u64; DropReason::ALL.len()],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let named = DropReason::ALL.map(|reason| (reason.name(), drops[reason as usize - 1]));
    serializer.collect_map(named.into_iter().filter(|(_, number)| *number > 0))
}
