//! Control groups, or processes, by owner.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::cgroup_path::{Identity, of_process};
use super::tree::{CgroupNode, CgroupTree};
use super::{Key, Owner, OwnerKind};
use crate::kernel::{Root, tables::process_numbers};

/// How many characters of a container's ID are shown, as its runtime does.
const SHORT: usize = 12;

/// How many processes of one owner are kept where control groups can't be walked.
const MOST_PROCESSES: usize = 64;

/// How many folders are watched for owners that begin or end.
const MOST_FOLDERS: usize = 4096;

/// A control group, or a process, of an owner.
#[derive(Clone, Debug)]
pub(super) struct GroupMember {
    /// How far below the owner's own control group; its main process is where this is least.
    pub(super) below: usize,
    /// What tells it from others.
    pub(super) id: MemberId,
    /// The folder of the control group; empty for a process.
    pub(super) path: PathBuf,
}

/// What tells members apart. In this order, the oldest comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum MemberId {
    /// Number of the hierarchy, and inode number.
    Cgroup(usize, u64),
    Process(u32),
}

/// What belongs to one owner.
#[derive(Clone, Debug)]
pub(super) struct OwnerGroup {
    /// Where its processes are.
    pub(super) members: Vec<GroupMember>,
    /// IDs of its control groups.
    pub(super) cgroups: Vec<u64>,
    /// When the last of them began.
    pub(super) youngest: Instant,
    /// What to call it, unless it is a pod.
    unit: String,
}

/// What belongs to each owner.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnerGroups {
    pub(super) by_key: BTreeMap<Key, OwnerGroup>,
}

impl OwnerGroup {
    /// Its owner. `name`: namespace and name of a pod.
    pub(super) fn owner(&self, key: &Key, name: Option<(&str, &str)>) -> Owner {
        match key.kind() {
            OwnerKind::Pod => Owner::pod(key.uid(), name),
            _ => Owner::cgroup(&self.unit, key.uid()),
        }
    }
}

impl OwnerGroups {
    /// What belongs to an owner; nothing yet if it is new.
    fn group(&mut self, key: Key, youngest: Instant, unit: String) -> &mut OwnerGroup {
        self.by_key.entry(key).or_insert_with(|| OwnerGroup {
            members: Vec::new(),
            cgroups: Vec::new(),
            youngest,
            unit,
        })
    }

    /// Adds the control groups of a hierarchy. `number`: its number. `owns`: whether one whose
    /// path doesn't tell, or a slice, has processes of its own that make it an owner.
    pub(super) fn add_tree(
        &mut self,
        number: usize,
        tree: &CgroupTree,
        mut owns: impl FnMut(&CgroupNode, MemberId, &Path) -> bool,
    ) {
        tree.walk(None, |node, path, above: &Option<Key>| {
            let id = MemberId::Cgroup(number, node.inode);
            let identity = &node.place.identity;
            let (key, below) = match identity {
                Identity::Other => match above {
                    Some(key) => (Some(key.clone()), 1),
                    None if path != tree.path() && owns(node, id, path) => {
                        let relative = path.strip_prefix(tree.path()).unwrap_or(path);
                        (Some(Key::cgroup(&relative.to_string_lossy())), 0)
                    }
                    None => (None, 0),
                },
                Identity::Slice(_) if !owns(node, id, path) => (None, 0),
                _ => (node.key.clone(), node.place.below),
            };
            let key = key?;
            let inherited = (*identity == Identity::Other).then(|| key.clone());
            let unit = unit(identity, key.uid());
            let group = self.group(key, node.born, unit);
            group.youngest = group.youngest.max(node.born);
            if tree.unified {
                group.cgroups.push(node.inode);
            }
            if !matches!(identity, Identity::Pod { helper: true, .. }) {
                group.members.push(GroupMember {
                    below,
                    id,
                    path: path.to_owned(),
                });
            }
            inherited
        });
    }

    /// Finds processes by `/proc/PID/cgroup`, where no hierarchy can be walked.
    ///
    /// # Errors
    /// When `/proc` can't be read.
    pub(super) fn add_processes(&mut self, root: &Root, now: Instant) -> std::io::Result<()> {
        for process in process_numbers(root)? {
            // It may end at any time.
            let Ok(text) = fs::read(root.proc(format!("{process}/cgroup"))) else {
                continue;
            };
            let place = of_process(&String::from_utf8_lossy(&text));
            if matches!(place.identity, Identity::Pod { helper: true, .. }) {
                continue;
            }
            let Some(key) = place.identity.key() else {
                continue;
            };
            let unit = unit(&place.identity, "");
            let group = self.group(key, now, unit);
            if group.members.len() < MOST_PROCESSES {
                group.members.push(GroupMember {
                    below: place.below,
                    id: MemberId::Process(process),
                    path: PathBuf::new(),
                });
            }
        }
        Ok(())
    }

    /// Brings the members into the order in which they are asked for a process.
    pub(super) fn sort(&mut self) {
        for group in self.by_key.values_mut() {
            group
                .members
                .sort_unstable_by_key(|member| (member.below, member.id));
            group.cgroups.sort_unstable();
        }
    }
}

/// The folders of a hierarchy in which owners, or containers of pods, begin and end.
pub(super) fn folders(tree: &CgroupTree, folders: &mut Vec<PathBuf>) {
    tree.walk((), |node, path, ()| {
        let own = match &node.place.identity {
            Identity::Pod { .. } => node.place.below == 0,
            Identity::Slice(_) | Identity::Other => true,
            Identity::Container { .. } | Identity::Unit(_) => false,
        };
        if own && folders.len() < MOST_FOLDERS {
            folders.push(path.to_owned());
        }
    });
}

/// What to call an owner that is not a pod.
fn unit(identity: &Identity, path: &str) -> String {
    match identity {
        Identity::Pod { .. } => String::new(),
        Identity::Container { id } => id.chars().take(SHORT).collect(),
        Identity::Unit(name) | Identity::Slice(name) => name.clone(),
        Identity::Other => path.to_owned(),
    }
}
