//! The agents' pods, and the nodes that should have one.

use std::time::Duration;

use ctpressure_model::command_line::Failure;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Client, api::ListParams, core::PartialObjectMeta};
use tokio::time::timeout;

use super::connection::causes;
use crate::{
    fleet::{Fleet, Wanted, fleet},
    options::{AgentArgs, NAMESPACE},
};

/// The lists have to come within this time: a server that accepts and says nothing is an outage too.
const PATIENCE: Duration = Duration::from_secs(15);
/// The agents run on Linux only.
const LINUX: &str = "kubernetes.io/os=linux";

const RIGHTS: &str = "deploy/kubernetes/operator/rbac.yaml has the rights that it takes";

/// Lists the agents.
///
/// # Errors
/// If the API does not answer, or there are none.
pub(crate) async fn list(
    client: &Client,
    args: &AgentArgs,
    nodes: &[String],
) -> Result<Fleet, Failure> {
    let wanted = Wanted {
        nodes: nodes.to_vec(),
        container: args.container.clone(),
    };
    // Both at once: each takes a round trip to wherever the cluster is.
    let (pods, linux) = tokio::join!(pods(client, args), linux_nodes(client));
    let pods = pods?;
    let mut fleet = fleet(&pods, linux.as_deref().ok(), &wanted);
    if let Err(why) = linux {
        fleet.notes.push(format!(
            "Nodes without an agent are not seen, since nodes can't be listed: {why}"
        ));
    }
    Ok(fleet)
}

/// The pods, where the caller says; else where the manifests put them, else anywhere.
async fn pods(client: &Client, args: &AgentArgs) -> Result<Vec<Pod>, Failure> {
    let namespace = match (&args.namespace, args.all_namespaces) {
        (_, true) => None,
        (Some(namespace), false) => Some(namespace.as_str()),
        (None, false) => Some(NAMESPACE),
    };
    let found = pods_in(client, namespace, &args.selector).await;
    let found = found.map_err(|error| refused(&error, namespace))?;
    if !found.is_empty() {
        return Ok(found);
    }
    let mut place = namespace.map_or_else(
        || "any namespace".to_owned(),
        |name| format!("namespace {name}"),
    );
    if args.namespace.is_none() && !args.all_namespaces {
        match pods_in(client, None, &args.selector).await {
            Ok(found) if !found.is_empty() => return Ok(found),
            Ok(_) => "any namespace".clone_into(&mut place),
            Err(error) => {
                place = format!(
                    "{place}, and others can't be looked at ({})",
                    causes(&error)
                );
            }
        }
    }
    Err(Failure {
        what: format!("there is no agent: no pod with the label {} in {place}", args.selector),
        help: "give their namespace with -n and their label with -l; docs/installation.md says how to install them".to_owned(),
    })
}

async fn pods_in(
    client: &Client,
    namespace: Option<&str>,
    selector: &str,
) -> Result<Vec<Pod>, kube::Error> {
    let api: Api<Pod> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    in_time(async {
        Ok(api
            .list(&ListParams::default().labels(selector))
            .await?
            .items)
    })
    .await
}

/// Names of the Linux nodes; `Err`: why not.
async fn linux_nodes(client: &Client) -> Result<Vec<String>, String> {
    let api: Api<PartialObjectMeta<Node>> = Api::all(client.clone());
    let wanted = ListParams::default().labels(LINUX);
    let nodes = in_time(async { Ok(api.list_metadata(&wanted).await?.items) }).await;
    let nodes = nodes.map_err(|error| match &error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
            "listing nodes is not granted".to_owned()
        }
        error => causes(error),
    })?;
    Ok(nodes
        .into_iter()
        .filter_map(|node| node.metadata.name)
        .collect())
}

async fn in_time<T>(work: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    let timed_out = |_| {
        let why = format!("no answer within {} s", PATIENCE.as_secs());
        Err(kube::Error::Service(why.into()))
    };
    timeout(PATIENCE, work).await.unwrap_or_else(timed_out)
}

fn refused(error: &kube::Error, namespace: Option<&str>) -> Failure {
    let place = namespace.map_or_else(
        || "all namespaces".to_owned(),
        |name| format!("namespace {name}"),
    );
    let help = match error {
        kube::Error::Api(status) if status.code == 403 => RIGHTS,
        kube::Error::Api(status) if status.code == 401 => {
            "the credentials of the kubeconfig are not accepted: does `kubectl auth whoami` work?"
        }
        _ => "does `kubectl get nodes` work?",
    };
    Failure {
        what: format!(
            "the agents' pods in {place} can't be listed: {}",
            causes(error)
        ),
        help: help.to_owned(),
    }
}
