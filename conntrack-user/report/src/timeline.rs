//! The picture: what there was, step by step.

use ctpressure_model::words::time::serialize_seconds;
use serde::Serialize;

use super::evidence::{Evidence, EvidencePoint};

/// Owners that are shown apart from the others.
pub(crate) const OWNERS: usize = 5;

/// What there was, step by step. All lists are of the same length.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ReportTimeline {
    /// Begin of the first step, seconds since 1970.
    #[serde(serialize_with = "serialize_seconds")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) from: u64,
    /// Seconds of a step.
    pub(crate) step: u64,
    /// Seconds of each step that were recorded; 0: a gap.
    pub(crate) recorded: Vec<u64>,
    pub(crate) entries: Vec<u64>,
    /// The lowest limit; 0: none or not known.
    pub(crate) limit: Vec<u64>,
    /// Entries that entered, by owner: the foremost, and the others.
    pub(crate) inserts: Vec<OwnerSeries>,
    pub(crate) drops: Vec<u64>,
    /// Live entries removed to make room.
    pub(crate) evictions: Vec<u64>,
}

/// What one owner did, step by step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct OwnerSeries {
    /// Who; `others` for the rest.
    pub(crate) name: String,
    pub(crate) values: Vec<u64>,
}

impl ReportTimeline {
    /// Of what is shown.
    pub(crate) fn new(evidence: &Evidence) -> Self {
        let of = |value: fn(&EvidencePoint) -> u64| evidence.points.iter().map(value).collect();
        let mut foremost: Vec<_> = evidence
            .owners
            .iter()
            .map(|owner| {
                let values: Vec<u64> = owner
                    .points
                    .iter()
                    .map(|point| u64::from(point.inserts))
                    .collect();
                (values.iter().sum::<u64>(), owner.name.clone(), values)
            })
            .filter(|(sum, ..)| *sum > 0)
            .collect();
        foremost.sort_by_key(|(sum, ..)| std::cmp::Reverse(*sum));
        foremost.truncate(OWNERS);
        let mut inserts: Vec<OwnerSeries> = foremost
            .into_iter()
            .map(|(_, name, values)| OwnerSeries { name, values })
            .collect();
        let others: Vec<u64> = evidence
            .points
            .iter()
            .enumerate()
            .map(|(at, point)| {
                let shown = inserts.iter().filter_map(|series| series.values.get(at));
                point.inserts.saturating_sub(shown.sum())
            })
            .collect();
        if others.iter().any(|number| *number > 0) {
            inserts.push(OwnerSeries {
                name: "others".to_owned(),
                values: others,
            });
        }
        Self {
            from: evidence.shown.from,
            step: evidence.step,
            recorded: of(|point| point.seconds),
            entries: of(|point| point.entries_most),
            limit: of(|point| point.limit),
            inserts,
            drops: of(EvidencePoint::lost),
            evictions: of(|point| point.evictions),
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no step.
    pub(crate) const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Begin of a step, seconds since 1970.
    pub(crate) const fn at(&self, step: usize) -> u64 {
        self.from + step as u64 * self.step
    }

    /// The same in at most `steps` steps: counts are summed, of entries the most and of limits the lowest
    /// is taken.
    #[must_use]
    pub(crate) fn coarser(&self, steps: usize) -> Self {
        let each = self.len().div_ceil(steps.max(1)).max(1);
        let by = |values: &[u64], join: fn(&[u64]) -> u64| values.chunks(each).map(join).collect();
        let sum: fn(&[u64]) -> u64 = |values| values.iter().sum();
        let most: fn(&[u64]) -> u64 = |values| values.iter().copied().max().unwrap_or(0);
        // 0 is no limit, or a gap.
        let lowest: fn(&[u64]) -> u64 = |values| {
            values
                .iter()
                .copied()
                .filter(|value| *value > 0)
                .min()
                .unwrap_or(0)
        };
        Self {
            from: self.from,
            step: self.step * each as u64,
            recorded: by(&self.recorded, sum),
            entries: by(&self.entries, most),
            limit: by(&self.limit, lowest),
            inserts: self
                .inserts
                .iter()
                .map(|series| OwnerSeries {
                    name: series.name.clone(),
                    values: by(&series.values, sum),
                })
                .collect(),
            drops: by(&self.drops, sum),
            evictions: by(&self.evictions, sum),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coarser_steps_lose_nothing() {
        let fine = ReportTimeline {
            from: 100,
            step: 2,
            recorded: vec![2, 2, 0, 2, 2],
            entries: vec![5, 9, 0, 7, 3],
            limit: vec![10, 10, 0, 8, 8],
            inserts: vec![OwnerSeries {
                name: "a".to_owned(),
                values: vec![1, 2, 3, 4, 5],
            }],
            drops: vec![0, 1, 0, 0, 6],
            evictions: vec![0, 0, 0, 2, 0],
        };
        let coarse = fine.coarser(3);
        assert_eq!((coarse.len(), coarse.step, coarse.at(2)), (3, 4, 108));
        assert_eq!(coarse.entries, [9, 7, 3]);
        assert_eq!(coarse.limit, [10, 8, 8]);
        assert_eq!(coarse.drops, [1, 0, 6]);
        assert_eq!(coarse.inserts[0].values, [3, 7, 5]);
        assert_eq!(fine.coarser(100), fine);
        assert_eq!(fine.coarser(0).len(), 1);
        assert!(ReportTimeline::default().coarser(5).is_empty());
    }
}
