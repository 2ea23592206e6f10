//! Finding QEMU and making its command line.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::cache::Cache;
use crate::command;
use crate::frame;

const PROGRAM: &str = "qemu-system-x86_64";
/// The first version whose software emulation of CMPXCHG16B is right.
const FIRST_SOUND: u64 = 8;

/// A QEMU that is on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Qemu {
    program: PathBuf,
    /// The folder that it was unpacked into, when it isn't installed.
    unpacked: Option<PathBuf>,
    /// Major version.
    version: u64,
}

/// The machine that a guest gets.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
    /// The guest's clock counts instructions.
    pub(crate) icount: bool,
}

/// The sockets on which xtask listens and to which QEMU connects.
#[derive(Clone, Debug)]
pub(crate) struct Sockets {
    pub(crate) console: PathBuf,
    pub(crate) port: PathBuf,
}

impl Qemu {
    /// The one in the cache, else one on PATH that is new enough. `None` when there is neither.
    pub(crate) fn find(cache: &Cache) -> Option<Self> {
        let folder = cache.qemu();
        let unpacked = folder.join("usr/bin").join(PROGRAM);
        if unpacked.is_file()
            && let Some(found) = Self::probe(unpacked, Some(folder))
        {
            return Some(found);
        }
        Self::probe(command::find(PROGRAM)?, None).filter(|found| found.version >= FIRST_SOUND)
    }

    fn probe(program: PathBuf, unpacked: Option<PathBuf>) -> Option<Self> {
        let mut found = Self {
            program,
            unpacked,
            version: 0,
        };
        let text = command::output(found.command().arg("--version")).ok()?;
        let version = text
            .split_once("version ")?
            .1
            .split('.')
            .next()?
            .parse()
            .ok()?;
        found.version = version;
        Some(found)
    }

    /// What a person reads about it.
    pub(crate) fn describe(&self) -> String {
        format!("QEMU {} at {}", self.version, self.program.display())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(folder) = &self.unpacked {
            // Only what this machine lacks was unpacked; its own libraries are found behind these.
            let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
            let libraries = libraries.map(|place| folder.join(place).display().to_string());
            command.env("LD_LIBRARY_PATH", libraries.join(":"));
        }
        command
    }

    /// The command that boots a kernel.
    pub(crate) fn boot(
        &self,
        machine: &Machine,
        kernel: &Path,
        initramfs: &Path,
        sockets: &Sockets,
    ) -> Result<Command> {
        // QEMU must not outlive xtask, however that ends: util-linux's setpriv sets the death signal.
        let Some(setpriv) = command::find("setpriv") else {
            bail!(
                "`setpriv` is missing: it ends guests when xtask is killed. \
                 Install it: sudo apt-get install util-linux"
            );
        };
        let qemu = self.command();
        let mut command = Command::new(setpriv);
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(qemu.get_program());
        command.envs(
            qemu.get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        if let Some(folder) = &self.unpacked {
            for place in ["qemu", "seabios"] {
                command.arg("-L").arg(folder.join("usr/share").join(place));
            }
        }
        command.args([
            "-machine",
            "q35",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
        ]);
        command.args(["-no-reboot", "-nic", "none"]);
        if machine.icount {
            command.args(["-accel", "tcg", "-icount", "shift=0,sleep=off"]);
        } else {
            command.args(["-accel", "tcg,thread=multi"]);
        }
        // With counted instructions the model is always the same one, so that figures compare.
        let old = self.version < FIRST_SOUND;
        command.args([
            "-cpu",
            if old || machine.icount {
                "max,-cx16"
            } else {
                "max"
            },
        ]);
        command.args([
            "-smp",
            &machine.cpus.to_string(),
            "-m",
            &machine.memory_mib.to_string(),
        ]);
        command
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs);
        command.args([
            "-append",
            // One CPU may wait long for the other under emulation: no lock-up detection. The timer may
            // be late at boot while the host is busy: no check that takes it for broken.
            "console=ttyS0 quiet panic=-1 oops=panic nokaslr mitigations=off tsc=reliable nowatchdog \
             no_timer_check",
        ]);
        let socket = |id: &str, path: &Path| format!("socket,id={id},path={}", path.display());
        command.args(["-chardev", &socket("console", &sockets.console)]);
        command.args(["-serial", "chardev:console"]);
        command.args(["-device", "virtio-serial-pci"]);
        command.args(["-chardev", &socket("port", &sockets.port)]);
        let port = format!("virtserialport,chardev=port,name={}", frame::PORT_NAME);
        command.args(["-device", &port]);
        Ok(command)
    }
}
