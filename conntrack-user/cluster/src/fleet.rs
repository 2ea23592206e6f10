//! Which agents there are to ask, by what the API lists: pods by their label, and nodes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::coverage::{Silent, Why, by_name};

/// The container of the agent, as the manifests call it.
const CONTAINER: &str = "ctpressure";

/// An agent that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agent {
    pub(crate) node: String,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) container: String,
}

impl Agent {
    /// It did not answer.
    pub(crate) fn silent(&self, why: Why) -> Silent {
        Silent {
            node: self.node.clone(),
            pod: Some(self.pod.clone()),
            why: why.why,
            help: why.help,
        }
    }
}

/// All agents, by node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fleet {
    pub(crate) agents: Vec<Agent>,
    /// Nodes that nobody can be asked on.
    pub(crate) silent: Vec<Silent>,
    pub(crate) notes: Vec<String>,
}

/// What the caller wants of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// Only these nodes; empty: all.
    pub(crate) nodes: Vec<String>,
    /// The agent's container, where it is not called as in the manifests.
    pub(crate) container: Option<String>,
}

/// Pods of agents and nodes put together. `nodes`: the Linux nodes; `None`: nobody may list them.
pub(crate) fn fleet(pods: &[Pod], nodes: Option<&[String]>, wanted: &Wanted) -> Fleet {
    let mut fleet = Fleet::default();
    let mut of_node: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    let mut homeless = 0;
    for pod in pods {
        match node(pod) {
            Some(node) => of_node.entry(node).or_default().push(pod),
            None => homeless += 1,
        }
    }
    let is_wanted =
        |node: &str| wanted.nodes.is_empty() || wanted.nodes.iter().any(|it| it == node);
    for (node, mut pods) in of_node {
        if !is_wanted(node) {
            continue;
        }
        // The one that answers soonest: not on its way out, ready, the newest.
        pods.sort_by_key(|pod| (is_ending(pod), !is_ready(pod), std::cmp::Reverse(made(pod))));
        let Some(pod) = pods.first() else { continue };
        match agent(node, pod, wanted.container.as_deref()) {
            Ok(agent) => fleet.agents.push(agent),
            Err(why) => fleet.silent.push(Silent {
                node: node.to_owned(),
                pod: pod.metadata.name.clone(),
                why: why.why,
                help: why.help,
            }),
        }
    }
    for node in nodes.unwrap_or_default() {
        if is_wanted(node) && !pods.iter().any(|pod| self::node(pod) == Some(node)) {
            fleet.silent.push(Silent {
                node: node.clone(),
                pod: None,
                why: "no agent runs there".to_owned(),
                help: "`kubectl -n ctpressure describe daemonset ctpressure` may say why"
                    .to_owned(),
            });
        }
    }
    for node in &wanted.nodes {
        let known = fleet.agents.iter().any(|agent| agent.node == *node)
            || fleet.silent.iter().any(|silent| silent.node == *node);
        if !known {
            fleet.silent.push(Silent {
                node: node.clone(),
                pod: None,
                why: "no agent is on a node of this name".to_owned(),
                help: "`kubectl get nodes` has the names".to_owned(),
            });
        }
    }
    if homeless > 0 {
        fleet.notes.push(format!(
            "The agents' pods that are on no node yet: {homeless}. `kubectl describe pod` says what they wait for."
        ));
    }
    fleet.agents.sort_by(|a, b| by_name(&a.node, &b.node));
    fleet
}

fn node(pod: &Pod) -> Option<&str> {
    let node = pod.spec.as_ref()?.node_name.as_deref()?;
    Some(node).filter(|node| !node.is_empty())
}

fn is_ending(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn is_ready(pod: &Pod) -> bool {
    statuses(pod).iter().any(|status| status.ready)
}

fn made(pod: &Pod) -> String {
    let at = pod.metadata.creation_timestamp.as_ref();
    at.map_or_else(String::new, |at| at.0.to_string())
}

fn statuses(pod: &Pod) -> &[ContainerStatus] {
    let status = pod.status.as_ref();
    status
        .and_then(|status| status.container_statuses.as_deref())
        .unwrap_or_default()
}

/// The agent of a pod, if it can be asked.
fn agent(node: &str, pod: &Pod, container: Option<&str>) -> Result<Agent, Why> {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice());
    let containers = containers.unwrap_or_default();
    let called = |name: &str| containers.iter().find(|it| it.name == name);
    let found = match container {
        Some(name) => called(name).ok_or_else(|| {
            let why = format!("its pod has no container {name}");
            Why::new(&why, "-c says which one has the agent")
        })?,
        None => called(CONTAINER)
            .or_else(|| containers.first())
            .ok_or_else(|| Why::new("its pod has no container", ""))?,
    };
    let status = statuses(pod).iter().find(|it| it.name == found.name);
    let state = status.and_then(|status| status.state.as_ref());
    let runs = state.is_some_and(|state| state.running.is_some());
    if !runs {
        return Err(not_running(pod, status));
    }
    Ok(Agent {
        node: node.to_owned(),
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        pod: pod.metadata.name.clone().unwrap_or_default(),
        container: found.name.clone(),
    })
}

