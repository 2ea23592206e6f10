//! Why the probes can't be attached, each with what to do about it.

use std::{io, path::PathBuf};

use super::object::ObjectError;
use crate::kernel::confinement::as_root;

/// No probe is attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Nothing is wrong: conntrack has not been needed yet. Try again later.
    #[error("nf_conntrack is not loaded: this kernel tracks no connections yet")]
    NotLoaded,
    /// The kernel does not describe its types.
    #[error("no usable BTF at {}: {error}", path.display())]
    NoBtf {
        /// Where it was looked for.
        path: PathBuf,
        /// What the kernel or the object said.
        error: String,
    },
    /// A capability is not there.
    #[error("{capability} is missing: it is needed to {purpose}")]
    Capability {
        /// The one that this process lacks.
        capability: caps::Capability,
        /// What it is needed for.
        purpose: &'static str,
    },
    /// Refused although the capabilities are there.
    #[error("not permitted to {what}: {error}")]
    NotPermitted {
        /// What was tried with it.
        what: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// Whether conntrack is there can't be told.
    #[error("{0}")]
    Presence(io::Error),
    /// The names of functions can't be read.
    #[error("cannot read /proc/kallsyms: {0}")]
    Symbols(io::Error),
    /// There can be no thread.
    #[error("cannot begin a thread: {0}")]
    Thread(io::Error),
    /// The maps of owners can't be written.
    #[error("the maps of owners can't be written: {0}")]
    OwnerMaps(io::Error),
    /// The object or its maps.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

impl AttachError {
    /// Whether it can pass by itself: what is not there may be mounted, loaded or allowed later. What this process lacks
    /// or the build left out stays so.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NotLoaded
            | Self::NoBtf { .. }
            | Self::NotPermitted { .. }
            | Self::Presence(_)
            | Self::Symbols(_)
            | Self::Thread(_)
            | Self::OwnerMaps(_)
            | Self::Object(ObjectError::Map { .. } | ObjectError::Cpus(_)) => true,
            Self::Capability { .. }
            | Self::Object(ObjectError::LeftOut | ObjectError::Malformed(_)) => false,
        }
    }

    /// What to do about it, for a person.
    pub fn help(&self) -> &'static str {
        match self {
            Self::NotLoaded => {
                "it is loaded with the first firewall or NAT rule that needs it, or by `modprobe nf_conntrack`"
            }
            Self::NoBtf { .. } => {
                "offsets are read from the kernel's own type information and never guessed: run a kernel \
                 with CONFIG_DEBUG_INFO_BTF=y (Debian 11, Ubuntu 20.04, RHEL 8.2 and later have it)"
            }
            Self::Capability { .. } => as_root(
                "run as root, or give the container the capabilities BPF, PERFMON and SYS_ADMIN",
            ),
            Self::NotPermitted { .. } => {
                "kernel lockdown, a seccomp profile or a security module may forbid bpf(2): see the kernel log"
            }
            Self::Presence(_) => "mount /sys",
            Self::Symbols(_) => as_root("mount /proc, and run as root"),
            Self::Object(ObjectError::LeftOut) => {
                "run `cargo xtask setup` and build again: it brings bpf-linker and rust-src"
            }
            Self::Object(ObjectError::Map { error, .. })
                if error.kind() == io::ErrorKind::PermissionDenied =>
            {
                "kernels before 5.11 count maps as locked memory (RLIMIT_MEMLOCK), and only CAP_SYS_RESOURCE may raise \
                 its limit: give the container the capability SYS_RESOURCE, or begin it with `ulimit -l unlimited`; \
                 on later kernels a seccomp profile or a security module may forbid bpf(2): see the kernel log"
            }
            Self::Thread(_) => "see the limits of processes (ulimit -u, pids.max of the container)",
            Self::OwnerMaps(_) | Self::Object(_) => {
                "please report this with the output of `uname -a`"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_that_is_not_permitted_has_another_help_than_one_that_is_wrong() {
        let refused = |errno| {
            let name = "NAMESPACES".to_owned();
            let error = io::Error::from_raw_os_error(errno);
            AttachError::from(ObjectError::Map { name, error }).help()
        };
        assert!(refused(libc::EPERM).contains("CAP_SYS_RESOURCE"));
        assert!(refused(libc::EINVAL).contains("report this"));
    }
}
