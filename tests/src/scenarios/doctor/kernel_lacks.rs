//! What the doctor says of the kernel itself: what it does with long chains, and what can't be observed on it.
//! What a kernel lacks is hidden from the doctor: that is what it looks at in either case.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{apply, doctor, finding, ids, said_by};
use crate::guest::{
    agent::Mechanism,
    kernel::{self, Statistics},
};

/// Symbols of the kernel without some of them.
const SYMBOLS: &str = "/tmp/ctp-kallsyms";

pub(in crate::scenarios) fn kernel_lacks(_: Option<Mechanism>) -> Result<()> {
    kernel::load_module("nf_conntrack_netlink")?;
    let limit = kernel::sysctl("nf_conntrack_max")?;
    let buckets = kernel::sysctl("nf_conntrack_buckets")?;
    chains()?;
    kernel::set_limit(limit)?;
    kernel::set_sysctl("nf_conntrack_buckets", buckets)?;

    let hidden = |what: &str, id: &str, words: &str| -> Result<()> {
        let report = doctor_after(what)?;
        let evidence = finding(&report, id)["evidence"].to_string();
        ensure!(
            evidence.contains(words),
            "after `{what}`: {evidence} of {id} has no `{words}`: {:?}, not seen {}",
            ids(&report),
            report["could_not_look"]
        );
        let (report, _) = doctor()?;
        let evidence = finding(&report, id)["evidence"].to_string();
        ensure!(!evidence.contains(words), "nothing is hidden: {evidence}");
        Ok(())
    };
    hidden(
        "mount -t tmpfs none /proc/$$/net",
        "no_statistics_file",
        "CONFIG_NF_CONNTRACK_PROCFS",
    )?;
    hidden(
        "mount -t tmpfs none /sys/kernel/btf",
        "nothing_to_attach",
        "BTF",
    )?;
    let symbols = fs::read_to_string("/proc/kallsyms")?;
    let without: Vec<&str> = symbols
        .lines()
        .filter(|line| !line.contains(" early_drop"))
        .collect();
    fs::write(SYMBOLS, without.join("\n"))?;
    let hide = format!("mount -o bind {SYMBOLS} /proc/kallsyms");
    let told = hidden(&hide, "events_not_seen", "early_drop");
    fs::remove_file(SYMBOLS)?;
    told
}

/// Too few buckets: new connections are refused, or every look-up gets slow.
fn chains() -> Result<()> {
    // From 5.15 on chains have an end, and what is refused for that is counted.
    let (id, other) = if Statistics::read()?.has("chainlength") {
        ("chain_too_long", "long_chains")
    } else {
        ("long_chains", "chain_too_long")
    };
    kernel::set_limit(262_144)?;
    kernel::set_sysctl("nf_conntrack_buckets", 8_192)?;
    let (report, _) = doctor()?;
    let found = ids(&report);
    ensure!(
        found.contains(id) && !found.contains(other),
        "few buckets: {found:?}"
    );
    apply(&report, id)?;
    let (report, _) = doctor()?;
    let found = ids(&report);
    ensure!(
        !found.contains(id) && !found.contains(other),
        "buckets as advised: {found:?}"
    );
    Ok(())
}

/// What the doctor says where this was done before, by a shell that becomes the doctor in mounts of its own.
fn doctor_after(what: &str) -> Result<Value> {
    let become_it = format!("{what} && exec ctpressure doctor -o json");
    let (report, _) = said_by(Command::new("unshare").args(["-m", "sh", "-c", &become_it]))
        .with_context(|| format!("the doctor after `{what}`"))?;
    Ok(report)
}
