//! What can't be seen, or is wrong: of one kind it is one thing to say, however many are concerned.

use std::collections::HashMap;
use std::fmt;

/// How many of those concerned are named.
const EXAMPLES: usize = 3;

/// How many kinds are remembered.
const MOST_SAID: usize = 1000;

/// One kind of problem, and who is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    kind: String,
    help: String,
    examples: Vec<String>,
    count: usize,
}

impl Problem {
    /// What is wrong and what it means, in words that are the same whoever is concerned.
    pub(crate) fn new(kind: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            ..Self::default()
        }
    }

    /// With what to do about it.
    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }

    /// One more is concerned.
    pub(crate) fn add(&mut self, example: impl fmt::Display) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example.to_string());
        }
    }

    /// One more is concerned: noted with those of its kind among `problems`.
    pub(crate) fn note(self, example: impl fmt::Display, problems: &mut Vec<Self>) {
        let known = problems.iter().position(|known| known.kind == self.kind);
        let at = known.unwrap_or_else(|| {
            problems.push(self);
            problems.len() - 1
        });
        problems[at].add(example);
    }

    /// It, if anybody is concerned.
    pub(crate) fn if_any(self) -> Option<Self> {
        (self.count > 0).then_some(self)
    }

    /// Whether it says so.
    #[cfg(test)]
    pub(crate) fn contains(&self, words: &str) -> bool {
        self.to_string().contains(words)
    }

    /// With all who are concerned; `None` if nobody is.
    pub(crate) fn of<E: fmt::Display>(
        mut self,
        examples: impl IntoIterator<Item = E>,
    ) -> Option<Self> {
        examples.into_iter().for_each(|example| self.add(example));
        self.if_any()
    }

    /// What is wrong and with whom; what to do about it.
    pub(crate) fn parts(&self) -> (String, &str) {
        let mut said = self.kind.clone();
        if !self.examples.is_empty() {
            said += ": ";
            said += &self.examples.join("; ");
        }
        let more = self.count - self.examples.len();
        if more > 0 {
            said += "; and ";
            said += &more.to_string();
            said += " more";
        }
        (said, &self.help)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (said, help) = self.parts();
        to.write_str(&said)?;
        if help.is_empty() {
            return Ok(());
        }
        write!(to, " (help: {help})")
    }
}

impl From<String> for Problem {
    fn from(kind: String) -> Self {
        Self::new(kind)
    }
}

impl From<&str> for Problem {
    fn from(kind: &str) -> Self {
        Self::new(kind)
    }
}

/// What was said, so that a problem is handed on again only when it has changed.
#[derive(Debug, Default)]
pub(crate) struct Said(HashMap<String, Problem>);

impl Said {
    /// Leaves what was not said yet or is another by now, which is said from now on.
    pub(crate) fn leave_new(&mut self, problems: &mut Vec<Problem>) {
        if self.0.len() > MOST_SAID {
            self.0.clear();
        }
        problems.retain(|problem| {
            let before = self.0.insert(problem.kind.clone(), problem.clone());
            before.is_none_or(|before| before != *problem)
        });
    }
}

/// The problems that were found, each kind once: the newest of it.
#[derive(Debug, Default)]
pub(crate) struct KnownProblems(Vec<(Problem, usize)>);

impl KnownProblems {
    /// Takes one over. Whether it is to be said aloud: its kind is new, or ten times as many are concerned as when it was
    /// last said. Of `most` kinds the oldest makes room.
    pub(crate) fn take(&mut self, problem: Problem, most: usize) -> bool {
        let known = self
            .0
            .iter_mut()
            .find(|(known, _)| known.kind == problem.kind);
        if let Some((known, said)) = known {
            let count = problem.count;
            *known = problem;
            let grown = count >= (*said).max(1) * 10;
            if grown {
                *said = count;
            }
            return grown;
        }
        if self.0.len() >= most {
            self.0.remove(0);
        }
        let count = problem.count;
        self.0.push((problem, count));
        true
    }

    /// What they are, as text.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.0
            .iter()
            .map(|(problem, _)| problem.to_string())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &str, count: usize) -> Problem {
        Problem::new(kind)
            .help("wait")
            .of(0..count)
            .unwrap_or_else(|| kind.into())
    }

    #[test]
    fn some_are_named_and_all_are_counted() {
        assert_eq!(of("lost", 2).to_string(), "lost: 0; 1 (help: wait)");
        assert_eq!(
            of("lost", 300).to_string(),
            "lost: 0; 1; 2; and 297 more (help: wait)"
        );
        assert_eq!(Problem::from("alone").to_string(), "alone");
        assert_eq!(Problem::new("nobody's").of([""; 0]), None);
    }

    #[test]
    fn what_did_not_change_is_not_handed_on_again() {
        let mut said = Said::default();
        let mut left = |problems: &[Problem]| {
            let mut problems = problems.to_vec();
            said.leave_new(&mut problems);
            problems.len()
        };
        assert_eq!(left(&[of("a", 1), of("b", 1)]), 2);
        assert_eq!(left(&[of("a", 1), of("b", 2)]), 1);
        assert_eq!(left(&[of("a", 1), of("b", 2)]), 0);
    }

    #[test]
    fn a_kind_is_said_once_and_again_when_there_are_ten_times_as_many() {
        let mut known = KnownProblems::default();
        let said: Vec<usize> = (1..=250)
            .filter(|count| known.take(of("a", *count), 32))
            .collect();
        assert_eq!(said, [1, 10, 100]);
        assert_eq!(known.texts().len(), 1);
        assert!(known.texts()[0].contains("247 more"));
    }

    #[test]
    fn many_kinds_take_bounded_room() {
        let (mut known, mut said) = (KnownProblems::default(), Said::default());
        for kind in 0..5000 {
            let problem = Problem::from(kind.to_string());
            assert!(known.take(problem.clone(), 32));
            said.leave_new(&mut vec![problem]);
        }
        assert_eq!((known.0.len(), known.texts()[31].as_str()), (32, "4999"));
        assert!(said.0.len() <= MOST_SAID + 1);
    }
}
