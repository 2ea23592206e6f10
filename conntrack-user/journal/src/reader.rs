//! Reads a journal: of the running agent, or a file that was copied.
//!
//! ```no_run
//! # fn main() -> Result<(), ctpressure_journal::JournalError> {
//! use std::{path::Path, time::Duration};
//! use ctpressure_journal::Reader;
//!
//! let reader = Reader::open(Path::new("/var/lib/ctpressure"))?;
//! let Some(coverage) = reader.coverage()? else { return Ok(()) };
//! let recording = reader.read(coverage.until - Duration::from_secs(3600), coverage.until)?;
//! let bucket = recording.bucket(120);
//! let owners = recording.owners()?;
//! for point in recording.table_points(bucket)? {
//!     println!("{:?}", point.entries);
//! }
//! # Ok(())
//! # }
//! ```

use std::{
    fmt::{self, Write as _},
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rusqlite::{Connection, OpenFlags};

use super::{
    Coverage, FILE_NAME, JournalError,
    database::{PATIENCE_MS, beside, check_format, check_pages, damaged, explain},
};

mod events;
mod kernel;
mod owners;
mod recording;
mod tables;

pub use recording::{Recording, milliseconds, seconds, time};

/// First bytes of every `SQLite` database.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// A journal that is read; the file is not changed.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    path: PathBuf,
}

impl Reader {
    /// Opens the journal in a folder, or a file copied from there, and looks at all of its pages.
    ///
    /// The agent may write meanwhile. Nothing in the file is changed.
    ///
    /// # Errors
    /// When it is missing, not a journal, of another format, damaged, or can't be read.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let path = if path.is_dir() {
            path.join(FILE_NAME)
        } else {
            path.to_owned()
        };
        // Without a log of the writer nobody writes it: no lock and no file beside it is needed.
        let immutable = !beside(&path, "-wal").exists();
        look_at_head(&path, immutable)?;
        let connection =
            connect(&path, immutable).map_err(|error| not_opened(&path, immutable, error))?;
        let reader = Self { connection, path };
        reader.prepare().map_err(|error| match error {
            JournalError::Database(path, source) => not_opened(&path, immutable, source),
            error => error,
        })?;
        Ok(reader)
    }

    fn prepare(&self) -> Result<(), JournalError> {
        let Self { connection, path } = self;
        connection
            .busy_timeout(Duration::from_millis(PATIENCE_MS))
            // A damaged schema must not have side effects.
            .and_then(|()| connection.pragma_update(None, "trusted_schema", false))
            .and_then(|()| connection.pragma_update(None, "cache_size", -8 << 10))
            .map_err(|error| self.explain(error))?;
        check_format(connection, path)?;
        check_pages(connection, path)
    }

    /// The file that is read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What time the journal covers; `None`: nothing was recorded yet.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn coverage(&self) -> Result<Option<Coverage>, JournalError> {
        recording::coverage(&self.connection).map_err(|error| self.explain(error))
    }

    /// What was recorded after `since`, up to and with `until`. All that is asked of it is of one
    /// moment, also while the agent writes.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn read(
        &self,
        since: SystemTime,
        until: SystemTime,
    ) -> Result<Recording<'_>, JournalError> {
        Recording::begin(self, since, until).map_err(|error| self.explain(error))
    }

    fn explain(&self, error: rusqlite::Error) -> JournalError {
        explain(&self.path, error)
    }
}

/// What can be told without `SQLite`, in better words than its. `whole`: nobody makes it longer just now.
fn look_at_head(path: &Path, whole: bool) -> Result<(), JournalError> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            JournalError::Missing(path.to_owned())
        }
        _ => JournalError::Unreadable(path.to_owned(), source),
    };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(JournalError::Foreign(path.to_owned()));
    }
    let mut head = [0; 32];
    let read = fs::File::open(path)
        .and_then(|mut file| file.read(&mut head))
        .map_err(unreadable)?;
    if read == 0 {
        return Err(damaged(path, "it is empty"));
    }
    let known = read.min(MAGIC.len());
    if head[..known] != MAGIC[..known] {
        return Err(JournalError::Foreign(path.to_owned()));
    }
    // Bytes of a page, and the number of pages; `SQLite` takes what is missing of the last one as zeros.
    let page = u64::from(u16::from_be_bytes([head[16], head[17]]));
    let pages = u64::from(u32::from_be_bytes([head[28], head[29], head[30], head[31]]));
    if read < head.len() || (whole && metadata.len() < page * pages) {
        return Err(damaged(path, "it is cut off"));
    }
    Ok(())
}

fn connect(path: &Path, immutable: bool) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(uri(path, immutable), flags)
}

/// The file as `SQLite` takes it with options. Every sign of the path is written as a number, but letters and digits: it may be any system's
/// (`C:\a`, `\\server\share\a`, `//a`), and what means something in a URI (`/` twice, `:`, `?`, `#`, `%`) would mean it here.
fn uri(path: &Path, immutable: bool) -> String {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        if byte.is_ascii_alphanumeric() {
            uri.push(char::from(*byte));
        } else {
            // Writing to a string can't fail.
            let _: fmt::Result = write!(uri, "%{byte:02X}");
        }
    }
    uri + if immutable {
        "?immutable=1"
    } else {
        "?mode=ro"
    }
}

/// A file with a log needs another one beside it that this user may not be able to make.
fn not_opened(path: &Path, immutable: bool, error: rusqlite::Error) -> JournalError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::CannotOpen | rusqlite::ErrorCode::ReadOnly) if !immutable => {
            let source = io::Error::new(
                io::ErrorKind::PermissionDenied,
                "its log (journal.db-wal) can't be used from here",
            );
            JournalError::Unreadable(path.to_owned(), source)
        }
        _ => explain(path, error),
    }
}

#[cfg(test)]
mod tests {
    use std::env;

    use super::*;

    #[test]
    fn every_path_is_opened_as_it_is() {
        let folder = env::temp_dir().join(format!("ctpressure journal {}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        for name in [
            "plain.db",
            "a b.db",
            "100%.db",
            "%41.db",
            "what?.db",
            "a#b.db",
            "a?immutable=0&mode=memory",
            "C:\\a\\b.db",
            "\\\\server\\share.db",
            "größe.db",
        ] {
            // With two slashes: not the name of a server.
            let path = PathBuf::from(format!("/{}", folder.join(name).display()));
            let made = Connection::open(&path).expect("a database");
            made.execute_batch("PRAGMA user_version = 7").expect("made");
            drop(made);
            for immutable in [true, false] {
                let opened =
                    connect(&path, immutable).unwrap_or_else(|error| panic!("{name}: {error}"));
                let version = opened.query_row("PRAGMA user_version", [], |row| row.get(0));
                assert_eq!(version, Ok(7), "{name}");
            }
        }
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn a_path_of_windows_is_no_uri_by_itself() {
        assert_eq!(
            uri(Path::new(r"C:\Users\me\a b.db"), true),
            "file:C%3A%5CUsers%5Cme%5Ca%20b%2Edb?immutable=1"
        );
    }
}
