//! What one look around found.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Owner;
use crate::kernel::Problem;

/// An owner that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundOwner {
    /// Who was found, as far as files tell.
    pub owner: Owner,
    /// IDs of its control groups: inode numbers of directories of version 2, and what
    /// `bpf_skb_cgroup_id` gives for its sockets.
    pub cgroups: Vec<u64>,
    /// Inode number of its network namespace, if it has another one than the host.
    pub netns: Option<u32>,
    /// The addresses in that namespace that are the owner's in the host's table, too; none of the loopback device, none that is
    /// link-local.
    pub addresses: Vec<IpAddr>,
}

/// Who is there, at one moment.
#[derive(Clone, Debug)]
pub struct Discovery {
    /// When it was looked.
    pub at: Instant,
    /// What that took of a processor.
    pub took: Duration,
    /// The owners: pods first, then by what tells them apart.
    pub owners: Vec<FoundOwner>,
    /// Inode number of the host's network namespace; `None`: it can't be told, and nobody's network either, since those
    /// of pods are told from it.
    pub host_netns: Option<u32>,
    /// The host's addresses, without those of the loopback device and of dummies.
    pub host_addresses: Vec<IpAddr>,
    /// The addresses of the host's dummies, those first that are few on one: kube-proxy gives all addresses of Services to
    /// one, and there may be more than there is room for.
    pub dummy_addresses: Vec<IpAddr>,
    /// Nothing was left out, so an owner that is not in it is gone.
    pub whole: bool,
    /// Something has just begun: look again soon.
    pub unsettled: bool,
    /// The folders in which owners begin and end.
    pub folders: Arc<[PathBuf]>,
    /// What can't be seen, and what to do about it; each is said once.
    pub problems: Vec<Problem>,
}

/// What looking around has cost, for `ctpressure status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Looks {
    /// How often it was looked.
    pub times: u64,
    /// Seconds of a processor that all looks took.
    pub processor_seconds: f64,
    /// Seconds of a processor that the longest one took.
    pub longest_seconds: f64,
}

impl Looks {
    /// One more, which took this much of a processor.
    pub fn add(&mut self, took: Duration) {
        self.times += 1;
        self.processor_seconds += took.as_secs_f64();
        self.longest_seconds = self.longest_seconds.max(took.as_secs_f64());
    }
}

impl Discovery {
    /// One that found nobody, `at` this time.
    pub fn empty(at: Instant) -> Self {
        Self {
            at,
            took: Duration::ZERO,
            owners: Vec::new(),
            host_netns: None,
            host_addresses: Vec::new(),
            dummy_addresses: Vec::new(),
            whole: true,
            unsettled: false,
            folders: Arc::default(),
            problems: Vec::new(),
        }
    }
}
