//! epoll(7), through tokio.

use std::io;
use std::os::fd::OwnedFd;

use aya::maps::{MapData, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};

/// Watches a ring buffer for records. It is edge-triggered: read it until it is empty.
///
/// # Errors
/// Without a tokio runtime with I/O, or if epoll refuses.
pub(crate) fn watch_ring(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring owns its descriptor, always gives the same one, and closes it only when it
    // is dropped, which is after `AsyncFd` has taken it off the watch.
    unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.map_err(io::Error::from)
}

/// Watches a file, such as a socket, for something to read. It is edge-triggered: read it until it
/// would block.
///
/// # Errors
/// Without a tokio runtime with I/O, or if epoll refuses.
pub(crate) fn watch_file(file: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is always the same descriptor, and closes it only when it is dropped,
    // which is after `AsyncFd` has taken it off the watch.
    unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) }.map_err(io::Error::from)
}
