//! Building for another architecture than this machine's: Rust brings its own linker and C library for static binaries, but
//! not what compiles the C parts of some crates (`SQLite`, `ring`). That is Debian's clang, which knows every
//! architecture, with the headers of the C library that Rust links (musl).

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::{self, Apt};
use crate::arch::Arch;
use crate::cache::{Cache, Staged};
use crate::groups::SUITE;

/// Debian's packages of clang by suite: what they need of LLVM and what this machine may have already is not the
/// same in each.
const CLANG: &[(&str, &str)] = &[("bookworm", "14"), ("trixie", "19")];

/// Where the compiler is, if it was fetched.
pub(crate) fn present(cache: &Cache) -> Option<PathBuf> {
    clang(&cache.cross()).filter(|path| path.is_file())
}

/// `usr/bin/clang-14` or what the version is.
fn clang(folder: &Path) -> Option<PathBuf> {
    let programs = CLANG.iter();
    programs
        .map(|(_, version)| folder.join(format!("usr/bin/clang-{version}")))
        .find(|path| path.exists())
}

/// Fetches the compiler and the headers.
pub(crate) fn bring(cache: &Cache) -> Result<()> {
    let suite = apt::suite_of_this_machine()?;
    let Some((_, version)) = CLANG.iter().find(|(name, _)| *name == suite) else {
        bail!("no clang of Debian {suite} is known to this xtask");
    };
    let for_this_machine = Apt::for_this_machine(cache, &suite)?;
    for_this_machine.update(false)?;
    let staged = Staged::new(&cache.cross())?;
    let packages = [
        format!("clang-{version}"),
        format!("libclang-common-{version}-dev"),
        format!("libclang-cpp{version}"),
        format!("libllvm{version}"),
    ];
    for_this_machine.unpack_only(&packages, &staged.path())?;
    let for_guests = Apt::for_guests(cache)?;
    for_guests.update(false)?;
    for_guests.unpack_only(&[format!("musl-dev/{SUITE}")], &staged.path())?;
    staged.publish()?;
    if clang(&cache.cross()).is_none() {
        bail!("the packages hold no clang-{version}");
    }
    Ok(())
}

/// Makes a cargo build for the cache's architecture: with `--target` given, nothing else is needed on this machine's own.
pub(crate) fn prepare(cache: &Cache, cargo: &mut Command) -> Result<()> {
    let arch = cache.arch();
    if arch == Arch::Amd64 {
        return Ok(());
    }
    let folder = cache.cross();
    let clang = present(cache).context("no C compiler for it: run `cargo xtask setup`")?;
    let target = arch.target();
    let name = target.replace('-', "_");
    let musl = target.replace("-unknown", "");
    let headers = folder.join("usr/include").join(&musl);
    let libraries = folder.join("usr/lib").join(Arch::Amd64.libraries());
    let flags = format!(
        "--target={musl} -nostdlibinc -isystem {}",
        headers.display()
    );
    cargo
        .env(format!("CC_{name}"), clang)
        .env(format!("CFLAGS_{name}"), flags)
        .env(
            format!("CARGO_TARGET_{}_LINKER", name.to_uppercase()),
            "rust-lld",
        )
        // Libraries of clang, and nothing else, are there.
        .env("LD_LIBRARY_PATH", libraries);
    Ok(())
}
