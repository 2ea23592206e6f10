//! The entries of a whole table, one after another (`IPCTNL_MSG_CT_GET` of ctnetlink).
//!
//! The kernel lists a table bucket by bucket, 32 KiB at a time (`ctnetlink_dump_table`,
//! `nf_conntrack_netlink.c`); an entry is read from there onto the stack and handed on, so a table of
//! any size takes no memory here. What a listing is worth:
//!
//! * it is no snapshot: entries come and go while it runs. Between two pieces the last entry may
//!   go; then its bucket is listed anew, and what is in it comes twice, which is noticed here;
//! * when the hash table is resized meanwhile ([`Walk::changed`]), many may be missing or come twice;
//! * entries that have expired but are not yet removed are in the kernel's count and not in the list,
//!   and so are the losers of a clash that it inserted in the reply direction only.
//!
//! Where it can be had a walk over the hash table costs much less: see `crate::walk`.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use nix::errno::Errno;

use super::confinement::as_root;
use super::conntrack::Presence;
use super::{Root, sysctl};
use crate::sys::netlink::{NetlinkError, NetlinkSocket};

mod entry;
mod found;
mod namespaces;
mod parse;
mod state;
mod status;
#[cfg(test)]
mod tests;
mod unlisted;

pub(crate) use entry::{EntryTuple, Layer4, TableEntry};
pub(crate) use found::{
    FIRST_NAT_PORT, FoundEntry, PortSet, Shape, address_words, is_chosen_by_nat,
};
pub(crate) use namespaces::{WalkOutcome, count_namespaces, walk_namespaces};
pub(crate) use parse::{name_of_entry, parse};
pub(crate) use state::{EntryState, state_names};
pub(crate) use status::EntryStatus;
pub(crate) use unlisted::{Unlisted, count_unlisted};

const CTNETLINK: u8 = 1;

const GET: u8 = 1;

/// What a walk over a table came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EntryWalk {
    /// Entries that were handed on.
    pub entries: u64,
    /// Entries that could not be read: without both tuples. None on any known kernel.
    pub unreadable: u64,
    /// The kernel's own count when the walk began and when it ended.
    pub counts: [u64; 2],
    /// The table was rebuilt meanwhile (the number of buckets changed, or the kernel said so by
    /// `NLM_F_DUMP_INTR`): entries may be missing or counted twice.
    pub changed: bool,
    /// The caller had enough before the end.
    pub stopped: bool,
    /// What only a walk over the hash table tells, where there was one.
    pub hash: Option<HashFound>,
}

/// Entries that are in a table and in no list of ctnetlink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HashFound {
    /// Losers of a clash, which are in it in the reply direction only; not among [`EntryWalk::entries`].
    pub clashes: u64,
    /// Entries whose time is over, which the kernel removes when it next comes by; they are among [`EntryWalk::entries`], since they take room.
    pub expired: u64,
}

impl EntryWalk {
    /// How many entries a list should have had at least, by the kernel's own count: what is missing in it is held by packets. `None`: the
    /// walk does not tell. Expired entries don't count, since a listing removes those that it meets; of a table that changes fast
    /// a few may be missing all the same.
    pub(crate) fn listable(&self) -> Option<u64> {
        (!self.changed && !self.stopped).then(|| self.counts[0].min(self.counts[1]))
    }

    /// Entries that the kernel counts and does not list; `None`: not known.
    pub(crate) fn unlisted(&self) -> Option<u64> {
        let clashes = self.hash.map_or(0, |hash| hash.clashes);
        let listed = self
            .entries
            .saturating_add(self.unreadable)
            .saturating_add(clashes);
        Some(self.listable()?.saturating_sub(listed))
    }
}

