//! The database as its writer has it.
//!
//! A write-ahead log, not a rollback journal: readers never wait, a transaction a second needs no
//! `fsync` to survive the end of the process, however it ends, and the main file changes only when
//! the log is folded into it, every few seconds. So the main file alone is a whole journal that lacks
//! these seconds. `synchronous=NORMAL`: after a loss of power the journal is whole and may lack
//! what was not folded in yet.
//!
//! Its bound: `max_page_count` holds the main file, and nothing is written while the log has more
//! than its part, which happens only if a reader stays in it.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use ctpressure_journal::{
    FILE_NAME, JournalError, VERSION,
    database::{APPLICATION_ID, SCHEMA, beside, check_format, check_pages, explain},
};
use rusqlite::{Connection, OpenFlags};

use super::second::Second;
use crate::owners::{Key, Owner};

mod events;
mod insert;
mod rows;
mod shape;
mod thin;

use shape::Shape;

/// Bytes of a page.
const PAGE: u64 = 4096;
/// The log's part of the bound, and its limits.
const LOG_PART: u64 = 8;
const LOG_LEAST: u64 = 1 << 20;
const LOG_MOST: u64 = 8 << 20;
/// A log of this length is folded in even if that makes somebody wait.
const LOG_LONG: u64 = LOG_LEAST / 2;
/// A damaged journal is kept under this name, the last one only.
pub(super) const DAMAGED: &str = "journal.damaged.db";

/// The bounds of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Bytes of the database with its log.
    pub bytes: u64,
    /// What is older is dropped.
    pub keep: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            bytes: 64 << 20,
            keep: Duration::from_hours(24),
        }
    }
}

impl Bounds {
    /// The least that a journal may take, bytes.
    pub(crate) const LEAST: u64 = 4 << 20;

    fn log(self) -> u64 {
        (self.bytes / LOG_PART).clamp(LOG_LEAST, LOG_MOST)
    }

    fn pages(self) -> u64 {
        self.bytes.max(Self::LEAST).saturating_sub(self.log()) / PAGE
    }
}

/// An owner or namespace in the database.
#[derive(Debug)]
struct KnownOwner {
    id: i64,
    owner: Owner,
    last_tick: i64,
}

/// The database that is written.
#[derive(Debug)]
pub(super) struct JournalStore {
    connection: Connection,
    path: PathBuf,
    bounds: Bounds,
    run: i64,
    next_tick: i64,
    shape: Shape,
    owners: HashMap<Key, KnownOwner>,
    namespaces: HashMap<(u32, String), (i64, i64)>,
}

impl JournalStore {
    /// Opens the journal in `folder`, or begins one. A damaged one is moved aside, and the name that
    /// it has now is given back.
    pub(super) fn open(
        folder: &Path,
        bounds: Bounds,
    ) -> Result<(Self, Option<PathBuf>), JournalError> {
        let path = folder.join(FILE_NAME);
        match Self::try_open(&path, bounds) {
            Err(JournalError::Damaged(_, what)) => {
                let aside = move_aside(folder)?;
                tracing::warn!(
                    kept = %aside.display(),
                    "the journal was damaged ({what}): a new one begins"
                );
                Self::try_open(&path, bounds).map(|store| (store, Some(aside)))
            }
            result => result.map(|store| (store, None)),
        }
    }

