//! Building for another architecture than this machine's: Rust brings its own linker and C library for static binaries, but
//! not what compiles the C parts of some crates (`SQLite`, `ring`). That is Debian's clang, which knows every
//! architecture, with the headers of the C library that Rust links (musl).

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::{self, Apt};
use crate::arch::Arch;
use crate::cache::{Cache, replace};
use crate::groups::SUITE;

/// Where the compiler is, if it was fetched.
pub(crate) fn present(cache: &Cache) -> Option<PathBuf> {
    Some(cache.cross().join("usr/bin/clang")).filter(|path| path.is_file())
}

/// Fetches the compiler, with the libraries of it that this machine lacks, and the headers.
pub(crate) fn bring(cache: &Cache) -> Result<()> {
    let suite = apt::suite_of_this_machine()?;
    let for_this_machine = Apt::for_this_machine(cache, &suite)?;
    replace(&cache.cross(), |new| {
        for_this_machine.unpack_with_dependencies(&["clang"], &suite, new)?;
        Apt::for_guests(cache)?.unpack_only(&[format!("musl-dev/{SUITE}")], new)
    })?;
    // Where it is on this machine already, nothing was fetched.
    present(cache)
        .map(drop)
        .with_context(|| format!("no usr/bin/clang in {}", cache.cross().display()))
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
        // Only what this machine lacks is there.
        .env("LD_LIBRARY_PATH", apt::libraries(&folder));
    Ok(())
}
