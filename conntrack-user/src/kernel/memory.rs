//! The node's memory.

use std::io;

use serde::{Deserialize, Serialize};

use super::{Root, root::read_text};

/// The node's memory, in bytes (`/proc/meminfo`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct NodeMemory {
    pub total: u64,
    pub available: u64,
}

/// `MemTotal` and `MemAvailable`.
///
/// # Errors
/// When `/proc/meminfo` can't be read or lacks one of them.
pub(crate) fn read(root: &Root) -> io::Result<NodeMemory> {
    let path = root.proc("meminfo");
    let text = read_text(&path)?;
    let bytes = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
            .and_then(|kib| kib.checked_mul(1024))
            .ok_or_else(|| io::Error::other(format!("{}: no {name} in it", path.display())))
    };
    Ok(NodeMemory {
        total: bytes("MemTotal")?,
        available: bytes("MemAvailable")?,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn of_this_machine() {
        let memory = read(&Root::system()).expect("meminfo");
        assert!(memory.total >= memory.available && memory.available > 0);
    }

    #[test]
    fn meminfo_without_what_is_needed_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::at(folder.path());
        assert!(read(&root).is_err());
        fs::create_dir_all(root.proc("")).expect("a folder");
        fs::write(root.proc("meminfo"), "MemTotal:  2048 kB\n").expect("a file");
        let error = read(&root).expect_err("one is missing").to_string();
        assert!(error.contains("MemAvailable"), "{error}");
        fs::write(
            root.proc("meminfo"),
            "MemTotal:  2048 kB\nMemAvailable: 1 kB\n",
        )
        .expect("a file");
        let expected = NodeMemory {
            total: 2 << 20,
            available: 1024,
        };
        assert_eq!(read(&root).expect("both"), expected);
    }
}
