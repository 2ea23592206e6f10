//! The report as node-problem-detector takes it from a custom plugin: one line on standard output, and an exit status that is 0 without a
//! problem, 1 with one, and 2 where it can't be told. It cuts a line by bytes, so ours is short enough for what deploy/ configures.

use ctpressure_model::words::{clean, clean_within};

use super::{DoctorReport, Finding, Severity, Unseen};

/// Bytes of the line at most: `max_output_length` in deploy/node-problem-detector/ctpressure.json is no less.
const LINE_BYTES: usize = 500;

/// What node-problem-detector is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PluginAnswer {
    /// The exit status.
    pub status: u8,
    /// One line, without its end. It changes when other findings come, not with each number.
    pub line: String,
}

impl PluginAnswer {
    /// The exit status where it can't be told.
    pub(crate) const UNKNOWN: u8 = 2;

    /// A risk is no problem yet. Where what matters most could not be looked at, nothing can be told; a detail that was not seen is no
    /// reason for that, and is left to `ctpressure doctor`.
    pub(crate) fn new(report: &DoctorReport) -> Self {
        let problems = report.findings.iter();
        let problems: Vec<&Finding> = problems
            .filter(|finding| finding.severity >= Severity::Problem)
            .collect();
        if let Some((first, others)) = problems.split_first() {
            let mut line = format!("{} ({})", first.title, first.id);
            for (number, other) in others.iter().enumerate() {
                line.extend([if number == 0 { ", also " } else { ", " }, other.id]);
            }
            line += "; `ctpressure doctor` on the node says what to do";
            return Self::of(1, &line);
        }
        let unseen = report.could_not_look.iter();
        let unseen: Vec<String> = unseen
            .filter(|unseen| Unseen::VITAL.contains(&unseen.what))
            .map(|unseen| format!("{}: {}", unseen.what, unseen.because))
            .collect();
        if unseen.is_empty() {
            return Self::of(0, "no problem found");
        }
        let line = format!("could not look at {}", unseen.join("; "));
        Self::of(Self::UNKNOWN, &line)
    }

    fn of(status: u8, line: &str) -> Self {
        Self {
            status,
            line: clean_within(&clean(line), LINE_BYTES),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::doctor::{Facts, tests::healthy};

    fn answer(change: impl FnOnce(&mut Facts)) -> PluginAnswer {
        let mut facts = healthy();
        change(&mut facts);
        PluginAnswer::new(&DoctorReport::new(&facts))
    }

    #[test]
    fn each_exit_status_has_its_line() {
        let fine = answer(|_| {});
        assert_eq!((fine.status, fine.line.as_str()), (0, "no problem found"));
        let bad = answer(|facts| facts.settings.buckets = Some(12_000));
        assert_eq!(bad.status, 1);
        assert!(
            bad.line
                .starts_with("hash chains are so long that the kernel refuses new connections ("),
            "{}",
            bad.line
        );
        let unseen = |facts: &mut Facts| {
            facts.unseen.push(Unseen {
                what: Unseen::TABLES,
                because: "no \u{1b}[31m\nrights".to_owned(),
                help: "run as root".into(),
            });
        };
        let unknown = answer(unseen);
        assert_eq!(unknown.status, 2);
        assert_eq!(
            unknown.line,
            "could not look at the tables: no \u{fffd}[31m\u{fffd}rights"
        );
        let detail = answer(|facts| {
            facts.unseen.push(Unseen {
                what: "who listens",
                because: "no rights".to_owned(),
                help: "run as root".into(),
            });
        });
        assert_eq!(detail, fine);
        let both = answer(|facts| {
            unseen(facts);
            facts.settings.buckets = Some(12_000);
        });
        assert_eq!(both, bad, "a problem that is seen is one");
    }

    /// Only risks: nothing is lost.
    #[test]
    fn a_risk_is_no_problem() {
        let risky = answer(|facts| facts.has_procfs = Some(false));
        assert_eq!(risky.status, 0, "{}", risky.line);
    }

    #[test]
    fn the_configuration_in_deploy_takes_the_whole_line() {
        let text = include_str!("../../../deploy/node-problem-detector/ctpressure.json");
        let configuration: Value = serde_json::from_str(text).expect("JSON");
        let most = configuration["pluginConfig"]["max_output_length"].as_u64();
        assert!(most >= Some(LINE_BYTES as u64), "{most:?}");
        let long = answer(|facts| {
            facts.unseen.push(Unseen {
                what: Unseen::TABLES,
                because: "\u{e9}".repeat(1_000),
                help: "run as root".into(),
            });
        });
        assert!(long.line.len() <= LINE_BYTES && !long.line.contains('\n'));
    }
}
