//! What one part of a path says.

use serde::Serialize;

/// Length of a container's ID: a SHA-256 in hexadecimal.
pub(super) const ID: usize = 64;

/// The longest name of a systemd unit (`UNIT_NAME_MAX`), bytes.
pub(super) const LONGEST_UNIT: usize = 256;

/// How many characters of an ID tell it from others in practice, as its runtime shows it: of an allocation of Nomad.
const SHORT_ALLOCATION: usize = 8;

/// Which pods the kernel and the kubelet prefer when memory is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Qos {
    /// Requests equal limits; such pods have no level in the path.
    Guaranteed,
    Burstable,
    BestEffort,
}

/// The name of a systemd unit.
#[derive(Debug)]
pub(super) enum UnitName<'a> {
    Slice(&'a str),
    Other(&'a str),
}

/// A pod by the name of its slice, without `.slice`: `kubepods-burstable-podUID`, with what the
/// kubelet's `--cgroup-root` puts before.
pub(super) fn pod_slice(slice: &str) -> Option<(String, Qos)> {
    let (parent, escaped) = slice.rsplit_once("-pod")?;
    let uid = uid(&escaped.replace('_', "-"))?;
    let (before, qos) = if let Some(before) = parent.strip_suffix("-burstable") {
        (before, Qos::Burstable)
    } else if let Some(before) = parent.strip_suffix("-besteffort") {
        (before, Qos::BestEffort)
    } else {
        (parent, Qos::Guaranteed)
    };
    (before == "kubepods" || before.ends_with("-kubepods")).then_some((uid, qos))
}

/// A pod's container by `kubepods-burstable-podUID.slice:cri-containerd:CONTAINER`: what a runtime
/// with the cgroupfs driver makes below its own unit when the kubelet has the other driver.
pub(super) fn joined(segment: &str) -> Option<(String, Qos, &str)> {
    let (slice, rest) = segment.split_once(".slice:")?;
    let (uid, qos) = pod_slice(slice)?;
    Some((uid, qos, trailing_id(rest)?))
}

/// A UID as the API server makes it (RFC 4122), or the hash that the kubelet gives to a static pod.
pub(in super::super) fn uid(text: &str) -> Option<String> {
    let right = match text.len() {
        36 => is_uuid(text),
        32 => text.bytes().all(|byte| byte.is_ascii_hexdigit()),
        _ => false,
    };
    right.then(|| text.to_ascii_lowercase())
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// The container below a pod, and whether it is the runtime's helper.
pub(super) fn of_pod(segment: &str) -> (Option<String>, bool) {
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    (trailing_id(name).map(str::to_owned), is_helper(name))
}

/// A container by the last part of a path: the plain ID, or a scope (or a folder, of CRI-O and
/// podman) that begins with the runtime's name. Whether it is the runtime's helper.
pub(super) fn container_id(segment: &str) -> Option<(&str, bool)> {
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    Some((trailing_id(name)?, is_helper(name)))
}

/// conmon, of CRI-O and podman, stays in the host's network.
fn is_helper(name: &str) -> bool {
    name.contains("-conmon-")
}

/// The ID at the end: all of it, or what follows `-`, `:` or (of Kata) `_`.
fn trailing_id(name: &str) -> Option<&str> {
    let begin = name.len().checked_sub(ID)?;
    let (before, id) = name.split_at_checked(begin)?;
    let separated = before.is_empty() || before.ends_with(['-', ':', '_']);
    (separated
        && id
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
    .then_some(id)
}

/// A systemd unit by the name of its control group (`unit_name_is_valid`, `cg_unescape`).
pub(super) fn unit(segment: &str) -> Option<UnitName<'_>> {
    let name = segment.strip_prefix('_').unwrap_or(segment);
    let (stem, suffix) = name.rsplit_once('.')?;
    let allowed = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'-' | b'_' | b'.' | b'\\' | b'@')
    };
    if stem.is_empty() || name.len() >= LONGEST_UNIT || !name.bytes().all(allowed) {
        return None;
    }
    match suffix {
        "slice" => Some(UnitName::Slice(name)),
        "service" | "scope" | "socket" | "mount" | "swap" => Some(UnitName::Other(name)),
        _ => None,
    }
}

