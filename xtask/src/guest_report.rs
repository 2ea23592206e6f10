//! What a guest reports of its scenarios, line by line, and what a missed time limit in it means.

use crate::emulator_fault;
use crate::stolen::Share;
use crate::times::Ending;
use crate::vm::{Ended, GuestOutcome};

/// One scenario that was run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scenario {
    /// With its mechanism: `counts[kprobe]`.
    pub(crate) title: String,
    pub(crate) ending: Ending,
    /// Why it did not pass.
    pub(crate) message: String,
    /// What the guest got of this machine meanwhile.
    pub(crate) share: Share,
}

/// What one guest reported.
#[derive(Debug, Default)]
pub(crate) struct Report {
    partial: Vec<u8>,
    /// The titles of those that it is to run.
    planned: Vec<String>,
    scenarios: Vec<Scenario>,
    /// The number of scenarios that were run, by the guest's own last line.
    announced: Option<usize>,
}

impl Report {
    /// Takes output of the guest; hands back the lines that it completed. `share` is asked, for each result, what the guest
    /// got since the last one.
    pub(crate) fn take(&mut self, bytes: &[u8], mut share: impl FnMut() -> Share) -> Vec<String> {
        self.partial.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if let Some(count) = line.strip_prefix("RESULTS ") {
                self.announced = count.trim().parse().ok();
            } else if let Some((count, titles)) = planned(&line) {
                self.planned = titles.split_whitespace().map(str::to_owned).collect();
                // A whole run has a hundred titles.
                lines.push(count.to_owned());
                continue;
            } else if let Some(result) = line.strip_prefix("RESULT ") {
                let scenario = read(result, share());
                let fine = scenario.ending == Ending::Passed && !scenario.share.starved();
                lines.push(match scenario.share.describe() {
                    Some(stolen) if !fine => format!("{line} ({stolen})"),
                    _ => line,
                });
                self.scenarios.push(scenario);
                continue;
            }
            lines.push(line);
        }
        lines
    }

    /// All that have a result, in their order.
    pub(crate) fn scenarios(&self) -> &[Scenario] {
        &self.scenarios
    }

    /// The titles of those that have no result, in their order: the first is the one that the guest was in.
    pub(crate) fn left(&self) -> Vec<String> {
        let has_result = |title: &&String| {
            let mut scenarios = self.scenarios.iter();
            scenarios.any(|scenario| scenario.title == **title)
        };
        let left = self.planned.iter().filter(|title| !has_result(title));
        left.cloned().collect()
    }

    /// The titles of those that have to be tried once more since a fault of the emulator ended the guest, by what its kernel
    /// said: only once.
    pub(crate) fn lost(&self, ended: &Ended, is_again: bool, console: &str) -> Vec<String> {
        let died = matches!(ended.outcome, GuestOutcome::Died(_));
        if died && !is_again && emulator_fault::is_shown(console) {
            self.left()
        } else {
            Vec::new()
        }
    }

    fn any_failed(&self) -> bool {
        let passed = |scenario: &Scenario| scenario.ending == Ending::Passed;
        !self.scenarios.iter().all(passed)
    }

    /// What is wrong besides the scenarios that failed by themselves.
    pub(crate) fn faults(&self, ended: &Ended) -> Vec<String> {
        let reported = self.scenarios.len();
        let mut faults = Vec::new();
        match &ended.outcome {
            GuestOutcome::Exited(0) => {}
            GuestOutcome::Exited(_) if self.any_failed() => {}
            GuestOutcome::Exited(status) => {
                faults.push(format!(
                    "the scenarios ended with status {status} and named no failure"
                ));
            }
            GuestOutcome::TimedOut => {
                faults.push(format!("the guest hung after {reported} results"));
            }
            GuestOutcome::Died(why) => {
                faults.push(format!("the guest died after {reported} results: {why}"));
            }
        }
        match self.announced {
            Some(announced) if announced != reported => {
                faults.push(format!(
                    "{announced} scenarios were run but {reported} have a result"
                ));
            }
            None if matches!(ended.outcome, GuestOutcome::Exited(_)) => {
                faults.push("the last line (RESULTS and a number) is missing".to_owned());
            }
            _ => {}
        }
        faults
    }
}

/// Reads `SCENARIOS NUMBER: NAME NAME`: what is before the colon, and the names.
fn planned(line: &str) -> Option<(&str, &str)> {
    let (count, titles) = line.split_once(": ")?;
    let is_plan = count.starts_with("SCENARIOS ");
    is_plan.then_some((count, titles))
}

