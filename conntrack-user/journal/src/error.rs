//! Why a journal can't be read or written.

use std::{io, path::PathBuf};

/// Why a journal can't be used, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// There is nothing at this path.
    #[error("no journal at {}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// It can't be opened or read.
    #[error("the journal {} can't be read: {source}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The folder for it can't be used.
    #[error("no journal can be written in {}: {source}", path.display())]
    Folder {
        /// The journal, or the folder that it is in.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Another agent writes there.
    #[error("another agent writes the journal in {}", path.display())]
    InUse {
        /// The journal, or the folder that it is in.
        path: PathBuf,
    },
    /// A database, but not a journal.
    #[error("{} is not a journal of ctpressure", path.display())]
    Foreign {
        /// The journal, or the folder that it is in.
        path: PathBuf,
    },
    /// No database at all, or one that is damaged.
    #[error("the journal {} is damaged: {what}", path.display())]
    Damaged {
        /// The journal, or the folder that it is in.
        path: PathBuf,
        /// Where, as far as it is known.
        what: String,
    },
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
    #[error("no room for the journal {}", path.display())]
    Full {
        /// The journal, or the folder that it is in.
        path: PathBuf,
    },
    /// Somebody else has locked it for long.
    #[error("the journal {} is locked by another program", path.display())]
    Locked {
        /// The journal, or the folder that it is in.
        path: PathBuf,
    },
    /// Any other error of the database.
    #[error("the journal {}: {source}", path.display())]
    Database {
        /// The journal, or the folder that it is in.
        path: PathBuf,
        /// What `SQLite` says about it.
        #[source]
        source: rusqlite::Error,
    },
}

impl JournalError {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Missing { .. } => {
                "give the folder of `ctpressure run --journal DIR`, or a file copied from there; the agent keeps a \
                 journal only with that option"
            }
            Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "the agent's journal is for root; copy the file to where you may read it"
            }
            Self::Unreadable { .. } => {
                "copy journal.db and, if it is there, journal.db-wal to another folder, and try it there"
            }
            Self::Folder { source, .. } if source.kind() == io::ErrorKind::NotFound => {
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
