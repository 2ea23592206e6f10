//! A guest that tries what deploy/ has, with the image that `cargo xtask image` made.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::cache::Cache;
use crate::groups::Group;
use crate::initramfs::Content;
use crate::qemu::Machine;
use crate::vm::Guest;
use crate::{project, vm_command};

/// What is tried.
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

/// What the guest needs besides the image.
pub(super) struct Trial<'a> {
    pub(super) groups: &'a [Group],
    pub(super) memory_mib: u32,
    pub(super) timeout: Duration,
    /// Files of this machine, and where the guest has them.
    pub(super) put: Vec<(PathBuf, String)>,
    /// Runs in the guest, where the image is /image.tar.
    pub(super) script: &'a str,
}

impl Trial<'_> {
    /// Boots the guest and runs the script; gives its exit status.
    pub(super) fn run(mut self, cache: &Cache, arguments: &Arguments) -> Result<i32> {
        let (qemu, kernel) = vm_command::prepare(cache, &arguments.kernel, true)?;
        let init = project::init(cache)?;
        let binaries = project::binaries(cache, "release")?;
        self.put
            .push((arguments.image.clone(), "image.tar".to_owned()));
        let guest = Guest {
            qemu: &qemu,
            kernel: &kernel,
            machine: Machine {
                cpus: 2,
                memory_mib: self.memory_mib,
                icount: false,
            },
            timeout: self.timeout,
            content: Content {
                script: self.script.as_bytes(),
                init: &init,
                binaries: &binaries,
                groups: self.groups,
                put: &self.put,
                fetch: &[],
            },
            fetch_to: &[],
            console: None,
        };
        let ended = guest.run(cache, &mut vm_command::to_own_streams)?;
        vm_command::explain(&kernel, &ended, guest.timeout);
        Ok(ended.status())
    }
}
