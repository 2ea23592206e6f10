//! Capabilities: what is missing, and dropping what is not needed.

use caps::{CapSet, Capability};

use super::AttachError;

/// What the agent keeps after attaching, and why.
pub(crate) const KEPT: &[(Capability, &str)] = &[
    (Capability::CAP_BPF, "read the counters"),
    (
        Capability::CAP_PERFMON,
        "attach again when conntrack was loaded anew",
    ),
    (
        Capability::CAP_SYS_ADMIN,
        "enter other network namespaces, attach again to a module",
    ),
    (
        Capability::CAP_SYS_PTRACE,
        "find the network namespaces of other processes",
    ),
    (
        Capability::CAP_NET_ADMIN,
        "read conntrack statistics by netlink; set the limit, if that is asked for",
    ),
    (Capability::CAP_DAC_READ_SEARCH, "read /proc of other users"),
    (
        Capability::CAP_SYSLOG,
        "find the hash table in /proc/kallsyms, for a census",
    ),
];

/// Checks for the capabilities without which nothing can be attached.
///
/// `CAP_SYS_ADMIN` includes both (include/linux/capability.h, `bpf_capable`, `perfmon_capable`).
pub(super) fn require() -> Result<(), AttachError> {
    if has(Capability::CAP_SYS_ADMIN) {
        return Ok(());
    }
    let needed = [
        (
            Capability::CAP_BPF,
            "load eBPF programs and make their maps",
        ),
        (
            Capability::CAP_PERFMON,
            "hang eBPF programs into kernel functions",
        ),
    ];
    for (capability, purpose) in needed {
        if !has(capability) {
            return Err(AttachError::Capability {
                capability,
                purpose,
            });
        }
    }
    Ok(())
}

fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// Gives up every capability that is not in [`KEPT`], for good; names those that are left.
///
/// # Errors
/// If the kernel refuses; capabilities may be dropped in part.
pub(crate) fn drop_unneeded() -> Result<Vec<String>, caps::errors::CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: caps::CapsHashSet = permitted
        .iter()
        .copied()
        .filter(|cap| KEPT.iter().any(|(kept, _)| kept == cap))
        .collect();
    caps::clear(None, CapSet::Inheritable)?;
    for capability in caps::read(None, CapSet::Bounding)? {
        if !kept.contains(&capability) && has(Capability::CAP_SETPCAP) {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    let mut names: Vec<String> = kept.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    Ok(names)
}

/// Gives up every capability of a thread that needs none, for good: what it might start has none either, although it is root.
/// `thread` is what it is called if that fails.
pub(crate) fn drop_all(thread: &str) {
    let kept = |error: &dyn std::error::Error| {
        tracing::warn!(%error, "the thread {thread} keeps capabilities that it does not need");
    };
    // Root would get capabilities back by execve(2).
    if let Err(error) = nix::sys::prctl::set_no_new_privs() {
        kept(&error);
    }
    if has(Capability::CAP_SETPCAP)
        && let Err(error) = caps::clear(None, CapSet::Bounding)
    {
        kept(&error);
    }
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        if let Err(error) = caps::clear(None, set) {
            kept(&error);
        }
    }
}
