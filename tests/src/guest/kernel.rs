//! The kernel's side: sysctls, its own conntrack statistics, modules.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    str::FromStr as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::command;

/// How long a module that is still in use is waited for.
const UNLOAD_LIMIT: Duration = command::HANG;
const SYSCTLS: &str = "/proc/sys/net/netfilter";

/// A conntrack sysctl of this network namespace, such as `nf_conntrack_max`.
pub fn sysctl(name: &str) -> Result<u64> {
    let path = format!("{SYSCTLS}/{name}");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("reading {path} (is nf_conntrack loaded?)"))?;
    u64::from_str(text.trim()).with_context(|| format!("{path} holds `{}`", text.trim()))
}

/// Sets a conntrack sysctl.
pub fn set_sysctl(name: &str, value: u64) -> Result<()> {
    write(&format!("{SYSCTLS}/{name}"), &value.to_string())
}

/// Writes a line to a file of /proc or /sys.
pub fn write(path: &str, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing `{text}` to {path}"))
}

/// The limit of every table.
pub fn set_limit(entries: u64) -> Result<()> {
    set_sysctl("nf_conntrack_max", entries)
}

/// Entries in this network namespace's table.
pub fn entries() -> Result<u64> {
    sysctl("nf_conntrack_count")
}

/// Entries in a named network namespace's table.
pub fn entries_of(namespace: &str) -> Result<u64> {
    let path = format!("{SYSCTLS}/nf_conntrack_count");
    let text = command::output("ip", &["netns", "exec", namespace, "cat", &path])?;
    u64::from_str(text.trim()).with_context(|| format!("{path} holds `{}`", text.trim()))
}

/// Makes every timeout of a new flow so long that nothing expires in the course of a scenario.
pub fn never_expire() -> Result<()> {
    for name in [
        "nf_conntrack_udp_timeout",
        "nf_conntrack_icmp_timeout",
        "nf_conntrack_icmpv6_timeout",
        "nf_conntrack_tcp_timeout_syn_sent",
        "nf_conntrack_sctp_timeout_cookie_wait",
        "nf_conntrack_gre_timeout",
        "nf_conntrack_generic_timeout",
    ] {
        // A kernel may lack a tracker; its flows are then of the generic one.
        if Path::new(SYSCTLS).join(name).exists() {
            set_sysctl(name, 3_600)?;
        }
    }
    Ok(())
}

/// Makes every timeout of a network namespace (`None`: this one) so long that nothing expires in
/// the course of a scenario, answered or not.
pub fn nothing_expires(namespace: Option<&str>) -> Result<()> {
    let script = format!("for file in {SYSCTLS}/*timeout*; do echo 3600 > $file || exit; done");
    let words = ["sh", "-c", &script];
    match namespace {
        Some(name) => command::output("ip", &[&["netns", "exec", name], words.as_slice()].concat()),
        None => command::output(words[0], &words[1..]),
    }
    .context("setting the timeouts of conntrack")
    .map(drop)
}

/// All conntrack sysctls that can be written, with their values.
pub fn all_sysctls() -> Result<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    for entry in fs::read_dir(SYSCTLS).with_context(|| format!("listing {SYSCTLS}"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let writable = !entry.metadata()?.permissions().readonly();
        if name.starts_with("nf_conntrack_") && writable {
            values.insert(name, fs::read_to_string(entry.path())?.trim().to_owned());
        }
    }
    Ok(values)
}

/// Puts back what differs from `values`.
pub fn restore_sysctls(values: &BTreeMap<String, String>) -> Result<()> {
    let now = all_sysctls()?;
    for (name, value) in values {
        if now.get(name).is_some_and(|now| now != value) {
            write(&format!("{SYSCTLS}/{name}"), value)?;
        }
    }
    Ok(())
}

/// `/proc/net/stat/nf_conntrack` of a network namespace, summed over the CPUs, by column name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistics(BTreeMap<String, u64>);

impl Statistics {
    /// Reads this process's network namespace.
    pub fn read() -> Result<Self> {
        const PATH: &str = "/proc/net/stat/nf_conntrack";
        Self::parse(&fs::read_to_string(PATH).with_context(|| format!("reading {PATH}"))?)
    }

