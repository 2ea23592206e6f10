//! Finding QEMU and making its command line.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::apt;
use crate::arch::Arch;
use crate::cache::Cache;
use crate::command;
use crate::frame;

/// The first version whose software emulation of CMPXCHG16B is right.
const FIRST_SOUND: u64 = 8;

/// A QEMU that is on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Qemu {
    program: PathBuf,
    /// The folder that it was unpacked into, when it isn't installed.
    unpacked: Option<PathBuf>,
    version: u64,
    arch: Arch,
}

/// The machine that a guest gets.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
    /// The guest's clock counts instructions.
    pub(crate) icount: bool,
    /// Its figures are compared with those of other days: processor and kernel are always the same, as Debian has it.
    pub(crate) measured: bool,
}

impl Machine {
    /// One whose processors run as fast as they can.
    pub(crate) const fn new(cpus: u32, memory_mib: u32) -> Self {
        Self {
            cpus,
            memory_mib,
            icount: false,
            measured: false,
        }
    }

    /// One on which instructions are compared, with one CPU.
    pub(crate) const fn measured(memory_mib: u32) -> Self {
        Self {
            icount: true,
            measured: true,
            ..Self::new(1, memory_mib)
        }
    }
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
        let arch = cache.arch();
        let (name, _) = arch.qemu();
        let unpacked = folder.join("usr/bin").join(name);
        if unpacked.is_file()
            && let Some(found) = Self::probe(arch, unpacked, Some(folder))
        {
            return Some(found);
        }
        let installed = Self::probe(arch, command::find(name)?, None);
        installed.filter(|found| found.version >= FIRST_SOUND)
    }

    fn probe(arch: Arch, program: PathBuf, unpacked: Option<PathBuf>) -> Option<Self> {
        let mut found = Self {
            program,
            unpacked,
            version: 0,
            arch,
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
            command.env("LD_LIBRARY_PATH", apt::libraries(folder));
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
        let purpose = "ends guests when xtask is killed";
        let mut command = command::required("setpriv", "util-linux", purpose)?;
        let qemu = self.command();
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
        let (name, port) = self.arch.machine();
        command.args(["-machine", name, "-nodefaults", "-no-user-config"]);
        command.args(["-display", "none", "-no-reboot", "-nic", "none"]);
        if machine.icount {
            command.args(["-accel", "tcg", "-icount", "shift=0,sleep=off"]);
        } else {
            command.args(["-accel", "tcg,thread=multi"]);
        }
        command.args(["-cpu", self.processor(machine.measured)]);
        command.args(["-smp", &machine.cpus.to_string()]);
        command.args(["-m", &machine.memory_mib.to_string()]);
        command.arg("-kernel").arg(kernel);
        command.arg("-initrd").arg(initramfs);
        // One CPU may wait long for the other under emulation: no lock-up detection. The timer may
        // be late at boot while the host is busy: no check that takes it for broken.
        let mut parameters = format!(
            "console={port} quiet panic=-1 oops=panic nokaslr mitigations=off tsc=reliable nowatchdog no_timer_check"
        );
        if !machine.measured {
            // No ciphers are tested, no page is cleared but those that have to be: both take an emulated processor long.
            parameters.push_str(" cryptomgr.notests init_on_alloc=0");
        }
        command.args(["-append", &parameters]);
        let socket = |id: &str, path: &Path| format!("socket,id={id},path={}", path.display());
        command.args(["-chardev", &socket("console", &sockets.console)]);
        command.args(["-serial", "chardev:console"]);
        command.args(["-device", "virtio-serial-pci"]);
        command.args(["-chardev", &socket("port", &sockets.port)]);
        let port = format!("virtserialport,chardev=port,name={}", frame::PORT_NAME);
        command.args(["-device", &port]);
        Ok(command)
    }
    /// The model of processor.
    const fn processor(&self, measured: bool) -> &'static str {
        match self.arch {
            Arch::Amd64 if measured => "max,-cx16",
            // Byte by byte is how `rep stosb` and `rep movsb` are emulated: without them the kernel clears and copies by words.
            Arch::Amd64 if self.version < FIRST_SOUND => "max,-cx16,-erms,-fsrm",
            Arch::Amd64 => "max,-erms,-fsrm",
            // As the architecture has it, signing pointers takes most of the time of an emulated one.
            Arch::Arm64 => "max,pauth-impdef=on",
        }
    }
}
