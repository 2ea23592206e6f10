//! Control groups, or processes, by owner.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::cgroup_path::{self, Identity};
use super::tree::{CgroupNode, CgroupTree};
use super::{Key, Owner, OwnerKind};
use crate::kernel::{Root, tables::process_numbers};

mod inner;

/// How many characters of a container's ID are shown, as its runtime does.
const SHORT: usize = 12;

/// How many processes of one owner are kept where control groups can't be walked.
const MOST_PROCESSES: usize = 64;

/// How many folders are watched for owners that begin or end.
const MOST_FOLDERS: usize = 4096;

/// How far below an owner that is which was not found below its own control group.
const ELSEWHERE: usize = 64;

/// A control group, or a process, of an owner.
#[derive(Clone, Debug)]
pub(super) struct GroupMember {
    /// How far below the owner's own control group; its main process is where this is least.
    pub(super) below: usize,
    /// What tells it from others.
    pub(super) id: MemberId,
    /// The folder of the control group; empty for a process.
    pub(super) path: PathBuf,
    /// When it was first seen.
    pub(super) born: Instant,
    /// Its inode number is an ID.
    unified: bool,
    /// It is the runtime's helper, which may be in another network.
    pub(super) helper: bool,
}

/// What tells members apart. In this order, the oldest comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum MemberId {
    /// Number of the hierarchy, and inode number.
    Cgroup(usize, u64),
    Process(u32),
}

/// The networks of the processes of one control group; inode numbers of namespaces.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GroupNetworks {
    /// That of the first process.
    pub(super) first: Option<u32>,
    /// That of the first process that is not in the host's.
    pub(super) apart: Option<u32>,
}

/// What belongs to one owner.
#[derive(Clone, Debug)]
pub(super) struct OwnerGroup {
    /// Where its processes are.
    pub(super) members: Vec<GroupMember>,
    /// When the last of them began.
    pub(super) youngest: Instant,
    /// What to call it; of a pod the node that it is on, if that is a container.
    pub(super) name: GroupName,
    /// It is inside another owner, and told from that by its network.
    pub(super) inner: bool,
    /// What has its addresses in the host's table is its own. Not so where anybody may have made its network: `unshare -Urn`
    /// gives who has no rights at all one with the addresses of any pod.
    pub(super) has_addresses: bool,
}

/// What an owner that is not a pod is called, or the node of one that is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GroupName {
    pub(super) text: String,
    /// The ID by which its runtime may know a name that is better.
    pub(super) id: Option<String>,
    /// It is a container's, not a unit's: who has the same name is told apart.
    pub(super) container: bool,
}

/// What belongs to each owner.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnerGroups {
    pub(super) by_key: BTreeMap<Key, OwnerGroup>,
}

impl OwnerGroup {
    fn new(youngest: Instant, identity: &Identity) -> Self {
        Self {
            members: Vec::new(),
            youngest,
            name: GroupName::of(identity),
            inner: false,
            has_addresses: !identity.is_delegated(),
        }
    }

    /// Brings the members into the order in which they are asked for a process.
    fn sort(&mut self) {
        self.members
            .sort_unstable_by_key(|member| (member.helper, member.below, member.id));
    }

    /// IDs of its control groups.
    pub(super) fn cgroups(&self) -> Vec<u64> {
        let mut cgroups: Vec<u64> = self
            .members
            .iter()
            .filter_map(|member| match member.id {
                MemberId::Cgroup(_, inode) if member.unified => Some(inode),
                _ => None,
            })
            .collect();
        cgroups.sort_unstable();
        cgroups
    }

    /// Its owner. `name`: namespace and name of a pod; `unit`: what to call another one, or a pod's node.
    pub(super) fn owner(key: &Key, name: Option<(&str, &str)>, unit: &str) -> Owner {
        match key.kind() {
            OwnerKind::Pod => Owner::pod_on(key.uid(), name, unit),
            _ => Owner::cgroup(unit, key.uid()),
        }
    }
}

impl GroupName {
    fn of(identity: &Identity) -> Self {
        match identity {
            Identity::Pod { node, .. } => node.as_ref().map(Self::of_container).unwrap_or_default(),
            Identity::Container(container) => Self::of_container(container),
            Identity::Unit(name) | Identity::Slice(name) => Self {
                text: name.clone(),
                ..Self::default()
            },
            Identity::Other(path) => Self {
                text: path.trim_start_matches('/').to_owned(),
                container: true,
                ..Self::default()
            },
        }
    }

    fn of_container(container: &cgroup_path::Container) -> Self {
        let by_id = container.name.is_empty();
        Self {
            text: if by_id {
                container.key.chars().take(SHORT).collect()
            } else {
                container.name.clone()
            },
            id: by_id.then(|| container.key.clone()),
            container: true,
        }
    }
}

impl OwnerGroups {
    /// What belongs to an owner; nothing yet if it is new.
    fn group(&mut self, key: Key, youngest: Instant, identity: &Identity) -> &mut OwnerGroup {
        self.by_key
            .entry(key)
            .or_insert_with(|| OwnerGroup::new(youngest, identity))
    }

