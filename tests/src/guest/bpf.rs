//! Which programs, maps and links the kernel holds.

use std::{collections::BTreeSet, thread};

use anyhow::{Context as _, Result};

use super::command::POLL;

/// Ids of everything BPF in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
    links: BTreeSet<u32>,
}

impl Inventory {
    /// Asks the kernel (`BPF_PROG_GET_NEXT_ID` and its siblings; needs `CAP_SYS_ADMIN`).
    ///
    /// What comes and goes while it is listed is an error of the kernel's (`ENOENT`, or `EAGAIN`
    /// for a link that is just being made): then once more.
    pub fn take() -> Result<Self> {
        for _ in 0..20 {
            if let Ok(inventory) = Self::try_take() {
                return Ok(inventory);
            }
            thread::sleep(POLL);
        }
        Self::try_take()
    }

    fn try_take() -> Result<Self> {
        let programs = aya::programs::loaded_programs()
            .map(|program| Ok(program?.id()))
            .collect::<Result<_, aya::programs::ProgramError>>()
            .context("listing BPF programs")?;
        let maps = aya::maps::loaded_maps()
            .map(|map| Ok(map?.id()))
            .collect::<Result<_, aya::maps::MapError>>()
            .context("listing BPF maps")?;
        let links = aya::programs::loaded_links()
            .map(|link| Ok(link?.id()))
            .collect::<Result<_, aya::programs::links::LinkError>>()
            .context("listing BPF links")?;
        Ok(Self {
            programs,
            maps,
            links,
        })
    }

    /// Numbers of programs, maps and links that are here and not in `before`.
    pub fn beyond(&self, before: &Self) -> (usize, usize, usize) {
        (
            self.programs.difference(&before.programs).count(),
            self.maps.difference(&before.maps).count(),
            self.links.difference(&before.links).count(),
        )
    }
}
