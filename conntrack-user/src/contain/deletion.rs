//! The entries of one owner, deleted one by one over ctnetlink. Only those that it opened: of what others opened to it, others would suffer.

use std::ops::ControlFlow;

use conntrack_ebpf::owner::{Direction, Party, TagKey};
use nix::errno::Errno;
use serde::Serialize;

use crate::{
    census::{Charging, TagSeen},
    kernel::{
        Root,
        entries::{EntriesError, TableEntry, name_of_entry, walk},
    },
    sys::netlink::{NetlinkSocket, changes::ChangeRequest},
};

const CTNETLINK: u8 = 1;
const DELETE: u8 = 2;

/// Entries that are remembered at a time; of more there is another look.
const MOST: usize = 1 << 16;
/// Deleted in one go.
const AT_ONCE: usize = 64;
/// Looks at most: who opens entries faster than they can be deleted is not followed forever.
const LOOKS: u32 = 64;

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Deletion {
    /// Entries that the owner had opened.
    pub found: u64,
    /// Entries that are deleted.
    pub deleted: u64,
    /// Entries that went by themselves meanwhile.
    pub gone: u64,
    /// Entries that the kernel did not delete.
    pub refused: u64,
    /// Entries that may be the owner's or another's, and are left alone.
    pub undecided: u64,
}

/// Looks at the entries of the calling thread's network namespace, which is that of the host, and deletes those that the owner with this slot
/// opened; `dry`: only looks. Needs `CAP_NET_ADMIN`.
///
/// # Errors
/// When they can't be listed.
pub(crate) fn delete_entries(
    root: &Root,
    charging: &Charging,
    slot: u32,
    tag_of: impl Fn(&TagKey) -> Option<Party>,
    dry: bool,
) -> Result<Deletion, EntriesError> {
    let mut result = Deletion::default();
    for _ in 0..LOOKS {
        let mut own = Vec::new();
        let (mut found, mut undecided) = (0, 0);
        walk(root, |entry| {
            let charge = charging.charge(charging.host_netns, entry, &tag_of);
            let is_own =
                charge.party.slot() == slot && charge.party.direction() == Direction::Egress;
            if !is_own {
                return ControlFlow::Continue(());
            }
            if charge.tag == TagSeen::Missing {
                undecided += 1;
                return ControlFlow::Continue(());
            }
            found += 1;
            if !dry {
                own.push(*entry);
                if own.len() == MOST {
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        result.found += found;
        result.undecided = undecided;
        let more = own.len() == MOST;
        let mut socket = NetlinkSocket::netfilter()?;
        for some in own.chunks(AT_ONCE) {
            let changes: Vec<_> = some.iter().map(delete).collect();
            for deleted in socket.change_each(CTNETLINK, &changes)? {
                match deleted {
                    Ok(()) => result.deleted += 1,
                    Err(Errno::ENOENT) => result.gone += 1,
                    Err(_) => result.refused += 1,
                }
            }
        }
        if !more || result.refused > 0 {
            break;
        }
    }
    Ok(result)
}

/// By its tuple and its number, so that no other one is deleted that took its place.
fn delete(entry: &TableEntry) -> ChangeRequest {
    let (family, attributes) = name_of_entry(entry);
    ChangeRequest {
        message: DELETE,
        family,
        flags: 0,
        attributes,
    }
}
