//! What the doctor says of packets that are lost while it looks, and of numbers that can't be right.
//! After [the others](super): the kernel's counts since boot stay.

use std::{collections::BTreeSet, fs, thread, time::Duration};

use anyhow::{Result, ensure};

use super::{doctor, ids};
use crate::{
    guest::{
        agent::Mechanism,
        command::{HANG, wait_for},
        generator, kernel, net,
    },
    traffic::bench::flush_table,
};

/// A node that has lost packets before is full no more, but it was.
const WAS_FULL: &str = "table_was_full";
const FULL: &str = "table_full_now";
/// A file of the guest, which has none of its own.
const SYSCTLS: &str = "/etc/sysctl.d/90-ctpressure-scenario.conf";

/// These findings come, if need be after some looks: what is lost is only seen while it is.
fn comes(when: &str, expected: &[&str]) -> Result<()> {
    let mut seen = BTreeSet::new();
    wait_for(when, HANG, || {
        let (report, _) = doctor()?;
        let found: BTreeSet<String> = ids(&report).into_iter().map(str::to_owned).collect();
        let all = expected.iter().all(|id| found.contains(*id));
        seen = found;
        Ok(all.then_some(()))
    })
    .map_err(|error| error.context(format!("{when}: {seen:?} instead of {expected:?}")))
}

/// None of these is there.
fn gone(when: &str, unexpected: &[&str]) -> Result<()> {
    let (report, _) = doctor()?;
    let found = ids(&report);
    let still = unexpected.iter().find(|id| found.contains(*id));
    ensure!(still.is_none(), "{when}: still {still:?} in {found:?}");
    Ok(())
}

pub(in crate::scenarios) fn losses(_: Option<Mechanism>) -> Result<()> {
    let limit = kernel::sysctl("nf_conntrack_max")?;
    kernel::nothing_expires(None)?;
    net::track_into_dead_end(None)?;
    full(limit)?;
    no_free_port()?;
    ports_in_use(limit)?;
    expired(limit)?;
    idle(limit)?;
    invalid()?;
    limits(limit)
}

fn full(limit: u64) -> Result<()> {
    kernel::set_limit(200)?;
    kernel::set_sysctl("nf_conntrack_buckets", 1_024)?;
    let flood = generator::start(None, "--flows 1000000 --rate 500")?;
    comes("a full table", &[FULL])?;
    drop(flood);
    flush_table()?;
    kernel::set_limit(limit)?;
    kernel::set_sysctl("nf_conntrack_buckets", limit)?;
    comes("a table that was full", &[WAS_FULL])?;
    gone("a table that was full", &[FULL, "table_near_limit"])
}

/// NAT rules for whatever leaves by the dead end.
fn masquerade(ports: &str) -> String {
    format!(
        "table ip ctp_nat {{
  chain post {{
    type nat hook postrouting priority srcnat;
    oifname \"ctp0\" meta l4proto udp masquerade to :{ports}
  }}
}}
"
    )
}

fn no_rules() -> Result<()> {
    net::nft(None, "delete table ip ctp_nat\n")
}

fn no_free_port() -> Result<()> {
    const NONE: &str = "nat_no_free_port";
    net::nft(None, &masquerade("10000-10009"))?;
    let sending = generator::start(
        None,
        "--source 192.0.2.1/32 --destination 198.19.0.1/32 --flows 30000 --rate 500",
    )?;
    comes("ten ports", &[NONE])?;
    // Until there are as many as a day of a busy node has.
    wait_for("a thousand lost packets", HANG, || {
        let lost = kernel::Statistics::read()?.get("insert_failed");
        Ok((lost > 1_200).then_some(()))
    })?;
    drop(sending);
    no_rules()?;
    flush_table()?;
    comes("ports again", &["clash_losses"])?;
    gone("ports again", &[NONE])
}

fn ports_in_use(limit: u64) -> Result<()> {
    const FLOWS: u64 = 34_000;
    const USED: &str = "nat_ports_in_use";
    kernel::set_limit(4 * FLOWS)?;
    net::nft(None, &masquerade("1024-65535"))?;
    let sent = generator::send(
        None,
        &format!("--source 192.0.2.0/24 --destination 198.19.0.1/32 --flows {FLOWS}"),
    )?;
    ensure!(sent.accepted > FLOWS * 99 / 100, "too few fit: {sent:?}");
    comes("more than half of the ports", &[USED])?;
    no_rules()?;
    flush_table()?;
    kernel::set_limit(limit)?;
    gone("all ports free", &[USED])
}

