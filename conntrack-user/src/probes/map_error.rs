//! What the kernel said of a BPF map, as an `io::Error`.

use std::io;

use aya::maps::MapError;

/// As an `io::Error`, with the kernel's own where there is one.
pub(super) fn error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        MapError::CreateError { io_error, .. } => io_error,
        other => io::Error::other(other),
    }
}

/// Whether there was something to remove.
pub(super) fn removed(result: Result<(), MapError>) -> io::Result<bool> {
    match result.map_err(into_kind) {
        Ok(()) => Ok(true),
        Err(None) => Ok(false),
        Err(Some(error)) => Err(error),
    }
}

/// `None`: there is no such key.
pub(super) fn into_kind(failed: MapError) -> Option<io::Error> {
    if matches!(failed, MapError::KeyNotFound) {
        return None;
    }
    let error = error(failed);
    (error.kind() != io::ErrorKind::NotFound).then_some(error)
}
