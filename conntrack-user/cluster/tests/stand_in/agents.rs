//! Agents as they answer: what a real one printed (`tests/fixtures`, made on Linux 6.12 while a pod filled the table), changed in what
//! differs from node to node.

use std::{fs, path::Path};

use serde_json::{Value, json};

/// What a real agent printed.
pub(crate) fn fixture(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Its lines.
pub(crate) fn lines(name: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(str::to_owned).collect()
}

pub(crate) fn node(at: usize) -> String {
    format!("node-{at}")
}

/// The pod of the agent of that node; of every second one with a longer name.
pub(crate) fn pod_name(at: usize) -> String {
    let more = if at.is_multiple_of(2) { "" } else { "x" };
    format!("ctpressure-{at:04}{more}")
}

/// Which node's agent a pod is.
pub(crate) fn number(pod: &str) -> usize {
    let digits: String = pod.chars().filter(char::is_ascii_digit).collect();
    digits.parse().expect("a number in its name")
}

/// A pod as the API lists it.
pub(crate) fn pod(at: usize, namespace: &str) -> Value {
    json!({
        "metadata": {
            "name": pod_name(at), "namespace": namespace, "creationTimestamp": "2026-03-01T03:12:00Z",
            "labels": {"app.kubernetes.io/name": "ctpressure"},
        },
        "spec": {"nodeName": node(at), "containers": [{"name": "ctpressure"}]},
        "status": {"phase": "Running", "containerStatuses": [{
            "name": "ctpressure", "image": "ctpressure", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}},
        }]},
    })
}

/// Entries of the pod that fills tables, on that node.
pub(crate) fn entries(at: usize) -> u64 {
    1_000 + at as u64
}

/// `top --once`, with one workload on all nodes and `more` other owners.
pub(crate) fn top(at: usize, more: usize) -> Value {
    let mut top = fixture("top.json");
    let mut owner = top["owners"].as_array().expect("owners")[0].clone();
    assert_eq!(owner["kind"], "pod", "{owner}");
    owner["name"] = json!(format!("shop/aggregator-{at}"));
    owner["namespace"] = json!("shop");
    owner["pod"] = json!(format!("aggregator-{at}"));
    owner["workload"] = json!({"kind": "Deployment", "name": "aggregator"});
    owner["live"] = json!(entries(at));
    let mut owners = vec![owner.clone()];
    for number in 0..more {
        owner["name"] = json!(format!("shop/web-{at}-{number}"));
        owner["pod"] = json!(format!("web-{at}-{number}"));
        owner["workload"] = json!({"kind": "StatefulSet", "name": format!("web-{}", number % 10)});
        owner["live"] = json!(10);
        owners.push(owner.clone());
    }
    top["owners"] = json!(owners);
    let table = &mut top["tables"][0];
    table["name"] = json!("host");
    table["entries"] = json!(entries(at));
    table["pressure"] = json!("rising");
    table["seconds_to_full"] = json!(at + 10);
    top["tables"] = json!([table.clone()]);
    top["other_tables"] = json!({"number": 0, "entries": 0, "empty": 0});
    top
}

/// `report -o json`: one incident, at this second.
pub(crate) fn list(began: &str, ended: &str) -> Value {
    let mut list = fixture("list.json");
    let mut incident = list["incidents"][0].clone();
    assert!(incident.is_object(), "{list}");
    incident["number"] = json!(1);
    for (field, time) in [
        ("began", began),
        ("from", began),
        ("ended", ended),
        ("until", ended),
        ("first_drop", began),
    ] {
        incident[field] = json!(time);
    }
    list["incidents"] = json!([incident]);
    list["since"] = json!("2026-02-28T03:00:00Z");
    list["until"] = json!("2026-03-01T04:00:00Z");
    list
}

/// The report of that incident, of a workload that filled the table.
pub(crate) fn report(began: &str, ended: &str, workload: &str) -> Value {
    let mut report = fixture("span.json");
    report["time"] = json!([began, ended]);
    report["filled_by"][0]["workload"] =
        json!({"namespace": "shop", "kind": "Deployment", "name": workload});
    report
}
