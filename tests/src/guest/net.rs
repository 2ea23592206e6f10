//! Devices, network namespaces and rules. Everything made here begins with `ctp`, so that
//! [`clean_up`] finds it after a scenario that was killed.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::{Context as _, Result};

use super::command::{output, output_with_input};

/// A place where flows end unanswered: a dummy device with routes for the generator's
/// destinations by way of a neighbour that does not exist.
const DEAD_END: &str = "ctp0";

/// `nft` rules that make conntrack look at everything in and out, except loopback: the scrapes of
/// the agent must neither count nor be refused.
pub const TRACK: &str = "
table inet ctp {
  chain raw_output { type filter hook output priority raw; oif lo notrack; }
  chain raw_prerouting { type filter hook prerouting priority raw; iif lo notrack; }
  chain track { type filter hook output priority filter; ct state new accept; }
}
";

/// Runs `ip` in a network namespace (`None`: this one), arguments split at spaces.
pub fn ip(namespace: Option<&str>, arguments: &str) -> Result<String> {
    let mut words: Vec<&str> = namespace.map_or_else(Vec::new, |name| vec!["-n", name]);
    words.extend(arguments.split_whitespace());
    output("ip", &words)
}

/// Several `ip` commands, one a line, in one process.
pub fn batch(namespace: Option<&str>, commands: &str) -> Result<()> {
    let mut words: Vec<&str> = namespace.map_or_else(Vec::new, |name| vec!["-n", name]);
    words.extend(["-batch", "-"]);
    output_with_input("ip", &words, commands).map(drop)
}

/// Loads `nft` rules into a network namespace.
pub fn nft(namespace: Option<&str>, rules: &str) -> Result<()> {
    match namespace {
        Some(name) => {
            output_with_input("ip", &["netns", "exec", name, "nft", "-f", "-"], rules).map(drop)
        }
        None => output_with_input("nft", &["-f", "-"], rules).map(drop),
    }
}

/// What `nft` answers in a network namespace, arguments split at spaces.
pub fn nft_list(namespace: Option<&str>, arguments: &str) -> Result<String> {
    let mut words: Vec<&str> =
        namespace.map_or_else(Vec::new, |name| vec!["netns", "exec", name, "nft"]);
    words.extend(arguments.split_whitespace());
    output(if namespace.is_some() { "ip" } else { "nft" }, &words)
}

/// Makes the dead end, and conntrack look at what is sent there.
pub fn track_into_dead_end(namespace: Option<&str>) -> Result<()> {
    dead_end(namespace)?;
    nft(namespace, TRACK)
}

/// Makes the dead end for 198.18.0.0/15 (RFC 2544, benchmarks) and `fd00:c7::/32`.
pub fn dead_end(namespace: Option<&str>) -> Result<()> {
    for arguments in [
        "link set lo up",
        &format!("link add {DEAD_END} type dummy"),
        &format!("link set {DEAD_END} up"),
        &format!("addr add 192.0.2.1/32 dev {DEAD_END}"),
        &format!("neigh add 192.0.2.254 lladdr 02:00:00:00:00:01 nud permanent dev {DEAD_END}"),
        &format!("route add 198.18.0.0/15 via 192.0.2.254 dev {DEAD_END} onlink"),
        &format!("-6 addr add fd00:c7::1/128 dev {DEAD_END} nodad"),
        &format!("-6 neigh add fe80::1 lladdr 02:00:00:00:00:01 nud permanent dev {DEAD_END}"),
        &format!("-6 route add fd00:c7::/32 via fe80::1 dev {DEAD_END} onlink"),
    ] {
        ip(namespace, arguments)?;
    }
    Ok(())
}

/// Makes a named network namespace.
pub fn add_namespace(name: &str) -> Result<()> {
    ip(None, &format!("netns add {name}")).map(drop)
}

/// The inode number of a named network namespace, by which ctpressure knows it.
pub fn namespace_inode(name: &str) -> Result<u64> {
    let path = Path::new("/run/netns").join(name);
    let path = if path.exists() {
        path
    } else {
        Path::new("/var/run/netns").join(name)
    };
    Ok(fs::metadata(&path)
        .with_context(|| format!("looking at {}", path.display()))?
        .ino())
}

/// The inode number of this process's network namespace.
pub fn own_inode() -> Result<u64> {
    Ok(fs::metadata("/proc/self/ns/net")
        .context("looking at /proc/self/ns/net")?
        .ino())
}

/// Removes what scenarios made.
pub fn clean_up() -> Result<()> {
    let namespaces = output("ip", &["netns", "list"])?;
    for name in namespaces
        .lines()
        .filter_map(|line| line.split_whitespace().next())
    {
        if name.starts_with("ctp") {
            ip(None, &format!("netns delete {name}"))?;
        }
    }
    for entry in fs::read_dir("/sys/class/net").context("listing /sys/class/net")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with("ctp") {
            continue;
        }
        // The kernel removes those whose other end was in a deleted namespace, some time later.
        let there = || Path::new("/sys/class/net").join(&name).exists();
        match ip(None, &format!("link delete {name}")) {
            Err(error) if there() => return Err(error),
            _ => {}
        }
    }
    let tables = output("nft", &["list", "tables"])?;
    for table in tables.lines().filter(|line| line.contains(" ctp")) {
        nft(None, &format!("delete {table}\n"))?;
    }
    Ok(())
}
