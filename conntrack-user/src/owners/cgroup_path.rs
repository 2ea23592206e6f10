//! What the path of a control group says: a pod, a container, a systemd unit, or nothing.
//!
//! | who makes it | path of a container |
//! |---|---|
//! | kubelet, cgroupfs driver | `/kubepods/burstable/podUID/CONTAINER`, without the level if Guaranteed |
//! | kubelet, systemd driver | `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice/cri-containerd-CONTAINER.scope`, the UID with `_` for `-` |
//! | containerd, CRI-O, Docker in it | `cri-containerd-`, `crio-` (`crio-conmon-`: its helper), `docker-`, or plain |
//! | kind, and the like | all of that below the container that is the node |
//! | Docker, podman, nerdctl alone | `/docker/CONTAINER`, `/system.slice/docker-CONTAINER.scope`, `libpod-CONTAINER.scope` |
//! | LXC, Incus, Proxmox, machined, Nomad | by a name: `/lxc.payload.NAME`, `/lxc/NAME`, `/machine.slice/machine-NAME.scope` |
//! | systemd | `/system.slice/sshd.service`, `/user.slice/user-0.slice/session-3.scope` |
//!
//! All that were found in public, each with its source, are in `docs/owners.md`, which a test
//! holds against this (`conntrack-user/src/owners/scanner/tests/layouts.rs`).
//!
//! The outermost pod counts, then the outermost container, then the outermost unit that is not a
//! slice: what runs inside is that one's. A pod that is inside a container (a node of kind) is
//! another one than a pod of the machine's with the same UID. Only below slices is a unit one of
//! the machine's own systemd: `nginx.service` in a container, or below a group that nobody knows, is
//! not. Below `user@1000.service` and `session-3.scope` a user without rights names the groups, so
//! nothing there is taken for a pod or a container. Anybody who may make control groups may name them, so nothing that
//! isn't of the right shape is taken for a UID or an ID.

use super::Key;

mod segment;
#[cfg(test)]
mod tests;

pub(crate) use segment::Qos;
use segment::UnitName;
pub(super) use segment::uid;

/// systemd, or a user's own LXC, lets a user without rights make control groups below these, of whatever name.
const DELEGATED: [&str; 2] = ["user@", "session-"];

/// A container outside Kubernetes, also one with a whole system in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Container {
    /// What tells it from all others: its ID, or its path, which begins with `/`.
    pub key: String,
    /// What the path calls it; empty: there is only the ID.
    pub name: String,
}

/// Whose a control group is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Identity {
    Pod {
        /// With `-`, in lower case; of a static pod 32 digits.
        uid: String,
        qos: Qos,
        /// ID of the container; `None`: the pod's own control group, or something else below it.
        container: Option<String>,
        /// The node that it is on, where that is a container of this machine.
        node: Option<Container>,
    },
    Container(Container),
    /// Of a systemd unit that is not a slice.
    Unit(String),
    /// A slice of systemd, with nothing more in the path.
    Slice(String),
    /// The path does not tell. This is what would be a container's, should it have a network of its
    /// own: the path up to where another systemd's units begin. Empty: the root.
    Other(String),
}

impl Identity {
    /// Whose it is; `None`: the path does not tell.
    pub(super) fn key(&self) -> Option<Key> {
        match self {
            Self::Pod { uid, node, .. } => Some(match node {
                Some(node) => Key::pod(&format!("{}/{uid}", node.key)),
                None => Key::pod(uid),
            }),
            Self::Container(Container { key: name, .. }) | Self::Unit(name) | Self::Slice(name) => {
                Some(Key::cgroup(name))
            }
            Self::Other(_) => None,
        }
    }

    /// Whether a user without rights names what is below it, and makes networks there with whatever addresses he likes.
    pub(super) fn is_delegated(&self) -> bool {
        matches!(self, Self::Unit(name) if DELEGATED.iter().any(|unit| name.starts_with(unit)))
    }
}

/// What a path says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CgroupPlace {
    pub identity: Identity,
    /// How many levels below the control group of that pod, container or unit.
    pub below: usize,
    /// It is the runtime's helper for that container, which may be in another network.
    pub helper: bool,
}

impl CgroupPlace {
    /// Reads a path below the root of a hierarchy, as in `/proc/PID/cgroup`.
    pub(crate) fn of(path: &str) -> Self {
        let mut reader = Reader::new();
        for segment in path.split('/') {
            // `..` is what a path outside of the reader's own control group namespace begins with.
            if !matches!(segment, "" | "." | "..") {
                reader.read(segment);
            }
        }
        reader.place
    }
}

/// What was read of a path so far.
struct Reader {
    path: String,
    place: CgroupPlace,
    in_kubepods: bool,
    level: Option<Qos>,
    region: Region,
    /// It is a machine of systemd-machined.
    is_machine: bool,
}

/// Whose names are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Region {
    /// The machine's own systemd's: only slices until now.
    Managed,
    /// Of nobody who is known.
    Foreign,
    /// Another systemd's, whose units have begun.
    Inside,
}

impl Reader {
    const fn new() -> Self {
        Self {
            path: String::new(),
            place: CgroupPlace {
                identity: Identity::Other(String::new()),
                below: 0,
                helper: false,
            },
            in_kubepods: false,
            level: None,
            region: Region::Managed,
            is_machine: false,
        }
    }

