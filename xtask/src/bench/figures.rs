//! What the guest measured, against its bases and budgets.

use serde_json::{Value, json};

use super::contests::{Contest, Contestant};

/// Of two contestants that must cost the same, the dearer one may add this share more.
const ALIKE_SHARE: f64 = 0.03;

/// Of all inserts, the fewest that are charged to the owner: a few are the reader's of the metrics.
const CHARGED_PER_MILLE: u64 = 999;

/// Instructions per connection, one figure a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Figures {
    send: Vec<f64>,
    end: Vec<f64>,
    /// Inserts that were counted meanwhile, and those that the owner was charged for.
    charged: Option<(u64, u64)>,
    skipped: Option<String>,
}

/// What the contestants of one guest measured, in their order.
#[derive(Debug)]
pub(super) struct ContestResults<'a> {
    contest: &'a Contest,
    figures: Vec<Figures>,
}

impl Figures {
    /// Of one contestant from the lines of the guest.
    fn read(output: &str, name: &str, clock: &str) -> Self {
        let mut figures = Self::default();
        for line in output.lines() {
            let mut words = line.splitn(4, ' ');
            if words.next() != Some("BENCH") || words.next() != Some(name) {
                continue;
            }
            let (kind, rest) = (
                words.next().unwrap_or_default(),
                words.next().unwrap_or_default(),
            );
            let value: Value = serde_json::from_str(rest).unwrap_or_default();
            let per_flow = match (value[clock].as_f64(), value["flows"].as_f64()) {
                (Some(nanoseconds), Some(flows)) if flows > 0.0 => Some(nanoseconds / flows),
                _ => None,
            };
            let inserts = value["inserts"].as_u64().zip(value["charged"].as_u64());
            match (kind, per_flow, inserts) {
                ("send", Some(figure), _) => figures.send.push(figure),
                ("end", Some(figure), _) => figures.end.push(figure),
                ("charged", _, Some(inserts)) => figures.charged = Some(inserts),
                _ => figures.skipped = Some(rest.to_owned()),
            }
        }
        figures
    }
}

impl<'a> ContestResults<'a> {
    /// From what the guest said.
    pub(super) fn read(contest: &'a Contest, output: &str) -> Self {
        let read =
            |contestant: &Contestant| Figures::read(output, &contestant.name, &contest.clock);
        Self {
            contest,
            figures: contest.contestants.iter().map(read).collect(),
        }
    }

    fn lines(&self) -> impl Iterator<Item = (&'a Contestant, &Figures)> {
        self.contest.contestants.iter().zip(&self.figures)
    }

    fn of(&self, name: &str) -> Option<(&'a Contestant, &Figures)> {
        self.lines().find(|(contestant, _)| contestant.name == name)
    }

    /// What a contestant adds to a new and to an ended connection; `None` where it or its base was not measured.
    fn added(&self, contestant: &Contestant, figures: &Figures) -> [Option<f64>; 2] {
        let base = self.of(&contestant.base).map(|(_, base)| base);
        let less = |of: fn(&Figures) -> &Vec<f64>| Some(median(of(figures))? - median(of(base?))?);
        [less(|figures| &figures.send), less(|figures| &figures.end)]
    }

    pub(super) fn table(&self, version: &str) -> String {
        let mut lines = vec![
            format!(
                "\ninstructions per connection, Linux {version}, one CPU, QEMU -icount shift=0, -cpu max,-cx16"
            ),
            format!("{:<56} {:>16} {:>16}", "added by", "new", "ended"),
        ];
        for (contestant, figures) in self.lines() {
            let added = self.added(contestant, figures);
            let is_base = contestant.base == contestant.name;
            let cell = |runs: &Vec<f64>, added: Option<f64>| match (median(runs), added) {
                // The base itself: its spread says how far a figure can be trusted.
                (Some(figure), _) if is_base => format!("{figure:.0} ±{:.0}", spread(runs)),
                (Some(_), Some(added)) => format!("{added:+.0} ±{:.0}", spread(runs)),
                _ => "-".to_owned(),
            };
            let (new, ended) = (cell(&figures.send, added[0]), cell(&figures.end, added[1]));
            let why = figures.skipped.as_deref().unwrap_or_default();
            let title = &contestant.title;
            lines.push(
                format!("{title:<56} {new:>16} {ended:>16}   {why}")
                    .trim_end()
                    .to_owned(),
            );
        }
        lines.push(String::new());
        lines.join("\n")
    }

