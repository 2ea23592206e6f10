//! One controller a node: a lock (`flock`) on a file of the kernel that only root can open, the module parameter that says how many
//! buckets there are.
//!
//! * It is the same file for every process of the host's network namespace, in whatever container and with whatever it has mounted:
//!   sysfs has one instance for each network namespace, and the limit can be written in the host's only.
//! * Nobody but root (of the initial user namespace) can hold it, since `flock` takes an open file and its mode is 0600.
//! * It dies with its holder, however that ends. `/proc/locks` says who that is.
//! * When the module is loaded anew the file is another one; [`Lock::is_current`] tells.
//!
//! Versions before this one had an abstract socket as their lock, which anybody can bind. It is still bound where it is free,
//! and one of root's that somebody else listens at is a controller of such a version. A socket of any other user is nobody's lock.

use std::{
    fs::{self, File, TryLockError},
    io::{self, BufReader},
    os::{
        fd::AsRawFd as _,
        linux::net::SocketAddrExt as _,
        unix::{
            fs::MetadataExt as _,
            net::{SocketAddr, UnixListener},
        },
    },
    path::PathBuf,
};

use nix::sys::{
    socket::{
        AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket,
        sockopt::PeerCredentials,
    },
    stat::{major, minor},
};
use procfs::{FromBufRead as _, LockKind, Locks};

use crate::kernel::Root;

/// Below `/sys`.
const FILE: &str = "module/nf_conntrack/parameters/hashsize";
/// The name of the socket that was the lock once.
pub(crate) const SOCKET: &str = "ctpressure/limit-controller";
/// Questions who holds it that are answered at once: whoever asks without end is not listened to.
const ANSWERS: usize = 256;

/// Held as long as it lives.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
    /// For versions that know of nothing else; `None`: somebody who is not root has it.
    socket: Option<UnixListener>,
}

/// Why it can't be held.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Somebody else has it.
    #[error("{0} changes the limit of this node")]
    Held(String),
    /// There is nothing to lock.
    #[error(
        "the lock of the node's limit can't be taken: {}: {source}; it takes conntrack, /sys, and root (or \
         CAP_DAC_READ_SEARCH), since nobody else may hold it",
        path.display()
    )]
    NoFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The kernel gives no lock.
    #[error(
        "the lock of the node's limit can't be taken: {0}; AppArmor's default profile of containers refuses it, for one"
    )]
    Io(#[from] io::Error),
}

impl Lock {
    /// Takes the lock; `socket`: the name of what was the lock once.
    ///
    /// # Errors
    /// When somebody else has it: who.
    pub(crate) fn take(root: &Root, socket: &str) -> Result<Self, LockError> {
        let path = root.sys(FILE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(source) => return Err(LockError::NoFile { path, source }),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Held(holder(root, &file))),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let socket = bind(root, socket)?;
        Ok(Self { file, path, socket })
    }

    /// Whether it still is the lock that others would take.
    pub(crate) fn is_current(&self) -> bool {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let there = fs::metadata(&self.path).map(identity);
        let held = self.file.metadata().map(identity);
        matches!((there, held), (Ok(there), Ok(held)) if there == held)
    }

    /// Lets those go who asked at the socket who holds it; to be called now and then.
    pub(crate) fn answer(&self) {
        if let Some(socket) = &self.socket {
            (0..ANSWERS)
                .take_while(|_| socket.accept().is_ok())
                .for_each(drop);
        }
    }
}

/// Who has locked this file, in words.
fn holder(root: &Root, file: &File) -> String {
    let unknown = || "another process".to_owned();
    let locks = File::open(root.proc("locks"))
        .ok()
        .and_then(|locks| Locks::from_buf_read(BufReader::new(locks)).ok());
    let (Some(locks), Ok(metadata)) = (locks, file.metadata()) else {
        return unknown();
    };
    let device = metadata.dev();
    let lock = locks.0.into_iter().find(|lock| {
        matches!(lock.kind, LockKind::Write)
            && (u64::from(lock.devmaj), u64::from(lock.devmin)) == (major(device), minor(device))
            && lock.inode == metadata.ino()
    });
    match lock.and_then(|lock| lock.pid) {
        Some(pid) if pid > 0 => process(root, pid),
        // Process numbers of another PID namespace can't be told here.
        _ => "a process of another container".to_owned(),
    }
}

fn process(root: &Root, pid: i32) -> String {
    let name = fs::read_to_string(root.proc(format!("{pid}/comm")));
    let name = name.as_deref().unwrap_or("?").trim();
    format!("process {pid} ({name})")
}

