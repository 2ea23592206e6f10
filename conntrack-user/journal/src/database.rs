//! The file: what marks it as a journal, and what its errors mean.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode};

use super::JournalError;

/// `PRAGMA application_id` of a journal: "ctPJ".
pub const APPLICATION_ID: i64 = 0x6374_504a;
/// `PRAGMA user_version`: the format. A new column or table makes a new one.
pub const VERSION: i64 = 1;
/// The oldest format that can be read.
const OLDEST: i64 = 1;
/// The database in its folder.
pub const FILE_NAME: &str = "journal.db";
/// Tables and views of [`VERSION`].
pub const SCHEMA: &str = include_str!("schema.sql");

/// How long to wait for a lock that another program holds, milliseconds.
pub(crate) const PATIENCE_MS: u64 = 5000;

/// What an error of `SQLite` means for the journal at `path`.
pub fn explain(path: &Path, source: rusqlite::Error) -> JournalError {
    let extended = source.sqlite_error().map_or(0, |error| error.extended_code);
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt) => damaged(path, source.to_string()),
        Some(ErrorCode::NotADatabase) => damaged(path, "it is not a database"),
        Some(ErrorCode::DiskFull) => JournalError::Full(path.to_owned()),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            JournalError::Locked(path.to_owned())
        }
        // Fewer bytes than the file should have.
        Some(ErrorCode::SystemIoFailure) if extended == rusqlite::ffi::SQLITE_IOERR_SHORT_READ => {
            damaged(path, "it is cut off")
        }
        _ => match source {
            // A value of another type than the schema has.
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..) => damaged(path, source.to_string()),
            source => JournalError::Database(path.to_owned(), source),
        },
    }
}

/// The file with this name at its end, such as the log (`-wal`).
pub fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// What is said of a journal of which not all can be read.
pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> JournalError {
    JournalError::Damaged(path.to_owned(), what.into())
}

/// Whether this is a journal of a format that is known.
pub fn check_format(connection: &Connection, path: &Path) -> Result<(), JournalError> {
    let pragma = |name: &str| {
        connection
            .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
            .map_err(|error| explain(path, error))
    };
    if pragma("application_id")? != APPLICATION_ID {
        return Err(JournalError::Foreign(path.to_owned()));
    }
    let found = pragma("user_version")?;
    let path = path.to_owned();
    match found {
        OLDEST..=VERSION => Ok(()),
        ..OLDEST => Err(JournalError::Older {
            path,
            found,
            known: OLDEST,
        }),
        _ => Err(JournalError::Newer {
            path,
            found,
            known: VERSION,
        }),
    }
}

/// Looks at every page of the file: a second for about half a gigabyte.
pub fn check_pages(connection: &Connection, path: &Path) -> Result<(), JournalError> {
    let found: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| explain(path, error))?;
    if found == "ok" {
        return Ok(());
    }
    let what = found.lines().take(2).collect::<Vec<_>>().join(" ");
    Err(damaged(path, what))
}
