//! One controller a node: an abstract socket of the host's network namespace, where the limit is.
//!
//! It dies with its holder, however that ends, and is the same for every container that shares the
//! host's network, whatever it has mounted. The kernel says who holds it (`SO_PEERCRED`).

use std::{
    fs,
    io::{self, ErrorKind},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::kernel::Root;

/// The name of the node's lock.
pub(crate) const NAME: &str = "ctpressure/limit-controller";

/// Held as long as it lives.
#[derive(Debug)]
pub(crate) struct Lock {
    listener: UnixListener,
}

/// Why it can't be held.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Somebody else has it.
    #[error("{0} changes the limit of this node")]
    Held(String),
    /// The kernel gives no socket.
    #[error("the lock of the node's limit can't be taken: {0}")]
    Io(#[from] io::Error),
}

impl Lock {
    /// Takes the lock of this name.
    ///
    /// # Errors
    /// When somebody else has it: who.
    pub(crate) fn take(root: &Root, name: &str) -> Result<Self, LockError> {
        let address = SocketAddr::from_abstract_name(name)?;
        // Whoever had it may end between the two questions.
        for _ in 0..3 {
            match UnixListener::bind_addr(&address) {
                Ok(listener) => {
                    listener.set_nonblocking(true)?;
                    return Ok(Self { listener });
                }
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                Err(error) => return Err(error.into()),
            }
            match UnixStream::connect_addr(&address) {
                Ok(stream) => return Err(LockError::Held(holder(root, &stream))),
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(LockError::Held("somebody".to_owned()))
    }

    /// Lets those go who asked who holds it; to be called now and then.
    pub(crate) fn answer(&self) {
        while self.listener.accept().is_ok() {}
    }
}

fn holder(root: &Root, stream: &UnixStream) -> String {
    let Ok(peer) = getsockopt(stream, PeerCredentials) else {
        return "another process".to_owned();
    };
    // Process numbers of another PID namespace can't be told here.
    if peer.pid() == 0 {
        return format!("a process of user {} in another container", peer.uid());
    }
    let name = fs::read_to_string(root.proc(format!("{}/comm", peer.pid())));
    let name = name.as_deref().unwrap_or("?").trim();
    format!("process {} ({name}, user {})", peer.pid(), peer.uid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_and_the_others_are_told_who() {
        let name = format!("ctpressure/test-{}", std::process::id());
        let root = Root::system();
        let lock = Lock::take(&root, &name).expect("free");
        for _ in 0..300 {
            let Err(LockError::Held(who)) = Lock::take(&root, &name) else {
                panic!("it was taken twice");
            };
            assert!(
                who.contains(&format!("process {} (", std::process::id())),
                "{who}"
            );
            lock.answer();
        }
        drop(lock);
        drop(Lock::take(&root, &name).expect("free again"));
    }
}