    /// Adds the control groups of a hierarchy. `number`: its number. `owns`: whether one whose
    /// path doesn't tell, or a slice, has processes of its own that make it an owner.
    pub(super) fn add_tree(
        &mut self,
        number: usize,
        tree: &CgroupTree,
        mut owns: impl FnMut(&CgroupNode, MemberId, &Path) -> bool,
    ) {
        tree.walk(None, |node, path, above: &Option<(Key, usize)>| {
            let id = MemberId::Cgroup(number, node.inode);
            let identity = &node.place.identity;
            let (key, below) = match identity {
                Identity::Other(inside) => match above {
                    Some((key, below)) => (Some(key.clone()), below + 1),
                    None if path != tree.path() && owns(node, id, path) => {
                        (Some(Key::cgroup(inside)), node.place.below)
                    }
                    None => (None, 0),
                },
                Identity::Slice(_) if !owns(node, id, path) => (None, 0),
                _ => (node.key.clone(), node.place.below),
            };
            let key = key?;
            let inherited = matches!(identity, Identity::Other(_)).then(|| (key.clone(), below));
            let group = self.group(key, node.born, identity);
            group.youngest = group.youngest.max(node.born);
            group.members.push(GroupMember {
                below,
                id,
                path: path.to_owned(),
                born: node.born,
                unified: tree.unified,
                helper: node.place.helper,
            });
            inherited
        });
    }

    /// Finds processes by `/proc/PID/cgroup`, where no hierarchy can be walked. `home`: see
    /// [`cgroup_path::home`].
    ///
    /// # Errors
    /// When `/proc` can't be read.
    pub(super) fn add_processes(
        &mut self,
        root: &Root,
        home: &str,
        now: Instant,
    ) -> std::io::Result<()> {
        for process in process_numbers(root)? {
            // It may end at any time.
            let Ok(text) = fs::read(root.proc(format!("{process}/cgroup"))) else {
                continue;
            };
            let place = cgroup_path::of_process(&String::from_utf8_lossy(&text), home);
            let Some(key) = place.identity.key().filter(|_| !place.helper) else {
                continue;
            };
            let group = self.group(key, now, &place.identity);
            if group.members.len() < MOST_PROCESSES {
                group.members.push(GroupMember {
                    below: place.below,
                    id: MemberId::Process(process),
                    path: PathBuf::new(),
                    born: now,
                    unified: false,
                    helper: false,
                });
            }
        }
        Ok(())
    }

    /// Gives to pods what a runtime keeps elsewhere for their containers: Kata's `/kata_overhead/ID`, and conmon
    /// where CRI-O has it in `system.slice`.
    pub(super) fn join_pods(&mut self, trees: &[CgroupTree]) {
        let is_named_by_id = |group: &OwnerGroup| group.name.id.is_some();
        let apart: HashSet<Key> = self
            .by_key
            .iter()
            .filter(|(key, group)| key.kind() == OwnerKind::Cgroup && is_named_by_id(group))
            .map(|(key, _)| key.clone())
            .collect();
        if apart.is_empty() || apart.len() == self.by_key.len() {
            return;
        }
        let mut pods: HashMap<Key, Key> = HashMap::new();
        for tree in trees {
            tree.walk((), |node, _, ()| {
                // A pod that is inside a box is told by names that the box's own root gave: it takes nothing of the machine's.
                if let Identity::Pod {
                    container: Some(id),
                    node: None,
                    ..
                } = &node.place.identity
                    && let Some(id) = apart.get(&Key::cgroup(id))
                    && let Some(pod) = &node.key
                {
                    pods.insert(id.clone(), pod.clone());
                }
            });
        }
        for (id, pod) in pods {
            let Some(elsewhere) = self.by_key.remove(&id) else {
                continue;
            };
            let Some(group) = self.by_key.get_mut(&pod) else {
                continue;
            };
            group.youngest = group.youngest.max(elsewhere.youngest);
            group
                .members
                .extend(elsewhere.members.into_iter().map(|member| GroupMember {
                    below: member.below + ELSEWHERE,
                    ..member
                }));
        }
    }

    /// Brings the members of each into their order.
    pub(super) fn sort(&mut self) {
        self.by_key.values_mut().for_each(OwnerGroup::sort);
    }
}

/// The folders of a hierarchy in which owners, or containers of pods, begin and end.
pub(super) fn folders(tree: &CgroupTree, folders: &mut Vec<PathBuf>) {
    tree.walk((), |node, path, ()| {
        let own = match &node.place.identity {
            Identity::Pod { .. } => node.place.below == 0,
            Identity::Slice(_) | Identity::Other(_) => true,
            Identity::Container(_) | Identity::Unit(_) => false,
        };
        if own && folders.len() < MOST_FOLDERS {
            folders.push(path.to_owned());
        }
    });
}