/// Reads `NAME ok SECONDS`, `NAME LATE WHY` (a time limit was missed) or `NAME FAIL WHY`.
fn read(result: &str, share: Share) -> Scenario {
    let (title, rest) = result.split_once(' ').unwrap_or((result, ""));
    let (how, message) = rest.split_once(' ').unwrap_or((rest, ""));
    let (ending, message) = match how {
        "ok" => (Ending::Passed, ""),
        "LATE" if share.starved() => (Ending::Starved, message),
        "LATE" | "FAIL" => (Ending::Failed, message),
        _ => (Ending::Failed, rest),
    };
    Scenario {
        title: title.to_owned(),
        ending,
        message: message.trim().to_owned(),
        share,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(outcome: GuestOutcome) -> Ended {
        Ended {
            outcome,
            console_tail: Vec::new(),
            missing: Vec::new(),
        }
    }

    fn share(stolen: Option<f64>) -> Share {
        Share {
            seconds: 100.0,
            processor: 40.0,
            stolen,
        }
    }

    fn report_while(text: &str, stolen: Option<f64>) -> (Report, Vec<String>) {
        let mut report = Report::default();
        // In pieces, as a guest sends it.
        let pieces = text.as_bytes().chunks(7);
        let lines = pieces.flat_map(|piece| report.take(piece, || share(stolen)));
        let lines = lines.collect();
        (report, lines)
    }

    fn report(text: &str) -> Report {
        report_while(text, Some(0.0)).0
    }

    #[test]
    fn a_whole_run_has_no_faults() {
        let report = report("noise\nRESULT a ok 1.2\nRESULT b ok 3\nRESULTS 2\n");
        assert!(report.scenarios().len() == 2 && !report.any_failed());
        assert!(report.faults(&ended(GuestOutcome::Exited(0))).is_empty());
    }

    #[test]
    fn a_failed_scenario_is_reported_once() {
        let report = report("RESULT a FAIL counts differ\nRESULTS 1\n");
        let [scenario] = report.scenarios() else {
            panic!("{report:?}");
        };
        assert_eq!(scenario.message, "counts differ");
        assert_eq!(scenario.ending, Ending::Failed);
        assert!(report.faults(&ended(GuestOutcome::Exited(1))).is_empty());
    }

    #[test]
    fn what_has_no_result_is_left() {
        let plan = "SCENARIOS 3: a b[kprobe] c\n";
        let (begun, lines) = report_while(&format!("{plan}RESULT a FAIL no\n"), None);
        assert_eq!(lines, ["SCENARIOS 3", "RESULT a FAIL no"]);
        assert_eq!(begun.left(), ["b[kprobe]", "c"]);
        let all = "RESULT a ok 1\nRESULT b[kprobe] ok 1\nRESULT c ok 1\n";
        assert!(report(&format!("{plan}{all}")).left().is_empty());
        assert!(report("RESULT a ok 1\n").left().is_empty());
    }

    #[test]
    fn what_the_emulator_ended_is_tried_once_more_and_only_once() {
        let begun = report("SCENARIOS 2: a b\nRESULT a ok 1\n");
        let died = || ended(GuestOutcome::Died("Kernel panic".into()));
        let shown = emulator_fault::SHOWN;
        assert_eq!(begun.lost(&died(), false, shown), ["b"]);
        assert!(begun.lost(&died(), true, shown).is_empty());
        let panic = "Kernel panic - not syncing: Attempted to kill init!\n";
        assert!(begun.lost(&died(), false, panic).is_empty());
        for outcome in [GuestOutcome::TimedOut, GuestOutcome::Exited(1)] {
            assert!(begun.lost(&ended(outcome), false, shown).is_empty());
        }
        // Nothing is known of what it was to do.
        let died_early = report("noise\n").lost(&died(), false, shown);
        assert!(died_early.is_empty());
    }

    #[test]
    fn what_is_missing_is_a_fault() {
        let died = GuestOutcome::Died("Kernel panic".into());
        for (text, outcome) in [
            ("RESULT a ok 1\n", GuestOutcome::Exited(0)),
            ("RESULT a ok 1\nRESULTS 2\n", GuestOutcome::Exited(0)),
            ("RESULT a ok 1\nRESULTS 1\n", GuestOutcome::Exited(3)),
            ("RESULT a ok 1\n", GuestOutcome::TimedOut),
            ("RESULT a ok 1\nRESULTS 1\n", died),
        ] {
            assert!(!report(text).faults(&ended(outcome)).is_empty(), "{text}");
        }
    }

    #[test]
    fn only_a_missed_time_limit_of_a_starved_guest_is_tried_again() {
        let late = "RESULT a LATE waited 120 s for a census\nRESULTS 1\n";
        let wrong = "RESULT a FAIL counts differ\nRESULTS 1\n";
        for (text, stolen, ending) in [
            (late, Some(60.0), Ending::Starved),
            (late, Some(1.0), Ending::Failed),
            (late, None, Ending::Failed),
            // What is wrong is wrong however little the guest got.
            (wrong, Some(90.0), Ending::Failed),
            ("RESULT a ok 99\nRESULTS 1\n", Some(90.0), Ending::Passed),
        ] {
            let (report, _) = report_while(text, stolen);
            assert_eq!(report.scenarios()[0].ending, ending, "{text} {stolen:?}");
            let status = i32::from(ending != Ending::Passed);
            assert!(
                report
                    .faults(&ended(GuestOutcome::Exited(status)))
                    .is_empty()
            );
        }
        let (report, lines) = report_while(late, Some(60.0));
        assert_eq!(report.scenarios()[0].message, "waited 120 s for a census");
        assert_eq!(
            lines[0],
            "RESULT a LATE waited 120 s for a census (60 s of 100 s stolen by the host)"
        );
        // Also where it did no harm.
        let passed = "RESULT a ok 99\n";
        assert_eq!(report_while(passed, Some(1.0)).1, [passed.trim_end()]);
        assert!(
            report_while(passed, Some(60.0)).1[0]
                .ends_with("ok 99 (60 s of 100 s stolen by the host)")
        );
    }
}
