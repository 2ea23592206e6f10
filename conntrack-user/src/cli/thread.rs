//! The one thread that a command works on.

use std::time::Duration;

use tokio::{runtime, task::LocalSet};

/// Works to the end, with the tasks that it spawns. `patience`: how long what else was begun may take to end.
pub(super) fn block_on<T>(
    patience: Duration,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let tasks = LocalSet::new();
    let result = tasks.block_on(&runtime, work);
    // Tasks first: they hold the ring and the connections.
    drop(tasks);
    runtime.shutdown_timeout(patience);
    result
}
