//! Somebody lowers the limit again and again.

use std::{path::Path, thread, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{LIMIT, State, changes, limit, wait_until_it_acts};
use crate::{
    guest::{
        agent::{Agent, Mechanism},
        checks::Checks,
        command::{self, HANG, wait_for},
        generator, kernel,
    },
    scenarios::setting::Setting,
};

/// Entries of the table, of a limit of [`LIMIT`]: pressure.
const FLOWS: u64 = 1_900;
/// How often it is put back before it is left as it is.
const ROUNDS: u64 = 5;

/// The journal of a run.
const JOURNAL: &str = "/tmp/ctp-limit-journal";

struct Journal;

impl Drop for Journal {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(JOURNAL));
    }
}

/// Waits until the agent has seen this round; gives what it said of it.
fn round(agent: &Agent, number: u64) -> Result<Value> {
    wait_for("the round to be seen", HANG, || {
        let view = limit(agent, &[])?;
        let rounds = view["controller"]["fight"]["rounds"].as_u64();
        Ok((rounds == Some(number)).then_some(view))
    })
    .with_context(|| format!("round {number}"))
}

pub(in crate::scenarios) fn fight(mechanism: Option<Mechanism>) -> Result<()> {
    let state = State::default();
    std::fs::create_dir_all(JOURNAL)?;
    let journal = Journal;
    let flags = format!("{} --journal {JOURNAL}", state.flags());
    let setting = Setting::new(mechanism, LIMIT, &flags)?;
    let agent = &setting.agent;
    wait_until_it_acts(agent)?;
    let mut checks = Checks::new();
    generator::send(
        None,
        &format!(
            "--source 198.18.0.0/28 --source-ports 1024-1027 --destination 198.19.0.0/24 --flows {FLOWS}"
        ),
    )?;
    let ours = wait_for("a raise", HANG, || {
        let now = kernel::sysctl("nf_conntrack_max")?;
        Ok((now > LIMIT).then_some(now))
    })?;

    // The first time it is put back within seconds.
    let lowered = LIMIT - 1;
    kernel::set_limit(lowered)?;
    round(agent, 1)?;
    wait_for("the limit to be put back", HANG, || {
        Ok((kernel::sysctl("nf_conntrack_max")? == ours).then_some(()))
    })?;
    // The second time only after a minute.
    kernel::set_limit(lowered)?;
    let view = round(agent, 2)?;
    let said = changes(&view, "found", "applied")
        .last()
        .map(|change| change["reason"].to_string());
    checks.holds(
        said.as_deref()
            .is_some_and(|said| said.contains("round 2") && said.contains("60 s")),
        || format!("the second round: {said:?}"),
    );
    thread::sleep(Duration::from_secs(7));
    checks.equal(
        "the limit while it backs off",
        kernel::sysctl("nf_conntrack_max")?,
        "as lowered",
        lowered,
    );
    // Further down while it waits: each is a round, and then it is left.
    for number in 3..=ROUNDS + 1 {
        kernel::set_limit(lowered - number)?;
        round(agent, number)?;
    }
    let left = lowered - ROUNDS - 1;
    let metrics = wait_for("the alert", HANG, || {
        let metrics = agent.scrape()?;
        let given_up = metrics.value("ctpressure_limit_fight_given_up", &[]);
        Ok((given_up == Some(1.0)).then_some(metrics))
    })?;
    let found = [("by", "somebody_else"), ("result", "applied")];
    checks.equal(
        "limit_changes_total{by=somebody_else}",
        metrics.count("ctpressure_limit_changes_total", &found)?,
        "rounds",
        ROUNDS + 1,
    );
    let view = limit(agent, &[])?;
    for (purpose, number) in [("raise", 1), ("reapply", 1), ("found", 6)] {
        checks.equal(
            format!("history: {purpose}"),
            changes(&view, purpose, "applied").len(),
            "done",
            number,
        );
    }
    checks.equal(
        "the limit in the end",
        kernel::sysctl("nf_conntrack_max")?,
        "left as lowered",
        left,
    );
    setting.agent.stop()?;
    recorded(Path::new(JOURNAL), &mut checks)?;
    drop(journal);
    checks.finish()
}

/// All of it is in the journal.
fn recorded(journal: &Path, checks: &mut Checks) -> Result<()> {
    let journal = journal.to_string_lossy();
    let words = [
        "report",
        "--journal",
        &journal,
        "--since",
        "-10m",
        "-o",
        "json",
    ];
    let report: Value = serde_json::from_str(&command::output("ctpressure", &words)?)?;
    let changes = report["changes"].as_array().cloned().unwrap_or_default();
    let number = |by: &str, result: &str| {
        let of = changes
            .iter()
            .filter(|change| change["by"] == by && change["result"] == result);
        of.count()
    };
    checks.equal("journal: seen", number("other", "seen"), "rounds", 6);
    checks.equal(
        "journal: by the controller",
        number("controller", "applied"),
        "a raise, and put back once",
        2,
    );
    let given_up = changes
        .iter()
        .any(|change| change["reason"].to_string().contains("given up"));
    checks.holds(given_up, || format!("journal: {changes:?}"));
    Ok(())
}