/// Binds the socket, too.
///
/// # Errors
/// When an earlier version holds it.
fn bind(root: &Root, name: &str) -> Result<Option<UnixListener>, LockError> {
    match UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?) {
        Ok(listener) => {
            listener.set_nonblocking(true)?;
            return Ok(Some(listener));
        }
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        Err(error) => return Err(error.into()),
    }
    match listener_of(name) {
        Ok((0, 0)) => Err(LockError::Held(
            "a process of root in another container".to_owned(),
        )),
        Ok((0, pid)) => Err(LockError::Held(process(root, pid))),
        Ok((user, pid)) => {
            tracing::warn!(
                "{} of user {user} has bound the abstract socket {name}; only root can hold the limit controller's lock",
                process(root, pid)
            );
            Ok(None)
        }
        // Bound by who does not listen or does not answer: no controller does that.
        Err(_) => Ok(None),
    }
}

/// User and process of who listens there. Never waits: whoever listens decides how many may ask.
fn listener_of(name: &str) -> nix::Result<(u32, i32)> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(
        socket.as_raw_fd(),
        &UnixAddr::new_abstract(name.as_bytes())?,
    )?;
    let peer = getsockopt(&socket, PeerCredentials)?;
    Ok((peer.uid(), peer.pid()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixStream};

    use tempfile::TempDir;

    use super::*;

    fn node() -> (TempDir, Root, String) {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::at(folder.path());
        let file = root.sys(FILE);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(file, "65536\n").expect("a file");
        fs::create_dir(root.proc("")).expect("a folder");
        symlink("/proc/locks", root.proc("locks")).expect("a link");
        let name = folder.path().to_string_lossy().into_owned();
        (folder, root, name)
    }

    #[test]
    fn one_has_it_and_the_others_are_told_who() {
        let (_folder, root, name) = node();
        let lock = Lock::take(&root, &name).expect("free");
        for _ in 0..300 {
            let Err(LockError::Held(who)) = Lock::take(&root, &name) else {
                panic!("it was taken twice");
            };
            let own = format!("process {} (", std::process::id());
            assert!(who.contains(&own), "{who}");
        }
        drop(lock);
        drop(Lock::take(&root, &name).expect("free again"));
    }

    #[test]
    fn a_controller_of_an_earlier_version_holds_it_if_it_is_roots() {
        let (_folder, root, name) = node();
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let earlier = UnixListener::bind_addr(&address).expect("free");
        // Who runs this test may be anybody.
        let taken = Lock::take(&root, &name);
        if nix::unistd::geteuid().is_root() {
            assert!(matches!(taken, Err(LockError::Held(_))), "{taken:?}");
        } else {
            assert!(taken.is_ok_and(|lock| lock.socket.is_none()));
        }
        drop(earlier);
        let lock = Lock::take(&root, &name).expect("free again");
        assert!(lock.socket.is_some(), "earlier versions see it");
        for _ in 0..300 {
            assert!(listener_of(&name).is_ok());
            lock.answer();
        }
    }

    #[test]
    fn a_socket_at_which_nobody_is_let_in_is_nobodys() {
        let (_folder, root, name) = node();
        let flags = SockFlag::SOCK_CLOEXEC;
        let bound = socket(AddressFamily::Unix, SockType::Stream, flags, None).expect("a socket");
        let address = UnixAddr::new_abstract(name.as_bytes()).expect("a name");
        nix::sys::socket::bind(bound.as_raw_fd(), &address).expect("free");
        assert!(Lock::take(&root, &name).is_ok(), "it does not listen");
        let backlog = nix::sys::socket::Backlog::new(0).expect("a backlog");
        nix::sys::socket::listen(&bound, backlog).expect("it listens");
        let there = SocketAddr::from_abstract_name(&name).expect("a name");
        let _asked = UnixStream::connect_addr(&there).expect("room for one");
        assert!(Lock::take(&root, &name).is_ok(), "its queue is full");
    }

    #[test]
    fn a_module_that_is_loaded_anew_has_another_lock() {
        let (_folder, root, name) = node();
        let lock = Lock::take(&root, &name).expect("free");
        assert!(lock.is_current());
        fs::remove_file(root.sys(FILE)).expect("there");
        assert!(!lock.is_current());
        fs::write(root.sys(FILE), "65536\n").expect("a file");
        assert!(!lock.is_current());
        drop(lock);
        assert!(Lock::take(&root, &name).expect("free").is_current());
    }

    #[test]
    fn without_the_file_it_is_said_what_it_takes() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = Lock::take(&Root::at(folder.path()), "no").expect_err("no file");
        assert!(error.to_string().contains("root"), "{error}");
    }
}
