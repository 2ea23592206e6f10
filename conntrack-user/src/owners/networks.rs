//! Which network each owner is in: asked of one of its processes, and only as often as needed.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Key;
use super::addresses::OwnAddresses;
use super::groups::{GroupNetworks, MemberId, OwnerGroup};
use crate::kernel::{
    Problem, Root, confinement::Confinement, host::TO_SEE_PROCESSES, namespace::namespace_of,
};

/// How long a new owner without a process, a network of its own or an address is looked at anew with
/// each scan: a runtime makes the control group first, then a process that goes into it, and only
/// then into the network that was made for it; with Docker, the addresses come last.
const YOUNG: Duration = Duration::from_secs(10);

/// How often what should not change is looked at.
const REFRESH: Duration = Duration::from_secs(30);

/// How much is read of the list of a control group's processes, bytes: any of them will do.
const LIST: usize = 4096;

/// How many processes of one control group are tried; some may be about to end.
const MOST_TRIED: usize = 8;

/// How many control groups of one owner are looked into for a process.
const MOST_MEMBERS: usize = 64;

/// How many addresses of one owner are looked at.
pub(super) const MOST_ADDRESSES: usize = 64;

/// The network of one owner.
#[derive(Clone, Debug)]
pub(super) struct OwnerNetwork {
    member: MemberId,
    pub(super) process: u32,
    /// Inode number of its namespace.
    pub(super) netns: u32,
    /// Without loopback and link-local ones; empty for the host's. Those that it had before come first where there are
    /// more than [`MOST_ADDRESSES`].
    pub(super) addresses: BTreeSet<IpAddr>,
    /// How many there are; at least, if the files are longer than is read.
    pub(super) count: usize,
    /// When this process was first asked.
    pub(super) since: Instant,
    /// When the addresses were read.
    read: Instant,
    /// A process is there now.
    pub(super) alive: bool,
}

/// The networks of owners.
#[derive(Debug)]
pub(super) struct Networks {
    root: Root,
    known: HashMap<Key, OwnerNetwork>,
    /// Owners without a process that could be asked.
    none: HashMap<Key, Unasked>,
}

/// No process of an owner could be asked.
#[derive(Clone, Copy, Debug)]
struct Unasked {
    /// When that was last tried.
    looked: Instant,
    /// There is one, but it may not be asked.
    hidden: bool,
}

/// A process and its network namespace.
type FoundProcess = (MemberId, u32, u32);

impl Networks {
    pub(super) fn new(root: Root) -> Self {
        Self {
            root,
            known: HashMap::new(),
            none: HashMap::new(),
        }
    }

    /// The network of an owner, if it ever had a process.
    pub(super) fn get(&self, key: &Key) -> Option<&OwnerNetwork> {
        self.known.get(key)
    }

    /// Looks at the network of an owner, if it is time to.
    pub(super) fn look(
        &mut self,
        key: &Key,
        group: &OwnerGroup,
        host: Option<u32>,
        now: Instant,
        problems: &mut Problems,
    ) {
        let young = now.saturating_duration_since(group.youngest) < YOUNG;
        if let Some(network) = self.known.get_mut(key) {
            if network.alive && network.is_same(&self.root, group, host, now) {
                if Some(network.netns) == host || !network.is_due(now) {
                    return;
                }
                if network.read_addresses(&self.root, now, problems).is_ok() {
                    return;
                }
                // It ended in between: there may be another one.
            } else if !network.alive
                && !young
                && now.saturating_duration_since(network.read) < REFRESH
            {
                return;
            }
        } else if let Some(unasked) = self.none.get(key)
            && !young
            && now.saturating_duration_since(unasked.looked) < REFRESH
        {
            return;
        }
        self.find(key, group, host, now, problems);
    }

    /// Reads the addresses of an owner again, whatever their age.
    pub(super) fn reread(&mut self, key: &Key, now: Instant, problems: &mut Problems) {
        if let Some(network) = self.known.get_mut(key)
            && network.alive
            && network.read_addresses(&self.root, now, problems).is_err()
        {
            network.alive = false;
        }
    }