/// Why a table can't be walked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EntriesError {
    /// The kernel tracks no connections.
    #[error("conntrack is not loaded, so there is no table to look at")]
    NotLoaded,
    #[error("the kernel lists the conntrack table only to those with CAP_NET_ADMIN")]
    NotPermitted,
    /// `EINVAL`, or no netlink protocol of netfilter.
    #[error("the kernel can't list its conntrack table: nf_conntrack_netlink is not there")]
    NoCtnetlink,
    #[error("the conntrack table could not be listed: {0}")]
    Netlink(NetlinkError),
    /// Whether conntrack is there can't be told.
    #[error("whether conntrack is loaded can't be told: {0}")]
    Presence(std::io::Error),
    /// The table's size can't be read.
    #[error(transparent)]
    Sysctl(#[from] sysctl::SysctlError),
}

impl EntriesError {
    /// What to do about it.
    pub(crate) fn help(&self) -> &'static str {
        match self {
            Self::NotLoaded => {
                "it is loaded by the first iptables or nft rule that needs it, or by \
                 `modprobe nf_conntrack`"
            }
            Self::NotPermitted => as_root("run as root, or with CAP_NET_ADMIN"),
            Self::NoCtnetlink => {
                "load it by `modprobe nf_conntrack_netlink`; a kernel needs CONFIG_NF_CT_NETLINK"
            }
            Self::Netlink(_) => "try again; while the kernel is short of memory it can fail",
            Self::Presence(_) => "mount sysfs at /sys",
            Self::Sysctl(_) => "mount procfs at /proc, and load conntrack",
        }
    }
}

impl From<NetlinkError> for EntriesError {
    fn from(error: NetlinkError) -> Self {
        match &error {
            NetlinkError::Refused(Errno::EPERM) => Self::NotPermitted,
            NetlinkError::Refused(Errno::EINVAL | Errno::EOPNOTSUPP) => Self::NoCtnetlink,
            NetlinkError::Socket(source)
                if source.raw_os_error() == Some(Errno::EPROTONOSUPPORT as i32) =>
            {
                Self::NoCtnetlink
            }
            _ => Self::Netlink(error),
        }
    }
}

/// Calls `each` with every entry of the table of the calling thread's network namespace, until it
/// breaks. Where `nf_conntrack_netlink` is a module, asking loads it.
///
/// # Errors
/// When conntrack or ctnetlink is not there, or `CAP_NET_ADMIN` is missing.
pub(crate) fn walk(
    root: &Root,
    mut each: impl FnMut(&TableEntry) -> ControlFlow<()>,
) -> Result<EntryWalk, EntriesError> {
    // Asked first: the question alone would load it.
    if !Presence::read(root)
        .map_err(EntriesError::Presence)?
        .is_loaded()
    {
        return Err(EntriesError::NotLoaded);
    }
    let buckets = sysctl::buckets(root)?;
    let before = sysctl::count(root)?;
    let mut walk = EntryWalk::default();
    let mut recent = Recent::default();
    let ended = NetlinkSocket::netfilter()?.stream(CTNETLINK, GET, |part| {
        if let Some(entry) = parse(part.attributes) {
            if recent.has(&entry) {
                return ControlFlow::Continue(());
            }
            walk.entries += 1;
            each(&entry)
        } else {
            walk.unreadable += 1;
            ControlFlow::Continue(())
        }
    })?;
    walk.counts = [before, sysctl::count(root)?];
    walk.changed = ended.interrupted || sysctl::buckets(root)? != buckets;
    walk.stopped = ended.stopped;
    Ok(walk)
}

/// The entries that were listed last: as many as one bucket can have.
#[derive(Default)]
struct Recent {
    listed: VecDeque<(u32, EntryTuple)>,
}

impl Recent {
    /// The kernel accepts no insert into a chain that is longer than this (`MIN_CHAINLEN` + `MAX_CHAINLEN`).
    const MOST: usize = 80;

    /// Whether this entry is among them; it is from now on.
    fn has(&mut self, entry: &TableEntry) -> bool {
        let is_it =
            |listed: &&(u32, EntryTuple)| listed.0 == entry.id && listed.1 == entry.original;
        if self.listed.iter().find(is_it).is_some() {
            return true;
        }
        if self.listed.len() == Self::MOST {
            self.listed.pop_front();
        }
        self.listed.push_back((entry.id, entry.original));
        false
    }
}
