//! Where everything that setup fetches lies: one folder outside of the source tree, so that checkouts
//! share it and `cargo clean` keeps it.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::command;
use crate::files;

/// The cache folder and the places in it.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    root: PathBuf,
    /// Of what is for guests and for building.
    arch: Arch,
}

impl Cache {
    /// `$CTPRESSURE_CACHE`, else `ctpressure` in the user's cache folder. Made if it is not there.
    pub(crate) fn open() -> Result<Self> {
        let set = |name| {
            env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let root = set("CTPRESSURE_CACHE")
            .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("ctpressure")))
            .or_else(|| set("HOME").map(|folder| folder.join(".cache/ctpressure")))
            .context(
                "neither HOME nor CTPRESSURE_CACHE is set: nowhere to keep kernels and tools",
            )?;
        fs::create_dir_all(&root).with_context(|| {
            format!(
                "make the cache folder {} (set CTPRESSURE_CACHE to another)",
                root.display()
            )
        })?;
        Ok(Self::at(&fs::canonicalize(root)?))
    }

    /// The cache in a folder that is there.
    pub(crate) fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            arch: Arch::default(),
        }
    }

    /// The same with what is of another architecture.
    pub(crate) fn of(&self, arch: Arch) -> Self {
        Self {
            arch,
            ..self.clone()
        }
    }

    /// The architecture that guests have, and what is built.
    pub(crate) const fn arch(&self) -> Arch {
        self.arch
    }

    /// Programs that `cargo install` put there, and links to others.
    pub(crate) fn programs(&self) -> PathBuf {
        self.root.join("tools/bin")
    }

    /// A program that was brought there, or the one on PATH.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        let own = self.programs().join(name);
        if own.is_file() {
            Some(own)
        } else {
            command::find(name)
        }
    }

    /// The root for `cargo install --root`.
    pub(crate) fn tools(&self) -> PathBuf {
        self.root.join("tools")
    }

    /// QEMU as unpacked from packages.
    pub(crate) fn qemu(&self) -> PathBuf {
        self.of_arch("tools/qemu")
    }

    /// One unpacked kernel package set a folder, named by the kernel's full version.
    pub(crate) fn kernels(&self) -> PathBuf {
        self.root.join("kernels")
    }

    /// Parts of the initramfs, and the packages that they are made of.
    pub(crate) fn guest(&self) -> PathBuf {
        self.of_arch("guest")
    }

    /// The C compiler and the headers for another architecture's static binaries.
    pub(crate) fn cross(&self) -> PathBuf {
        self.of_arch("tools/cross")
    }

    /// The compiler for Windows.
    pub(crate) fn mingw(&self) -> PathBuf {
        self.root.join("tools/mingw")
    }

    /// The compiler for macOS.
    pub(crate) fn zig(&self) -> PathBuf {
        self.root.join("tools/zig")
    }

    fn of_arch(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}{}", self.arch.suffix()))
    }

    /// A folder of whoever asks for it by a name of its own.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Waits until no other xtask changes the cache, and keeps others out while the value lives.
    pub(crate) fn lock(&self) -> Result<File> {
        let path = self.root.join("lock");
        let file = File::create(&path).with_context(|| format!("open {}", path.display()))?;
        if file.try_lock().is_err() {
            eprintln!("waiting for another xtask that is filling the cache ...");
            file.lock()
                .with_context(|| format!("lock {}", path.display()))?;
        }
        Ok(file)
    }
}

/// Makes a new folder or file, replacing what was there, that nobody sees half made: `make` writes it where nothing is yet, then
/// it is renamed.
///
/// It is made beside its target, so that the renaming never crosses file systems.
pub(crate) fn replace(target: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = target
        .parent()
        .context("a path in the cache has a parent")?;
    files::folder(parent)?;
    let folder = tempfile::Builder::new()
        .prefix(".new-")
        .tempdir_in(parent)
        .with_context(|| format!("make a folder in {}", parent.display()))?;
    let new = folder.path().join("new");
    make(&new)?;
    if target.is_dir() {
        fs::rename(target, folder.path().join("old"))
            .with_context(|| format!("move {} away", target.display()))?;
    }
    fs::rename(&new, target).with_context(|| format!("put {} in place", target.display()))
}
