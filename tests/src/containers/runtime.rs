//! containerd as a process.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd as _,
        unix::{fs::symlink, process::CommandExt as _},
    },
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use nix::{
    fcntl::{FcntlArg, FdFlag, SealFlag, fcntl},
    mount::{MsFlags, mount},
    sys::memfd::{MFdFlags, memfd_create},
};

use super::{
    cri::Cri,
    image::{self, Image, PROGRAM},
};
use crate::guest::command::{self, output, wait_for};

/// Where it listens.
pub const SOCKET: &str = "/run/containerd/containerd.sock";
/// What its containers are made from; a file system of its own, as overlayfs wants one that can be
/// its upper layer.
const STATE: &str = "/var/lib/containerd";
const CONFIG: &str = "/etc/containerd/config.toml";
const LOG: &str = "/var/log/containerd.log";
const RUNC: &str = "/usr/sbin/runc";
/// Where containerd finds it.
const SEALED_RUNC: &str = "/run/runc-sealed";
/// Folder of the CNI configurations, one folder for each runtime class.
pub const CNI: &str = "/etc/cni/net.d";

/// The image of the container that holds a pod's namespaces.
const PAUSE: &str = "registry.k8s.io/pause:3.8";
/// The image of everything else.
pub const APPLICATION: &str = "ctpressure.test/ctgen:1";

/// How long containerd may take to answer.
const READY_LIMIT: Duration = Duration::from_mins(2);

/// Who makes the control groups of containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CgroupDriver {
    /// The runtime, in the file system.
    #[default]
    Cgroupfs,
    /// systemd, which the runtime asks.
    Systemd,
}

/// Debian's places, and a runtime class for each kind of network.
fn config(networks: &[&str], driver: CgroupDriver) -> String {
    let mut text = format!(
        r#"version = 2
root = "{STATE}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile", "io.containerd.nri.v1.nri"]
[grpc]
address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{CNI}/{first}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "{first}"
"#,
        first = networks.first().copied().unwrap_or_default()
    );
    for network in networks {
        let name =
            format!(r#"plugins."io.containerd.grpc.v1.cri".containerd.runtimes."{network}""#);
        let lines = [
            format!("[{name}]"),
            "runtime_type = \"io.containerd.runc.v2\"".to_owned(),
            format!("cni_conf_dir = \"{CNI}/{network}\""),
            format!("[{name}.options]"),
            format!("BinaryName = \"{SEALED_RUNC}\""),
            format!("SystemdCgroup = {}\n", driver == CgroupDriver::Systemd),
        ];
        text.push_str(&lines.join("\n"));
    }
    text
}

/// Starts containerd with a runtime class for each of `networks` and imports the images. It
/// outlives the caller.
pub fn start(networks: &[&str], driver: CgroupDriver) -> Result<Cri> {
    if !Path::new("/usr/bin/containerd").exists() {
        bail!(
            "containerd is not in this guest: boot it with `cargo xtask vm --containers` or \
             `cargo xtask test`; `cargo xtask setup` brings the packages"
        );
    }
    for folder in [STATE, "/etc/containerd", "/var/log/pods"] {
        fs::create_dir_all(folder).with_context(|| format!("making {folder}"))?;
    }
    mount(
        Some("tmpfs"),
        STATE,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .with_context(|| format!("mounting {STATE}"))?;
    fs::write(CONFIG, config(networks, driver)).with_context(|| format!("writing {CONFIG}"))?;
    let log = File::create(LOG).with_context(|| format!("writing {LOG}"))?;
    let runc = sealed(Path::new(RUNC))?;
    let mut command = Command::new("containerd");
    command.args(["--config", CONFIG]);
    // Several threads of each of its many processes look for work all the time, which an emulated processor has none for.
    command.env("GOMAXPROCS", "1");
    // A group of its own: a scenario's end does not end it.
    command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let mut child = command::spawn(&mut command)?;
    let held = format!("/proc/{}/fd/{}", child.id(), runc.as_raw_fd());
    symlink(held, SEALED_RUNC).with_context(|| format!("making {SEALED_RUNC}"))?;
    let cri = Cri::at(Path::new(SOCKET));
    wait_for("containerd to answer", READY_LIMIT, || {
        if let Some(status) = child.try_wait()? {
            bail!("containerd ended with {status}");
        }
        Ok(cri.version().ok().map(drop))
    })
    .with_context(|| format!("its last words: {}", last_words()))?;
    import_images()?;
    Ok(cri)
}

/// A copy of a program in memory that nobody can change, for children to inherit. As such runc does not copy itself once more for each
/// container (`ensure_cloned_binary`), and an emulator translates its code once: a fifth of what a pod costs.
fn sealed(program: &Path) -> Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut copy = File::from(memfd_create("runc", flags)?);
    let copying = || format!("copying {}", program.display());
    let mut original = File::open(program).with_context(copying)?;
    io::copy(&mut original, &mut copy).with_context(copying)?;
    // Just those that runc looks for.
    let seals = SealFlag::all() - SealFlag::F_SEAL_FUTURE_WRITE;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(seals)).with_context(copying)?;
    // What is open for writing is not executed.
    let held = File::open(format!("/proc/self/fd/{}", copy.as_raw_fd())).with_context(copying)?;
    fcntl(&held, FcntlArg::F_SETFD(FdFlag::empty())).with_context(copying)?;
    Ok(held)
}

/// The end of containerd's log.
pub fn last_words() -> String {
    command::one_line(&fs::read_to_string(LOG).unwrap_or_default())
}

fn import_images() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("ctp-images-").tempdir()?;
    let archive = folder.path().join("images.tar");
    let images = [PAUSE, APPLICATION].map(|name| Image {
        name,
        entrypoint: &[PROGRAM, "pause"],
    });
    let program = Path::new("/usr/local/bin/ctgen");
    image::write(program, &images, &archive)?;
    let archive = archive.to_string_lossy();
    output("ctr", &["-n", "k8s.io", "images", "import", &archive]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_has_a_runtime_class() {
        let config = config(&["bridge", "ptp"], CgroupDriver::Cgroupfs);
        for network in ["bridge", "ptp"] {
            assert!(config.contains(&format!("cni_conf_dir = \"{CNI}/{network}\"")));
        }
        assert!(config.contains("default_runtime_name = \"bridge\""));
    }

    #[test]
    fn systemd_is_asked_by_each_class_or_by_none() {
        for (driver, line) in [
            (CgroupDriver::Cgroupfs, "SystemdCgroup = false"),
            (CgroupDriver::Systemd, "SystemdCgroup = true"),
        ] {
            let config = config(&["bridge", "ptp"], driver);
            assert_eq!(config.matches("SystemdCgroup").count(), 2);
            assert_eq!(config.matches(line).count(), 2, "{driver:?}");
        }
    }
}
