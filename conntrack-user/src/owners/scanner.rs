//! Looks around: which owners there are, and what tells that something is theirs.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use super::addresses::OwnAddresses;
use super::discovery::{Discovery, FoundOwner};
use super::groups::{self, MemberId, OwnerGroups};
use super::host_side::HostSide;
use super::networks::{self, Networks, Problems};
use super::pod_logs::PodLogs;
use super::tree::CgroupTree;
use super::{Key, OwnerKind, hierarchies};
use crate::kernel::{
    Root,
    host::{self, HostNamespace},
    said::Said,
};

#[cfg(test)]
mod tests;

/// How many control groups of one hierarchy are looked at.
const MOST_CGROUPS: usize = 1 << 16;

/// How long a control group whose path doesn't tell is looked at with each scan, and how often
/// later.
const YOUNG: Duration = Duration::from_secs(10);
const REFRESH: Duration = Duration::from_secs(30);

/// The host's addresses are read again after this many times what that took.
const HOST_PAUSE: u32 = 50;

/// Looks around, again and again. A scan blocks, for some milliseconds on a node with 250 pods.
///
/// Rights: `CAP_SYS_PTRACE` to see which network a process is in; `/sys/fs/cgroup`, `/proc` and
/// `/var/log/pods` of the host.
#[derive(Debug)]
pub struct Scanner {
    root: Root,
    trees: Option<Vec<CgroupTree>>,
    logs: PodLogs,
    networks: Networks,
    /// Control groups whose path doesn't tell, and the network of their first process.
    asked: HashMap<MemberId, (Option<u32>, Instant)>,
    host: Host,
    host_side: HostSide,
    folders: Arc<[PathBuf]>,
    said: Said,
}

/// The host's own network.
#[derive(Debug, Default)]
struct Host {
    addresses: BTreeSet<IpAddr>,
    /// When they were read, and how long that took.
    read: Option<(Instant, Duration)>,
}

impl Scanner {
    /// One that has seen nothing yet.
    pub fn new(root: Root) -> Self {
        Self {
            trees: None,
            logs: PodLogs::new(root.clone()),
            networks: Networks::new(root.clone()),
            asked: HashMap::new(),
            host: Host::default(),
            host_side: HostSide::default(),
            folders: Arc::default(),
            said: Said::default(),
            root,
        }
    }

    /// Looks around. What vanishes meanwhile is left out; what can't be seen is said.
    pub fn scan(&mut self) -> Discovery {
        self.scan_at(Instant::now())
    }

    /// As [`Scanner::scan`], at the time `now`.
    fn scan_at(&mut self, now: Instant) -> Discovery {
        let began = processor_time();
        let mut found = Discovery::empty(now);
        let mut problems = Problems::default();
        let host = match host::find(&self.root) {
            Ok(host) => host,
            Err(unseen) => {
                found.whole = false;
                found.problems.push(unseen.problem());
                self.said.leave_new(&mut found.problems);
                found.took = processor_time().saturating_sub(began);
                return found;
            }
        };
        found.host_netns = Some(host.inode);
        let groups = self.groups(now, &mut found, &mut problems);
        self.networks.keep(|key| groups.by_key.contains_key(key));
        for (key, group) in &groups.by_key {
            self.networks
                .look(key, group, found.host_netns, now, &mut problems);
        }
        let mut holders = self.holders(&groups, found.host_netns);
        if self.reread_doubtful(&holders, now, &mut problems) {
            holders = self.holders(&groups, found.host_netns);
        }
        let uids: HashSet<&str> = groups
            .by_key
            .keys()
            .filter(|key| key.kind() == OwnerKind::Pod)
            .map(Key::uid)
            .collect();
        self.logs.look(&uids, &mut found.problems);
        self.read_host(&host, now, &mut found);
        self.look_at_host_side(&holders, now, &mut found);
        self.assemble(groups, &holders, now, &mut found);
        problems.describe(&self.root, &mut found.problems);
        self.said.leave_new(&mut found.problems);
        found.took = processor_time().saturating_sub(began);
        found
    }

    /// What belongs to each owner.
    fn groups(
        &mut self,
        now: Instant,
        found: &mut Discovery,
        problems: &mut Problems,
    ) -> OwnerGroups {
        let mut groups = OwnerGroups::default();
        let trees = self
            .trees
            .get_or_insert_with(|| hierarchies::find(&self.root, &mut found.problems));
        if trees.is_empty() {
            if let Err(error) = groups.add_processes(&self.root, now) {
                found.whole = false;
                found
                    .problems
                    .push(format!("/proc: {error}; no owner can be found"));
            }
            groups.sort();
            return groups;
        }
        let mut changed = false;
        for tree in &mut *trees {
            match tree.refresh(now, MOST_CGROUPS) {
                Ok(others) => changed |= others,
                Err(error) => {
                    found.whole = false;
                    found.problems.push(format!(
                        "{}: {error}; owners may be missing",
                        tree.path().display()
                    ));
                }
            }
            if tree.cut {
                found.whole = false;
                found.problems.push(format!(
                    "{} has more than {MOST_CGROUPS} control groups, or some are very deep: what belongs to \
                     the rest is counted as the host's or unknown",
                    tree.path().display()
                ));
            }
        }
        let (root, host, before) = (&self.root, found.host_netns, &self.asked);
        let mut asked = HashMap::with_capacity(before.len());
        for (number, tree) in trees.iter().enumerate() {
            groups.add_tree(number, tree, |node, id, folder| {
                let young = now.saturating_duration_since(node.born) < YOUNG;
                let known = before
                    .get(&id)
                    .filter(|(_, at)| !young && now.saturating_duration_since(*at) < REFRESH);
                let known = known
                    .copied()
                    .unwrap_or_else(|| (networks::of_folder(root, folder, problems), now));
                asked.insert(id, known);
                // Without a path that tells, only what has its own network is told from the host.
                known
                    .0
                    .is_some_and(|netns| node.key.is_some() || Some(netns) != host)
            });
        }
        self.asked = asked;
        groups.sort();
        if changed {
            let mut folders = Vec::new();
            for tree in &*trees {
                groups::folders(tree, &mut folders);
            }
            let logs = self.root.var("log/pods");
            if logs.exists() {
                folders.push(logs);
            }
            self.folders = folders.into();
        }
        groups
    }

