//! A guest that tries what deploy/ has, with the image that `cargo xtask image` made.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::cache::Cache;
use crate::groups::Group;
use crate::project;
use crate::qemu::Machine;
use crate::vm_command::Prepared;

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
    pub(super) fn run(mut self, cache: Cache, arguments: &Arguments) -> Result<i32> {
        let prepared = Prepared::new(cache, &arguments.kernel, Some(project::RELEASE))?;
        self.put
            .push((arguments.image.clone(), "image.tar".to_owned()));
        let machine = Machine::new(2, self.memory_mib);
        let script = self.script.as_bytes();
        let mut guest = prepared.guest(machine, self.timeout, script, self.groups);
        guest.content.put = &self.put;
        prepared.show(&guest)
    }
}
