//! Which network namespace a link of `/proc` is about.

use std::fs;
use std::io;
use std::path::Path;

use crate::sys::netns::Inode;

/// The namespace that a link such as `/proc/PID/ns/net` names: `net:[4026531840]`.
pub(crate) fn namespace_of(link: &Path) -> io::Result<Inode> {
    let target = fs::read_link(link)?;
    // Where others say that it may not be read, a kernel as old as 5.10 gives nothing (`proc_ns_readlink`).
    if target.as_os_str().is_empty() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    target.to_str().and_then(parse_link).ok_or_else(|| {
        io::Error::other(format!("names no network namespace: {}", target.display()))
    })
}

/// The number in the text of such a link.
pub(crate) fn parse_link(target: &str) -> Option<Inode> {
    target
        .strip_prefix("net:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_names_a_network_namespace_or_an_error_says_why_not() {
        let folder = tempfile::tempdir().unwrap();
        let link = |target: &str| {
            let path = folder.path().join("net");
            drop(fs::remove_file(&path));
            symlink(target, &path).unwrap();
            namespace_of(&path)
        };
        assert_eq!(link("net:[4026531840]").unwrap(), 4_026_531_840);
        for wrong in [
            "pid:[4026531836]",
            "net:[]",
            "net:[-1]",
            "net:[99999999999]",
        ] {
            assert_eq!(link(wrong).unwrap_err().kind(), io::ErrorKind::Other);
        }
    }

    #[test]
    fn the_own_one_is_read() {
        assert!(namespace_of(Path::new("/proc/self/ns/net")).is_ok());
    }
}
