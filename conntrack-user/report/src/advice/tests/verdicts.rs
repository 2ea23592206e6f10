//! What the limit controller and the doctor said of the table, a report repeats.

use ctpressure_model::verdict::{KNOWN, Verdict, VerdictKind};

use super::super::*;
use super::{evidence, given};
use crate::{cause::Cause, evidence::Evidence};

/// The table of the other tests, of which this was said.
fn said(kind: VerdictKind, entries: u64) -> Evidence {
    Evidence {
        verdicts: vec![Verdict {
            kind,
            entries,
            of: 1_000,
        }],
        ..evidence()
    }
}

#[test]
fn no_raise_and_the_same_words() {
    let flood = VerdictKind::Flood {
        who: "shop/a towards 10.0.0.9:8125 udp".to_owned(),
    };
    let overlay = VerdictKind::Overlay {
        tunnel: KNOWN[0],
        ipv4: true,
        ipv6: false,
    };
    for (kind, expected, words) in [
        (VerdictKind::Held, CauseKind::Held, "no list shows"),
        (overlay, CauseKind::Overlay, "VXLAN (UDP port 4789)"),
        (
            flood,
            CauseKind::Flood,
            "one-way connections of shop/a towards",
        ),
    ] {
        let evidence = said(kind, 900);
        let reading = Reading::new(&evidence);
        let cause = Cause::find(&reading);
        assert_eq!(cause.kind, expected);
        assert!(cause.why.contains(words), "{cause:?}");
        assert!(
            cause.evidence.starts_with("900 of 1,000 entries"),
            "{cause:?}"
        );
        let advice = Advice::all(&reading, &cause);
        let rules: Vec<_> = advice.iter().map(|advice| advice.rule).collect();
        assert_eq!(rules[..2], ["stop_flood", "dont_raise"], "{advice:?}");
        assert!(!rules.contains(&"raise"), "{advice:?}");
        // Whatever else is the cause.
        assert_eq!(given(raise, &evidence, CauseKind::DnsStorm), None);
    }
    assert!(given(raise, &evidence(), CauseKind::DnsStorm).is_some());
}

/// As the limit controller raises for what is needed beside an overlay.
#[test]
fn what_is_needed_beside_it_gets_room() {
    let overlay = VerdictKind::Overlay {
        tunnel: KNOWN[0],
        ipv4: true,
        ipv6: false,
    };
    let evidence = said(overlay, 300);
    // 700 that are needed, as 60 % of it.
    let advice = given(raise, &evidence, CauseKind::Overlay).expect("advice");
    assert!(
        advice.text.contains(
            "to 2,048: that has room for what was needed beside what VXLAN (UDP port 4789) sends"
        ),
        "{advice:?}"
    );
    assert_eq!(given(dont_raise, &evidence, CauseKind::Overlay), None);
}

/// What was lowered is put back, whatever the table was full of.
#[test]
fn a_limit_that_was_lowered_is_raised() {
    let evidence = said(VerdictKind::Held, 900);
    assert!(given(raise, &evidence, CauseKind::LimitLowered).is_some());
    assert_eq!(given(dont_raise, &evidence, CauseKind::LimitLowered), None);
}

/// Case 12 of operators.
#[test]
fn who_is_in_the_list_is_not_to_blame_for_what_is_not() {
    let mut evidence = said(VerdictKind::Held, 990);
    evidence.owners[0].live_at_peak = 10;
    let reading = Reading::new(&evidence);
    assert_eq!(reading.culprit, None);
    let share = reading.share(&evidence.owners[0]);
    assert!((share - 0.01).abs() < 1e-9, "{share}");
    assert_eq!(reading.held(), Some((990, 0.99)));
}
