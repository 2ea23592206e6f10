//! Programs that are loaded, but attached only while they are needed: what they cost, each new connection pays while they are.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    link::{Link, hang},
    select::Resolved,
    status::HookStatus,
};
use crate::sys::{bpf, lock::locked};

/// A loaded program and where it goes.
pub(super) struct Loaded {
    pub(super) hook: Resolved,
    pub(super) fd: OwnedFd,
    /// As it is while it is attached.
    pub(super) status: HookStatus,
}

/// Programs that are attached together, or not at all.
pub(super) struct OnDemand {
    programs: Vec<Loaded>,
    links: Mutex<Links>,
    /// Runs that were missed while they were attached before.
    missed: AtomicU64,
}

#[derive(Default)]
struct Links {
    /// In the order of the programs; empty: they are not attached.
    now: Vec<Link>,
    /// Why they could not be attached.
    refused: Option<String>,
}

impl OnDemand {
    /// `links`: they are attached already, by these; else they are not.
    pub(super) fn new(programs: Vec<Loaded>, links: Vec<Link>) -> Self {
        Self {
            programs,
            links: Mutex::new(Links {
                now: links,
                refused: None,
            }),
            missed: AtomicU64::new(0),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.programs.is_empty()
    }

    pub(super) fn programs(&self) -> &[Loaded] {
        &self.programs
    }

    pub(super) fn is_attached(&self) -> bool {
        !locked(&self.links).now.is_empty()
    }

    /// Attaches them, unless they are attached, or were refused before; whether they are now. There is one caller at a time.
    pub(super) fn attach(&self) -> bool {
        {
            let links = locked(&self.links);
            if !links.now.is_empty() || links.refused.is_some() {
                return !links.now.is_empty();
            }
        }
        // It may take a while, in which others read the status.
        let linked: Result<Vec<Link>, String> = self
            .programs
            .iter()
            .map(|program| hang(&program.hook, program.fd.as_fd()))
            .collect();
        let mut links = locked(&self.links);
        match linked {
            Ok(now) => links.now = now,
            Err(why) => links.refused = Some(why),
        }
        !links.now.is_empty()
    }

    /// Detaches them, the last one first. There is one caller at a time.
    pub(super) fn detach(&self) {
        let mut links = std::mem::take(&mut locked(&self.links).now);
        while let Some(link) = links.pop() {
            self.missed.fetch_add(link.missed(), Ordering::Relaxed);
            drop(link);
        }
    }

    /// Times that the kernel skipped one of them.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub(super) fn missed_runs(&self) -> io::Result<u64> {
        let mut missed = self.missed.load(Ordering::Relaxed);
        missed += locked(&self.links)
            .now
            .iter()
            .map(Link::missed)
            .sum::<u64>();
        for program in &self.programs {
            missed += bpf::program_info(program.fd.as_fd())?.recursion_misses;
        }
        Ok(missed)
    }

    /// Their hooks as they are now.
    pub(super) fn status(&self) -> impl Iterator<Item = HookStatus> {
        let links = locked(&self.links);
        let (attached, refused) = (!links.now.is_empty(), links.refused.clone());
        self.programs.iter().map(move |program| HookStatus {
            attached,
            waits: !attached && refused.is_none(),
            reason: refused.clone().or_else(|| program.status.reason.clone()),
            ..program.status.clone()
        })
    }
}
