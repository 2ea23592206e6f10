//! How far it is, on a terminal.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

/// What takes no longer than this is not worth a line.
const SOON: Duration = Duration::from_millis(500);

/// A line on standard error that is written over, and gone in the end.
pub(super) struct Progress {
    all: usize,
    done: usize,
    began: Instant,
    shown: bool,
}

impl Progress {
    pub(super) fn new(all: usize) -> Self {
        Self {
            all,
            done: 0,
            began: Instant::now(),
            shown: false,
        }
    }

    /// One more is done.
    pub(super) fn one(&mut self) {
        self.done += 1;
        if self.began.elapsed() >= SOON && io::stderr().is_terminal() {
            self.shown = true;
            let line = format!("\r{} of {} nodes done\x1b[K", self.done, self.all);
            // Who closed it does not want to see it.
            drop(io::stderr().write_all(line.as_bytes()));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            drop(io::stderr().write_all(b"\r\x1b[K"));
        }
    }
}