    /// Whether an owner has a process that may not be asked which network it is in.
    pub(super) fn is_hidden(&self, key: &Key) -> bool {
        self.none.get(key).is_some_and(|unasked| unasked.hidden)
    }

    /// Forgets owners that are not there any more.
    pub(super) fn keep(&mut self, is_there: impl Fn(&Key) -> bool) {
        self.known.retain(|key, _| is_there(key));
        self.none.retain(|key, _| is_there(key));
    }

    fn find(
        &mut self,
        key: &Key,
        group: &OwnerGroup,
        host: Option<u32>,
        now: Instant,
        problems: &mut Problems,
    ) {
        let mut own = Problems::default();
        // If it ends before its addresses were read, the next one is taken.
        for _ in 0..3 {
            let Some((member, process, netns)) = find_process(&self.root, group, host, &mut own)
            else {
                break;
            };
            let before = self.known.get(key);
            let since = match before {
                Some(before) if before.netns == netns && before.member == member => before.since,
                _ => now,
            };
            let mut network = OwnerNetwork {
                member,
                process,
                netns,
                addresses: before
                    .filter(|before| before.netns == netns)
                    .map(|before| before.addresses.clone())
                    .unwrap_or_default(),
                count: 0,
                since,
                read: now,
                alive: true,
            };
            if Some(netns) == host {
                network.addresses.clear();
            }
            if Some(netns) == host || network.read_addresses(&self.root, now, &mut own).is_ok() {
                self.none.remove(key);
                self.known.insert(key.clone(), network);
                problems.add(own);
                return;
            }
        }
        problems.add(own);
        if let Some(network) = self.known.get_mut(key) {
            network.alive = false;
            network.read = now;
        } else {
            let (looked, hidden) = (now, own.hidden);
            self.none.insert(key.clone(), Unasked { looked, hidden });
        }
    }
}

impl OwnerNetwork {
    /// Whether to read the addresses again. Where there are some, the time between two readings
    /// doubles with the network's age: reading is most of what a scan costs when pods come and go.
    fn is_due(&self, now: Instant) -> bool {
        let age = |at: Instant| at.saturating_duration_since(self.since);
        (self.addresses.is_empty() && age(now) < YOUNG)
            || now.saturating_duration_since(self.read) >= age(self.read).min(REFRESH)
    }

    /// Whether the process that was asked is still there, in the same namespace.
    fn is_same(
        &mut self,
        root: &Root,
        group: &OwnerGroup,
        host: Option<u32>,
        now: Instant,
    ) -> bool {
        if !group.members.iter().any(|member| member.id == self.member) {
            return false;
        }
        if Some(self.netns) == host && now.saturating_duration_since(self.since) >= YOUNG {
            // No other use is made of it, so it needs not be known at once.
            return now.saturating_duration_since(self.read) < REFRESH;
        }
        self.alive = netns_of(root, self.process).is_ok_and(|netns| netns == self.netns);
        self.alive
    }

    fn read_addresses(
        &mut self,
        root: &Root,
        now: Instant,
        problems: &mut Problems,
    ) -> io::Result<()> {
        let folder = root.proc(format!("{}/net", self.process));
        let addresses = match OwnAddresses::read(&folder, &self.addresses, MOST_ADDRESSES) {
            Ok(addresses) => addresses,
            Err(error) => {
                if error.kind() == io::ErrorKind::PermissionDenied {
                    problems.hidden = true;
                }
                return Err(error);
            }
        };
        // The process may have ended, and its number may be another one's by now.
        if netns_of(root, self.process)? != self.netns {
            return Err(io::ErrorKind::NotFound.into());
        }
        // More than are looked at, even if none was in what was read.
        let beyond = usize::from(addresses.cut) * (MOST_ADDRESSES + 1);
        self.count = addresses.count.max(beyond);
        self.addresses = addresses.found;
        self.read = now;
        Ok(())
    }
}

