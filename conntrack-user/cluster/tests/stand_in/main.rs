//! The program as people run it, against a stand-in for an API server whose pods answer as agents do: some slow, some refusing, some
//! with garbage.

use std::{collections::BTreeMap, fs, time::Duration};

use serde_json::{Value, json};

mod agents;
mod cluster;
mod journals;
mod server;
mod two_hundred;

use agents::{entries, fixture, lines, list, node, pod, report, top};
use cluster::{Cluster, NODES, fails, is, world};
use server::{Reply, World};

#[tokio::test]
async fn findings_are_told_once_with_the_nodes_that_have_them() {
    let finding = |severity: &str, at: usize| {
        json!({
            "id": "limit.lowered", "severity": severity, "title": "the limit will be lowered", "evidence": format!("seen on {at}"),
            "consequence": "less room", "fix": [format!("sysctl -w net.netfilter.nf_conntrack_max={}", at % 2)], "advice": "", "cost": "",
        })
    };
    let of = move |worst: &'static str| {
        world(6, move |at, command| {
            assert!(is(command, &["doctor", "json"]), "{command:?}");
            let mut answer = fixture("doctor.json");
            let found = match at {
                0 => json!([]),
                3 => json!([finding(worst, at)]),
                _ => json!([finding("risk", at)]),
            };
            answer["severity"] = json!(if found == json!([]) {
                Value::Null
            } else {
                json!(worst)
            });
            answer["findings"] = found;
            // Findings are told by the exit status too: that is no failure.
            Reply::Prints {
                out: answer.to_string().into_bytes(),
                error: String::new(),
                status: i32::from(at == 3),
            }
        })
    };
    let cluster = Cluster::start(of("problem")).await;
    let view = cluster.json("doctor", 1).await;
    assert_eq!(
        (&view["severity"], &view["healthy"]),
        (&json!("problem"), &json!(1))
    );
    let findings = view["findings"].as_array().expect("a list");
    assert_eq!(findings.len(), 1, "{findings:?}");
    let nodes: Vec<&Value> = findings[0]["on"]
        .as_array()
        .expect("nodes")
        .iter()
        .map(|it| &it["node"])
        .collect();
    assert_eq!(nodes, ["node-3", "node-1", "node-2", "node-4", "node-5"]);
    assert_eq!(findings[0]["remedies"].as_array().map(Vec::len), Some(2));
    let text = cluster.text("doctor", 1).await;
    assert!(
        text.contains("PROBLEM   the limit will be lowered"),
        "{text}"
    );
    assert!(
        text.contains("  nodes   5 of 6: node-3, node-1, node-2, node-4, node-5"),
        "{text}"
    );
    let cluster = Cluster::start(of("risk")).await;
    cluster.json("doctor", 0).await;
}

#[tokio::test]
async fn limits_that_differ_are_told() {
    let cluster = Cluster::start(world(5, |at, command| {
        assert!(is(command, &["limit", "json"]), "{command:?}");
        let mut answer = fixture("limit.json");
        answer["limit"] = json!(if at == 3 { 1_000 } else { 4_000 });
        answer["buckets"] = json!(1_024);
        answer["fullest"] = json!({"netns": 1, "name": "host", "entries": 100 * at});
        Reply::json(&answer)
    }))
    .await;
    let view = cluster.json("limit", 0).await;
    assert_eq!(
        view["limits"][0],
        json!({"limit": 4_000, "buckets": 1_024, "on": ["node-0", "node-1", "node-2", "node-4"]})
    );
    assert_eq!(view["by_share"][0]["node"], "node-3");
    assert_eq!(view["by_share"][1]["node"], "node-4");
    let text = cluster.text("limit", 0).await;
    assert!(
        text.contains("2 different pairs of limit and buckets"),
        "{text}"
    );
}

#[tokio::test]
async fn what_happens_on_all_nodes_is_one_stream() {
    let events = lines("watch.jsonl");
    let number = events.len();
    assert!(number > 10, "{number} events");
    let cluster = Cluster::start(world(4, move |at, command| {
        assert!(
            is(command, &["watch", "json", "--kind=drop,eviction"]),
            "{command:?}"
        );
        match at {
            3 => Reply::Refused(500),
            2 => Reply::GoesOn(vec!["garbage".to_owned(), "{}".to_owned()]),
            _ => Reply::GoesOn(events.clone()),
        }
    }))
    .await;
    let arguments = "watch --kind drop,eviction --duration 3s -o json";
    let output = cluster.run(arguments).await;
    assert_eq!(output.status.code(), Some(3));
    let mut by_node: BTreeMap<String, usize> = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let event: Value = serde_json::from_str(line).expect("JSON");
        *by_node
            .entry(event["node"].as_str().expect("a node").to_owned())
            .or_default() += 1;
    }
    let expected = [("node-0", number), ("node-1", number), ("node-2", 1)];
    assert_eq!(
        by_node,
        expected
            .map(|(node, lines)| (node.to_owned(), lines))
            .into()
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("node-3 is not heard: the API server does not reach its kubelet"),
        "{said}"
    );
    assert!(said.contains("node-2: 1 lines were no events"), "{said}");
    let text = cluster
        .text(
            &format!("watch --kind drop,eviction --count {number} --node node-0,node-1"),
            0,
        )
        .await;
    assert_eq!(text.lines().count(), number);
}

#[tokio::test]
async fn agents_are_found_where_they_are_or_it_is_said_that_there_are_none() {
    let mut elsewhere = world(2, |at, _| Reply::json(&top(at, 0)));
    elsewhere.pods = (0..2).map(|at| pod(at, "monitoring")).collect();
    let cluster = Cluster::start(elsewhere).await;
    assert_eq!(cluster.json("top", 0).await["answered"], 2);
    assert_eq!(cluster.json("top -n monitoring", 0).await["answered"], 2);
    assert_eq!(cluster.json("top -A --node node-1", 0).await["answered"], 1);
    let output = cluster.run("top -n ctpressure").await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        error.starts_with("kubectl-ctpressure: error: there is no agent: no pod with the label"),
        "{error}"
    );
    let output = cluster.run("top --concurrency 0").await;
    assert_eq!(output.status.code(), Some(2));
    let output = cluster.run("top --kubeconfig /nowhere").await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("the kubeconfig can't be used") && error.contains("/nowhere"),
        "{error}"
    );
}

#[tokio::test]
async fn if_nobody_answers_it_is_an_error_that_says_why() {
    let cluster = Cluster::start(world(3, |_, _| Reply::Refused(403))).await;
    let output = cluster.run("top").await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        error.contains(
            "no node answered (node-0, node-1, node-2: commands in its pod are not granted"
        ),
        "{error}"
    );
    assert!(
        error.contains("help: grant get and create on pods/exec"),
        "{error}"
    );
}

#[tokio::test]
async fn an_endless_answer_ends() {
    let cluster = Cluster::start(world(2, |at, _| match at {
        0 => Reply::Prints {
            out: vec![b' '; (16 << 20) + 100_000],
            error: String::new(),
            status: 0,
        },
        at => Reply::json(&top(at, 0)),
    }))
    .await;
    let view = cluster.json("top --timeout 2m", 3).await;
    assert_eq!(view["silent"][0]["why"], "its answer is longer than 16 MiB");
}
