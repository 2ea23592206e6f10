//! `cargo xtask package`: what people install on a host without Kubernetes, a `.deb` and a `.rpm`: the program, its unit, man pages,
//! completions. The same source gives the same bytes, as for the image.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::image;
use crate::arch::Arch;
use crate::cache::Cache;
use crate::setup;
use crate::{command, files};

mod content;
mod deb;
mod rpm;
mod trial;

use content::Content;

/// A package that is larger is a mistake.
const MOST_BYTES: u64 = 20 << 20;
/// One line about it, for both.
const SUMMARY: &str = "watches the conntrack tables of a node with eBPF";
/// More about it, for both.
const DESCRIPTION: &str = "ctpressure tells which conntrack table fills and when it will be full, who fills it, whose packets were dropped and why, \
     whose live connections were evicted, and who caused it.";
/// Who is asked about it.
const VENDOR: &str = "The ctpressure authors";

/// What `cargo xtask package` takes.
#[derive(Args, Debug)]
#[group(id = "package")]
pub(crate) struct Arguments {
    /// Folder of the packages
    #[arg(long, value_name = "FOLDER", default_value = "target/package")]
    output: PathBuf,
    /// Architecture of the hosts that they are for
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,
    /// Take this program instead of building it
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Counts packages of one version
    #[arg(long, value_name = "N", default_value_t = 1)]
    revision: u32,
    /// Install, start, upgrade and purge them in guests too: Debian 12 and 13, with their own systemd
    #[arg(long)]
    check: bool,
    /// Check in this Debian only (may be repeated)
    #[arg(long, value_name = "SUITE", requires = "check", value_parser = trial::SUITES)]
    suite: Vec<String>,
}

/// What packages are made of, whatever their revision.
struct Maker {
    content: Content,
    arch: Arch,
}

/// A version of the packages: where they are.
#[derive(Debug)]
struct Packages {
    deb: PathBuf,
    rpm: PathBuf,
}

/// Runs the command; the result is its exit status.
pub(crate) fn run(arguments: &Arguments) -> Result<i32> {
    let cache = Cache::open()?.of(arguments.arch);
    // The man pages are written by a build for this machine, which has the eBPF part too.
    setup::ensure(&cache, &setup::steps_for_binaries(arguments.arch))?;
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => image::build(&cache)?,
    };
    let maker = Maker {
        content: Content::gather(&program, arguments.arch)?,
        arch: arguments.arch,
    };
    let folder = command::repository().join(&arguments.output);
    files::folder(&folder)?;
    let packages = maker.make(&folder, arguments.revision)?;
    for path in [&packages.deb, &packages.rpm] {
        let bytes = files::bytes(path)?.len() as u64;
        if bytes > MOST_BYTES {
            bail!(
                "{} has {bytes} bytes, more than {MOST_BYTES}",
                path.display()
            );
        }
        let shown = path.strip_prefix(command::repository()).unwrap_or(path);
        println!("{} {bytes} bytes", shown.display());
    }
    if !arguments.check {
        return Ok(0);
    }
    let scratch = tempfile::tempdir().context("make a folder")?;
    let next = maker.make(scratch.path(), arguments.revision + 1)?;
    trial::run(&cache, &arguments.suite, &packages, &next)
}

impl Maker {
    fn make(&self, folder: &Path, revision: u32) -> Result<Packages> {
        Ok(Packages {
            deb: deb::make(&self.content, self.arch, revision, folder)?,
            rpm: rpm::make(&self.content, self.arch, revision, folder)?,
        })
    }
}
