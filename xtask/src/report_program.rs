//! The programs for an engineer's laptop, for systems other than Linux: the report of a journal that was copied from a node, and the view
//! over all nodes of a cluster. What compiles the C parts of them (`SQLite`, `ring`) and links is Debian's mingw for Windows, and for macOS
//! zig, which has Apple's headers and stubs of its libraries.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::apt::{self, Apt};
use crate::cache::{Cache, replace};
use crate::command;
use crate::files;

/// A package, and its program.
type Built = (&'static str, &'static str);
const REPORT: Built = ("ctpressure-report", "ctpressure-report");
const PLUGIN: Built = ("ctpressure-cluster", "kubectl-ctpressure");
/// What cargo calls for Windows, and the package that has it.
const MINGW: &str = "x86_64-w64-mingw32-gcc";
const MINGW_PACKAGE: &str = "gcc-mingw-w64-x86-64-win32";
/// Python packages with a program inside: the compiler, and what lets cargo call it. As pip is told them.
pub(crate) const ZIG: &str = "ziglang==0.17.1";
const ZIGBUILD: &str = "cargo-zigbuild==0.24.1";

/// A system that the programs are built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum System {
    /// Windows on x86-64
    Windows,
    /// macOS on Apple's processors
    Macos,
}

impl System {
    /// As Rust calls it.
    pub(crate) const fn target(self) -> &'static str {
        match self {
            Self::Windows => "x86_64-pc-windows-gnu",
            Self::Macos => "aarch64-apple-darwin",
        }
    }

    /// What is built for it. On macOS the plugin checks certificates by Apple's frameworks (Security, CoreFoundation), of which zig has no
    /// stubs: it is built on a Mac, by `cargo build`.
    const fn programs(self) -> &'static [Built] {
        match self {
            Self::Windows => &[REPORT, PLUGIN],
            Self::Macos => &[REPORT],
        }
    }

    /// Builds them; gives where they are, below the repository.
    pub(crate) fn build(self, cache: &Cache, profile: &str) -> Result<Vec<PathBuf>> {
        let mut cargo = match self {
            Self::Windows => with_mingw(cache)?,
            Self::Macos => with_zig(cache)?,
        };
        for (package, _) in self.programs() {
            cargo.args(["--package", package]);
        }
        cargo.args(["--profile", profile, "--target", self.target()]);
        if profile == "dev" {
            // They are built to see that they can be: SQLite takes a minute with optimisation.
            cargo.args(["--config", "profile.dev.package.libsqlite3-sys.opt-level=0"]);
        }
        command::run(cargo.args(command::quiet("--quiet")))?;
        let folder = if profile == "dev" { "debug" } else { profile };
        let ending = match self {
            Self::Windows => ".exe",
            Self::Macos => "",
        };
        let folder: PathBuf = ["target", self.target(), folder].iter().collect();
        let mut programs = Vec::new();
        for (_, name) in self.programs() {
            let program = folder.join(format!("{name}{ending}"));
            let path = command::repository().join(&program);
            let bytes = files::bytes(&path)?;
            if !self.runs(&bytes) {
                bail!("{} is no program for {}", path.display(), self.target());
            }
            programs.push(program);
        }
        Ok(programs)
    }

    /// Whether this is a program for that system: PE32+ for x86-64, or Mach-O for arm64.
    fn runs(self, program: &[u8]) -> bool {
        let at = |from: usize, what: &[u8]| program.get(from..from + what.len()) == Some(what);
        match self {
            Self::Windows => {
                let header = program.get(0x3c..0x40).and_then(|at| at.try_into().ok());
                let header = header.map_or(0, |at| u32::from_le_bytes(at) as usize);
                at(0, b"MZ") && at(header, b"PE\0\0\x64\x86") && at(header + 24, &[0x0b, 2])
            }
            // 64 bits, arm64 (without a variant), an executable.
            Self::Macos => at(0, &[0xcf, 0xfa, 0xed, 0xfe, 0x0c, 0, 0, 1]) && at(12, &[2, 0, 0, 0]),
        }
    }
}

