//! What lacks: each has a message that says so and an exit status.

use std::{
    net::TcpListener,
    os::unix::process::CommandExt as _,
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result};

use super::setting::{MANY_BUCKETS, MIXED, Setting};
use crate::guest::{
    agent::{Agent, Mechanism},
    checks::Checks,
    command::{self, Late},
    generator, kernel, net,
};

/// `nobody`
pub(super) const NOBODY: u32 = 65_534;

/// How a program ended, and what it said on both outputs.
pub(super) struct End {
    status: ExitStatus,
    said: String,
}

/// Runs a program that has to end by itself.
pub(super) fn end_of(command: &mut Command) -> Result<End> {
    let log = tempfile::NamedTempFile::new()?;
    let output = log.as_file();
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?);
    let mut child = command::spawn(command)?;
    let Some(status) = command::wait(&mut child, command::HANG)? else {
        child.kill()?;
        child.wait()?;
        let said = std::fs::read_to_string(log.path())?;
        return Err(Late(format!(
            "it went on instead of ending with an error: {}",
            command::one_line(&said)
        ))
        .into());
    };
    Ok(End {
        status,
        said: std::fs::read_to_string(log.path())?,
    })
}

/// It failed as it should: this status, and an error and a help line with these words.
pub(super) fn check(end: &End, status: i32, words: &[&str]) -> Result<()> {
    let End {
        status: ended,
        said,
    } = end;
    let mut checks = Checks::new();
    let shown = command::one_line(said);
    checks.equal("exit status", ended.code(), "expected", Some(status));
    for word in words {
        checks.holds(said.contains(word), || {
            format!("`{word}` is not in `{shown}`")
        });
    }
    checks.holds(!said.contains("panicked"), || {
        format!("it panicked: {shown}")
    });
    checks.finish()
}

/// The form of every error.
const ERROR: &str = "ctpressure: error: ";
/// The line after it.
const HELP: &str = "help: ";

pub(super) fn not_root(_: Option<Mechanism>) -> Result<()> {
    let mut watch = Command::new("ctpressure");
    watch.args(["watch", "--socket"]);
    watch.arg(std::env::temp_dir().join("ctp-not-root.sock"));
    let end = end_of(watch.uid(NOBODY).gid(NOBODY))?;
    check(&end, 1, &[ERROR, HELP, "CAP_BPF", "root"])
}

pub(super) fn port_taken(_: Option<Mechanism>) -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let mut command = Command::new("ctpressure");
    command.args(["run", "--listen", &address, "--socket"]);
    command.arg(std::env::temp_dir().join("ctp-port-taken.sock"));
    let end = end_of(&mut command)?;
    check(&end, 1, &[ERROR, HELP, &address, "in use"])
}

pub(super) fn wrong_flags(_: Option<Mechanism>) -> Result<()> {
    for (arguments, word) in [
        ("run --mechanism magic", "magic"),
        ("run --listen nowhere", "nowhere"),
        ("run --insert-budget -5", "-5"),
        ("run --no-such-flag", "--no-such-flag"),
        ("watch --port 99999", "99999"),
        ("watch --kind nonsense", "nonsense"),
        ("watch --address 10.0.0.0/64", "10.0.0.0/64"),
        ("no-such-command", "no-such-command"),
    ] {
        let end = end_of(Command::new("ctpressure").args(arguments.split(' ')))?;
        check(&end, 2, &[word]).with_context(|| format!("`ctpressure {arguments}`"))?;
    }
    Ok(())
}

pub(super) fn unknown_symbol(_: Option<Mechanism>) -> Result<()> {
    // clang builds (Google COS) have no __nf_conntrack_hash_insert: something else has to count.
    kernel::set_sysctl("nf_conntrack_buckets", MANY_BUCKETS)?;
    let hidden = "__nf_conntrack_hash_insert";
    let setting = Setting::new(None, 2_000, &format!("--without-function {hidden}"))?;
    let tally = generator::send(None, &format!("{MIXED} --flows 10000"))?;
    let growth = setting.growth()?;
    let mut checks = Checks::new();
    let status = setting.agent.status()?;
    let state = status["state"].as_str().unwrap_or("").to_owned();
    let uses_hidden = status["hooks"].as_array().is_some_and(|hooks| {
        hooks
            .iter()
            .any(|hook| hook["attached"] == true && hook["function"] == hidden)
    });
    checks.holds(!uses_hidden, || {
        format!("{hidden} is attached: {}", status["hooks"])
    });
    if state == "attached" {
        growth.check_exact(&mut checks, &tally)?;
    } else {
        // Without fentry there is no other way to count inserts: then it has to be said.
        checks.equal("state", state.as_str(), "expected", "degraded");
        let reason = status["reason"].as_str().unwrap_or("");
        checks.holds(reason.contains("insert"), || {
            format!("the reason is `{reason}`")
        });
        checks.holds(!Mechanism::allowed().contains(&Mechanism::Fentry), || {
            "degraded although fentry could count at the confirmation".to_owned()
        });
    }
    checks.finish()?;
    drop(growth);
    setting.agent.stop()?;

    // Nothing can stand in for early_drop: what is missing has to be said.
    net::clean_up()?;
    let agent = Agent::start(None, "--without-function early_drop")?;
    let status = agent.status()?;
    let reason = status["reason"].as_str().unwrap_or("");
    let mut checks = Checks::new();
    checks.equal(
        "state without early_drop",
        status["state"].as_str(),
        "expected",
        Some("degraded"),
    );
    checks.holds(reason.contains("early_drop"), || {
        format!("the reason is `{reason}`")
    });
    checks.finish()?;
    agent.stop()
}
