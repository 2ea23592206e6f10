//! Reading one table.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;

use super::discovery::Namespace;
use super::{Inode, Root, StatsReading, netns, sysctl};
use crate::kernel::namespace::parse_link;
use crate::kernel::stats::{self, StatsError};

/// Enough for the first line and row of the statistics. The kernel makes only as many rows as fit
/// what is asked for, so a short read is cheap however many CPUs there are.
const BEGINNING: usize = 512;

#[derive(Clone, Debug)]
pub(super) struct ReadJob {
    pub(super) namespace: Namespace,
    /// The statistics too, not only the number of entries.
    pub(super) full: bool,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum ReadOutcome {
    Entries(u64),
    Full(u64, Result<StatsReading, StatsError>),
    /// The way to it leads nowhere, or elsewhere, now.
    Gone,
    Failed(io::Error),
}

impl ReadOutcome {
    pub(super) const fn is_empty(&self) -> bool {
        matches!(self, Self::Entries(0) | Self::Full(0, _))
    }
}

/// Reads all tables: as many as possible from here, the others by entering their namespaces.
pub(super) fn read_all(root: &Root, jobs: &[ReadJob]) -> Vec<(Inode, ReadOutcome)> {
    let mut outcomes = Vec::with_capacity(jobs.len());
    let mut to_enter = Vec::new();
    for job in jobs {
        match from_here(root, job) {
            Some(outcome) => outcomes.push((job.namespace.inode, outcome)),
            None => to_enter.extend(
                job.namespace
                    .way_in(root)
                    .map(|path| (job.namespace.inode, path, job)),
            ),
        }
    }
    outcomes.extend(netns::visit(&to_enter, |job, entered| match entered {
        Ok(()) => current(root, job.full),
        Err(error) if is_gone(&error) => ReadOutcome::Gone,
        Err(error) => ReadOutcome::Failed(error),
    }));
    outcomes
}

/// Whether a namespace that could not be entered is gone.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(libc::ESRCH)
        // A file in /run/netns that is no namespace any more.
        || error.raw_os_error() == Some(libc::EINVAL)
}

/// Reads a table without entering its namespace; `None` if that can't be done.
fn from_here(root: &Root, job: &ReadJob) -> Option<ReadOutcome> {
    if job.namespace.own {
        return Some(current(root, job.full));
    }
    let process = job.namespace.process?;
    match by_process(&root.proc(process.to_string()), job) {
        // It ended, or moved: a file may still keep the namespace.
        Ok(None) if job.namespace.file.is_some() => None,
        Ok(None) => Some(ReadOutcome::Gone),
        Ok(Some(outcome)) => Some(outcome),
        // A kernel without CONFIG_NF_CONNTRACK_PROCFS.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(ReadOutcome::Failed(error)),
    }
}

/// Reads a table through a process in its namespace. `None`: the process ended, or is in another
/// one now. "Not found" as an error: the process is there, the file is not.
fn by_process(folder: &Path, job: &ReadJob) -> io::Result<Option<ReadOutcome>> {
    // The folder stays that process's: its number may be given to another one meanwhile.
    let folder = match File::open(folder) {
        Ok(folder) => folder,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    match readlinkat(&folder, "ns/net") {
        Err(Errno::EACCES) if job.namespace.by_kernel => {}
        // As much, of a kernel as old as 5.10.
        Ok(link) if job.namespace.by_kernel && link.is_empty() => {}
        Ok(link) if link.to_str().and_then(parse_link) == Some(job.namespace.inode) => {}
        Ok(_) | Err(Errno::ENOENT | Errno::ESRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let file = match openat(&folder, "net/stat/nf_conntrack", flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::ESRCH) => return Ok(None),
        // Also when the process ended just now: then its link is gone too.
        Err(Errno::ENOENT) if readlinkat(&folder, "ns/net").is_err_and(has_ended) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    from_file(file, job.full).map(Some)
}

/// Whether a link that could not be read is that of a process that is gone.
fn has_ended(error: Errno) -> bool {
    matches!(error, Errno::ENOENT | Errno::ESRCH)
}

/// Reads the statistics of an open file, or just their beginning.
fn from_file(file: File, full: bool) -> io::Result<ReadOutcome> {
    let senseless = || io::Error::new(io::ErrorKind::InvalidData, "the statistics make no sense");
    if full {
        let reading = stats::parse(&io::read_to_string(file)?)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        let entries = reading.entries.ok_or_else(senseless)?;
        return Ok(ReadOutcome::Full(entries, Ok(reading)));
    }
    let mut beginning = Vec::with_capacity(BEGINNING);
    file.take(BEGINNING as u64).read_to_end(&mut beginning)?;
    let text = str::from_utf8(&beginning).map_err(|_| senseless())?;
    stats::parse_entries(text)
        .map(ReadOutcome::Entries)
        .ok_or_else(senseless)
}

/// Reads the table of the calling thread's namespace.
fn current(root: &Root, full: bool) -> ReadOutcome {
    let entries = match sysctl::count(root) {
        Ok(entries) => entries,
        Err(error) => {
            return ReadOutcome::Failed(io::Error::new(error.source.kind(), error.to_string()));
        }
    };
    if full {
        ReadOutcome::Full(entries, stats::read(root))
    } else {
        ReadOutcome::Entries(entries)
    }
}
