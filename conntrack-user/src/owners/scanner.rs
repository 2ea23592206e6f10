//! Looks around: which owners there are, and what tells that something is theirs.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::asked::Asked;
use super::cgroup_path;
use super::container_names::ContainerNames;
use super::discovery::{Discovery, FoundOwner};
use super::groups::{self, OwnerGroup, OwnerGroups};
use super::host_addresses::HostAddresses;
use super::host_side::HostSide;
use super::networks::{MOST_ADDRESSES, Networks, Problems};
use super::pod_logs::PodLogs;
use super::tree::CgroupTree;
use super::{Key, OwnerKind, hierarchies, kept};
use crate::kernel::{Problem, Root, Said, host};
use crate::sys::priority;

#[cfg(test)]
mod tests;

/// How many control groups of one hierarchy are looked at.
const MOST_CGROUPS: usize = 1 << 16;

/// How long what has just begun is looked at with each scan.
const YOUNG: Duration = Duration::from_secs(10);

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
    /// The networks of control groups whose path doesn't tell.
    asked: Asked,
    container_names: ContainerNames,
    host: HostAddresses,
    host_side: HostSide,
    /// Addresses that two owners have, and since when.
    doubts: HashMap<IpAddr, Instant>,
    folders: Arc<[PathBuf]>,
    said: Said,
}

