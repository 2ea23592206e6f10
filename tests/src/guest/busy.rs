//! Programs that want a whole CPU each.

use std::process::{Child, Command, Stdio};

use anyhow::Result;

use super::{command, kernel::online_cpus, unit::in_unit};

/// One for each CPU; ended when this is dropped.
#[derive(Debug)]
pub struct BusyLoops(Vec<Child>);

impl BusyLoops {
    /// Starts them, in a unit that was started if one is given.
    pub fn start(unit: Option<&str>) -> Result<Self> {
        const FOREVER: &str = "while :; do :; done";
        let mut all = Self(Vec::new());
        for _ in 0..online_cpus() {
            let mut command = unit.map_or_else(|| Command::new("sh"), |unit| in_unit(unit, "sh"));
            command.args(["-c", FOREVER]).stdin(Stdio::null());
            all.0.push(command::spawn(&mut command)?);
        }
        Ok(all)
    }
}

impl Drop for BusyLoops {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Either it is already gone, or it is to be.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