fn expired(limit: u64) -> Result<()> {
    const EXPIRED: &str = "expired_not_removed";
    const FLOWS: u64 = 8_000;
    kernel::set_limit(2 * FLOWS)?;
    kernel::set_sysctl("nf_conntrack_udp_timeout", 1)?;
    // The kernel's garbage collector comes by once in a while, and whoever lists the table removes them.
    wait_for("expired entries to be found", HANG, || {
        generator::send(None, &format!("--flows {FLOWS}"))?;
        thread::sleep(Duration::from_millis(1_500));
        let (report, _) = doctor()?;
        Ok(ids(&report).contains(EXPIRED).then_some(()))
    })?;
    kernel::set_sysctl("nf_conntrack_udp_timeout", 3_600)?;
    flush_table()?;
    kernel::set_limit(limit)?;
    gone("none expired", &[EXPIRED])
}

/// Flows that end one after another and are kept by a long timeout.
fn idle(limit: u64) -> Result<()> {
    const IDLE: &str = "timeout_udp";
    kernel::set_limit(600)?;
    kernel::set_sysctl("nf_conntrack_udp_timeout", 600)?;
    let sent = generator::send(None, "--flows 240 --rate 2")?;
    ensure!(sent.accepted > 230, "too few fit: {sent:?}");
    comes("flows that nobody uses", &[IDLE])?;
    flush_table()?;
    // The same number, all at once: none had the time.
    generator::send(None, "--flows 240")?;
    gone("flows of this moment", &[IDLE])?;
    // Made with a shorter timeout than the one in force, so that most of it seems to be over.
    kernel::set_sysctl("nf_conntrack_udp_timeout", 60)?;
    flush_table()?;
    generator::send(None, "--flows 240")?;
    kernel::set_sysctl("nf_conntrack_udp_timeout", 600)?;
    gone("flows from before the timeout was another one", &[IDLE])?;
    flush_table()?;
    kernel::set_sysctl("nf_conntrack_udp_timeout", 3_600)?;
    kernel::set_limit(limit)
}

/// In place of a SYN comes what belongs to no connection.
const NOT_SYN: &str = "
table inet ctp_not_syn {
  chain output { type filter hook output priority raw; tcp flags syn tcp flags set ack; }
}
";

fn invalid() -> Result<()> {
    const FOUND: &[&str] = &["invalid_packets", "invalid_logged"];
    kernel::set_sysctl("nf_conntrack_tcp_loose", 0)?;
    // Of GRE, which nobody sends here: what is said of the setting does not depend on what is logged.
    kernel::set_sysctl("nf_conntrack_log_invalid", 47)?;
    net::nft(None, NOT_SYN)?;
    let sending = generator::start(None, "--protocol tcp --flows 1000000 --rate 200")?;
    comes("packets of no connection", FOUND)?;
    drop(sending);
    net::nft(None, "delete table inet ctp_not_syn\n")?;
    kernel::set_sysctl("nf_conntrack_log_invalid", 0)?;
    kernel::set_sysctl("nf_conntrack_tcp_loose", 1)?;
    gone("none of them", FOUND)
}

/// Numbers that can't be right.
fn limits(limit: u64) -> Result<()> {
    for (set, id) in [(0, "no_limit"), (4_000_000, "full_table_memory")] {
        kernel::set_limit(set)?;
        comes(&format!("a limit of {set}"), &[id])?;
        kernel::set_limit(limit)?;
        gone("the limit as it was", &[id])?;
    }
    fs::create_dir_all("/etc/sysctl.d")?;
    fs::write(
        SYSCTLS,
        format!("net.netfilter.nf_conntrack_max = {}\n", limit + 1),
    )?;
    let said = comes("a file that is not in force", &["limit_file_not_in_force"]);
    fs::remove_file(SYSCTLS)?;
    said?;
    gone("no such file", &["limit_file_not_in_force"])
}
