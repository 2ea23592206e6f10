//! Running other programs: what a missing one means, and what a failing one said.

use std::{
    error::Error,
    fmt,
    io::{ErrorKind, Write as _},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

/// How often a condition is looked at while waiting for it.
pub const POLL: Duration = Duration::from_millis(50);

/// How long to wait for what has to happen: after this time it hangs. Not a measure of speed: on a
/// host with other work a guest can be twenty times slower than on an idle one.
pub const HANG: Duration = Duration::from_mins(2);

/// Something took longer than it may. Where the host kept the guest waiting meanwhile that says nothing, so it is told
/// apart from everything else that can go wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late(pub String);

impl fmt::Display for Late {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Error for Late {}

impl Late {
    /// Whether an error came of a time limit.
    pub fn is_cause_of(error: &anyhow::Error) -> bool {
        error.chain().any(<dyn Error>::is::<Self>)
    }
}

/// Runs a program to its end and returns what it printed.
///
/// # Errors
///
/// When it is missing or exits with another status than 0: with its own words.
pub fn output(program: &str, arguments: &[&str]) -> Result<String> {
    output_of(Command::new(program).args(arguments), None)
}

/// As [`output`], with text on its standard input.
pub fn output_with_input(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    output_of(Command::new(program).args(arguments), Some(input))
}

fn output_of(command: &mut Command, input: Option<&str>) -> Result<String> {
    let stdin = if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    };
    let mut child = spawn(
        command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped()),
    )?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        stdin
            .write_all(input.as_bytes())
            .with_context(|| describe(command))?;
    }
    let output = child
        .wait_with_output()
        .with_context(|| describe(command))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}`: {}: {}",
            describe(command),
            output.status,
            one_line(&said)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Starts a program.
///
/// # Errors
///
/// When it is missing: names the package that has it.
pub fn spawn(command: &mut Command) -> Result<Child> {
    command.spawn().map_err(|error| {
        let program = command.get_program().to_string_lossy().into_owned();
        if error.kind() != ErrorKind::NotFound {
            return anyhow!("starting `{program}`: {error}");
        }
        let from = match program.as_str() {
            "ctpressure" | "ctgen" => "part of this project: run the scenario by `cargo xtask vm`",
            "ip" => "in Debian's package iproute2; `cargo xtask setup` brings it into guests",
            "nft" => "in Debian's package nftables; `cargo xtask setup` brings it into guests",
            "modprobe" | "rmmod" => "in Debian's package kmod, or a link to busybox",
            _ => "`cargo xtask setup` brings guest tools",
        };
        anyhow!("`{program}` is not on PATH ({from})")
    })
}

fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// The text without line ends, at most about 600 bytes of it: the end is what matters.
pub fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let excess = line.len().saturating_sub(600);
    let start = (excess..line.len())
        .find(|&at| line.is_char_boundary(at))
        .unwrap_or(0);
    line[start..].to_owned()
}

/// Waits for a child to end by itself; `None` when it still runs after `limit`.
pub fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().context("waiting for a child")? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// As [`wait`], for a child that has to end.
///
/// # Errors
///
/// [`Late`] after `limit`: says what still runs.
pub fn wait_for_end(what: &str, child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let still_runs = || Late(format!("{what} still runs after {} s", limit.as_secs()));
    wait(child, limit)?.ok_or_else(|| still_runs().into())
}

/// Looks at `condition` until it gives a value.
///
/// # Errors
///
/// [`Late`] after `limit`: says what was waited for.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            return Err(Late(format!("waited {} s for {what}", limit.as_secs())).into());
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_say_which_program_and_what_it_said() {
        assert_eq!(output("echo", &["a", "b"]).unwrap(), "a b\n");
        assert_eq!(output_with_input("cat", &[], "text").unwrap(), "text");
        let error = output("sh", &["-c", "echo broken >&2; exit 3"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("exit status: 3: broken"), "{error}");
        let error = output("no-such-program", &[]).unwrap_err().to_string();
        assert!(
            error.contains("`no-such-program` is not on PATH"),
            "{error}"
        );
    }

    #[test]
    fn long_messages_keep_their_end() {
        let line = one_line(&format!("{}\nthe  end", "ä".repeat(900)));
        assert!(line.ends_with("ä the end") && line.len() <= 600, "{line}");
        assert_eq!(one_line(" a \n b "), "a b");
    }

    #[test]
    fn waiting_ends() {
        let mut tries = 0;
        let value = wait_for("the third try", Duration::from_secs(5), || {
            tries += 1;
            Ok((tries == 3).then_some(tries))
        });
        assert_eq!(value.unwrap(), 3);
        let error = wait_for::<()>("nothing", Duration::ZERO, || Ok(None)).unwrap_err();
        assert!(error.to_string().contains("for nothing"));
        assert!(Late::is_cause_of(&error.context("on the way")));
        assert!(!Late::is_cause_of(&anyhow!("waited 9 s for nothing")));
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(wait(&mut child, Duration::ZERO).unwrap().is_none());
        let error = wait_for_end("a sleeper", &mut child, Duration::ZERO).unwrap_err();
        assert!(Late::is_cause_of(&error) && error.to_string().contains("a sleeper still runs"));
        child.kill().unwrap();
        assert!(wait(&mut child, Duration::from_secs(5)).unwrap().is_some());
    }
}
