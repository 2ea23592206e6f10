//! When to look around again.
//!
//! Two things tell that something may have changed: inotify on the folders in which control groups
//! begin and end, and rtnetlink (interfaces, addresses, routes, neighbours of the host; nothing of
//! conntrack). A runtime makes a pod's network and its control group before it begins the pod's
//! containers, so that its address is known before its first connection. Without either there is
//! still a look every ten seconds.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant as TokioInstant, sleep_until};

use super::Discovery;
use crate::sys::readiness::watch_file;

mod pace;
mod route;
#[cfg(test)]
mod tests;

use pace::Pace;
use route::Neighbours;

/// The kernel puts at most this much into one message (`NLMSG_GOODSIZE`), bytes.
const BUFFER: usize = 1 << 15;

/// How many reads are made before others get their turn.
const MOST_READS: usize = 64;

/// Says when to look around again.
#[derive(Debug)]
pub struct Notifier {
    watches: Option<Watches>,
    route: Option<Route>,
    pace: Pace,
    problems: Vec<String>,
}

/// inotify, and what it watches.
#[derive(Debug)]
struct Watches {
    inotify: Inotify,
    /// A second descriptor of it, which says when there is something to read.
    ready: AsyncFd<OwnedFd>,
    by_path: HashMap<PathBuf, WatchDescriptor>,
    by_number: HashMap<WatchDescriptor, PathBuf>,
    /// What was asked for last.
    folders: Arc<[PathBuf]>,
    full: bool,
}

/// A socket that hears what changes in the host's network.
#[derive(Debug)]
struct Route {
    file: AsyncFd<OwnedFd>,
    neighbours: Neighbours,
    buffer: Vec<u8>,
}

impl Notifier {
    /// Begins to listen, in the calling thread's network namespace, which should be the host's. Has
    /// to be called inside a tokio runtime with I/O and time. What is not available is said in
    /// [`Notifier::problems`].
    pub fn new() -> Self {
        let mut problems = Vec::new();
        let watches = Watches::new()
            .inspect_err(|error| {
                problems.push(format!(
                    "inotify: {error}; new owners are seen late (help: raise fs.inotify.max_user_instances)"
                ));
            })
            .ok();
        let route = Route::new()
            .inspect_err(|error| {
                problems.push(format!("rtnetlink: {error}; new owners may be seen late"));
            })
            .ok();
        Self {
            watches,
            route,
            pace: Pace::default(),
            problems,
        }
    }

    /// What can't be heard, and what that means; each is given once.
    pub fn problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems)
    }

    /// Waits until it is time to look. May be dropped and called again at any time.
    pub async fn wait(&mut self) {
        loop {
            let due = TokioInstant::from_std(self.pace.due(Instant::now()));
            let changed = tokio::select! {
                biased;
                changed = hear(&mut self.watches, "inotify", Watches::read) => changed,
                changed = hear(&mut self.route, "rtnetlink", Route::read) => changed,
                () = sleep_until(due) => return,
            };
            match changed {
                Ok(true) => self.pace.changed(Instant::now()),
                Ok(false) => {}
                Err((what, error)) => {
                    self.problems.push(format!(
                        "{what}: {error}; new owners are seen late from now on"
                    ));
                }
            }
        }
    }

    /// Takes over what a look found: which folders to watch, and how soon the next may be.
    pub fn looked(&mut self, found: &Discovery) {
        let mut unsettled = found.unsettled;
        if let Some(watches) = &mut self.watches {
            let (added, problem) = watches.watch(&found.folders);
            // What began in them before they were watched was not heard.
            unsettled |= added;
            self.problems.extend(problem);
        }
        self.pace.looked(Instant::now(), found.took, unsettled);
    }
}

impl Default for Notifier {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether something may have changed; an error ends the listening.
type Heard = Result<bool, (&'static str, io::Error)>;

/// Reads once there is something; never ends without a listener. One that fails is given up.
async fn hear<T>(
    listener: &mut Option<T>,
    what: &'static str,
    read: impl AsyncFnOnce(&mut T) -> io::Result<bool>,
) -> Heard {
    let Some(there) = listener else {
        return std::future::pending().await;
    };
    let heard = read(there).await;
    heard.map_err(|error| {
        *listener = None;
        (what, error)
    })
}

impl Watches {
    fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Self {
            ready: watch_file(inotify.as_fd().try_clone_to_owned()?)?,
            inotify,
            by_path: HashMap::new(),
            by_number: HashMap::new(),
            folders: Arc::default(),
            full: false,
        })
    }

    async fn read(&mut self) -> io::Result<bool> {
        let mut ready = self.ready.readable_mut().await?;
        let mut changed = false;
        for _ in 0..MOST_READS {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => {
                    ready.clear_ready();
                    break;
                }
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_IGNORED)
                    && let Some(path) = self.by_number.remove(&event.wd)
                {
                    self.by_path.remove(&path);
                }
                changed |= event
                    .mask
                    .intersects(AddWatchFlags::IN_ISDIR | AddWatchFlags::IN_Q_OVERFLOW);
            }
        }
        Ok(changed)
    }

    /// Watches `folders` and no others; whether there are new ones, and what is wrong.
    fn watch(&mut self, folders: &Arc<[PathBuf]>) -> (bool, Option<String>) {
        if Arc::ptr_eq(&self.folders, folders) {
            return (false, None);
        }
        self.folders = Arc::clone(folders);
        let wanted: HashSet<&Path> = folders.iter().map(PathBuf::as_path).collect();
        let inotify = &self.inotify;
        let by_number = &mut self.by_number;
        self.by_path.retain(|path, number| {
            let wanted = wanted.contains(path.as_path());
            if !wanted {
                by_number.remove(number);
                // One that is gone is not watched any more.
                inotify.rm_watch(*number).ok();
            }
            wanted
        });
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ONLYDIR;
        let mut added = false;
        let mut problem = None;
        for path in folders.iter() {
            if self.by_path.contains_key(path) {
                continue;
            }
            match inotify.add_watch(path.as_path(), flags) {
                Ok(number) => {
                    added = true;
                    self.by_path.insert(path.clone(), number);
                    // The number of a folder that was replaced under its name.
                    self.by_number.insert(number, path.clone());
                }
                Err(error @ (Errno::ENOSPC | Errno::ENOMEM)) if !self.full => {
                    self.full = true;
                    problem = Some(format!(
                        "inotify: {error}; some new owners are seen late (help: raise fs.inotify.max_user_watches)"
                    ));
                }
                // It vanished, or that was said.
                Err(_) => {}
            }
        }
        (added, problem)
    }
}

impl Route {
    fn new() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkRoute,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, route::GROUPS))?;
        Ok(Self {
            file: watch_file(socket)?,
            neighbours: Neighbours::default(),
            buffer: vec![0; BUFFER],
        })
    }

    async fn read(&mut self) -> io::Result<bool> {
        let mut ready = self.file.readable_mut().await?;
        let mut changed = false;
        for _ in 0..MOST_READS {
            match recv(
                ready.get_inner().as_raw_fd(),
                &mut self.buffer,
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(length) => {
                    let messages = self.buffer.get(..length).unwrap_or_default();
                    changed |= route::concerns(messages, &mut self.neighbours);
                }
                Err(Errno::EAGAIN) => {
                    ready.clear_ready();
                    break;
                }
                Err(Errno::EINTR) => {}
                // There was more than the socket holds.
                Err(Errno::ENOBUFS) => changed = true,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(changed)
    }
}