fn with_mingw(cache: &Cache) -> Result<Command> {
    let compiler = mingw(cache).with_context(|| missing(MINGW))?;
    let mut cargo = command::cargo("build");
    // It, its linker and its dlltool are called by name.
    let own = cache.mingw();
    if compiler.starts_with(&own) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(own.join("usr/bin")).chain(std::env::split_paths(&path));
        cargo.env("PATH", std::env::join_paths(folders)?);
        // Only what this machine lacks is there.
        cargo.env("LD_LIBRARY_PATH", apt::libraries(&own));
    }
    Ok(cargo)
}

fn with_zig(cache: &Cache) -> Result<Command> {
    let program = zig(cache).with_context(|| missing("zig"))?;
    let mut cargo = Command::new(program);
    cargo
        .current_dir(command::repository())
        .arg("zigbuild")
        .env("CARGO_ZIGBUILD_ZIG_PATH", cache.zig().join("ziglang/zig"));
    Ok(cargo)
}

fn missing(program: &str) -> String {
    format!("{program} is missing: run `cargo xtask setup`")
}

/// The compiler for Windows, in the cache or on PATH.
pub(crate) fn mingw(cache: &Cache) -> Option<PathBuf> {
    Some(cache.mingw().join("usr/bin").join(MINGW))
        .filter(|path| path.is_file())
        .or_else(|| command::find(MINGW))
}

/// cargo's way to zig, if both are there in these versions.
pub(crate) fn zig(cache: &Cache) -> Option<PathBuf> {
    let folder = cache.zig();
    // pip leaves a folder with name and version.
    let is_there = |package: &str| {
        let name = package.replace("==", "-").replace("cargo-", "cargo_");
        folder.join(format!("{name}.dist-info")).is_dir()
    };
    (is_there(ZIG) && is_there(ZIGBUILD)).then(|| folder.join("bin/cargo-zigbuild"))
}

/// Fetches the compiler for Windows.
pub(crate) fn bring_mingw(cache: &Cache) -> Result<()> {
    let suite = apt::suite_of_this_machine()
        .with_context(|| format!("install {MINGW} by hand so that it is on PATH"))?;
    let apt = Apt::for_this_machine(cache, &suite)?;
    replace(&cache.mingw(), |new| {
        apt.unpack_with_dependencies(&[MINGW_PACKAGE], &suite, new)
            .with_context(|| format!("by hand: sudo apt-get install {MINGW_PACKAGE}"))?;
        // Installed packages have this name by Debian's alternatives.
        let programs = new.join("usr/bin");
        std::os::unix::fs::symlink(format!("{MINGW}-win32"), programs.join(MINGW))
            .with_context(|| format!("{MINGW} in {}", programs.display()))
    })
}

/// Fetches zig and cargo's way to it.
pub(crate) fn bring_zig(cache: &Cache) -> Result<()> {
    let purpose = "has pip, which fetches zig";
    let mut pip = command::required("python3", "python3 python3-pip", purpose)?;
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps"]);
    pip.args(["--disable-pip-version-check", "--root-user-action=ignore"]);
    pip.args([ZIG, ZIGBUILD, "--only-binary=:all:", "--target"]);
    replace(&cache.zig(), |new| {
        command::run(pip.arg(new)).context("where pip is missing: sudo apt-get install python3-pip")
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn programs_are_told_apart() {
        let mut windows = b"MZ".to_vec();
        windows.resize(0x80, 0);
        windows[0x3c] = 0x80;
        windows.extend(b"PE\0\0\x64\x86");
        windows.resize(0x80 + 24, 0);
        windows.extend([0x0b, 2]);
        let mut macos = vec![0xcf, 0xfa, 0xed, 0xfe, 0x0c, 0, 0, 1];
        macos.extend([0, 0, 0, 0, 2, 0, 0, 0]);
        let linux = fs::read("/proc/self/exe").unwrap();
        for (program, expected) in [
            (&windows[..], [true, false]),
            (&macos, [false, true]),
            (&windows[..0x84], [false, false]),
            (&linux, [false, false]),
            (&[], [false, false]),
        ] {
            let runs = [System::Windows, System::Macos].map(|system| system.runs(program));
            assert_eq!(runs, expected);
        }
    }
}
