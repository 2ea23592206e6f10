//! Network namespaces: which one a file names, and looking into one.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io, thread};

use nix::sched::{CloneFlags, setns};

/// The inode of a network namespace: its number in `ip netns`, `lsns`, and what the kernel's log
/// and the event records call it.
pub(crate) type Inode = u32;

/// The namespace that `path` (`/proc/PID/ns/net`, `/run/netns/NAME`) names; `None` if it is another
/// kind of file, such as one that is left of a namespace that is gone.
///
/// # Errors
/// When the file or `/proc/self/ns/net` can't be looked at.
pub(crate) fn inode_of(path: &Path) -> io::Result<Option<Inode>> {
    let found = fs::metadata(path)?;
    let own = fs::metadata("/proc/self/ns/net")?;
    // All namespaces, and nothing else, are on the same pseudo file system.
    Ok((found.dev() == own.dev()).then(|| inode(found.ino())))
}

/// The namespace of the calling thread.
///
/// # Errors
/// When procfs can't be read.
pub(crate) fn own_inode() -> io::Result<Inode> {
    fs::metadata("/proc/thread-self/ns/net").map(|found| inode(found.ino()))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the kernel's number has 32 bits"
)]
fn inode(number: u64) -> Inode {
    number as Inode
}

/// Calls `look` with the last of each of `targets`, in a thread that has entered the network namespace with
/// that inode, which the path names, and gives back the results.
///
/// The thread is a new one that ends with the call, and each namespace is left before the next
/// is entered, so that no namespace lives longer because of it. `look` gets an error when the
/// namespace could not be entered: it is gone, is not the one that was meant, or `CAP_SYS_ADMIN` is
/// missing.
pub(crate) fn visit<T: Send + Sync, R: Send>(
    targets: &[(Inode, PathBuf, T)],
    look: impl Fn(&T, io::Result<()>) -> R + Sync,
) -> Vec<(Inode, R)> {
    if targets.is_empty() {
        return Vec::new();
    }
    let enter = |expected: Inode, path: &Path| {
        let file = File::open(path)?;
        if inode(file.metadata()?.ino()) != expected {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "another namespace is there now",
            ));
        }
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        Ok(())
    };
    let each = |enter: &dyn Fn(Inode, &Path) -> io::Result<()>| -> Vec<(Inode, R)> {
        let visit = |(inode, path, target): &(Inode, PathBuf, T)| {
            (*inode, look(target, enter(*inode, path)))
        };
        targets.iter().map(visit).collect()
    };
    thread::scope(|scope| {
        let visitor = thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, || each(&enter));
        match visitor {
            Ok(visitor) => visitor
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(error) => each(&|_, _| Err(io::Error::new(error.kind(), error.to_string()))),
        }
    })
}