/// Name of a container or virtual machine by the unit that systemd-machined or systemd-nspawn makes for it.
pub(super) fn machine(segment: &str) -> Option<String> {
    let escaped = segment
        .strip_suffix(".scope")
        .and_then(|name| name.strip_prefix("machine-"))
        .or_else(|| {
            let name = segment.strip_suffix(".service")?;
            // The second is NixOS's.
            name.strip_prefix("systemd-nspawn@")
                .or_else(|| name.strip_prefix("container@"))
        })?;
    unescaped(escaped).map(|name| of_libvirt(&name).to_owned())
}

/// libvirt puts driver and number before the name.
fn of_libvirt(name: &str) -> &str {
    let parts = ["qemu-", "lxc-"]
        .iter()
        .find_map(|driver| name.strip_prefix(driver)?.split_once('-'));
    match parts {
        Some((number, name)) if number.parse::<u32>().is_ok() && !name.is_empty() => name,
        _ => name,
    }
}

/// Name of a container in a path that is not systemd's; `above`: the path above it.
pub(super) fn named(above: &str, segment: &str) -> Option<String> {
    let is_below = |parent: &str| {
        let before = above.strip_suffix(parent);
        before.is_some_and(|before| before.ends_with('/'))
    };
    let name = if let Some(name) = segment.strip_prefix("lxc.payload.") {
        name
    } else if is_below("lxc") || is_below("lxc.payload") {
        segment
    } else if is_below("machine") {
        let name = segment.strip_suffix(".libvirt-lxc");
        of_libvirt(name.or_else(|| segment.strip_suffix(".libvirt-qemu"))?)
    } else if is_below("mesos") && is_uuid(segment) {
        segment
    } else if above.starts_with("/nomad") {
        return allocation(segment);
    } else {
        return None;
    };
    (!name.is_empty()).then(|| name.to_owned())
}

/// Nomad: `ALLOCATION.TASK`. What it calls a container that Docker runs for it is `TASK-ALLOCATION`.
fn allocation(segment: &str) -> Option<String> {
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    let (allocation, task) = name.split_once('.')?;
    let short = allocation.get(..SHORT_ALLOCATION)?;
    (is_uuid(allocation) && !task.is_empty()).then(|| format!("{task}-{short}"))
}

/// What systemd made `name` of (`unit_name_unescape`); `None`: not of it.
fn unescaped(name: &str) -> Option<String> {
    let mut parts = name.split("\\x");
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        bytes.extend(rest.as_bytes());
    }
    let name = String::from_utf8(bytes).ok()?;
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_machines() {
        for (unit, name) in [
            ("machine-mail.scope", Some("mail")),
            ("machine-web\\x2d01.scope", Some("web-01")),
            ("machine-qemu\\x2d37\\x2dunifi.scope", Some("unifi")),
            ("machine-qemu\\x2dcentos7.0.scope", Some("qemu-centos7.0")),
            ("machine-lxc\\x2d1268\\x2dsl.scope", Some("sl")),
            ("systemd-nspawn@mail.service", Some("mail")),
            ("container@shop.service", Some("shop")),
            ("systemd-nspawn@.service", None),
            ("machine-.scope", None),
            ("machine-a\\x2.scope", None),
            ("machine-a\\xff.scope", None),
            ("machine-a\\xzz.scope", None),
            ("machine.slice", None),
            ("session-3.scope", None),
        ] {
            assert_eq!(machine(unit).as_deref(), name, "{unit}");
        }
    }

    #[test]
    fn names_of_containers() {
        for (above, segment, name) in [
            ("", "lxc.payload.web01", Some("web01")),
            ("", "lxc.payload.", None),
            ("", "lxc.monitor.web01", None),
            ("/lxc", "101", Some("101")),
            ("/lxc.payload", "web01", Some("web01")),
            ("/xlxc", "web01", None),
            ("", "lxc", None),
            ("/machine", "lxc-1268-sl.libvirt-lxc", Some("sl")),
            ("/machine", "sl", None),
            (
                "/nomad.slice/share.slice",
                "11112222-3333-4444-5555-666677778888.web.scope",
                Some("web-11112222"),
            ),
            ("/nomad.slice/share.slice", "11112222.web.scope", None),
        ] {
            assert_eq!(named(above, segment).as_deref(), name, "{above} {segment}");
        }
    }
}
