//! Files of which others choose what they are: a pipe or a device may stand there by now, or a file without an end.

use std::{
    fs::OpenOptions,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use ctpressure_model::words::bytes;

/// The text of a file that is no longer than `most` bytes. It never waits: to open a pipe does until somebody writes.
///
/// # Errors
/// When it can't be read, is no file, or is longer.
pub(crate) fn bounded_text(path: &Path, most: u64) -> io::Result<String> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.len() > most {
        let because = format!("it is no file, or larger than {}", bytes(most));
        return Err(io::Error::other(because));
    }
    // It may grow meanwhile, and some files of the kernel have no length.
    let mut text = String::new();
    file.take(most).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    #[test]
    fn only_a_file_of_a_bounded_length_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let missing = bounded_text(&path, 4).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        fs::write(&path, "four").unwrap();
        assert_eq!(bounded_text(&path, 4).unwrap(), "four");
        let longer = bounded_text(&path, 3).unwrap_err();
        assert!(longer.to_string().contains("no file, or larger"));
        fs::remove_file(&path).unwrap();
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        bounded_text(&path, 4).unwrap_err();
        bounded_text(folder.path(), 4096).unwrap_err();
    }
}
