//! The entries that there are, against what inserts and deletes add up to.

use super::Drift;
use crate::probes::Totals;

/// Entries against counts; the first call after attaching sets the baseline. `None`: what comes or what goes is not
/// counted.
pub(super) fn drift(baseline: &mut Option<i64>, entries: u64, totals: &Totals) -> Option<Drift> {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let (inserts, deletes) = totals.flow()?;
    let grown = signed(inserts) - signed(deletes);
    let expected = *baseline.get_or_insert_with(|| signed(entries) - grown) + grown;
    Some(Drift {
        entries,
        expected,
        difference: signed(entries) - expected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_is_against_the_entries_at_attaching() {
        let mut baseline = None;
        let totals = |inserts, deletes| Totals {
            inserts: Some(inserts),
            deletes: Some(deletes),
            ..Totals::default()
        };
        let at_first = drift(&mut baseline, 500, &totals(20, 10));
        assert_eq!(
            at_first,
            Some(Drift {
                entries: 500,
                expected: 500,
                difference: 0
            })
        );
        let later = drift(&mut baseline, 540, &totals(120, 70));
        assert_eq!(
            later,
            Some(Drift {
                entries: 540,
                expected: 540,
                difference: 0
            })
        );
        let missed = drift(&mut baseline, 537, &totals(120, 70));
        assert_eq!(
            missed,
            Some(Drift {
                entries: 537,
                expected: 540,
                difference: -3
            })
        );
        let only_inserts = Totals {
            inserts: Some(5),
            ..Totals::default()
        };
        assert_eq!(drift(&mut baseline, 537, &only_inserts), None);
    }
}
