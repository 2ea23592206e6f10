//! `cargo xtask cluster`: a whole cluster in a guest, in which the manifests are applied as deploy/README.md says, with the image that
//! `cargo xtask image` made.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use super::{image, manifests};
use crate::cache::Cache;
use crate::groups::Group;
use crate::initramfs::Content;
use crate::kubernetes::{self, Programs};
use crate::qemu::Machine;
use crate::vm::Guest;
use crate::{project, vm_command};

const SCRIPT: &str = include_str!("../../guest/cluster.sh");
/// What is applied one after the other, each in the place of the one before.
const VARIANTS: &[&str] = &["overlays/kube-names", "overlays/least-privilege"];

/// What `cargo xtask cluster` takes.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Kernel of the guest
    #[arg(long, value_name = "PREFIX", default_value = "6.12")]
    kernel: String,
    /// Image made by `cargo xtask image`
    #[arg(
        long,
        value_name = "FILE",
        default_value = "target/image/ctpressure.tar"
    )]
    image: PathBuf,
}

/// Runs the command; the result is its exit status.
pub(crate) fn run(arguments: &Arguments) -> Result<i32> {
    let cache = Cache::open()?;
    let (qemu, kernel) = vm_command::prepare(&cache, &arguments.kernel, true)?;
    let mut programs = kubernetes::node_programs(&cache)?;
    programs.push(Programs::get(&cache)?.api_server);
    let init = project::init()?;
    let binaries = project::binaries("release")?;
    let files = tempfile::tempdir().context("make a folder")?;
    let mut put = vec![(arguments.image.clone(), "image.tar".to_owned())];
    for program in programs {
        let to = format!("usr/local/bin/{}", project::name(&program)?);
        put.push((program, to));
    }
    for variant in VARIANTS {
        let name = variant_name(variant);
        let file = files.path().join(name);
        fs::write(&file, manifests::kustomized(&cache, variant)?)?;
        put.push((file, format!("manifests/{name}.yaml")));
    }
    let names: Vec<&str> = VARIANTS
        .iter()
        .map(|variant| variant_name(variant))
        .collect();
    let script = format!(
        "variants='{}'\nimage='{}'\n{SCRIPT}",
        names.join(" "),
        image::default_name()
    );
    let guest = Guest {
        qemu: &qemu,
        kernel: &kernel,
        machine: Machine {
            cpus: 2,
            memory_mib: 6000,
            icount: false,
        },
        timeout: Duration::from_mins(30),
        content: Content {
            script: script.as_bytes(),
            init: &init,
            binaries: &binaries,
            groups: &[Group::Containers, Group::Kubernetes],
            put: &put,
            fetch: &[],
        },
        fetch_to: &[],
        console: None,
    };
    let ended = guest.run(&cache, &mut vm_command::to_own_streams)?;
    vm_command::explain(&kernel, &ended, guest.timeout);
    Ok(ended.status())
}

/// `least-privilege` of `overlays/least-privilege`.
fn variant_name(variant: &str) -> &str {
    variant.rsplit('/').next().unwrap_or(variant)
}
