//! Watches what the machine under the node allows.

use std::{
    sync::{Arc, Mutex, Weak},
    thread,
    time::Duration,
};

use crate::{
    kernel::{
        Root,
        allowances::{self, AllowanceSums, InterfaceAllowances},
    },
    probes::privileges,
    sys::{lock::locked, priority},
};

/// How often drivers are asked: some of them ask the device.
const EVERY: Duration = Duration::from_secs(10);

/// What was seen last.
#[derive(Debug, Default)]
pub struct AllowanceWatch {
    seen: Mutex<Vec<InterfaceAllowances>>,
}

impl AllowanceWatch {
    /// Begins to watch, for as long as somebody holds what this gives.
    ///
    /// # Errors
    /// If the kernel gives no thread.
    pub(crate) fn start() -> std::io::Result<Arc<Self>> {
        let watch = Arc::new(Self::default());
        let weak = Arc::downgrade(&watch);
        priority::thread("allowances", move || look(&weak))?;
        Ok(watch)
    }

    /// What was seen last: each interface whose driver counts something.
    pub(crate) fn seen(&self) -> Vec<InterfaceAllowances> {
        locked(&self.seen).clone()
    }
}

fn look(watch: &Weak<AllowanceWatch>) {
    // Drivers are asked without any.
    privileges::drop_all("allowances");
    let root = Root::system();
    let mut sums = AllowanceSums::default();
    loop {
        let mut found = allowances::read(&root);
        sums.add(&mut found);
        let Some(watch) = watch.upgrade() else { return };
        *locked(&watch.seen) = found;
        drop(watch);
        thread::sleep(EVERY);
    }
}
