//! What is deployed beside the program: its rights, its manifest for krew, and command lines in the documents.

use std::fs;

use ctpressure_cluster::definition;
use ctpressure_tests::documents::{DOCUMENTS, command_lines, repository};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use serde_json::{Value, json};

fn yaml(path: &str) -> Vec<Value> {
    let path = repository().join(path);
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The object as the newest API has it; no field is lost on the way.
fn whole<T: serde::de::DeserializeOwned + serde::Serialize>(value: &Value) -> T {
    let read: T = serde_json::from_value(value.clone()).expect("an object of the API");
    assert_eq!(
        &serde_json::to_value(&read).expect("JSON"),
        value,
        "every field is known"
    );
    read
}

fn rights(rules: Option<Vec<PolicyRule>>) -> Vec<(Vec<String>, Vec<String>)> {
    let rules = rules.expect("rules").into_iter();
    rules
        .map(|rule| {
            assert_eq!(rule.api_groups, Some(vec![String::new()]));
            (rule.resources.expect("resources"), rule.verbs)
        })
        .collect()
}

#[test]
fn its_rights_are_what_it_asks_for_and_no_more() {
    let objects = yaml("deploy/kubernetes/operator/rbac.yaml");
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(objects.len(), 2);
    let role: Role = whole(&objects[0]);
    assert_eq!(role.metadata.namespace.as_deref(), Some("ctpressure"));
    assert_eq!(
        rights(role.rules),
        [
            (words(&["pods"]), words(&["list"])),
            (words(&["pods/exec"]), words(&["get", "create"]))
        ]
    );
    let role: ClusterRole = whole(&objects[1]);
    assert_eq!(rights(role.rules), [(words(&["nodes"]), words(&["list"]))]);
}

#[test]
fn the_manifest_for_krew_is_of_this_version_and_has_each_system() {
    let manifest = &yaml("deploy/krew/ctpressure.yaml")[0];
    assert_eq!(manifest["kind"], "Plugin");
    assert_eq!(manifest["metadata"]["name"], "ctpressure");
    assert_eq!(
        manifest["spec"]["version"],
        json!(concat!("v", env!("CARGO_PKG_VERSION")))
    );
    let short = manifest["spec"]["shortDescription"].as_str().expect("text");
    assert!(
        short.len() <= 50 && !short.ends_with('.'),
        "as krew wants it: {short}"
    );
    let platforms = manifest["spec"]["platforms"].as_array().expect("a list");
    let systems: Vec<&Value> = platforms
        .iter()
        .map(|it| &it["selector"]["matchLabels"]["os"])
        .collect();
    assert_eq!(systems, ["linux", "darwin", "windows"]);
    for platform in platforms {
        let ending = if platform["selector"]["matchLabels"]["os"] == "windows" {
            ".exe"
        } else {
            ""
        };
        assert_eq!(
            platform["bin"],
            json!(format!("kubectl-ctpressure{ending}"))
        );
        assert!(platform["uri"].is_string() && platform["sha256"].is_string());
    }
}

#[test]
fn command_lines_in_documents_are_ones_that_it_takes() {
    let mut seen = 0;
    for (path, text) in DOCUMENTS {
        for line in command_lines(text, "kubectl ctpressure") {
            let words = line
                .split_whitespace()
                .map(|word| word.replace("NODE", "node-1"));
            let words = ["kubectl-ctpressure".to_owned()].into_iter().chain(words);
            let parsed = definition().try_get_matches_from(words);
            assert!(
                parsed.is_ok(),
                "{path}: kubectl ctpressure {line}: {parsed:?}"
            );
            seen += 1;
        }
    }
    assert!(seen >= 7, "{seen}");
}
