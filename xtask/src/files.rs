//! Files and folders: each error says of which.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};

/// What a text file holds.
pub(crate) fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// What any file holds.
pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// Writes a file, over an old one.
pub(crate) fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, content).with_context(|| format!("write {}", path.display()))
}

/// Copies a file with its permissions.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = fs::copy(from, to).map(drop);
    copied.with_context(|| format!("copy {}", from.display()))
}

/// When a file or folder was last changed, if it is there.
pub(crate) fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|data| data.modified()).ok()
}

/// Whether a file is there and newer than another, or the other isn't there.
pub(crate) fn newer(path: &Path, than: &Path) -> bool {
    let path = modified(path);
    path.is_some() && path >= modified(than)
}

/// Makes a folder and those above it, if they are not there.
pub(crate) fn folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))
}

/// What is in a folder, in no order.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = || format!("list {}", folder.display());
    fs::read_dir(folder)
        .with_context(list)?
        .map(|entry| Ok(entry.with_context(list)?.path()))
        .collect()
}

/// All files in a folder and in those below it, in no order.
pub(crate) fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(next) = pending.pop() {
        for path in list(&next)? {
            if path.is_dir() {
                pending.push(path);
            } else if path.is_file() {
                found.push(path);
            }
        }
    }
    Ok(found)
}
