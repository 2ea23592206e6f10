//! `ctpressure top --once`: its numbers against the kernel's and the generator's.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::setting::{MANY_BUCKETS, Setting};
use crate::{
    guest::{
        agent::{Mechanism, free_address},
        bpf::Inventory,
        checks::Checks,
        command::{self, HANG, wait_for},
        generator, kernel, net,
    },
    traffic::tally::Tally,
};

const POD: &str = "ctp-pod";
const POD_RULES: &str = "
table inet pod {
  chain output { type filter hook output priority filter; ct state new,established accept; }
}
";
const LIMIT: u64 = 2_000;
const FLOWS: u64 = 15_000;
/// Flows a second.
const RATE: u32 = 1_000;

/// What `top --once` prints.
fn print(socket: &Path, arguments: &str) -> Result<String> {
    let socket = socket.to_str().context("the socket's path")?;
    let mut words = vec!["top", "--once", "--socket", socket];
    words.extend(arguments.split_whitespace());
    command::output("ctpressure", &words)
}

/// The object that `top --once -o json` prints.
fn top(socket: &Path) -> Result<Value> {
    let said = print(socket, "-o json")?;
    ensure!(said.lines().count() == 1, "not one line: {said}");
    serde_json::from_str(&said).with_context(|| format!("not JSON: {said}"))
}

/// What it prints, and the entries that the kernel has in the pod's table before and after it.
fn steady(socket: &Path) -> Result<(Value, u64)> {
    wait_for("the kernel to leave the pod's table alone", HANG, || {
        let before = kernel::entries_of(POD)?;
        let value = top(socket)?;
        Ok((kernel::entries_of(POD)? == before).then_some((value, before)))
    })
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

fn rows<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

fn pod(value: &Value) -> Option<&Value> {
    rows(value, "tables")
        .iter()
        .find(|table| table["name"] == POD)
}

/// The sum of a field of rows, with what is not shown.
fn sum(value: &Value, [shown, others]: [&str; 2], field: &str) -> u64 {
    let rows: u64 = rows(value, shown)
        .iter()
        .map(|row| number(row, &format!("/{field}")))
        .sum();
    rows + number(value, &format!("/{others}/{field}"))
}

/// Owners and tables hold the same, and that is what the kernel has.
fn check_entries(checks: &mut Checks, who: &str, (value, of_kernel): &(Value, u64)) {
    let of_kernel = *of_kernel;
    let entries = sum(value, ["tables", "other_tables"], "entries");
    let live = sum(value, ["owners", "other_owners"], "live");
    checks.equal(
        format!("{who}: entries of all owners"),
        live,
        "of all tables",
        entries,
    );
    let shown = pod(value).map(|table| number(table, "/entries"));
    checks.equal(
        format!("{who}: entries of the pod's table"),
        shown,
        "of the kernel",
        Some(of_kernel),
    );
    // Above 95 % the kernel's garbage collector takes entries that were never answered.
    checks.holds((LIMIT * 94 / 100..=LIMIT).contains(&of_kernel), || {
        format!("{who}: {of_kernel} entries at a limit of {LIMIT}")
    });
    checks.equal(
        format!("{who}: limit"),
        number(value, "/limit"),
        "sysctl",
        LIMIT,
    );
    let pressure = pod(value).map(|table| &table["pressure"]);
    let pressed = pressure.is_some_and(|pressure| pressure == "full" || pressure == "high");
    checks.holds(pressed, || {
        format!("{who}: the pod's table is {pressure:?}")
    });
}

/// While flows come: there are rates, and they are no more than what is sent. How much less depends
/// on when the table was seen full, and on the host's load.
fn check_rates(checks: &mut Checks, value: &Value) {
    let rate = value["totals"]["inserts_per_second"]
        .as_f64()
        .unwrap_or(0.0);
    let drops = value["totals"]["drops_per_second"].as_f64().unwrap_or(0.0);
    let (sent, tried) = (f64::from(RATE), rate + drops);
    checks.holds(rate > 0.0 && drops > 0.0 && tried < sent * 2.0, || {
        format!("{rate} inserts/s and {drops} drops/s of {sent} sent")
    });
    let owners: f64 = rows(value, "owners")
        .iter()
        .filter_map(|owner| owner["inserts_per_second"]["10s"].as_f64())
        .sum();
    checks.holds((owners - rate).abs() < 1.0, || {
        format!("{owners} inserts/s of all owners, not {rate}")
    });
    let first = &value["owners"][0];
    let destinations = first["destinations"]["inserts"]["destinations"].as_array();
    checks.holds(
        destinations.is_some_and(|destinations| !destinations.is_empty()),
        || format!("no destinations of who fills it: {first}"),
    );
}

/// When nothing comes any more: everything is counted.
fn check_totals(checks: &mut Checks, value: &Value, tally: &Tally) {
    let refused = tally.error("EPERM");
    checks.at_least("EPERM", refused, 100);
    checks.equal(
        "drops",
        number(value, "/totals/drops/table_full"),
        "EPERM",
        refused,
    );
    for (field, total) in [("drops", refused), ("inserts", tally.accepted)] {
        checks.equal(
            format!("{field} of all owners"),
            sum(value, ["owners", "other_owners"], field),
            "the generator's",
            total,
        );
    }
}

fn check_text(checks: &mut Checks, text: &str) {
    for word in [
        "table ctp-pod",
        "owners by drops",
        "opens connections to",
        "who loses packets",
        "table_full",
    ] {
        checks.holds(text.contains(word), || format!("no {word:?} in\n{text}"));
    }
    checks.holds(text.lines().all(|line| line.chars().count() <= 80), || {
        format!("wider than 80 columns:\n{text}")
    });
}

pub(super) fn once(mechanism: Option<Mechanism>) -> Result<()> {
    kernel::set_sysctl("nf_conntrack_buckets", MANY_BUCKETS)?;
    let setting = Setting::new(mechanism, LIMIT, "")?;
    let socket = setting.agent.socket();
    net::add_namespace(POD)?;
    net::dead_end(Some(POD))?;
    net::nft(Some(POD), POD_RULES)?;
    kernel::nothing_expires(Some(POD))?;
    setting.agent.wait_for_table(POD)?;
    let flood = generator::start(Some(POD), &format!("--flows {FLOWS} --rate {RATE}"))?;
    let during = wait_for("the pod's table to be full", HANG, || {
        let value = top(&socket)?;
        let full = pod(&value).is_some_and(|table| number(table, "/entries") >= LIMIT);
        Ok((full && number(&value, "/totals/evictions") > 0).then_some(value))
    })?;
    let text = print(&socket, "--sort drops --top 3")?;
    let tally = flood.finish()?;
    setting.agent.settled()?;
    let after = steady(&socket)?;

    let mut checks = Checks::new();
    check_rates(&mut checks, &during);
    check_entries(&mut checks, "the agent", &after);
    check_totals(&mut checks, &after.0, &tally);
    check_text(&mut checks, &text);
    println!("{text}");
    setting.agent.stop()?;

    let before = Inventory::take()?;
    let nobody = std::env::temp_dir().join(format!("ctp-nobody-{}", free_address()?.port()));
    check_entries(&mut checks, "alone", &steady(&nobody)?);
    checks.finish()?;
    wait_for("programs, maps and links of top to go", HANG, || {
        Ok((Inventory::take()?.beyond(&before) == (0, 0, 0)).then_some(()))
    })
}
