//! The packages in a Debian that is booted for them: its own systemd, dpkg and journal, and rpm.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use super::Packages;
use crate::cache::Cache;
use crate::qemu::Machine;
use crate::vm_command::Prepared;
use crate::{command, debian};

/// Debian 12 and 13.
pub(super) const SUITES: [&str; 2] = ["bookworm", "trixie"];
/// What the Debian has besides what each one has: what conntrack tracks for, who completes, who reads man pages, and rpm.
const PACKAGES: &[&str] = &[
    "bash-completion",
    "bpftool",
    "conntrack",
    "fish",
    "man-db",
    "nftables",
    "rpm",
    "zsh",
];
const KERNEL: &str = "6.12";
const MEMORY_MIB: u32 = 4000;
const TIMEOUT: Duration = Duration::from_mins(25);
const SCRIPT: &str = concat!(
    include_str!("../../../guest/steps.sh"),
    include_str!("../../../guest/package.sh")
);

/// Tries them in each suite that is asked for, without any in all; gives the exit status of the first that is not 0.
pub(super) fn run(
    cache: &Cache,
    suites: &[String],
    packages: &Packages,
    next: &Packages,
) -> Result<i32> {
    let wanted = |suite: &&str| suites.is_empty() || suites.iter().any(|one| one == suite);
    let prepared = Prepared::new(cache.clone(), KERNEL, None)?;
    let put: Vec<(PathBuf, String)> = [
        (&packages.deb, "old.deb"),
        (&next.deb, "new.deb"),
        (&packages.rpm, "old.rpm"),
        (&next.rpm, "new.rpm"),
    ]
    .map(|(from, name)| (from.clone(), format!("packages/{name}")))
    .into();
    for suite in SUITES.into_iter().filter(wanted) {
        let root = debian::archive(cache, suite, PACKAGES)?;
        command::say(&format!("booting Debian ({suite}) for the packages"));
        let machine = Machine::new(2, MEMORY_MIB);
        let mut guest = prepared.guest(machine, TIMEOUT, SCRIPT.as_bytes(), &[]);
        guest.content.root = Some(&root);
        guest.content.put = &put;
        let status = prepared.show(&guest)?;
        if status != 0 {
            return Ok(status);
        }
    }
    Ok(0)
}