    /// Reads the text of the file: a header, and a row of hexadecimal numbers for each CPU.
    pub fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines();
        let header: Vec<&str> = lines.next().unwrap_or("").split_whitespace().collect();
        let mut sums = BTreeMap::new();
        for row in lines {
            let cells: Vec<&str> = row.split_whitespace().collect();
            if cells.len() != header.len() {
                bail!(
                    "a row of nf_conntrack statistics has {} cells, not {}: `{row}`",
                    cells.len(),
                    header.len()
                );
            }
            for (&name, cell) in header.iter().zip(cells) {
                let value = u64::from_str_radix(cell, 16)
                    .with_context(|| format!("`{cell}` in the column {name}"))?;
                *sums.entry(name.to_owned()).or_default() += value;
            }
        }
        Ok(Self(sums))
    }

    /// Whether this kernel counts it.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The sum over the CPUs; 0 when the kernel has no such column.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// How much a column grew since `before`.
    pub fn since(&self, before: &Self, name: &str) -> u64 {
        self.get(name).wrapping_sub(before.get(name))
    }
}

/// The first two numbers of the running kernel's version.
///
/// # Errors
///
/// When it does not begin with two numbers.
pub fn release() -> Result<(u32, u32)> {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = text.split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => bail!("the kernel's version is {text}"),
    }
}

/// Whether the module is in the kernel (loaded or built in).
pub fn has_module(name: &str) -> bool {
    Path::new("/sys/module").join(name).exists()
}

/// The modules that are loaded.
pub fn modules() -> Result<BTreeSet<String>> {
    const PATH: &str = "/proc/modules";
    let text = fs::read_to_string(PATH).with_context(|| format!("reading {PATH}"))?;
    let names = text.lines().filter_map(|line| line.split(' ').next());
    Ok(names.map(ToOwned::to_owned).collect())
}

/// Loads a module.
pub fn load_module(name: &str) -> Result<()> {
    command::output("modprobe", &[name]).map(drop)
}

/// Unloads a module and, before it, every module that uses it.
pub fn unload_module(name: &str) -> Result<()> {
    if !has_module(name) {
        return Ok(());
    }
    let holders = Path::new("/sys/module").join(name).join("holders");
    for holder in fs::read_dir(&holders).with_context(|| format!("{name} is built in"))? {
        unload_module(&holder?.file_name().to_string_lossy())?;
    }
    // Rules that were deleted a moment ago are freed by a worker, and hold the module until then.
    let deadline = Instant::now() + UNLOAD_LIMIT;
    loop {
        match command::output("rmmod", &[name]) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => thread::sleep(command::POLL),
        }
    }
}

/// Number of CPUs that are online.
pub fn online_cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// How often softirq `name` (such as `NET_RX`) ran on `cpu`.
pub fn softirqs(name: &str, cpu: usize) -> Result<u64> {
    const PATH: &str = "/proc/softirqs";
    let text = fs::read_to_string(PATH).with_context(|| format!("reading {PATH}"))?;
    let row = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'))
        .with_context(|| format!("{PATH} has no row {name}"))?;
    let cell = row
        .split_whitespace()
        .nth(cpu)
        .with_context(|| format!("no CPU {cpu} in {PATH}"))?;
    cell.parse().with_context(|| format!("`{cell}` in {PATH}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_by_name_and_summed() {
        let text = "entries  clashres found drop early_drop\n\
                    00000010 00000000 00000002 0000000a ffffffff\n\
                    00000010 00000001 00000000 00000001 00000001\n";
        let statistics = Statistics::parse(text).unwrap();
        assert_eq!(statistics.get("drop"), 11);
        assert_eq!(statistics.get("early_drop"), 0x1_0000_0000);
        assert!(statistics.has("clashres") && !statistics.has("chaintoolong"));
        let later = Statistics::parse(&text.replace("0000000a", "0000000c")).unwrap();
        assert_eq!(later.since(&statistics, "drop"), 2);
    }

    #[test]
    fn torn_statistics_are_an_error() {
        assert!(Statistics::parse("a b\n1\n").is_err());
        assert!(Statistics::parse("a b\n1 x\n").is_err());
    }
}