/// What stood in the way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Problems {
    /// Not allowed to look at a process.
    pub(super) hidden: bool,
    /// A process is in a PID namespace that is not seen from here.
    pub(super) outside: bool,
}

impl Problems {
    /// Notes others too.
    fn add(&mut self, other: Self) {
        self.hidden |= other.hidden;
        self.outside |= other.outside;
    }

    /// What to say about it.
    pub(super) fn describe(self, root: &Root, problems: &mut Vec<Problem>) {
        if self.hidden {
            let why = Confinement::of_this_thread(root, TO_SEE_PROCESSES);
            let problem = format!(
                "the networks of some processes can't be seen ({why}), so the addresses and tables of their pods are not \
                 known: what is theirs is counted as unknown"
            );
            problems.push(Problem::new(problem).help(why.help()));
        }
        if self.outside {
            let problem = "some processes are in a PID namespace that can't be seen from here, so pods are missing";
            problems.push(Problem::new(problem).help("run in the host's, `hostPID: true`"));
        }
    }
}

/// The network namespace of a process.
fn netns_of(root: &Root, process: u32) -> io::Result<u32> {
    namespace_of(&root.proc(format!("{process}/ns/net")))
}

/// The first process of a group that can be asked, in the order of its members; of one inside another owner the first
/// that is not in the host's network.
fn find_process(
    root: &Root,
    group: &OwnerGroup,
    host: Option<u32>,
    problems: &mut Problems,
) -> Option<FoundProcess> {
    let avoided = host.filter(|_| group.inner);
    let members = group.members.iter().filter(|member| !member.helper);
    for member in members.take(MOST_MEMBERS) {
        let processes = match member.id {
            MemberId::Process(process) => vec![process],
            MemberId::Cgroup(..) => list(&member.path, problems),
        };
        let found = asked(root, &processes, problems).find(|(_, netns)| Some(*netns) != avoided);
        if let Some((process, netns)) = found {
            return Some((member.id, process, netns));
        }
    }
    None
}

/// The networks of a control group's processes.
pub(super) fn of_folder(
    root: &Root,
    folder: &Path,
    host: Option<u32>,
    problems: &mut Problems,
) -> GroupNetworks {
    let processes = list(folder, problems);
    let mut found = asked(root, &processes, problems).map(|(_, netns)| netns);
    let first = found.next();
    GroupNetworks {
        first,
        apart: first
            .into_iter()
            .chain(found)
            .find(|netns| Some(*netns) != host),
    }
}

/// Processes and their network namespaces, of those that can be asked.
fn asked(
    root: &Root,
    processes: &[u32],
    problems: &mut Problems,
) -> impl Iterator<Item = (u32, u32)> {
    let tried = processes.iter().take(MOST_TRIED);
    tried.filter_map(|process| match netns_of(root, *process) {
        Ok(netns) => Some((*process, netns)),
        Err(error) => {
            problems.hidden |= error.kind() == io::ErrorKind::PermissionDenied;
            None
        }
    })
}

/// Some of a control group's processes, lowest number first.
fn list(folder: &Path, problems: &mut Problems) -> Vec<u32> {
    let mut text = [0; LIST];
    // It may vanish at any time, and the processes of a threaded one can't be listed.
    let length = File::open(folder.join("cgroup.procs"))
        .and_then(|mut file| file.read(&mut text))
        .unwrap_or(0);
    let mut text = &text[..length];
    if length == LIST {
        // The last number may be cut.
        let whole = text.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        text = &text[..whole];
    }
    let mut processes: Vec<u32> = text
        .split(|byte| *byte == b'\n')
        .filter_map(|line| str::from_utf8(line).ok()?.parse().ok())
        .collect();
    processes.sort_unstable();
    // 0 is one that has no number here.
    problems.outside |= processes.first() == Some(&0);
    processes.retain(|process| *process != 0);
    processes
}
