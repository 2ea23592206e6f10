//! Who is on this node, looked up on a thread of its own: /proc and the cgroup tree can be slow,
//! and events must not wait for them.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_local},
};

use crate::{
    kernel::Root,
    owners::{Discovery, Notifier, Scanner},
    probes::privileges,
    sys::priority,
};

/// How soon an unknown owner in an event leads to another look, at the earliest.
const PAUSE: Duration = Duration::from_secs(2);

/// Looks for owners when the kernel says that something changed, when asked to, and now and then.
#[derive(Debug)]
pub(super) struct Scans {
    found: watch::Receiver<Option<Arc<Discovery>>>,
    ask: mpsc::Sender<()>,
    asked: Instant,
    notifier: JoinHandle<()>,
}

impl Drop for Scans {
    fn drop(&mut self) {
        // The thread ends with its sender's last copy.
        self.notifier.abort();
    }
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
        priority::thread("owners", look)?;
        let notify = ask.clone();
        let changes = latest.clone();
        Ok(Self {
            found: latest,
            ask,
            asked: Instant::now(),
            notifier: spawn_local(forward(notify, changes)),
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

/// What the thread does: a look at once, then one whenever it is asked.
fn look(asked: &mpsc::Receiver<()>, found: &watch::Sender<Option<Arc<Discovery>>>) {
    let mut scanner = Scanner::new(Root::system());
    loop {
        if found.send(Some(Arc::new(scanner.scan()))).is_err() || asked.recv().is_err() {
            return;
        }
        // What was asked meanwhile is answered by one look.
        while asked.try_recv().is_ok() {}
    }
}

/// Asks the thread to look when the kernel says that something changed, and now and then.
async fn forward(ask: mpsc::Sender<()>, mut found: watch::Receiver<Option<Arc<Discovery>>>) {
    let mut notifier = Notifier::new();
    let mut looked_once = false;
    loop {
        for problem in notifier.problems() {
            tracing::warn!("{problem}");
        }
        tokio::select! {
            changed = found.changed() => {
                if changed.is_err() {
                    return;
                }
                let looked = found.borrow_and_update().clone();
                if let Some(discovery) = looked {
                    notifier.looked(&discovery);
                    looked_once = true;
                }
                continue;
            }
            () = notifier.wait(), if looked_once => {}
        }
        // Nothing more is asked until that was answered.
        looked_once = false;
        if ask.send(()).is_err() {
            return;
        }
    }
}
