//! Units of systemd, as far as their control groups go: no systemd is needed.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::command;

/// A unit with a main process, which is ended when this is dropped.
#[derive(Debug)]
pub struct Unit(Child);

impl Unit {
    /// Starts it, as systemd does when the machine boots.
    ///
    /// # Errors
    ///
    /// When its control group can't be made.
    pub fn start(name: &str) -> Result<Self> {
        let folder = folder(name);
        fs::create_dir_all(&folder).with_context(|| format!("making {folder}"))?;
        let mut main = in_unit(name, "sleep");
        main.arg("100000")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Ok(Self(command::spawn(&mut main)?))
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        // Either it is already gone, or it is to be.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// This process is in the control group of a unit; it goes back when this is dropped.
#[derive(Debug)]
#[must_use = "it goes back when this is dropped"]
pub struct Inside {
    back: String,
}

impl Inside {
    /// Enters the control group of a unit that was started.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn enter(unit: &str) -> Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").context("reading its control group")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::"));
        let own = own.context("there is no cgroup v2")?;
        let back = format!("/sys/fs/cgroup{own}/cgroup.procs");
        move_into(&format!("{}/cgroup.procs", folder(unit)))?;
        Ok(Self { back })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // It was there before.
        drop(move_into(&self.back));
    }
}

fn move_into(list: &str) -> Result<()> {
    fs::write(list, std::process::id().to_string()).with_context(|| format!("moving into {list}"))
}

/// The folder of a unit's control group.
pub fn folder(unit: &str) -> String {
    format!("/sys/fs/cgroup/system.slice/{unit}")
}

/// A program in the control group of a unit that was started, by way of a shell that moves itself there first: arguments can
/// be added.
pub fn in_unit(unit: &str, program: &str) -> Command {
    in_group(&folder(unit), program)
}

/// The same in a control group, by its folder.
pub fn in_group(folder: &str, program: &str) -> Command {
    let script = format!("echo $$ > {folder}/cgroup.procs && exec {program} \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh"]);
    command
}