    /// What is not as it should be: a sentence each.
    pub(super) fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for (contestant, figures) in self.lines() {
            let title = &contestant.title;
            let added = self.added(contestant, figures);
            let most = contestant.budget.as_ref();
            for (what, added, most) in [
                ("new", added[0], most.map(|most| most.new)),
                ("ended", added[1], most.and_then(|most| most.ended)),
            ] {
                let Some(most) = most else { continue };
                match added {
                    Some(added) if added <= most => {}
                    Some(added) => failures.push(format!(
                        "{title} adds {added:.0} instructions to a connection that is {what}; the budget is {most:.0}"
                    )),
                    None => failures.push(format!("{title} was not measured ({what})")),
                }
            }
            match figures.charged {
                _ if !contestant.charged => {}
                Some((inserts, charged)) if inserts > 0 && charged >= inserts * CHARGED_PER_MILLE / 1000 => {}
                Some((inserts, charged)) => failures.push(format!(
                    "{title}: of {inserts} inserts {charged} were charged to the owner, so its figure is that of others"
                )),
                None => failures.push(format!("{title}: nobody knows who was charged")),
            }
        }
        for (first, second) in &self.contest.alike {
            failures.extend(self.unlike(first, second));
        }
        failures
    }

    /// Where two that must cost the same do not.
    fn unlike(&self, first: &str, second: &str) -> Vec<String> {
        let added = |name| {
            let (contestant, figures) = self.of(name)?;
            Some((&contestant.title, self.added(contestant, figures)))
        };
        let (Some((first, one)), Some((second, other))) = (added(first), added(second)) else {
            return Vec::new();
        };
        ["new", "ended"]
            .into_iter()
            .zip(one.into_iter().zip(other))
            .filter_map(|(what, pair)| {
                // What was not measured is told elsewhere.
                let (one, other) = (pair.0?, pair.1?);
                let least = one.min(other);
                ((one - other).abs() > least.abs() * ALIKE_SHARE).then(|| {
                    format!(
                        "{first} adds {one:.0} instructions to a connection that is {what}; {second}, {other:.0}: not the same"
                    )
                })
            })
            .collect()
    }

    pub(super) fn json(&self, version: &str, qemu: &str) -> Value {
        let contestants: Vec<Value> = self
            .lines()
            .map(|(contestant, figures)| {
                let [new, ended] = self.added(contestant, figures);
                json!({
                    "name": contestant.name,
                    "base": contestant.base,
                    "new_runs": figures.send,
                    "ended_runs": figures.end,
                    "new_added": new,
                    "ended_added": ended,
                    "inserts": figures.charged.map(|(inserts, _)| inserts),
                    "charged": figures.charged.map(|(_, charged)| charged),
                    "skipped": figures.skipped,
                })
            })
            .collect();
        json!({
            "unit": "instructions per connection",
            "clock": self.contest.clock,
            "kernel": version,
            "qemu": qemu,
            "machine": "one CPU, -icount shift=0,sleep=off, -cpu max,-cx16, mitigations=off",
            "contestants": contestants,
        })
    }
}

fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// Half the distance between the smallest and the largest.
fn spread(figures: &[f64]) -> f64 {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // Of none it is none.
    ((most - least) / 2.0).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All cost the same; every base 1000, new and ended.
    fn results(contest: &Contest, added: f64) -> ContestResults<'_> {
        let figures = |contestant: &Contestant| {
            let is_base = contestant.name == contestant.base;
            let figure = 1000.0 + if is_base { 0.0 } else { added };
            Figures {
                send: vec![figure],
                end: vec![figure],
                charged: Some((70_003, 70_000)),
                skipped: None,
            }
        };
        ContestResults {
            contest,
            figures: contest.contestants.iter().map(figures).collect(),
        }
    }

    #[test]
    fn lines_of_the_guest_are_read_by_contestant() {
        let output = "BENCH a send {\"flows\":10,\"nanoseconds\":200,\"thread_nanoseconds\":100}\n\
                      BENCH b send {\"flows\":10,\"nanoseconds\":900}\n\
                      BENCH a end {\"flows\":10,\"nanoseconds\":50,\"thread_nanoseconds\":50}\n\
                      BENCH a charged {\"inserts\":9,\"charged\":8}\n\
                      BENCH c skipped no such probe\n";
        let a = Figures::read(output, "a", "nanoseconds");
        assert_eq!((a.send, a.end, a.skipped), (vec![20.0], vec![5.0], None));
        let a = Figures::read(output, "a", "thread_nanoseconds");
        assert_eq!((a.send, a.charged), (vec![10.0], Some((9, 8))));
        let c = Figures::read(output, "c", "nanoseconds");
        assert_eq!(c.skipped.as_deref(), Some("no such probe"));
    }

    /// Where a contestant is.
    fn place(contest: &Contest, name: &str) -> usize {
        let mut all = contest.contestants.iter();
        all.position(|contestant| contestant.name == name).unwrap()
    }

    #[test]
    fn a_budget_is_met_or_named() {
        let contest = Contest::read("peers").unwrap();
        let mut results = results(&contest, 280.0);
        assert!(results.failures().is_empty(), "{:?}", results.failures());
        let of = |name| place(&contest, name);
        results.figures[of("ctpressure-fentry")].send = vec![1801.0];
        results.figures[of("ctpressure-kprobe")].end = Vec::new();
        // Its end is not measured.
        results.figures[of("calm-fentry-sent")].end = Vec::new();
        assert_eq!(results.failures().len(), 2, "{:?}", results.failures());
        assert!(results.table("6.12").contains("+801 ±0"));
    }

    #[test]
    fn flows_of_others_and_growth_are_named() {
        let contest = Contest::read("owners").unwrap();
        let mut results = results(&contest, 200.0);
        assert!(results.failures().is_empty(), "{:?}", results.failures());
        let of = |name| place(&contest, name);
        results.figures[of("owners-1-fentry")].charged = Some((70_000, 69_800));
        results.figures[of("owners-1-kprobe")].charged = None;
        assert_eq!(results.failures().len(), 2);
        for (send, end, unlike) in [
            (1206.0, 1200.0, 0),
            (1207.0, 1200.0, 1),
            (1193.0, 1207.0, 2),
        ] {
            results.figures[of("owners-250-fentry")].send = vec![send];
            results.figures[of("owners-250-fentry")].end = vec![end];
            let failures = results.failures();
            assert_eq!(failures.len(), 2 + unlike, "{failures:?}");
            let mut told = failures[2..].iter();
            assert!(told.all(|failure| failure.ends_with("not the same")));
        }
    }

    #[test]
    fn the_median_does_not_care_for_one_that_is_far_off() {
        assert_eq!(median(&[3.0, 900.0, 1.0]), Some(3.0));
        assert_eq!(median(&[]), None);
    }
}
