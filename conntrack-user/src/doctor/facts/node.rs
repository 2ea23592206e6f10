//! The machine: kernel, CPUs, RAM, uptime.

use std::{fs, path::Path};

use ctpressure_model::cost::entry::kernel_version;

use super::Facts;
use crate::kernel::{Root, memory, release};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Release {
    /// As `uname -r` prints it.
    pub text: String,
    /// Major and minor.
    pub version: (u32, u32),
}

impl Release {
    /// Reads `6.12.118+deb13-cloud-amd64`; `None` if it does not begin with two numbers.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(Self {
            version: kernel_version(text)?,
            text: text.to_owned(),
        })
    }
}

pub(super) fn look(root: &Root, facts: &mut Facts) {
    match release::release(root) {
        Ok(text) => facts.release = Release::parse(&text),
        Err(error) => facts.could_not("the kernel's version", &error, "mount procfs"),
    }
    let text = |path: &Path| fs::read_to_string(path).ok();
    facts.cpus = text(&root.sys("devices/system/cpu/online"))
        .and_then(|list| release::count_cpus(list.trim()))
        .or_else(|| release::possible_cpus(root).ok())
        .and_then(|cpus| u64::try_from(cpus).ok());
    facts.memory = memory::read(root).ok().map(|memory| memory.total);
    facts.uptime = text(&root.proc("uptime")).and_then(|text| text.split(' ').next()?.parse().ok());
    if facts.memory.is_none() {
        facts.could_not(
            "the size of RAM",
            &"/proc/meminfo can't be read",
            "mount procfs",
        );
    }
    facts.looked.push("kernel, CPUs and RAM");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_this_machine() {
        let mut facts = Facts::default();
        look(&Root::system(), &mut facts);
        assert!(facts.release.is_some() && facts.cpus > Some(0) && facts.memory > Some(0));
        assert!(facts.uptime > Some(0.0) && facts.unseen.is_empty());
    }
}
