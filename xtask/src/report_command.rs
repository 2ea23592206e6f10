//! `cargo xtask report-program`: the report program for other systems, and kubectl-ctpressure for Windows.

use std::fs;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::cache::Cache;
use crate::report_program::System;
use crate::{command, project, setup};

/// What `cargo xtask report-program` takes.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Only for this one
    #[arg(long = "for", value_enum, value_name = "SYSTEM")]
    system: Option<System>,
    /// Cargo profile: `dev` is built sooner
    #[arg(long, value_name = "NAME", default_value = project::RELEASE)]
    profile: String,
}

/// Runs the command: prints where each program is, and its size.
pub(crate) fn run(arguments: &Arguments) -> Result<i32> {
    let cache = Cache::open()?;
    for system in System::value_variants() {
        if arguments.system.is_none_or(|wanted| wanted == *system) {
            setup::ensure(&cache, &setup::steps_for_report(*system))?;
            for program in system.build(&cache, &arguments.profile)? {
                let bytes = fs::metadata(command::repository().join(&program))?.len();
                println!("{} {bytes} bytes", program.display());
            }
        }
    }
    Ok(0)
}
