//! The doctor where people run it: in a container of the node, and on a node that is a container itself.

use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{finding, ids, said_by};
use crate::guest::command;

/// In a pod that has a network namespace of its own, as `kubectl exec` gets into: it sees what `on_node` saw.
pub(super) fn in_a_pod(on_node: &Value) -> Result<()> {
    let (report, _) =
        said_by(Command::new("unshare").args(["-n", "ctpressure", "doctor", "-o", "json"]))?;
    let (here, there) = (&report["node"], &on_node["node"]);
    ensure!(
        ids(&report) == ids(on_node),
        "{:?} in a pod, {:?} on the node",
        ids(&report),
        ids(on_node)
    );
    for name in ["kube_proxy", "limit", "limit_from"] {
        ensure!(
            here[name] == there[name],
            "{name}: {} in a pod, {} on the node",
            here[name],
            there[name]
        );
    }
    let standpoint = here["standpoint"].as_str().unwrap_or("");
    ensure!(
        standpoint.contains("on the node itself"),
        "where the fixes are to be run: {standpoint}"
    );
    ensure!(
        there["standpoint"].is_null(),
        "on the node: {}",
        there["standpoint"]
    );
    let unseen = &report["could_not_look"];
    ensure!(
        unseen == &on_node["could_not_look"],
        "not seen in a pod: {unseen}"
    );
    Ok(())
}

/// A kube-proxy on a node that is a container (LXC: <https://github.com/kubernetes/kubernetes/issues/141943>, kind:
/// <https://github.com/kubernetes-sigs/kind/issues/2240>): the limit is not its own, and no advice says that it could be set there.
pub(super) fn on_a_nested_node() -> Result<()> {
    let inside = |what: &str| {
        let script = format!(
            "printf '#!/bin/sh\\nread line\\n' >/tmp/kube-proxy; chmod +x /tmp/kube-proxy; \
             sleep 60 | /tmp/kube-proxy --conntrack-max-per-core=262144 & sleep 0.5; {what}"
        );
        let mut command = Command::new("unshare");
        command.args(["-n", "-p", "-f", "-m", "--mount-proc", "sh", "-c", &script]);
        command
    };
    let (report, _) = said_by(&mut inside("ctpressure doctor -o json"))?;
    let found = ids(&report);
    ensure!(
        found.contains("kube_proxy_cannot_set_limit") && !found.contains("kube_proxy_lowers_limit"),
        "a kube-proxy that may not set the limit: {found:?}, not seen {}",
        report["could_not_look"]
    );
    let evidence = finding(&report, "kube_proxy_cannot_set_limit")["evidence"].to_string();
    ensure!(
        evidence.contains("not the host's network namespace"),
        "{evidence}"
    );
    let all = report["findings"].as_array().into_iter().flatten();
    for fix in all
        .filter_map(|finding| finding["fix"].as_array())
        .flatten()
    {
        let line = fix.to_string();
        ensure!(
            !line.contains("nf_conntrack_max") && !line.contains("nf_conntrack_buckets"),
            "this is refused there: {line}"
        );
    }
    let mut set = inside("ctpressure limit set 8192 2>&1 || echo refused");
    let said = String::from_utf8_lossy(&set.output()?.stdout).into_owned();
    ensure!(
        said.contains("network namespace") && said.contains("refused"),
        "the limit is set there: {}",
        command::one_line(&said)
    );
    Ok(())
}
