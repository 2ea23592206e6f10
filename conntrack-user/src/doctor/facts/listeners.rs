//! Who listens for conntrack events: each new entry is larger and costs more while somebody does.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use super::Facts;
use crate::kernel::{
    Root,
    tables::{Namespace, discover},
};

const NETFILTER: &str = "12";
/// `NFNLGRP_CONNTRACK_NEW`, `_UPDATE` and `_DESTROY` are the groups 1 to 3.
const GROUPS: u32 = 0b111;
/// How long the search for a socket's owner may take.
const PATIENCE: Duration = Duration::from_millis(200);

/// A socket that gets conntrack events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    pub netns: String,
    /// Its process and the process's name, where they could be found.
    pub process: Option<(u32, String)>,
}

pub(super) fn look(root: &Root, facts: &mut Facts) {
    let found = discover(root);
    let mut sockets: BTreeMap<u64, (String, u32)> = BTreeMap::new();
    let mut seen = false;
    for namespace in found.namespaces.values() {
        let Some(text) = read(root, namespace) else {
            continue;
        };
        seen = true;
        sockets.extend(parse(&text).map(|(inode, port)| (inode, (namespace.name.clone(), port))));
    }
    if !seen {
        facts.could_not(
            "who listens for conntrack events",
            &"/proc/net/netlink can't be read",
            "mount procfs",
        );
        return;
    }
    let end = Instant::now() + PATIENCE;
    facts.listeners = sockets
        .into_iter()
        .map(|(inode, (netns, port))| Listener {
            netns,
            process: owner(root, inode, port, end),
        })
        .collect();
    facts.looked.push("listeners for conntrack events");
}

fn read(root: &Root, namespace: &Namespace) -> Option<String> {
    let own = || root.proc("thread-self/net/netlink");
    let path = if namespace.own && root.is_live() {
        own()
    } else {
        root.proc(format!("{}/net/netlink", namespace.process?))
    };
    fs::read_to_string(path).ok()
}

/// The inode, port and groups of each socket that speaks to netfilter. Columns: address, protocol, port, groups, ..., inode.
fn sockets(text: &str) -> impl Iterator<Item = (u64, u32, u32)> + '_ {
    text.lines().skip(1).filter_map(|line| {
        let cells: Vec<&str> = line.split_whitespace().collect();
        let [_, NETFILTER, port, groups, .., inode] = cells[..] else {
            return None;
        };
        let groups = u32::from_str_radix(groups, 16).ok()?;
        Some((inode.parse().ok()?, port.parse().ok()?, groups))
    })
}

/// The inode and port of each socket that is in one of the groups.
fn parse(text: &str) -> impl Iterator<Item = (u64, u32)> + '_ {
    let in_group = sockets(text).filter(|(_, _, groups)| groups & GROUPS != 0);
    in_group.map(|(inode, port, _)| (inode, port))
}

/// The process that holds the socket with this port in the calling thread's network namespace, and its name.
pub(super) fn holder(root: &Root, port: u32) -> Option<(u32, String)> {
    let text = fs::read_to_string(root.proc("thread-self/net/netlink")).ok()?;
    let (inode, ..) = sockets(&text).find(|(_, of, _)| *of == port)?;
    owner(root, inode, port, Instant::now() + PATIENCE)
}

/// Whose socket it is. The port of a process's first netlink socket is the process's number; else all are
/// searched, for as long as there is time.
fn owner(root: &Root, inode: u64, port: u32, end: Instant) -> Option<(u32, String)> {
    let link = format!("socket:[{inode}]");
    let holds = |process: u32| {
        let descriptors = fs::read_dir(root.proc(format!("{process}/fd"))).ok()?;
        descriptors
            .flatten()
            .any(|entry| {
                fs::read_link(entry.path())
                    .is_ok_and(|target| target.as_os_str().as_encoded_bytes() == link.as_bytes())
            })
            .then_some(process)
    };
    let all = || {
        fs::read_dir(root.proc(""))
            .ok()?
            .flatten()
            .take_while(|_| Instant::now() < end)
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .find_map(holds)
    };
    let process = holds(port).or_else(all)?;
    let name = fs::read_to_string(root.proc(format!("{process}/comm"))).ok()?;
    Some((process, name.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const NETLINK: &str = "\
sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
000000006a2fa04f 0   0          00000000 0        0        0     2        0        4
00000000e0e35f60 12  1444       00000001 0        0        0     2        0        77
00000000e0e35f61 12  4294963000 00000004 0        0        0     2        0        78
00000000e0e35f62 12  1500       00000008 0        0        0     2        0        79
00000000e0e35f63 16  1501       00000001 0        0        0     2        0        80
";

    #[test]
    fn listeners_and_their_processes() {
        let sockets: Vec<_> = parse(NETLINK).collect();
        assert_eq!(sockets, [(77, 1444), (78, 4_294_963_000)]);

        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::at(folder.path());
        for (process, name, socket) in [(1, "init", 5), (1444, "conntrack", 77), (9, "agent", 78)] {
            let folder = root.proc(process.to_string());
            fs::create_dir_all(folder.join("fd")).expect("a folder");
            fs::create_dir_all(folder.join("ns")).expect("a folder");
            symlink("net:[4026531840]", folder.join("ns/net")).expect("a link");
            fs::write(folder.join("comm"), format!("{name}\n")).expect("a file");
            symlink(format!("socket:[{socket}]"), folder.join("fd/3")).expect("a link");
        }
        let mut facts = Facts::default();
        look(&root, &mut facts);
        assert_eq!(facts.unseen.len(), 1, "no list of sockets");

        fs::create_dir_all(root.proc("1/net")).expect("a folder");
        fs::write(root.proc("1/net/netlink"), NETLINK).expect("a file");
        let mut facts = Facts::default();
        look(&root, &mut facts);
        let processes: Vec<_> = facts
            .listeners
            .iter()
            .map(|listener| (listener.netns.as_str(), listener.process.clone()))
            .collect();
        assert_eq!(
            processes,
            [
                ("host", Some((1444, "conntrack".to_owned()))),
                ("host", Some((9, "agent".to_owned())))
            ]
        );
    }
}
