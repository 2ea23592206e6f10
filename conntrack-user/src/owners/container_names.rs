//! What people call a container that its path names by an ID only: by the files that its runtime keeps, which are
//! root's. Where there is none, or it is not readable, the ID is shown.
//!
//! | runtime | file |
//! |---|---|
//! | Docker | `/var/lib/docker/containers/ID/config.v2.json`; of its snap below `/var/snap/docker/common/var-lib-docker` |
//! | podman | `/var/lib/containers/storage/DRIVER-containers/containers.json`; in memory below `/run/containers/storage` |
//! | nerdctl | `/run/containerd/io.containerd.runtime.v2.task/NAMESPACE/ID/config.json` |

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::groups::{OwnerGroup, OwnerGroups};
use super::{Key, OwnerKind};
use crate::kernel::{Root, files::bounded_text};

/// How long a new container without a name is looked for with each scan, and how often later; a name may change, too.
const YOUNG: Duration = Duration::from_secs(10);
const REFRESH: Duration = Duration::from_mins(1);

/// How much of a file is read, bytes: one of podman has all its containers.
const LONGEST: u64 = 4 << 20;

/// How many folders of drivers, or of namespaces of containerd, are looked into.
const MOST_FOLDERS: usize = 16;

/// How many files are read with one scan.
const MOST_READ: usize = 256;

/// Docker's, and nobody else allows more (`names.RestrictedNameChars`).
const LONGEST_NAME: usize = 128;

/// Names of containers, by ID.
#[derive(Debug)]
pub(super) struct ContainerNames {
    root: Root,
    known: HashMap<String, (Option<String>, Instant)>,
}

/// What to call owners that are no pods, and nodes of pods.
pub(super) struct Units<'a> {
    names: &'a ContainerNames,
    /// Names of more than one.
    shared: HashSet<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OfDocker {
    name: String,
}

#[derive(Deserialize)]
struct OfPodman {
    id: String,
    #[serde(default)]
    names: Vec<String>,
}

#[derive(Deserialize)]
struct OfContainerd {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl ContainerNames {
    pub(super) fn new(root: Root) -> Self {
        Self {
            root,
            known: HashMap::new(),
        }
    }

    /// Looks for names of those that are new, or were last looked for long ago.
    pub(super) fn look(&mut self, groups: &OwnerGroups, now: Instant) {
        let age = |since| now.saturating_duration_since(since);
        let with_id = groups.by_key.values();
        let with_id = with_id.filter_map(|group| Some((group.name.id.as_deref()?, group.youngest)));
        let youngest: HashMap<&str, Instant> = with_id.collect();
        self.known.retain(|id, _| youngest.contains_key(&**id));
        let due: Vec<&str> = youngest
            .iter()
            .filter(|(id, youngest)| match self.known.get(**id) {
                None => true,
                Some((None, _)) if age(**youngest) < YOUNG => true,
                Some((_, looked)) => age(*looked) >= REFRESH,
            })
            .map(|(id, _)| *id)
            .take(MOST_READ)
            .collect();
        if due.is_empty() {
            return;
        }
        let podman = self.of_podman();
        let namespaces = folders(&self.root.run("containerd/io.containerd.runtime.v2.task"));
        for id in due {
            let name = self
                .of_docker(id)
                .or_else(|| podman.get(id).cloned())
                .or_else(|| of_containerd(&namespaces, id));
            self.known.insert(id.to_owned(), (name, now));
        }
    }

    fn of_docker(&self, id: &str) -> Option<String> {
        let homes = ["lib/docker", "snap/docker/common/var-lib-docker"];
        homes.iter().find_map(|home| {
            let file = format!("{home}/containers/{id}/config.v2.json");
            let OfDocker { name } = read(&self.root.var(file)).ok()?;
            proper(name.trim_start_matches('/'))
        })
    }

    fn of_podman(&self) -> HashMap<String, String> {
        let homes = [
            self.root.var("lib/containers/storage"),
            self.root.run("containers/storage"),
        ];
        homes
            .iter()
            .flat_map(|home| folders(home))
            .filter(|folder| folder.to_string_lossy().ends_with("-containers"))
            .flat_map(|folder| {
                ["containers.json", "volatile-containers.json"].map(|file| folder.join(file))
            })
            .filter_map(|file| read::<Vec<OfPodman>>(&file).ok())
            .flatten()
            .filter_map(|one| Some((one.id, proper(one.names.first()?)?)))
            .collect()
    }

    /// What each of them is called. Who has a name that another one has, too, is told apart by ID or path, unless it is a
    /// unit's.
    pub(super) fn units(&self, groups: &OwnerGroups) -> Units<'_> {
        let mut seen = HashSet::new();
        let mut shared = HashSet::new();
        for (key, group) in &groups.by_key {
            let name = self.name(group);
            if key.kind() == OwnerKind::Cgroup && !seen.insert(name) {
                shared.insert(name.to_owned());
            }
        }
        Units {
            names: self,
            shared,
        }
    }

    fn name<'a>(&'a self, group: &'a OwnerGroup) -> &'a str {
        let known = group.name.id.as_ref().and_then(|id| self.known.get(id));
        known
            .and_then(|(name, _)| name.as_deref())
            .unwrap_or(&group.name.text)
    }
}

impl Units<'_> {
    /// What to call this owner, or the node of this pod.
    pub(super) fn of(&self, key: &Key, group: &OwnerGroup) -> String {
        let name = self.names.name(group);
        if !group.name.container || !self.shared.contains(name) {
            return name.to_owned();
        }
        let apart = match key.kind() {
            OwnerKind::Pod => key.uid().rsplit_once('/').map_or("", |(node, _)| node),
            _ => key.uid(),
        };
        match &group.name.id {
            Some(_) => format!("{name} ({})", group.name.text),
            None => format!("{name} ({})", apart.trim_start_matches('/')),
        }
    }
}

fn of_containerd(namespaces: &[PathBuf], id: &str) -> Option<String> {
    namespaces.iter().find_map(|namespace| {
        let found: OfContainerd = read(&namespace.join(id).join("config.json")).ok()?;
        proper(found.annotations.get("nerdctl/name")?)
    })
}

/// A name that a runtime would take, since it wrote it.
fn proper(name: &str) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let right = !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(allowed);
    right.then(|| name.to_owned())
}

/// Folders in a folder; none if there is no such folder.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let found = entries.flatten().filter(is_folder).take(MOST_FOLDERS);
    found.map(|entry| entry.path()).collect()
}

fn read<T: DeserializeOwned>(file: &Path) -> io::Result<T> {
    Ok(serde_json::from_str(&bounded_text(file, LONGEST)?)?)
}
