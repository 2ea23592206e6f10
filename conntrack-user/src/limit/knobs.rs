//! The sysctls that the controller writes, and what can be in the way.

use std::{
    fs::OpenOptions,
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use super::{
    change::{Purpose, Size},
    settings::MOST,
};
use crate::kernel::{
    Root,
    confinement::as_root,
    sysctl::{self, SysctlError},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Knob {
    Limit,
    Buckets,
    /// `nf_conntrack_tcp_timeout_time_wait`, of the host's table only.
    TimeWait,
}

impl Knob {
    /// The sysctl, as in `net.netfilter.NAME`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Limit => "nf_conntrack_max",
            Self::Buckets => "nf_conntrack_buckets",
            Self::TimeWait => "nf_conntrack_tcp_timeout_time_wait",
        }
    }

    /// The one that a change for this purpose is about.
    pub(crate) const fn of_purpose(purpose: Purpose) -> Self {
        match purpose {
            Purpose::Buckets => Self::Buckets,
            Purpose::Shorten | Purpose::Restore => Self::TimeWait,
            Purpose::Raise
            | Purpose::Reapply
            | Purpose::GiveBack
            | Purpose::Set
            | Purpose::Found => Self::Limit,
        }
    }

    /// The size with this value in its place.
    pub(crate) const fn set(self, mut size: Size, value: u64) -> Size {
        match self {
            Self::Limit => size.limit = value,
            Self::Buckets => size.buckets = value,
            Self::TimeWait => size.time_wait = Some(value),
        }
        size
    }

    /// Its value in a size; `None`: not known.
    pub(crate) const fn of(self, size: Size) -> Option<u64> {
        match self {
            Self::Limit => Some(size.limit),
            Self::Buckets => Some(size.buckets),
            Self::TimeWait => size.time_wait,
        }
    }
}

/// Why a value can't be set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KnobError {
    /// The current values can't be read.
    #[error(transparent)]
    Read(#[from] SysctlError),
    /// The file of the host's network namespace is not there.
    #[error(
        "this is not the host's network namespace: nf_conntrack_max is one number for all, and only the host's can \
         change it"
    )]
    NotHost,
    /// `/proc/sys` is mounted read-only.
    #[error("{}: /proc/sys is mounted read-only here", .0.display())]
    ReadOnly(PathBuf),
    /// Neither user 0 nor `CAP_NET_ADMIN` (`net_ctl_permissions`, `sysctl_net.c`).
    #[error("{}: it takes user 0 or CAP_NET_ADMIN to write it", .0.display())]
    NotPermitted(PathBuf),
    /// The kernel does not take this value.
    #[error("{}: the kernel refuses {value}", path.display())]
    Refused { path: PathBuf, value: u64 },
    /// The value that was read back is another one.
    #[error("{} is {found} after {value} was written", path.display())]
    NotTaken {
        path: PathBuf,
        value: u64,
        found: u64,
    },
    /// The value does not fit the type.
    #[error("{name} can't be {value}: it has to be from 1 to {MOST}")]
    OutOfBounds { name: &'static str, value: u64 },
    #[error("{}: {source}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl KnobError {
    /// What to do about it.
    pub(crate) fn help(&self) -> &'static str {
        match self {
            Self::Read(_) => "load conntrack (`modprobe nf_conntrack`), and mount /proc",
            Self::NotHost => {
                "run in the host's network namespace (of a pod: hostNetwork: true; where the node is a container itself: on the \
                 machine that runs it)"
            }
            Self::ReadOnly(_) => {
                "mount the host's /proc/sys/net writable: of a container `privileged: true`, of a systemd unit \
                 ProtectKernelTunables=no"
            }
            Self::NotPermitted(_) => as_root("run as root, or with CAP_NET_ADMIN"),
            Self::Refused { .. } => "choose another value; see `dmesg` for the kernel's reason",
            Self::NotTaken { .. } => "somebody else writes it at the same moment: find out who",
            Self::OutOfBounds { .. } => "choose a value within these bounds",
            Self::Io { .. } => "is /proc mounted?",
        }
    }
}

/// The sysctls of this machine, or of a folder.
#[derive(Clone, Debug)]
pub(crate) struct Knobs {
    root: Root,
}

impl Knobs {
    /// Those below this root.
    pub(crate) fn new(root: Root) -> Self {
        Self { root }
    }

    /// What they are now.
    ///
    /// # Errors
    /// When they can't be read, most likely because conntrack is not loaded.
    pub(crate) fn read(&self) -> Result<Size, SysctlError> {
        Ok(Size {
            limit: sysctl::limit(&self.root)?,
            buckets: sysctl::buckets(&self.root)?,
            // Nothing but the timeout itself depends on it.
            time_wait: sysctl::time_wait(&self.root).ok(),
        })
    }

    fn path(&self, knob: Knob) -> PathBuf {
        self.root
            .proc(Path::new("sys/net/netfilter").join(knob.name()))
    }

    /// Whether these can be written from here: opens them, and writes nothing.
    ///
    /// # Errors
    /// What is in the way.
    pub(crate) fn check(&self, knobs: &[Knob]) -> Result<(), KnobError> {
        self.read()?;
        // Only the initial network namespace has this one (`nf_conntrack_standalone.c`).
        if !self.root.proc("sys/net/nf_conntrack_max").exists() {
            return Err(KnobError::NotHost);
        }
        for &knob in knobs {
            let path = self.path(knob);
            drop(
                OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .map_err(|source| failure(path, knob, 0, source))?,
            );
        }
        Ok(())
    }

    /// Writes one. Nothing is read back: see [`Self::confirm`].
    ///
    /// # Errors
    /// What is in the way; then it has not changed.
    pub(crate) fn write(&self, knob: Knob, value: u64) -> Result<(), KnobError> {
        if value == 0 || value > MOST {
            return Err(KnobError::OutOfBounds {
                name: knob.name(),
                value,
            });
        }
        let path = self.path(knob);
        let text = format!("{value}\n");
        // In one write: each write is a change of its own to the kernel.
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|source| failure(path, knob, value, source))
    }

    /// Reads one back after it was written. The kernel rounds buckets up to whole pages.
    ///
    /// # Errors
    /// When it has another value.
    pub(crate) fn confirm(&self, knob: Knob, value: u64) -> Result<Size, KnobError> {
        let now = self.read()?;
        // A timeout that can't be read is not the one that was written.
        let found = knob.of(now).unwrap_or_default();
        let taken = match knob {
            Knob::Limit | Knob::TimeWait => found == value,
            Knob::Buckets => {
                let page = procfs::page_size() / 8;
                found >= value && found <= value.next_multiple_of(page.max(1))
            }
        };
        if taken {
            return Ok(now);
        }
        Err(KnobError::NotTaken {
            path: self.path(knob),
            value,
            found,
        })
    }
}

fn failure(path: PathBuf, knob: Knob, value: u64, source: io::Error) -> KnobError {
    match source.kind() {
        ErrorKind::ReadOnlyFilesystem => KnobError::ReadOnly(path),
        ErrorKind::PermissionDenied => KnobError::NotPermitted(path),
        ErrorKind::InvalidInput => KnobError::Refused { path, value },
        // ENOMEM: no room for so many buckets.
        ErrorKind::OutOfMemory if knob == Knob::Buckets => KnobError::Refused { path, value },
        _ => KnobError::Io { path, source },
    }
}