impl Scanner {
    /// One that has seen nothing yet.
    pub fn new(root: Root) -> Self {
        Self {
            trees: None,
            logs: PodLogs::new(root.clone()),
            networks: Networks::new(root.clone()),
            asked: Asked::default(),
            container_names: ContainerNames::new(root.clone()),
            host: HostAddresses::default(),
            host_side: HostSide::default(),
            doubts: HashMap::new(),
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
        let began = priority::processor_time();
        let mut found = Discovery::empty(now);
        let mut problems = Problems::default();
        let host = match host::find(&self.root) {
            Ok(host) => host,
            Err(unseen) => {
                found.whole = false;
                found.problems.push(unseen.problem());
                self.said.leave_new(&mut found.problems);
                found.took = priority::processor_time().saturating_sub(began);
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
        if self.reread_doubtful(&groups, &holders, now, &mut problems) {
            holders = self.holders(&groups, found.host_netns);
        }
        let uids: HashSet<&str> = groups
            .by_key
            .keys()
            .filter(|key| key.kind() == OwnerKind::Pod)
            .map(Key::uid)
            .collect();
        self.logs.look(&uids, &mut found.problems);
        self.container_names.look(&groups, now);
        self.host.look(&self.root, &host, now, &mut found);
        self.look_at_host_side(&holders, now, &mut found);
        self.assemble(groups, &holders, now, &mut found);
        problems.describe(&self.root, &mut found.problems);
        self.said.leave_new(&mut found.problems);
        found.took = priority::processor_time().saturating_sub(began);
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
        let home = || fs::read_to_string(self.root.proc("1/cgroup")).unwrap_or_default();
        let trees = self.trees.get_or_insert_with(|| {
            hierarchies::find(&self.root, cgroup_path::home(&home()), &mut found.problems)
        });
        if trees.is_empty() {
            let home = home();
            let home = cgroup_path::home(&home);
            if let Err(error) = groups.add_processes(&self.root, home, now) {
                found.whole = false;
                let problem = format!("/proc: {error}; no owner can be found");
                found.problems.push(problem.into());
            }
            groups.sort();
            found.problems.extend(groups.limit_pods());
            return groups;
        }
        let mut changed = false;
        for tree in &mut *trees {
            match tree.refresh(now, MOST_CGROUPS) {
                Ok(others) => changed |= others,
                Err(error) => {
                    found.whole = false;
                    let path = tree.path().display();
                    let problem = format!("{path}: {error}; owners may be missing");
                    found.problems.push(problem.into());
                }
            }
            if tree.cut {
                found.whole = false;
                let problem = format!(
                    "{} has more than {MOST_CGROUPS} control groups, or some are very deep: what belongs to \
                     the rest is counted as the host's or unknown",
                    tree.path().display()
                );
                found.problems.push(problem.into());
            }
        }
        let host = found.host_netns;
        let mut asking = self.asked.ask(&self.root, host, now);
        for (number, tree) in trees.iter().enumerate() {
            groups.add_tree(number, tree, |node, id, folder| {
                let networks = asking.networks(id, node.born, folder, problems);
                // Without a path that tells, only what has its own network is told from the host.
                networks
                    .first
                    .is_some_and(|netns| node.key.is_some() || Some(netns) != host)
            });
        }
        groups.join_pods(trees);
        groups.sort();
        groups.split(host, |member| {
            asking.networks(member.id, member.born, &member.path, problems)
        });
        found.problems.extend(groups.limit_pods());
        self.asked = asking.done();
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
        groups: &OwnerGroups,
        holders: &BTreeMap<u32, Key>,
        now: Instant,
        problems: &mut Problems,
    ) -> bool {
        let mut seen: HashMap<IpAddr, &Key> = HashMap::new();
        let mut doubts = HashMap::new();
        let mut doubtful: BTreeSet<&Key> = BTreeSet::new();
        let claims = |key: &&Key| groups.by_key.get(*key).is_some_and(|one| one.has_addresses);
        for key in holders.values().filter(claims) {
            let Some(network) = self.networks.get(key) else {
                continue;
            };
            for address in &network.addresses {
                if let Some(other) = seen.insert(*address, key) {
                    let since = self.doubts.get(address).copied().unwrap_or(now);
                    doubts.insert(*address, since);
                    // One who keeps another's address would have all of his read with each look.
                    if now.saturating_duration_since(since) < YOUNG {
                        doubtful.extend([other, key]);
                    }
                }
            }
        }
        self.doubts = doubts;
        for key in &doubtful {
            self.networks.reread(key, now, problems);
        }
        !doubtful.is_empty()
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
            let problem =
                format!("rtnetlink: {error}; the host's interfaces of pods are not known");
            found.problems.push(problem.into());
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
        let mut crowded = Problem::new(format!(
            "an owner has more than {MOST_ADDRESSES} addresses: those that it had first are known, what belongs to the rest \
             is counted as unknown"
        ));
        let units = self.container_names.units(&groups);
        for (key, group) in groups.by_key {
            let name = match key.kind() {
                OwnerKind::Pod => self.logs.name(key.uid()),
                _ => None,
            };
            let unit = units.of(&key, &group);
            let mut owner = OwnerGroup::owner(&key, name, &unit);
            let Some(network) = self.networks.get(&key) else {
                found.unsettled |= is_young(group.youngest);
                // Without a process there is nothing to charge. Of one whose network is not seen the sockets in the
                // host's network are told by their control group.
                if self.networks.is_hidden(&key) {
                    found.owners.push(FoundOwner {
                        owner,
                        cgroups: group.cgroups(),
                        netns: None,
                        addresses: Vec::new(),
                    });
                }
                continue;
            };
            let own = holders.get(&network.netns) == Some(&key);
            let claims = own && group.has_addresses;
            if Some(network.netns) == found.host_netns {
                owner = owner.with(|details| details.host_network = true);
                // Its process may be about to go into its own.
                found.unsettled |= is_young(network.since);
            } else if claims && network.addresses.is_empty() {
                found.unsettled |= is_young(network.since);
            }
            if claims && network.count > MOST_ADDRESSES {
                crowded.add(format_args!("{owner} has {}", network.count));
            }
            if own {
                let names = self.host_side.names((network.netns, network.process));
                if !names.is_empty() {
                    owner = owner.with(|details| details.host_interfaces = names.to_vec());
                }
            }
            found.owners.push(FoundOwner {
                owner,
                cgroups: group.cgroups(),
                netns: own.then_some(network.netns),
                addresses: if claims {
                    network.addresses.iter().copied().collect()
                } else {
                    Vec::new()
                },
            });
        }
        found.problems.extend(crowded.if_any());
        kept::add(&self.root, found);
        found.folders = Arc::clone(&self.folders);
    }
}
