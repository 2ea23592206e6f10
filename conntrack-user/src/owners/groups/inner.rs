//! Owners inside other owners: told from those by their networks.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Instant;

use super::{ELSEWHERE, GroupMember, GroupName, GroupNetworks, OwnerGroup, OwnerGroups};
use crate::kernel::Problem;
use crate::owners::cgroup_path::{CgroupPlace, Identity};
use crate::owners::{Key, OwnerKind};

/// How many networks inside one owner are owners of their own: whoever may make namespaces could
/// take all slots else. The rest is the outer one's.
const MOST_INNER: usize = 64;

/// How many pods of a node that is a container are owners of their own: its root names its control groups, and could take all
/// slots else. Kubernetes itself puts 110 on a node. The rest, those that came last, is the node's.
const MOST_PODS: usize = 256;

impl OwnerGroups {
    /// Makes owners of networks that are inside another owner, who is no pod, and are not its own: containers of a
    /// service that runs many, of a user, or of a container with a whole system. Members are sorted.
    pub(in super::super) fn split(
        &mut self,
        host: Option<u32>,
        mut networks: impl FnMut(&GroupMember) -> GroupNetworks,
    ) {
        let mut inner = BTreeMap::new();
        for (key, group) in &mut self.by_key {
            let has_groups = group.members.iter().any(|one| one.below > 0);
            if key.kind() == OwnerKind::Cgroup && has_groups {
                split_group(key, group, host, &mut networks, &mut inner);
            }
        }
        self.by_key.extend(inner);
    }

    /// Gives to each node that is a container those of its pods that are too many; what is to be said of that.
    pub(in super::super) fn limit_pods(&mut self) -> Option<Problem> {
        let mut by_node: BTreeMap<&str, Vec<(Instant, &Key)>> = BTreeMap::new();
        for (key, group) in &self.by_key {
            if key.kind() == OwnerKind::Pod
                && let Some((node, _)) = key.uid().rsplit_once('/')
            {
                let born = group.members.iter().map(|member| member.born).min();
                let born = born.unwrap_or(group.youngest);
                by_node.entry(node).or_default().push((born, key));
            }
        }
        by_node.retain(|_, pods| pods.len() > MOST_PODS);
        let surplus: Vec<(Key, Vec<Key>)> = by_node
            .into_iter()
            .map(|(node, mut pods)| {
                pods.sort_unstable();
                let rest = pods.into_iter().skip(MOST_PODS);
                (
                    Key::cgroup(node),
                    rest.map(|(_, pod)| pod.clone()).collect(),
                )
            })
            .collect();
        let mut said = Problem::new(format!(
            "a node that is a container has more than {MOST_PODS} pods: what belongs to the rest is counted as the node's"
        ));
        for (key, pods) in surplus {
            let pods: Vec<OwnerGroup> = pods
                .iter()
                .filter_map(|pod| self.by_key.remove(pod))
                .collect();
            let Some(first) = pods.first() else { continue };
            said.add(&first.name.text);
            let node = self.by_key.entry(key).or_insert_with(|| OwnerGroup {
                members: Vec::new(),
                name: first.name.clone(),
                ..*first
            });
            let members = pods.into_iter().flat_map(|pod| pod.members);
            node.members.extend(members.map(|member| GroupMember {
                below: member.below + ELSEWHERE,
                ..member
            }));
            node.sort();
        }
        said.if_any()
    }
}

/// Moves members that are in other networks than this owner and the host to owners of their own.
fn split_group(
    key: &Key,
    group: &mut OwnerGroup,
    host: Option<u32>,
    networks: &mut impl FnMut(&GroupMember) -> GroupNetworks,
    inner: &mut BTreeMap<Key, OwnerGroup>,
) {
    let found: Vec<GroupNetworks> = group
        .members
        .iter()
        .map(|member| {
            let asked = (!member.helper).then(|| networks(member));
            asked.unwrap_or_default()
        })
        .collect();
    // A service that runs containers is in the host's network, whichever of its groups is first.
    let in_host = |found: &GroupNetworks| found.first.is_some() && found.first == host;
    let own = if !group.name.container && found.iter().any(in_host) {
        host
    } else {
        found.iter().find_map(|found| found.first)
    };
    let mut keys: HashMap<u32, Key> = HashMap::new();
    let members = std::mem::take(&mut group.members);
    for (member, found) in members.into_iter().zip(found) {
        let netns = found
            .apart
            .filter(|netns| member.below > 0 && Some(*netns) != own)
            .filter(|netns| keys.contains_key(netns) || keys.len() < MOST_INNER);
        let Some(netns) = netns else {
            group.members.push(member);
            continue;
        };
        let place = inside(&member);
        let inner_key = keys.entry(netns).or_insert_with(|| {
            let path = match (&place.identity, place.identity.key()) {
                (Identity::Other(path), _) => path.trim_start_matches('/').to_owned(),
                (_, key) => key.map_or_else(String::new, |key| key.uid().to_owned()),
            };
            Key::cgroup(&format!("{}/{path}", key.uid()))
        });
        let one = inner
            .entry(inner_key.clone())
            .or_insert_with(|| OwnerGroup {
                members: Vec::new(),
                youngest: member.born,
                name: inner_name(&group.name, &place.identity),
                inner: true,
                // Containers of a service of the host are on the host's bridges. What a container or a user has inside goes by
                // an address of that one's, or by none.
                has_addresses: group.has_addresses && !group.name.container,
            });
        one.youngest = one.youngest.max(member.born);
        one.members.push(member);
    }
}

/// What the path of a member says, seen from the owner's own control group.
fn inside(member: &GroupMember) -> CgroupPlace {
    let mut parts: Vec<_> = member.path.iter().rev().take(member.below).collect();
    parts.reverse();
    let path: PathBuf = parts.into_iter().collect();
    CgroupPlace::of(&path.to_string_lossy())
}

fn inner_name(outer: &GroupName, identity: &Identity) -> GroupName {
    let inner = match identity {
        Identity::Pod { uid, .. } => format!("pod {uid}"),
        identity => GroupName::of(identity).text,
    };
    GroupName {
        text: format!("{}/{inner}", outer.text),
        id: None,
        container: true,
    }
}
