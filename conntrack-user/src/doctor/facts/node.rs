//! The machine: kernel, CPUs, RAM, uptime.

use std::{fs, path::Path};

use super::Facts;
use crate::kernel::{Root, release};

/// A kernel's release.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Release {
    /// As `uname -r` prints it.
    pub text: String,
    /// 6 of 6.12.
    pub major: u32,
    /// 12 of 6.12.
    pub minor: u32,
}

impl Release {
    /// Reads `6.12.118+deb13-cloud-amd64`; `None` if it does not begin with two numbers.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(|letter: char| !letter.is_ascii_digit());
        Some(Self {
            text: text.to_owned(),
            major: numbers.next()?.parse().ok()?,
            minor: numbers.next()?.parse().ok()?,
        })
    }
}

pub(super) fn look(root: &Root, facts: &mut Facts) {
    match release::release(root) {
        Ok(text) => facts.release = Release::parse(&text),
        Err(error) => facts.could_not("the kernel's version", error.to_string(), "mount procfs"),
    }
    let text = |path: &Path| fs::read_to_string(path).ok();
    facts.cpus = text(&root.sys("devices/system/cpu/online"))
        .and_then(|list| release::count_cpus(list.trim()))
        .or_else(|| release::possible_cpus(root).ok())
        .and_then(|cpus| u64::try_from(cpus).ok());
    facts.memory = text(&root.proc("meminfo")).and_then(|text| memory(&text));
    facts.uptime = text(&root.proc("uptime")).and_then(|text| text.split(' ').next()?.parse().ok());
    if facts.memory.is_none() {
        facts.could_not(
            "the size of RAM",
            "/proc/meminfo can't be read".to_owned(),
            "mount procfs",
        );
    }
    facts.looked.push("kernel, CPUs and RAM");
}

fn memory(meminfo: &str) -> Option<u64> {
    let row = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = row.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        let release = Release::parse("6.12.118+deb13-cloud-amd64").expect("two numbers");
        assert_eq!((release.major, release.minor), (6, 12));
        let release = Release::parse("7.0-rc1").expect("two numbers");
        assert_eq!((release.major, release.minor), (7, 0));
        assert_eq!(Release::parse("next"), None);
    }

    #[test]
    fn ram() {
        assert_eq!(
            memory("MemTotal:        2026764 kB\nMemFree: 1 kB\n"),
            Some(2_026_764 * 1024)
        );
        assert_eq!(memory("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn of_this_machine() {
        let mut facts = Facts::default();
        look(&Root::system(), &mut facts);
        assert!(facts.release.is_some() && facts.cpus > Some(0) && facts.memory > Some(0));
        assert!(facts.uptime > Some(0.0) && facts.unseen.is_empty());
    }
}