    fn enter(&mut self, identity: Identity) {
        self.place.identity = identity;
        self.place.below = 0;
    }

    fn read(&mut self, segment: &str) {
        let above = self.path.len();
        self.path.push('/');
        self.path.push_str(segment);
        self.place.below += 1;
        if self.place.identity.is_delegated() {
            return;
        }
        if let Identity::Pod { container, .. } = &mut self.place.identity {
            if self.place.below == 1 {
                (*container, self.place.helper) = segment::of_pod(segment);
            }
            return;
        }
        if self.read_pod(segment) {
            return;
        }
        if matches!(self.place.identity, Identity::Container(_)) {
            let is_supervisor = self.place.below == 1 && segment == "supervisor";
            self.place.helper |= self.is_machine && is_supervisor;
        } else {
            self.read_other(above, segment);
        }
    }

    /// A pod of Kubernetes, if this is where one begins.
    fn read_pod(&mut self, segment: &str) -> bool {
        let level = self.level.take();
        if let Some((uid, qos, id)) = segment::joined(segment) {
            self.enter_pod(uid, qos);
            if let Identity::Pod { container, .. } = &mut self.place.identity {
                *container = Some(id.to_owned());
            }
            self.place.below = 1;
            return true;
        }
        if let Some(slice) = segment.strip_suffix(".slice") {
            if let Some((uid, qos)) = segment::pod_slice(slice).filter(|_| self.in_kubepods) {
                self.enter_pod(uid, qos);
                return true;
            }
            self.in_kubepods |= slice == "kubepods" || slice.ends_with("-kubepods");
        } else if self.in_kubepods
            && let Some(uid) = segment.strip_prefix("pod").and_then(uid)
        {
            self.enter_pod(uid, level.unwrap_or(Qos::Guaranteed));
            return true;
        }
        self.in_kubepods |= segment == "kubepods";
        self.level = match segment {
            "burstable" => Some(Qos::Burstable),
            "besteffort" => Some(Qos::BestEffort),
            _ => None,
        };
        false
    }

    fn enter_pod(&mut self, uid: String, qos: Qos) {
        let node = match &self.place.identity {
            Identity::Container(container) => Some(container.clone()),
            _ => None,
        };
        self.enter(Identity::Pod {
            uid,
            qos,
            container: None,
            node,
        });
    }

    /// A container, or a unit of the machine's own; `above`: how much of the path is above it.
    fn read_other(&mut self, above: usize, segment: &str) {
        let unit = segment::unit(segment);
        if let Some((id, helper)) = segment::container_id(segment) {
            self.place.helper = helper;
            self.enter(Identity::Container(Container {
                key: id.to_owned(),
                name: String::new(),
            }));
            return;
        }
        let is_managed = self.region == Region::Managed;
        let machine = is_managed.then(|| segment::machine(segment)).flatten();
        self.is_machine = machine.is_some();
        let named = machine.or_else(|| segment::named(&self.path[..above], segment));
        if let Some(name) = named {
            let key = self.path.clone();
            self.enter(Identity::Container(Container { key, name }));
            return;
        }
        if matches!(self.place.identity, Identity::Unit(_)) {
            return;
        }
        match unit {
            Some(UnitName::Slice(name)) if is_managed => {
                self.enter(Identity::Slice(name.to_owned()));
            }
            Some(UnitName::Other(name)) if is_managed => {
                self.region = Region::Foreign;
                self.enter(Identity::Unit(name.to_owned()));
            }
            Some(_) => self.region = Region::Inside,
            None if self.region == Region::Inside => {}
            None => {
                self.region = Region::Foreign;
                self.enter(Identity::Other(self.path.clone()));
            }
        }
    }
}

/// Reads `/proc/PID/cgroup`: of all hierarchies that the process is in (version 2 has the number 0,
/// version 1 one for each controller) the path that says most. `home`: see [`home`].
pub(crate) fn of_process(text: &str, home: &str) -> CgroupPlace {
    lines(text)
        .map(|(controllers, path)| (controllers, CgroupPlace::of(below(home, path))))
        .min_by_key(|(controllers, place)| {
            let identity = match place.identity {
                Identity::Pod { .. } => 0,
                Identity::Container(_) => 1,
                Identity::Unit(_) => 2,
                Identity::Slice(_) => 3,
                Identity::Other(_) => 4,
            };
            // Version 2 before the others: there is only one of it.
            (identity, !controllers.is_empty())
        })
        .map_or_else(|| CgroupPlace::of(""), |(_, place)| place)
}

/// Controllers and path of each hierarchy.
fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let (number, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        number.parse::<u32>().ok()?;
        // What the kernel puts behind the path of a group that was removed.
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        Some((controllers, path))
    })
}

/// Where the machine's own control groups begin, by `/proc/1/cgroup`: above the group of its systemd.
/// Empty: at the root. That of WSL, and of a node that is a container without a namespace of control
/// groups, is below it.
pub(super) fn home(first_process: &str) -> &str {
    lines(first_process)
        .find_map(|(_, path)| path.strip_suffix("/init.scope"))
        .map_or("", |home| home.trim_start_matches("/.."))
}

/// The path as seen from [`home`]; one that is not below it as it is.
pub(super) fn below<'a>(home: &str, path: &'a str) -> &'a str {
    match path.strip_prefix(home) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
        _ => path,
    }
}