    /// Who has each network namespace: a pod before others, then who had it first.
    fn holders(&self, groups: &OwnerGroups, host: Option<u32>) -> BTreeMap<u32, Key> {
        let mut holders: BTreeMap<u32, (OwnerKind, Instant, &Key)> = BTreeMap::new();
        for key in groups.by_key.keys() {
            let Some(network) = self.networks.get(key).filter(|network| network.alive) else {
                continue;
            };
            if Some(network.netns) == host {
                continue;
            }
            let claim = (key.kind(), network.since, key);
            let holder = holders.entry(network.netns).or_insert(claim);
            *holder = claim.min(*holder);
        }
        holders
            .into_iter()
            .map(|(netns, (_, _, key))| (netns, key.clone()))
            .collect()
    }

    /// Reads again what can't be right: one of two owners of an address may just have lost it.
    /// Whether that was done.
    fn reread_doubtful(
        &mut self,
        holders: &BTreeMap<u32, Key>,
        now: Instant,
        problems: &mut Problems,
    ) -> bool {
        let mut seen: HashMap<IpAddr, &Key> = HashMap::new();
        let mut doubtful: BTreeSet<&Key> = BTreeSet::new();
        for key in holders.values() {
            let Some(network) = self.networks.get(key) else {
                continue;
            };
            for address in &network.addresses {
                if let Some(other) = seen.insert(*address, key) {
                    doubtful.extend([other, key]);
                }
            }
        }
        for key in &doubtful {
            self.networks.reread(key, now, problems);
        }
        !doubtful.is_empty()
    }

    fn read_host(&mut self, host: &HostNamespace, now: Instant, found: &mut Discovery) {
        let folder = self.root.proc(host.folder).join("net");
        let due = self
            .host
            .read
            .is_none_or(|(at, took)| now.saturating_duration_since(at) >= took * HOST_PAUSE);
        if due {
            let began = processor_time();
            match OwnAddresses::read(&folder) {
                Ok(addresses) => {
                    if addresses.cut {
                        found.problems.push(
                            "the host has more addresses or routes than are read: what belongs to the rest \
                             is counted as unknown"
                                .into(),
                        );
                    }
                    self.host.addresses = addresses.found;
                }
                Err(error) => found.problems.push(format!(
                    "{}: {error}; the host's addresses are not known",
                    folder.display()
                )),
            }
            self.host.read = Some((now, processor_time().saturating_sub(began)));
        }
        found.host_addresses = self.host.addresses.iter().copied().collect();
    }

    fn look_at_host_side(
        &mut self,
        holders: &BTreeMap<u32, Key>,
        now: Instant,
        found: &mut Discovery,
    ) {
        let namespaces: Vec<_> = holders
            .iter()
            .filter_map(|(netns, key)| Some((*netns, self.networks.get(key)?.process)))
            .collect();
        if let Err(error) = self
            .host_side
            .look(&self.root, found.host_netns, &namespaces, now)
        {
            found.problems.push(format!(
                "rtnetlink: {error}; the host's interfaces of pods are not known"
            ));
        }
    }

    fn assemble(
        &self,
        groups: OwnerGroups,
        holders: &BTreeMap<u32, Key>,
        now: Instant,
        found: &mut Discovery,
    ) {
        let is_young = |since: Instant| now.saturating_duration_since(since) < YOUNG;
        for (key, group) in groups.by_key {
            let name = match key.kind() {
                OwnerKind::Pod => self.logs.name(key.uid()),
                _ => None,
            };
            let mut owner = group.owner(&key, name);
            let Some(network) = self.networks.get(&key) else {
                found.unsettled |= is_young(group.youngest);
                // Without a process there is nothing to charge. Of one whose network is not seen the sockets in the
                // host's network are told by their control group.
                if self.networks.is_hidden(&key) {
                    found.owners.push(FoundOwner {
                        owner,
                        cgroups: group.cgroups,
                        netns: None,
                        addresses: Vec::new(),
                    });
                }
                continue;
            };
            let own = holders.get(&network.netns) == Some(&key);
            if Some(network.netns) == found.host_netns {
                owner = owner.with(|details| details.host_network = true);
                // Its process may be about to go into its own.
                found.unsettled |= is_young(network.since);
            } else if own && network.addresses.is_empty() {
                found.unsettled |= is_young(network.since);
            }
            if own {
                let names = self.host_side.names((network.netns, network.process));
                if !names.is_empty() {
                    owner = owner.with(|details| details.host_interfaces = names.to_vec());
                }
            }
            found.owners.push(FoundOwner {
                owner,
                cgroups: group.cgroups,
                netns: own.then_some(network.netns),
                addresses: if own {
                    network.addresses.iter().copied().collect()
                } else {
                    Vec::new()
                },
            });
        }
        found.folders = Arc::clone(&self.folders);
    }
}

/// What the calling thread has used of a processor.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
