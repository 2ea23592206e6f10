//! Entries that the kernel counts and that are in no table: it keeps lists of them for each CPU, before 5.19 (`struct ct_pcpu`).

use std::{collections::HashMap, fs, ops::ControlFlow, sync::Mutex};

use super::{CTNETLINK, EntriesError, EntryWalk, WalkOutcome, namespaces::in_each};
use crate::{
    kernel::{Root, btf::Btf, tables::Namespace},
    sys::{lock::locked, netlink::NetlinkSocket, netns::Inode},
};

/// `IPCTNL_MSG_CT_GET_DYING`
const GET_DYING: u8 = 6;
/// `IPCTNL_MSG_CT_GET_UNCONFIRMED`
const GET_UNCONFIRMED: u8 = 7;

/// Entries of one network namespace that are in no table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unlisted {
    /// Their first packet is still on its way through the node, or waits.
    pub unconfirmed: u64,
    /// They left the table, and something still holds them.
    pub dying: u64,
}

/// Asks for those of each namespace; empty where the kernel has no such lists.
pub(crate) fn count_unlisted(root: &Root, namespaces: &[Namespace]) -> HashMap<Inode, Unlisted> {
    if namespaces.is_empty() || !has_lists(root) {
        return HashMap::new();
    }
    let found = Mutex::new(HashMap::new());
    in_each(root, namespaces, |namespace| match count() {
        Ok(unlisted) => {
            locked(&found).insert(namespace.inode, unlisted);
            WalkOutcome::Walked(EntryWalk::default())
        }
        Err(error) => WalkOutcome::Failed(error),
    });
    std::mem::take(&mut locked(&found))
}

/// A later kernel answers with an empty list.
fn has_lists(root: &Root) -> bool {
    let Ok(bytes) = fs::read(root.sys("kernel/btf/vmlinux")) else {
        return false;
    };
    let vmlinux = Btf::parse(&bytes, None);
    vmlinux.is_ok_and(|vmlinux| vmlinux.member("ct_pcpu", &["unconfirmed"]).is_ok())
}

/// Those of the calling thread's namespace.
fn count() -> Result<Unlisted, EntriesError> {
    let listed = |message| -> Result<u64, EntriesError> {
        let mut entries = 0;
        NetlinkSocket::netfilter()?.stream(CTNETLINK, message, |_| {
            entries += 1;
            ControlFlow::Continue(())
        })?;
        Ok(entries)
    };
    Ok(Unlisted {
        unconfirmed: listed(GET_UNCONFIRMED)?,
        dying: listed(GET_DYING)?,
    })
}
