//! A thread for what takes time, so that events never wait for it.
//!
//! The agent's own thread reads the ring and serves those who watch; it must not be held up for as
//! long as reading all tables takes. What is handed to this thread runs there one after the other, at
//! a lower priority: where both want the same CPU, events go first.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{self, Sender},
};

use tokio::sync::oneshot;

use crate::sys::priority;

type BackgroundJob = Box<dyn FnOnce() + Send>;

/// The thread; it ends after the job at hand when this is dropped.
///
/// It has the capabilities of the thread that starts it, for good: each thread has its own. Start it
/// after giving up those that are not needed.
#[derive(Clone, Debug)]
pub(crate) struct Background(Sender<BackgroundJob>);

impl Background {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the kernel gives no thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (sender, jobs) = mpsc::channel::<BackgroundJob>();
        priority::thread("background", || {
            for job in jobs {
                job();
            }
        })?;
        Ok(Self(sender))
    }

    /// Runs `work` there and waits for what comes of it; `None` if it panicked, which was printed.
    /// Whatever `work` holds is dropped before this returns.
    pub(crate) async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Option<R> {
        let (sender, result) = oneshot::channel();
        let job = move || {
            // What a panic leaves half done is inside `work`, and gone with it.
            if let Ok(value) = catch_unwind(AssertUnwindSafe(work)) {
                // Nobody waits any more: the agent ends.
                drop(sender.send(value));
            }
        };
        // An error here says the same as one below: the thread is gone.
        self.0.send(Box::new(job)).ok()?;
        result.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    #[tokio::test]
    async fn work_is_done_on_another_thread_of_lower_priority() {
        let background = Background::start().expect("a thread");
        let nice = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("/proc");
            // The name, in parentheses, may have spaces; `nice` is the 19th field.
            let fields = stat.rsplit_once(')').expect("a name").1;
            fields
                .split_whitespace()
                .nth(16)
                .and_then(|nice| nice.parse::<i32>().ok())
                .expect("a number")
        };
        let own = nice();
        let there = background
            .run(move || (thread::current().id(), nice()))
            .await
            .expect("no panic");
        assert_ne!(there.0, thread::current().id());
        assert_eq!(there.1, (own + priority::NICE).min(19));
        assert_eq!(nice(), own, "this thread's stays");
    }

    #[tokio::test]
    async fn a_panic_costs_its_job_only_and_nothing_is_kept() {
        let background = Background::start().expect("a thread");
        let shared = Arc::new(());
        let held = Arc::clone(&shared);
        let nothing = background
            .run(move || {
                assert_eq!(Arc::strong_count(&held), 0, "this is meant to fail");
            })
            .await;
        assert_eq!(nothing, None);
        let held = Arc::clone(&shared);
        assert_eq!(
            background.run(move || Arc::strong_count(&held)).await,
            Some(2)
        );
        assert_eq!(Arc::strong_count(&shared), 1, "dropped before it returned");
    }
}
