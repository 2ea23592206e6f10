//! Pods, and other containers, without a runtime: a network namespace, a control group named as a kubelet and containerd
//! (or another runtime) name it, a log folder of pods, and one process. A runtime under emulation makes one in some
//! seconds; of these several are made in one.

use std::{
    fs::{self, File},
    io::Read as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    guest::{
        command::{self, wait_for},
        net::{batch, ip},
    },
    traffic::tally::Tally,
};

/// Where its process writes its counts, and its errors.
const FOLDER: &str = "/tmp/ctp-lookalikes";
/// The gateway that every one has, answered for by its host side (as Calico does).
const GATEWAY: &str = "169.254.1.1";

/// A running one.
#[derive(Debug)]
pub struct Lookalike {
    /// Its namespace.
    pub namespace: &'static str,
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    number: u32,
    /// The folder of its control group.
    container: PathBuf,
    child: Child,
}

impl Lookalike {
    /// Makes number `number` with an address and has it run `ctgen` with these arguments (split at
    /// spaces) after `delay` seconds. It lives on until it is removed.
    pub fn make(number: u32, address: Ipv4Addr, delay: f64, arguments: &str) -> Result<Self> {
        let name = format!("job-{number}");
        fs::create_dir_all(log_folder(number)).context("making its log folder")?;
        let container = container_folder(number);
        Self::try_make(number, name.clone(), container, address, delay, arguments)
            .with_context(|| format!("making {name} with {address}"))
    }

    /// Makes number `number`, which is no pod, with an address and a process that does nothing, in this control group.
    pub fn in_group(number: u32, group: &str, address: Ipv4Addr) -> Result<Self> {
        let name = group.to_owned();
        let container = PathBuf::from(format!("/sys/fs/cgroup{group}"));
        Self::try_make(number, name, container, address, 0.0, "send --flows 0")
            .with_context(|| format!("making {group} with {address}"))
    }

    fn try_make(
        number: u32,
        name: String,
        container: PathBuf,
        address: Ipv4Addr,
        delay: f64,
        arguments: &str,
    ) -> Result<Self> {
        let netns = netns(number);
        ip(None, &format!("netns add {netns}"))?;
        batch(
            None,
            &format!(
                "link add ctpv{number} type veth peer name eth0 netns {netns}\n\
                 link set ctpv{number} up\n\
                 addr add {GATEWAY}/32 dev ctpv{number}\n\
                 route replace {address}/32 dev ctpv{number}\n"
            ),
        )?;
        batch(
            Some(&netns),
            &format!(
                "link set lo up\n\
                 addr add {address}/32 dev eth0\n\
                 link set eth0 up\n\
                 route add {GATEWAY}/32 dev eth0\n\
                 route add default via {GATEWAY} dev eth0\n"
            ),
        )?;
        for folder in [&container, &PathBuf::from(FOLDER)] {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        // Into the control group before the namespace, as a runtime does it; `ip netns exec` hides
        // the control groups.
        let inside = format!("sleep {delay} && ctgen {arguments} && exec sleep 100000");
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec ip netns exec {netns} sh -c '{inside}'",
            container.display()
        );
        let file = File::create(counts(number)).context("making a file for its counts")?;
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        Ok(Self {
            namespace: "batch",
            name,
            address,
            number,
            container,
            child: command::spawn(&mut command)?,
        })
    }

    /// The name of its network namespace.
    pub fn network(&self) -> String {
        netns(self.number)
    }

    /// What its generator counted; none while it is not done.
    pub fn counts(&self) -> Result<Option<Tally>> {
        let mut text = String::new();
        File::open(counts(self.number))?.read_to_string(&mut text)?;
        if !text.ends_with('\n') {
            return Ok(None);
        }
        let tally = serde_json::from_str(&text)
            .with_context(|| format!("{} printed `{text}`", self.name))?;
        Ok(Some(tally))
    }

    /// Runs `ctgen` with these arguments (split at spaces) in its network and control group, besides what it
    /// runs already; its output is piped.
    pub fn run(&self, arguments: &str) -> Result<Child> {
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec ip netns exec {} ctgen {arguments}",
            self.container.display(),
            netns(self.number)
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command::spawn(&mut command).with_context(|| format!("running ctgen in {}", self.name))
    }

    /// Ends its process and removes all that was made for it, entries of conntrack excepted.
    pub fn remove(mut self) -> Result<()> {
        let gone = || format!("removing {}", self.name);
        end_all(&self.container).with_context(gone)?;
        self.child.wait().with_context(gone)?;
        ip(None, &format!("netns delete {}", netns(self.number)))?;
        let parent = self.container.parent().context("a container is in a pod")?;
        // The kernel may still be at the end of a killed process.
        wait_for("its processes to end", Duration::from_secs(20), || {
            Ok(fs::remove_dir(&self.container).ok())
        })
        .with_context(gone)?;
        if self.container == container_folder(self.number) {
            fs::remove_dir(parent).with_context(gone)?;
            fs::remove_dir_all(log_folder(self.number)).with_context(gone)?;
        }
        fs::remove_file(counts(self.number)).with_context(gone)
    }
}

/// Ends all processes of a control group.
fn end_all(folder: &Path) -> Result<()> {
    let all = folder.join("cgroup.kill");
    if all.exists() {
        return Ok(fs::write(all, "1")?);
    }
    // A kernel before 5.14.
    let list = folder.join("cgroup.procs");
    wait_for("its processes to end", Duration::from_secs(20), || {
        let processes = fs::read_to_string(&list)?;
        for process in processes.lines() {
            // It may have ended.
            let _: nix::Result<()> = kill(Pid::from_raw(process.parse()?), Signal::SIGKILL);
        }
        Ok(processes.is_empty().then_some(()))
    })
}

/// A name that is cleaned up after a scenario that was killed.
fn netns(number: u32) -> String {
    format!("ctp-job-{number}")
}

fn uid(number: u32) -> String {
    format!("7a3c{number:04x}-52f0-4d19-8b64-0b5e{number:08x}")
}

fn container_folder(number: u32) -> PathBuf {
    let pod = format!("/sys/fs/cgroup/kubepods/besteffort/pod{}", uid(number));
    PathBuf::from(pod).join(format!("{number:064x}"))
}

fn log_folder(number: u32) -> PathBuf {
    PathBuf::from(format!("/var/log/pods/batch_job-{number}_{}", uid(number)))
}

fn counts(number: u32) -> PathBuf {
    PathBuf::from(FOLDER).join(number.to_string())
}
