//! 200 nodes, some of which are slow, refuse or talk garbage; names that strangers chose.

use super::*;

/// Nodes that don't answer, and what is said of each.
const SILENT: [(usize, &str); 10] = [
    (180, "no answer within 2 s"),
    (181, "commands in its pod are not granted (HTTP 403)"),
    (182, "the API server does not reach its kubelet (HTTP 500)"),
    (183, "its answer is no JSON"),
    (184, "no agent listens on /run/ctpressure/agent.sock"),
    (185, "the connection ended before the answer was complete"),
    (186, "there is no ctpressure in its container"),
    (187, "missing field `limit`"),
    (
        188,
        "its agent does not run (pod is Pending: ImagePullBackOff)",
    ),
    (189, "no agent runs there"),
];

fn answer(at: usize, command: &[String]) -> Reply {
    assert!(is(command, &["top", "--once", "json"]), "{command:?}");
    match at {
        0..30 => Reply::Late(
            Duration::from_millis(300),
            Box::new(Reply::json(&top(at, 3))),
        ),
        180 => Reply::Hangs,
        181 => Reply::Refused(403),
        182 => Reply::Refused(500),
        183 => Reply::Prints {
            out: b"\x1b[2J\x00garbage".to_vec(),
            error: String::new(),
            status: 0,
        },
        184 => fails(
            "no agent listens on /run/ctpressure/agent.sock",
            "start `ctpressure run`",
        ),
        185 => Reply::Cut(top(at, 3).to_string().into_bytes()),
        186 => Reply::NoProgram,
        187 => Reply::json(&json!({"state": "attached"})),
        190 => {
            let mut newer = top(at, 3);
            newer["later"] = json!([{"x": 1}]);
            newer["owners"][0]["later"] = json!("y");
            newer["tables"][0]["pressure"] = json!("of a later version");
            Reply::json(&newer)
        }
        _ => Reply::json(&top(at, 3)),
    }
}

/// 200 nodes, of which ten have something wrong.
fn two_hundred() -> World {
    let mut world = world(NODES, answer);
    world.pods[188]["status"] = json!({"phase": "Pending", "containerStatuses": [{
        "name": "ctpressure", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ImagePullBackOff"}},
    }]});
    world.pods.remove(189);
    world
}

fn answering() -> impl Iterator<Item = usize> {
    (0..NODES).filter(|at| SILENT.iter().all(|(silent, _)| silent != at))
}

#[tokio::test]
async fn two_hundred_agents_make_one_view_and_failures_are_named() {
    let cluster = Cluster::start(two_hundred()).await;
    let view = cluster.json("top --timeout 2s --concurrency 50", 3).await;
    assert_eq!(
        (&view["nodes"], &view["answered"]),
        (&json!(200), &json!(190))
    );
    let silent = view["silent"].as_array().expect("a list");
    assert_eq!(silent.len(), SILENT.len(), "{silent:?}");
    for (at, why) in SILENT {
        let said = silent
            .iter()
            .find(|it| it["node"] == node(at).as_str())
            .expect("it is named");
        let text = said["why"].as_str().expect("text");
        assert!(text.contains(why), "{said}");
        assert!(
            !text.contains('\u{1b}') && said["help"].is_string(),
            "{said}"
        );
    }
    let expected: u64 = answering().map(entries).sum();
    let workload = &view["workloads"][0];
    assert_eq!(workload["kind"], "Deployment");
    assert_eq!(workload["name"], "shop/aggregator");
    assert_eq!(
        (&workload["entries"], &workload["nodes"]),
        (&json!(expected), &json!(190))
    );
    assert_eq!(workload["most"], json!(["node-199", entries(199)]));
    assert_eq!(view["totals"]["entries"], json!(expected));
    assert_eq!(view["owners"][0]["node"], "node-199");
    assert_eq!(view["owners"].as_array().map(Vec::len), Some(190 * 4));
    let order: Vec<&Value> = view["nodes_by_time"]
        .as_array()
        .expect("nodes")
        .iter()
        .map(|it| &it["node"])
        .collect();
    let by_time: Vec<String> = answering().map(node).collect();
    assert_eq!(order, by_time.iter().collect::<Vec<_>>());
    // One that was given up may not be gone there yet.
    assert!(cluster.counts.most_at_a_time() <= 51);
    assert!(cluster.counts.most_at_a_time() >= 10, "at once");
}

#[tokio::test]
async fn the_text_fits_a_terminal_whoever_chose_the_names() {
    let mut world = world(3, |at, _| {
        let mut top = top(at, 3);
        top["owners"][1]["name"] = json!(format!("shop/\u{1b}[2J\u{202e}{}", "long".repeat(60)));
        top["owners"][1]["workload"] = Value::Null;
        Reply::json(&top)
    });
    world.pods[1]["spec"]["nodeName"] = json!("node-1\u{1b}[31m");
    world.nodes = None;
    let cluster = Cluster::start(world).await;
    let text = cluster.text("top", 0).await;
    assert!(text.starts_with("3 nodes: 3,003 entries"), "{text}");
    assert!(text.contains("Deployment shop/aggregator"), "{text}");
    assert!(text.contains("listing nodes is not granted"), "{text}");
}
