//! A process that may do less than root, as one in a container.

use std::{fs::File, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result};
use caps::{CapSet, Capability};
use clap::Args;
use nix::sched::{CloneFlags, setns};

use super::kernel;

/// What holds it back.
#[derive(Args, Clone, Debug, Default)]
pub struct Confinement {
    /// Capabilities that it does not have, separated by commas.
    #[arg(long, value_delimiter = ',')]
    without: Vec<String>,
    /// A named network namespace that it is in.
    #[arg(long)]
    netns: Option<String>,
    /// A loaded profile of `AppArmor`.
    #[arg(long)]
    apparmor: Option<String>,
}

impl Confinement {
    /// It lacks these capabilities (names separated by commas).
    pub fn without(capabilities: &str) -> Self {
        Self {
            without: capabilities.split(',').map(str::to_owned).collect(),
            ..Self::default()
        }
    }

    /// It has this profile of `AppArmor`.
    pub fn under(profile: &str) -> Self {
        Self {
            apparmor: Some(profile.to_owned()),
            ..Self::default()
        }
    }

    /// Besides, it is in this network namespace.
    #[must_use]
    pub fn inside(mut self, netns: &str) -> Self {
        self.netns = Some(netns.to_owned());
        self
    }

    /// What becomes the program that is added to it, with its arguments.
    pub fn command(&self) -> Result<Command> {
        let itself = std::env::current_exe().context("finding this program's file")?;
        let mut command = Command::new(itself);
        command.arg("exec-confined");
        if !self.without.is_empty() {
            command.args(["--without", &self.without.join(",")]);
        }
        for (flag, value) in [("--netns", &self.netns), ("--apparmor", &self.apparmor)] {
            if let Some(value) = value {
                command.args([flag, value]);
            }
        }
        command.arg("--");
        Ok(command)
    }

    /// Becomes `command`; returns only if that can't be done.
    pub fn exec(&self, command: &[String]) -> Result<()> {
        if let Some(name) = &self.netns {
            let path = format!("/run/netns/{name}");
            let file = File::open(&path).with_context(|| format!("opening {path}"))?;
            setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {name}"))?;
        }
        for name in &self.without {
            let capability: Capability = name
                .parse()
                .map_err(|_| anyhow::anyhow!("{name} is no capability"))?;
            // An exec of root gets all that the bounding set has.
            caps::drop(None, CapSet::Bounding, capability)
                .with_context(|| format!("dropping {name}"))?;
        }
        if let Some(profile) = &self.apparmor {
            kernel::write("/proc/thread-self/attr/exec", &format!("exec {profile}"))?;
        }
        let (program, arguments) = command.split_first().context("no command was given")?;
        Err(Command::new(program).args(arguments).exec())
            .with_context(|| format!("starting {program}"))
    }
}
