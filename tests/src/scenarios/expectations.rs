//! Packets that a helper drops because no more connections can be announced.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::guest::{
    agent::{Agent, Mechanism},
    checks::Checks,
    command::{self, HANG},
    kernel, net,
};

/// Gives connections to port 21 to the helper of FTP, here on loopback.
const HELPER: &str = "
table ip ctp {
  ct helper ftp-standard { type \"ftp\" protocol tcp; }
  chain output { type filter hook output priority filter; tcp dport 21 ct helper set \"ftp-standard\"; }
}
";
const ROOM: u64 = 4;
const SESSIONS: u16 = 9;
/// How long a session waits before it counts as hung.
const HUNG: Duration = Duration::from_millis(500);

pub(super) fn full(_: Option<Mechanism>) -> Result<()> {
    let room = kernel::sysctl("nf_conntrack_expect_max")?;
    kernel::load_module("nf_conntrack_ftp")?;
    net::nft(None, HELPER)?;
    kernel::set_sysctl("nf_conntrack_expect_max", ROOM)?;
    let agent = Agent::start(None, "")?;
    let server = TcpListener::bind("127.0.0.1:21")?;
    // Ends with this process.
    thread::spawn(move || {
        for session in server.incoming().flatten() {
            thread::spawn(move || echo(session));
        }
    });
    let mut sessions = Vec::new();
    let mut answered = 0;
    for port in 0..SESSIONS {
        let (session, is_answered) = announce(port)?;
        answered += u64::from(is_answered);
        sessions.push(session);
    }
    let metrics = agent.sample()?;
    let said = doctor()?;
    let mut checks = Checks::new();
    checks.equal("sessions that went on", answered, "room", ROOM);
    checks.equal(
        "table_expectations",
        metrics.value("ctpressure_table_expectations", &[("netns", "host")]),
        "room",
        Some(4.0),
    );
    checks.equal(
        "expectation_limit",
        metrics.value("ctpressure_expectation_limit", &[]),
        "room",
        Some(4.0),
    );
    let ids = |said: &Value| -> Vec<String> {
        let findings = said["findings"].as_array();
        let ids = findings.into_iter().flatten().map(|finding| &finding["id"]);
        ids.filter_map(|id| id.as_str().map(str::to_owned))
            .collect()
    };
    let found = ids(&said);
    checks.holds(found.iter().any(|id| id == "expectations_full"), || {
        format!("the doctor finds {found:?}")
    });
    let full = metrics.count("ctpressure_drops_total", &[("reason", "table_full")])?;
    checks.equal("drops_total{table_full}", full, "zero", 0);
    checks.finish()?;

    // As the doctor advises: there is room again, and no finding.
    kernel::set_sysctl("nf_conntrack_expect_max", room.max(4 * ROOM))?;
    let (_session, is_answered) = announce(SESSIONS)?;
    let found = ids(&doctor()?);
    let mut checks = Checks::new();
    checks.holds(is_answered, || "a session hangs with room".to_owned());
    checks.holds(!found.iter().any(|id| id == "expectations_full"), || {
        format!("the doctor still finds {found:?}")
    });
    checks.finish()?;
    drop(sessions);
    agent.stop()
}

fn doctor() -> Result<Value> {
    let said = std::process::Command::new("ctpressure")
        .args(["doctor", "-o", "json"])
        .output()
        .context("running the doctor")?;
    let errors = String::from_utf8_lossy(&said.stderr);
    serde_json::from_slice(&said.stdout)
        .with_context(|| format!("not JSON: {}", command::one_line(&errors)))
}

fn echo(mut session: TcpStream) {
    let mut bytes = [0; 256];
    while let Ok(length) = session.read(&mut bytes) {
        if length == 0 || session.write_all(&bytes[..length]).is_err() {
            return;
        }
    }
}

/// A session that announces a connection, and whether what it said arrived.
fn announce(port: u16) -> Result<(TcpStream, bool)> {
    let mut session = TcpStream::connect("127.0.0.1:21").context("a session of FTP")?;
    session.set_nodelay(true)?;
    session.set_read_timeout(Some(HANG))?;
    // The helper looks at what comes behind a whole line.
    let mut answer = |line: &str, patience: Duration| -> Result<bool> {
        session.set_read_timeout(Some(patience))?;
        session.write_all(line.as_bytes())?;
        let mut bytes = vec![0; line.len()];
        match session.read_exact(&mut bytes) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(false)
            }
            Err(error) => Err(error).context("an answer"),
        }
    };
    answer("USER a\r\n", HANG)?;
    let line = format!("PORT 127,0,0,1,10,{port}\r\n");
    let is_answered = answer(&line, HUNG)?;
    Ok((session, is_answered))
}
