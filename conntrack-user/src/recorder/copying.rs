//! Whether somebody is copying the file just now.
//!
//! The main file changes only when the log is folded into it. A copy that is made meanwhile would have
//! some pages from before and some from after, so folding waits until whoever has the file open has
//! closed it.

use std::path::Path;

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};

/// Those who have the file open to read it.
#[derive(Debug)]
pub(super) struct Copying {
    inotify: Inotify,
    open: u32,
}

impl Copying {
    /// Watches the file. Whoever has it open now is not counted.
    pub(super) fn watch(path: &Path) -> nix::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let what = AddWatchFlags::IN_OPEN
            | AddWatchFlags::IN_CLOSE_NOWRITE
            | AddWatchFlags::IN_CLOSE_WRITE;
        inotify.add_watch(path, what)?;
        Ok(Self { inotify, open: 0 })
    }

    /// Whether anybody has it open, as far as it is known: of two that open it between two calls only
    /// one is seen. Ask about once a second. Readers that are database clients count too; a
    /// while later the caller has to go on nevertheless, and say so by [`Copying::forget`].
    pub(super) fn is_copied(&mut self) -> bool {
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    for event in events {
                        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                            self.open = 0;
                        } else if event.mask.contains(AddWatchFlags::IN_OPEN) {
                            self.open = self.open.saturating_add(1);
                        } else {
                            self.open = self.open.saturating_sub(1);
                        }
                    }
                }
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        self.open > 0
    }

    /// Whoever has it open now is not waited for any more.
    pub(super) const fn forget(&mut self) {
        self.open = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn open_until_closed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let before = File::create(&path).expect("a file");
        let mut copying = Copying::watch(&path).expect("inotify");
        assert!(!copying.is_copied());
        let one = File::open(&path).expect("a file");
        assert!(copying.is_copied());
        let two = File::open(&path).expect("a file");
        assert!(copying.is_copied());
        drop(one);
        assert!(copying.is_copied());
        drop(two);
        assert!(!copying.is_copied());
        let three = File::open(&path).expect("a file");
        assert!(copying.is_copied());
        copying.forget();
        assert!(!copying.is_copied());
        drop((before, three));
        assert!(!copying.is_copied());
    }
}
