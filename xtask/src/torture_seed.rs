//! Seeds of torture, and what a guest runs for one.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// A seed that nobody chose.
pub(crate) fn new_seed() -> Result<u64> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("a clock before 1970")?;
    Ok(now.as_secs() % 1_000_000)
}

/// What a guest runs for a seed.
pub(crate) fn of_seed(seed: u64, minutes: f64, crowd: u64) -> String {
    format!("exec ctpressure-scenario torture --seed {seed} --minutes {minutes} --crowd {crowd}\n")
}
