//! kube-proxy as it is met: inside other programs, and told in every style that YAML has.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::{doctor, finding, ids};
use crate::guest::{agent::Mechanism, command, kernel};

/// Its finding.
const LOWERS: &str = "kube_proxy_lowers_limit";
/// Where each configuration is.
const CONFIG: &str = "/tmp/kube-proxy.conf";
const KIND: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

/// A process with this name and these arguments.
struct Process(Child);

impl Process {
    fn start(folder: &Path, name: &str, arguments: &str) -> Result<Self> {
        let path = folder.join(name);
        fs::write(&path, "#!/bin/sh\nread line\n")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        let mut line = Command::new(&path);
        line.args(arguments.split(' ')).stdin(Stdio::piped());
        Ok(Self(command::spawn(&mut line)?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Either it is already gone, or it is to be.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A raised limit, and who lowers it again.
pub(in crate::scenarios) fn kube_proxies(_: Option<Mechanism>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    kernel::set_limit(524_288)?;
    // <https://github.com/canonical/microk8s/issues/1438>, <https://github.com/k3s-io/k3s/pull/3337>.
    for (name, arguments) in [
        ("kube-proxy", "--conntrack-max-per-core=32768"),
        (
            "kubelite",
            "--kubelet-args-file=/var/snap/microk8s/1/args/kubelet --proxy-args-file=/var/snap/microk8s/1/args/kube-proxy",
        ),
        ("k3s-server", "server --kube-proxy-arg=conntrack-min=131072"),
        ("k3s-agent", "agent"),
        ("hyperkube", "proxy --conntrack-max-per-core=32768"),
    ] {
        let process = Process::start(folder.path(), name, arguments)?;
        let (report, _) = doctor()?;
        drop(process);
        ensure!(
            ids(&report).contains(LOWERS),
            "{name}: {:?}, not seen {}",
            ids(&report),
            report["could_not_look"]
        );
        let inside = report["node"]["kube_proxy"].as_str().unwrap_or("");
        let program = name.split('-').next().unwrap_or(name);
        ensure!(inside.contains(program), "{name}: {inside}");
    }
    // <https://github.com/rootless-containers/usernetes/pull/213> and <https://github.com/kubernetes/kubernetes/issues/75575>.
    let none = [
        format!("{KIND}conntrack:\n  maxPerCore: 0\n  min: null\nmode: iptables\n"),
        format!("{KIND}conntrack: {{maxPerCore: 0}}\n"),
        "{\"kind\":\"KubeProxyConfiguration\",\"conntrack\":{\"maxPerCore\":0,\"min\":0}}"
            .to_owned(),
        format!("{KIND}\"conntrack\":\n    \"maxPerCore\": 0\n"),
        format!("{KIND}conntrack:\n  max: null\n  maxPerCore: 65535\n  min: 655350\n"),
    ];
    for text in &none {
        let report = configured(folder.path(), text)?;
        ensure!(
            !ids(&report).contains(LOWERS),
            "{text}: {}",
            finding(&report, LOWERS)["evidence"]
        );
    }
    let report = configured(
        folder.path(),
        &format!("{KIND}conntrack:\n  maxPerCore: null\n  min: null\n"),
    )?;
    ensure!(
        ids(&report).contains(LOWERS),
        "the defaults: {:?}",
        ids(&report)
    );
    // What can't be read is said, and nothing is made of it.
    let report = configured(folder.path(), "conntrack: [\n")?;
    ensure!(
        !ids(&report).contains(LOWERS),
        "no configuration: {:?}",
        ids(&report)
    );
    let unseen = report["could_not_look"].to_string();
    ensure!(unseen.contains("kube-proxy's configuration"), "{unseen}");
    Ok(())
}

/// What the doctor says of a kube-proxy with this file.
fn configured(folder: &Path, text: &str) -> Result<serde_json::Value> {
    fs::write(CONFIG, text).context("the configuration")?;
    let _process = Process::start(
        folder,
        "kube-proxy",
        &format!("--config={CONFIG} --hostname-override=n1"),
    )?;
    Ok(doctor()?.0)
}