/// What its container does instead.
fn not_running(pod: &Pod, status: Option<&ContainerStatus>) -> Why {
    let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
    let phase = phase.unwrap_or_else(|| "of no known phase".to_owned());
    let state = status.and_then(|status| status.state.as_ref());
    let waits = state.and_then(|state| state.waiting.as_ref()?.reason.clone());
    let ended = state.and_then(|state| state.terminated.as_ref()?.reason.clone());
    let reason = waits.or(ended);
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    let name = pod.metadata.name.as_deref().unwrap_or("of that node");
    let help = format!("`kubectl describe pod {name}` and `kubectl logs {name}` may say why");
    Why::new(
        &format!("its agent does not run (pod is {phase}{reason})"),
        &help,
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, node: &str, state: &Value, more: &Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "ctpressure", "creationTimestamp": "2026-03-01T03:12:00Z"},
            "spec": {"nodeName": node, "containers": [{"name": "ctpressure"}]},
            "status": {"phase": "Running", "containerStatuses": [{
                "name": "ctpressure", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state,
            }]},
        });
        for (key, value) in more.as_object().expect("an object") {
            pod["metadata"][key] = value.clone();
        }
        serde_json::from_value(pod).expect("a pod")
    }

    fn running(name: &str, node: &str) -> Pod {
        pod(name, node, &json!({"running": {}}), &json!({}))
    }

    fn nodes(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn each_node_has_an_agent_or_a_reason() {
        let waits = json!({"waiting": {"reason": "ImagePullBackOff"}});
        let pods = [
            running("b", "node-10"),
            running("a", "node-9"),
            pod("c", "node-3", &waits, &json!({})),
        ];
        let all = nodes(&["node-3", "node-9", "node-10", "node-11"]);
        let fleet = fleet(&pods, Some(&all), &Wanted::default());
        let agents: Vec<_> = fleet
            .agents
            .iter()
            .map(|it| (&*it.node, &*it.pod))
            .collect();
        assert_eq!(agents, [("node-9", "a"), ("node-10", "b")]);
        let silent: Vec<_> = fleet
            .silent
            .iter()
            .map(|it| (&*it.node, &*it.why))
            .collect();
        assert_eq!(
            silent,
            [
                (
                    "node-3",
                    "its agent does not run (pod is Running: ImagePullBackOff)"
                ),
                ("node-11", "no agent runs there"),
            ]
        );
    }

    #[test]
    fn of_two_pods_the_one_that_stays_is_asked() {
        let ends = json!({"deletionTimestamp": "2026-03-01T04:00:00Z", "creationTimestamp": "2026-03-01T05:00:00Z"});
        let newer = json!({"creationTimestamp": "2026-03-01T04:00:00Z"});
        let pods = [
            pod("ends", "n", &json!({"running": {}}), &ends),
            running("old", "n"),
            pod("new", "n", &json!({"running": {}}), &newer),
        ];
        let fleet = fleet(&pods, None, &Wanted::default());
        assert_eq!(fleet.agents.len(), 1);
        assert_eq!(fleet.agents[0].pod, "new");
    }

    #[test]
    fn a_node_that_was_asked_for_and_is_not_there_is_told() {
        let wanted = Wanted {
            nodes: nodes(&["a", "z"]),
            container: None,
        };
        let fleet = fleet(&[running("p", "a"), running("q", "b")], None, &wanted);
        assert_eq!(fleet.agents.len(), 1);
        assert_eq!(fleet.silent[0].node, "z");
    }

    #[test]
    fn another_container_is_asked_only_if_it_is_there() {
        let wanted = Wanted {
            nodes: Vec::new(),
            container: Some("other".to_owned()),
        };
        let fleet = fleet(&[running("p", "a")], None, &wanted);
        assert_eq!(fleet.silent[0].why, "its pod has no container other");
    }
}