    fn try_open(path: &Path, bounds: Bounds) -> Result<Self, JournalError> {
        let folder_error = |source: io::Error| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                JournalError::Full(path.to_owned())
            }
            _ => JournalError::Folder(path.parent().unwrap_or(path).to_owned(), source),
        };
        // SQLite gives its other files the same mode: they name pods and addresses.
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .open(path)
            .map_err(folder_error)?;
        let new = file.metadata().map_err(folder_error)?.len() == 0;
        drop(file);
        let connect = || -> rusqlite::Result<Connection> {
            let connection = Connection::open_with_flags(
                path,
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
            )?;
            connection.busy_timeout(Duration::from_secs(1))?;
            connection.set_prepared_statement_cache_capacity(64);
            Ok(connection)
        };
        let connection = connect().map_err(|error| explain(path, error))?;
        if new {
            create(&connection).map_err(|error| explain(path, error))?;
        }
        // A file in which the schema could not be written for want of room has no tables.
        let empty = || {
            connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| {
                row.get(0)
            })
        };
        if !new && empty().map_err(|error| explain(path, error))? {
            create(&connection).map_err(|error| explain(path, error))?;
        }
        check_format(&connection, path)?;
        check_pages(&connection, path)?;
        let prepare = || -> rusqlite::Result<(i64, Shape)> {
            for (name, value) in [
                ("journal_mode", "WAL"),
                ("synchronous", "NORMAL"),
                // The log is folded in when this says so.
                ("wal_autocheckpoint", "0"),
                ("temp_store", "MEMORY"),
                ("cache_size", "-4096"),
                ("trusted_schema", "0"),
                ("cell_size_check", "1"),
            ] {
                connection
                    .pragma_update_and_check(None, name, value, |_| Ok(()))
                    .or_else(|error| match error {
                        rusqlite::Error::QueryReturnedNoRows => Ok(()),
                        error => Err(error),
                    })?;
            }
            for (name, value) in [
                ("max_page_count", bounds.pages()),
                ("journal_size_limit", LOG_LONG),
            ] {
                connection.pragma_update_and_check(None, name, value, |_| Ok(()))?;
            }
            let next_tick =
                connection.query_row("SELECT ifnull(max(id), 0) + 1 FROM tick", [], |row| {
                    row.get(0)
                })?;
            Ok((next_tick, Shape::read(&connection)?))
        };
        let (next_tick, shape) = prepare().map_err(|error| explain(path, error))?;
        Ok(Self {
            connection,
            path: path.to_owned(),
            bounds,
            run: 0,
            next_tick,
            shape,
            owners: HashMap::new(),
            namespaces: HashMap::new(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file that is written is still the one in the folder.
    pub(super) fn is_in_place(&self, opened: u64) -> bool {
        inode(&self.path).is_ok_and(|inode| inode == opened)
    }

    /// Inode of the file.
    pub(super) fn inode(&self) -> io::Result<u64> {
        inode(&self.path)
    }

    /// Bytes of the database and its log.
    pub(super) fn bytes(&self) -> u64 {
        length(&self.path) + self.log_bytes()
    }

    fn log_bytes(&self) -> u64 {
        length(&beside(&self.path, "-wal"))
    }

    /// Writes one tick, and thins or drops what is older if need be: one transaction.
    pub(super) fn write(&mut self, second: &Second) -> Result<(), JournalError> {
        if self.log_bytes() > self.bounds.log() {
            self.fold(true)?;
            if self.log_bytes() > self.bounds.log() {
                return Err(JournalError::Locked(self.path.clone()));
            }
        }
        let result = self.try_write(second);
        // Its own bound, not the disk's: room can be made at once.
        if matches!(result, Err(JournalError::Full(_)))
            && self
                .make_room()
                .map_err(|error| explain(&self.path, error))?
        {
            return self.try_write(second);
        }
        result
    }

    /// Copies what is in the log into the main file. `now`: also if a reader has to wait for it.
    pub(super) fn fold(&self, now: bool) -> Result<(), JournalError> {
        let how = if now || self.log_bytes() > LOG_LONG {
            "TRUNCATE"
        } else {
            "PASSIVE"
        };
        // Its row says what could not be done because somebody reads: it is done next time.
        self.connection
            .query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |_| Ok(()))
            .or_else(|error| match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                    Ok(())
                }
                _ => Err(explain(&self.path, error)),
            })
    }

    /// What a failed transaction had put into memory is not in the database.
    fn forget(&mut self) {
        self.owners.clear();
        self.namespaces.clear();
        if let Ok(shape) = Shape::read(&self.connection) {
            self.shape = shape;
        }
    }
}

fn inode(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(path).map(|file| file.ino())
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "page_size", PAGE)?;
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE;\n{SCHEMA}\nPRAGMA application_id = {APPLICATION_ID};\n\
         PRAGMA user_version = {VERSION};\nCOMMIT;"
    ))
}

/// Gives the damaged journal another name; an earlier one that had it goes.
fn move_aside(folder: &Path) -> Result<PathBuf, JournalError> {
    let explain = |source: io::Error| JournalError::Folder(folder.to_owned(), source);
    let (path, aside) = (folder.join(FILE_NAME), folder.join(DAMAGED));
    for end in ["-wal", "-shm"] {
        let with = |path: &Path| beside(path, end);
        // The log belongs to the file; without one there may be an earlier one's.
        match fs::rename(with(&path), with(&aside)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match fs::remove_file(with(&aside)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(explain(error));
                    }
                    _ => {}
                }
            }
            Err(error) => return Err(explain(error)),
            Ok(()) => {}
        }
    }
    fs::rename(&path, &aside).map_err(explain)?;
    Ok(aside)
}
