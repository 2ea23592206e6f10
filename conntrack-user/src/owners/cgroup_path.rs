//! What the path of a control group says: a pod, a container, a systemd unit, or nothing.
//!
//! | who makes it | path of a container |
//! |---|---|
//! | kubelet, cgroupfs driver | `/kubepods/burstable/podUID/CONTAINER`, without the level if Guaranteed |
//! | kubelet, systemd driver | `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice/cri-containerd-CONTAINER.scope`, the UID with `_` for `-` |
//! | containerd, CRI-O, Docker in it | `cri-containerd-`, `crio-` (`crio-conmon-`: its helper), `docker-`, or plain |
//! | kind, and the like | all of that below `/docker/CONTAINER/kubelet` or `kubelet-kubepods.slice` |
//! | Docker, podman, nerdctl alone | `/docker/CONTAINER`, `/system.slice/docker-CONTAINER.scope`, `libpod-CONTAINER.scope` |
//! | systemd | `/system.slice/sshd.service`, `/user.slice/user-0.slice/session-3.scope` |
//!
//! The outermost pod counts, then the outermost container, then the outermost unit that is not a
//! slice: what runs inside is that one's. Below `user@1000.service` a user without rights names the
//! groups, so nothing there is taken for a pod or a container. Anybody who may make control groups
//! may name them, so nothing that isn't of the right shape is taken for a UID or an ID.

use serde::Serialize;

use super::Key;

#[cfg(test)]
mod tests;

/// Length of a container's ID: a SHA-256 in hexadecimal.
const ID: usize = 64;

/// The longest name of a systemd unit (`UNIT_NAME_MAX`), bytes.
const LONGEST_UNIT: usize = 256;

/// systemd lets a user without rights make control groups below this, of whatever name.
const DELEGATED: &str = "user@";

/// Which pods the kernel and the kubelet prefer when memory is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Qos {
    /// Requests equal limits; such pods have no level in the path.
    Guaranteed,
    Burstable,
    BestEffort,
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
        /// It is the runtime's helper for that container, which may be in another network.
        helper: bool,
    },
    /// Of a container outside Kubernetes.
    Container {
        id: String,
    },
    /// Of a systemd unit that is not a slice.
    Unit(String),
    /// A slice of systemd, with nothing more in the path.
    Slice(String),
    Other,
}

impl Identity {
    /// Whose it is; `None`: the path does not tell.
    pub(super) fn key(&self) -> Option<Key> {
        match self {
            Self::Pod { uid, .. } => Some(Key::pod(uid)),
            Self::Container { id: name } | Self::Unit(name) | Self::Slice(name) => {
                Some(Key::cgroup(name))
            }
            Self::Other => None,
        }
    }
}

/// What a path says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CgroupPlace {
    pub identity: Identity,
    /// How many levels below the control group of that pod, container or unit.
    pub below: usize,
}

impl CgroupPlace {
    /// Reads a path below the root of a hierarchy, as in `/proc/PID/cgroup`.
    pub(crate) fn of(path: &str) -> Self {
        let mut identity = Identity::Other;
        let mut below = 0;
        let mut in_kubepods = false;
        let mut level = None;
        for segment in path.split('/') {
            // `..` is what a path outside of the reader's own control group namespace begins with.
            if matches!(segment, "" | "." | "..") {
                continue;
            }
            below += 1;
            match &mut identity {
                Identity::Pod {
                    container, helper, ..
                } => {
                    if below == 1 {
                        (*container, *helper) = pod_container(segment);
                    }
                    continue;
                }
                Identity::Unit(name) if name.starts_with(DELEGATED) => continue,
                _ => {}
            }
            if let Some((slice, id)) = joined(segment) {
                identity = slice;
                if let Identity::Pod { container, .. } = &mut identity {
                    *container = Some(id.to_owned());
                }
                below = 1;
                continue;
            }
            if let Some(slice) = segment.strip_suffix(".slice") {
                if let Some(pod) = in_kubepods.then(|| pod_slice(slice)).flatten() {
                    identity = pod;
                    below = 0;
                    continue;
                }
                in_kubepods |= slice == "kubepods" || slice.ends_with("-kubepods");
            } else if let Some(uid) = segment
                .strip_prefix("pod")
                .filter(|_| in_kubepods)
                .and_then(uid)
            {
                let qos = level.unwrap_or(Qos::Guaranteed);
                identity = pod(uid, qos);
                below = 0;
                continue;
            }
            in_kubepods |= segment == "kubepods";
            level = match segment {
                "burstable" => Some(Qos::Burstable),
                "besteffort" => Some(Qos::BestEffort),
                _ => None,
            };
            let found = match identity {
                Identity::Container { .. } => None,
                Identity::Unit(_) => container_id(segment),
                _ => container_id(segment).or_else(|| unit(segment)),
            };
            match found {
                Some(found) => {
                    identity = found;
                    below = 0;
                }
                // Below a slice, but not of systemd.
                None if matches!(identity, Identity::Slice(_)) => identity = Identity::Other,
                None => {}
            }
        }
        if identity == Identity::Other {
            below = 0;
        }
        Self { identity, below }
    }
}

