//! What a command left behind in an agent's container, read: an answer, or why there is none.

use serde::de::DeserializeOwned;

use crate::coverage::Why;

/// The longest answer: as much as an agent sends at most for `top`.
pub(crate) const LONGEST: usize = 16 << 20;
/// The longest of what a command says of errors.
pub(crate) const LONGEST_ERROR: usize = 16 << 10;

/// What ran to its end in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) out: Vec<u8>,
    pub(crate) error: Vec<u8>,
    /// Exit status; `None`: the runtime did not say, since the command did not run or was cut off.
    pub(crate) status: Option<i32>,
    /// What the runtime said instead.
    pub(crate) said: String,
    /// There was more than [`LONGEST`].
    pub(crate) too_long: bool,
}

const ANOTHER_VERSION: &str =
    "is that agent of another version? `ctpressure --version` in its container says";

impl Ran {
    /// The answer as JSON. A command whose exit status tells of a finding answered all the same.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Why> {
        self.whole()?;
        let broken = match serde_json::from_slice(&self.out) {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        // What it says itself is more than that its output can't be read.
        if self.out.is_empty() || self.status != Some(0) {
            self.succeeded()?;
        }
        let begin = String::from_utf8_lossy(&self.out[..self.out.len().min(40)]);
        Err(match broken.classify() {
            serde_json::error::Category::Data => Why::new(
                &format!("its answer can't be used: {broken}"),
                ANOTHER_VERSION,
            ),
            _ => Why::new(
                &format!("its answer is no JSON ({broken}); it begins with {begin:?}"),
                ANOTHER_VERSION,
            ),
        })
    }

    /// The answer as text.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn text(&self) -> Result<String, Why> {
        self.whole()?;
        self.succeeded()?;
        Ok(String::from_utf8_lossy(&self.out).into_owned())
    }

    fn whole(&self) -> Result<(), Why> {
        if self.too_long {
            let why = format!("its answer is longer than {} MiB", LONGEST >> 20);
            return Err(Why::new(&why, ANOTHER_VERSION));
        }
        if self.status.is_none() {
            let (why, help) = if self.said.is_empty() {
                let why = "the connection ended before the answer was complete".to_owned();
                (why, "try again; does the pod still run?")
            } else if self.said.contains("no such file") || self.said.contains("not found") {
                let why = format!("there is no ctpressure in its container: {}", self.said);
                (
                    why,
                    "say with --agent-program where it is, or with -c which container",
                )
            } else {
                let why = format!("its command could not be run: {}", self.said);
                (why, "`kubectl describe pod` of that pod may say more")
            };
            return Err(Why::new(&why, help));
        }
        Ok(())
    }

    /// Passes what ended with status 0; else takes the words of the command, `ctpressure: error: ...` and `help: ...`.
    fn succeeded(&self) -> Result<(), Why> {
        let Some(status) = self.status.filter(|status| *status != 0) else {
            return Ok(());
        };
        let said = String::from_utf8_lossy(&self.error);
        let after = |lead: &str| {
            said.lines()
                .find_map(|line| line.split_once(lead).map(|(_, rest)| rest.trim()))
        };
        let what = after("error: ").or_else(|| said.lines().find(|line| !line.trim().is_empty()));
        let why = match what {
            Some(what) => what.to_owned(),
            None => format!("its command ended with status {status} and said nothing"),
        };
        let help = match after("help: ") {
            // clap's words: an argument that this version does not know.
            _ if status == 2 => ANOTHER_VERSION,
            Some(help) => help,
            None => "",
        };
        Err(Why::new(&why, help))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::LimitAnswer;

    fn ran(out: &str, error: &str, status: Option<i32>) -> Ran {
        Ran {
            out: out.into(),
            error: error.into(),
            status,
            ..Ran::default()
        }
    }

    fn why_not(ran: &Ran) -> Why {
        ran.json::<LimitAnswer>().expect_err("no answer")
    }

    const LIMIT: &str = r#"{"limit": 5, "later": [1]}"#;

    #[test]
    fn an_answer_may_have_more_than_is_known_and_tell_of_findings() {
        for status in [0, 1] {
            let answer = ran(LIMIT, "", Some(status)).json::<LimitAnswer>();
            assert_eq!(answer.expect("an answer").limit, Some(5));
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let why = why_not(&ran("{}", "", Some(0)));
        assert!(why.why.contains("missing field `limit`"), "{why:?}");
        assert!(why.help.contains("another version"), "{why:?}");
    }

    #[test]
    fn an_agent_says_itself_what_is_wrong() {
        let said =
            "ctpressure: error: no journal in /var/lib/ctpressure\nhelp: run it with --journal\n";
        let why = why_not(&ran("", said, Some(1)));
        assert_eq!(why.why, "no journal in /var/lib/ctpressure");
        assert_eq!(why.help, "run it with --journal");
        let usage = "ctpressure: error: unexpected argument '--x' found\nhelp: see --help\n";
        let why = why_not(&ran("", usage, Some(2)));
        assert!(why.help.contains("another version"), "{why:?}");
    }

    #[test]
    fn garbage_is_told_and_moves_no_cursor() {
        let why = why_not(&ran("\u{1b}[2Jhello", "", Some(0)));
        assert!(why.why.starts_with("its answer is no JSON"), "{why:?}");
        assert!(!why.why.contains('\u{1b}'), "{why:?}");
    }

    #[test]
    fn what_is_cut_off_is_no_answer() {
        let cut = why_not(&ran(LIMIT, "", None));
        assert!(
            cut.why.contains("before the answer was complete"),
            "{cut:?}"
        );
        let mut long = ran(LIMIT, "", Some(0));
        long.too_long = true;
        assert_eq!(why_not(&long).why, "its answer is longer than 16 MiB");
        let mut none = ran("", "", None);
        none.said = "exec: \"/ctpressure\": stat /ctpressure: no such file or directory".to_owned();
        assert!(
            why_not(&none).why.starts_with("there is no ctpressure"),
            "{none:?}"
        );
    }
}
