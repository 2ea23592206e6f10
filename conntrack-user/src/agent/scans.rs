//! Who is on this node, looked up on a thread of its own: /proc and the cgroup tree can be slow,
//! and events must not wait for them.

use std::{
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{
    kernel::Root,
    owners::{Discovery, Scanner},
    probes::privileges,
};

/// How often to look without being told to.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How soon to look again while something has just begun.
const UNSETTLED: Duration = Duration::from_millis(200);
/// How soon an unknown owner in an event leads to another look, at the earliest.
const PAUSE: Duration = Duration::from_secs(2);

/// Looks for owners: now and then, when the kernel says that something changed, and when asked to.
#[derive(Debug)]
pub(super) struct Scans {
    found: watch::Receiver<Option<Arc<Discovery>>>,
    ask: mpsc::Sender<()>,
    asked: Instant,
}

impl Scans {
    /// Begins to look. Has to be called inside a [`tokio::task::LocalSet`].
    ///
    /// # Errors
    /// If there can be no thread.
    pub(super) fn begin(drop_capabilities: bool) -> std::io::Result<Self> {
        let (ask, asked) = mpsc::channel();
        let (found, latest) = watch::channel(None);
        let look = move || {
            if drop_capabilities && let Err(error) = privileges::drop_unneeded() {
                tracing::warn!(%error, "the thread that looks for owners keeps its capabilities");
            }
            look(&asked, &found);
        };
        thread::Builder::new()
            .name("owners".to_owned())
            .spawn(look)?;
        Ok(Self {
            found: latest,
            ask,
            asked: Instant::now(),
        })
    }

    /// Waits until somebody has looked since the last call; never ends after the thread has.
    pub(super) async fn next(&mut self) -> Arc<Discovery> {
        loop {
            if self.found.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            if let Some(found) = self.found.borrow_and_update().clone() {
                return found;
            }
        }
    }

    /// An event had an owner that nobody knows: look again, unless that was just done.
    pub(super) fn look_again(&mut self) {
        if self.asked.elapsed() >= PAUSE {
            self.asked = Instant::now();
            let _: Result<(), _> = self.ask.send(());
        }
    }
}

/// What the thread does.
fn look(asked: &mpsc::Receiver<()>, found: &watch::Sender<Option<Arc<Discovery>>>) {
    let mut scanner = Scanner::new(Root::system());
    loop {
        let discovery = Arc::new(scanner.scan());
        let wait = if discovery.unsettled {
            UNSETTLED
        } else {
            LOOK_EVERY
        };
        if found.send(Some(discovery)).is_err() {
            return;
        }
        match asked.recv_timeout(wait) {
            // What was asked meanwhile is answered by one look.
            Ok(()) => while asked.try_recv().is_ok() {},
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