const fn pod(uid: String, qos: Qos) -> Identity {
    Identity::Pod {
        uid,
        qos,
        container: None,
        helper: false,
    }
}

/// A pod by the name of its slice, without `.slice`: `kubepods-burstable-podUID`, with what the
/// kubelet's `--cgroup-root` puts before.
fn pod_slice(slice: &str) -> Option<Identity> {
    let (parent, escaped) = slice.rsplit_once("-pod")?;
    let uid = uid(&escaped.replace('_', "-"))?;
    let (before, qos) = if let Some(before) = parent.strip_suffix("-burstable") {
        (before, Qos::Burstable)
    } else if let Some(before) = parent.strip_suffix("-besteffort") {
        (before, Qos::BestEffort)
    } else {
        (parent, Qos::Guaranteed)
    };
    (before == "kubepods" || before.ends_with("-kubepods")).then(|| pod(uid, qos))
}

/// A pod's container by `kubepods-burstable-podUID.slice:cri-containerd:CONTAINER`: what a runtime
/// with the cgroupfs driver makes below its own unit when the kubelet has the other driver.
fn joined(segment: &str) -> Option<(Identity, &str)> {
    let (slice, rest) = segment.split_once(".slice:")?;
    Some((pod_slice(slice)?, trailing_id(rest)?))
}

/// A UID as the API server makes it (RFC 4122), or the hash that the kubelet gives to a static pod.
pub(super) fn uid(text: &str) -> Option<String> {
    let right = match text.len() {
        36 => text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        }),
        32 => text.bytes().all(|byte| byte.is_ascii_hexdigit()),
        _ => false,
    };
    right.then(|| text.to_ascii_lowercase())
}

/// The container below a pod, and whether it is the runtime's helper.
fn pod_container(segment: &str) -> (Option<String>, bool) {
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    let helper = name.contains("-conmon-");
    (trailing_id(name).map(str::to_owned), helper)
}

/// A container by the last part of a path: the plain ID, or a scope (or a folder, of CRI-O and
/// podman) that begins with the runtime's name.
fn container_id(segment: &str) -> Option<Identity> {
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    let id = trailing_id(name)?.to_owned();
    Some(Identity::Container { id })
}

/// The ID at the end: all of it, or what follows `-` or `:`.
fn trailing_id(name: &str) -> Option<&str> {
    let begin = name.len().checked_sub(ID)?;
    let (before, id) = name.split_at_checked(begin)?;
    let separated = before.is_empty() || before.ends_with(['-', ':']);
    (separated
        && id
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
    .then_some(id)
}

/// A systemd unit by the name of its control group (`unit_name_is_valid`, `cg_unescape`).
fn unit(segment: &str) -> Option<Identity> {
    let name = segment.strip_prefix('_').unwrap_or(segment);
    let (stem, suffix) = name.rsplit_once('.')?;
    let allowed = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'-' | b'_' | b'.' | b'\\' | b'@')
    };
    if stem.is_empty() || name.len() >= LONGEST_UNIT || !name.bytes().all(allowed) {
        return None;
    }
    match suffix {
        "slice" => Some(Identity::Slice(name.to_owned())),
        "service" | "scope" | "socket" | "mount" | "swap" => Some(Identity::Unit(name.to_owned())),
        _ => None,
    }
}

/// Reads `/proc/PID/cgroup`: of all hierarchies that the process is in (version 2 has the number 0,
/// version 1 one for each controller) the path that says most.
pub(crate) fn of_process(text: &str) -> CgroupPlace {
    let places = text.lines().filter_map(|line| {
        let (number, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        number.parse::<u32>().ok()?;
        // What the kernel puts behind the path of a group that was removed.
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        Some((controllers, CgroupPlace::of(path)))
    });
    places
        .min_by_key(|(controllers, place)| {
            let identity = match place.identity {
                Identity::Pod { .. } => 0,
                Identity::Container { .. } => 1,
                Identity::Unit(_) => 2,
                Identity::Slice(_) => 3,
                Identity::Other => 4,
            };
            // Version 2 before the others: there is only one of it.
            (identity, !controllers.is_empty())
        })
        .map_or(
            CgroupPlace {
                identity: Identity::Other,
                below: 0,
            },
            |(_, place)| place,
        )
}
