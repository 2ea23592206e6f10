//! Why a journal can't be read or written.

use std::{io, path::PathBuf};

/// Why a journal can't be used, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// There is nothing at this path.
    #[error("no journal at {}", .0.display())]
    Missing(PathBuf),
    /// It can't be opened or read.
    #[error("the journal {} can't be read: {}", .0.display(), .1)]
    Unreadable(PathBuf, #[source] io::Error),
    /// This folder for it can't be used.
    #[error("no journal can be written in {}: {}", .0.display(), .1)]
    Folder(PathBuf, #[source] io::Error),
    /// Another agent writes in this folder.
    #[error("another agent writes the journal in {}", .0.display())]
    InUse(PathBuf),
    /// A database, but not a journal.
    #[error("{} is not a journal of ctpressure", .0.display())]
    Foreign(PathBuf),
    /// No database at all, or one that is damaged: where, as far as it is known.
    #[error("the journal {} is damaged: {}", .0.display(), .1)]
    Damaged(PathBuf, String),
    /// Written by a newer version.
    #[error(
        "the journal {} has format {found}; this version of ctpressure knows formats up to {known}",
        path.display()
    )]
    Newer {
        /// The journal, or the folder that it is in.
        path: PathBuf,
        /// The format that the file has.
        found: i64,
        /// The newest that is known here.
        known: i64,
    },
    /// Written by a version so old that its format is not known any more.
    #[error(
        "the journal {} has format {found}; this version of ctpressure reads formats from {known} on",
        path.display()
    )]
    Older {
        /// The journal, or the folder that it is in.
        path: PathBuf,
        /// The format that the file has.
        found: i64,
        /// The oldest that is known here.
        known: i64,
    },
    /// The file system, or the journal's own bound, has no room.
    #[error("no room for the journal {}", .0.display())]
    Full(PathBuf),
    /// Somebody else has locked it for long.
    #[error("the journal {} is locked by another program", .0.display())]
    Locked(PathBuf),
    /// Any other error of the database.
    #[error("the journal {}: {}", .0.display(), .1)]
    Database(PathBuf, #[source] rusqlite::Error),
}

impl JournalError {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Missing { .. } => {
                "give the folder of `ctpressure run --journal DIR`, or a file copied from there; the agent keeps a \
                 journal only with that option"
            }
            Self::Unreadable(_, source) if source.kind() == io::ErrorKind::PermissionDenied => {
                "the agent's journal is for root; copy the file to where you may read it"
            }
            Self::Unreadable { .. } => {
                "copy journal.db and, if it is there, journal.db-wal to another folder, and try it there"
            }
            Self::Folder(_, source) if source.kind() == io::ErrorKind::NotFound => {
                "make the folder that it is to be in, or give another one after --journal"
            }
            Self::Folder { .. } => {
                "--journal needs a folder that the agent may write to; see also ReadWritePaths= or StateDirectory= \
                 of its systemd unit, or the volume of its pod"
            }
            Self::InUse { .. } => "stop the other agent, or give another folder after --journal",
            Self::Foreign { .. } => "give another path; nothing was changed there",
            Self::Damaged { .. } => {
                "if it was copied while the agent ran, copy it again, and journal.db-wal after it; else what is left \
                 of it may come out with `sqlite3 FILE .recover`"
            }
            Self::Newer { .. } => {
                "use the version of ctpressure that wrote it, or a newer one; the agent needs another folder, or this \
                 file moved away"
            }
            Self::Older { .. } => "use the version of ctpressure that wrote it",
            Self::Full { .. } => "make room, or give a smaller --journal-size",
            Self::Locked { .. } => "end the other program, or copy the file and read the copy",
            Self::Database { .. } => {
                "please report this with the output of `sqlite3 FILE 'PRAGMA integrity_check'`"
            }
        }
    }
}
