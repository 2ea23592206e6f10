//! What can be told from the files alone; the rest is for `cargo xtask manifests`.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

fn documents(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn daemon_set() -> Value {
    let path = folder().join("kubernetes/base/daemonset.yaml");
    documents(&path).remove(0)
}

#[test]
fn every_file_that_a_kustomization_names_is_there() {
    let mut found = Vec::new();
    files(&folder().join("kubernetes"), "yaml", &mut found);
    let mut kustomizations = 0;
    for path in found {
        let documents = documents(&path);
        if !path.ends_with("kustomization.yaml") {
            for document in documents {
                assert!(document["kind"].is_string(), "{}", path.display());
            }
            continue;
        }
        // A component is only a part of others.
        kustomizations += usize::from(documents[0]["kind"] == "Kustomization");
        let here = path.parent().unwrap();
        let list = |name: &str| documents[0][name].as_array().cloned().unwrap_or_default();
        let patches = list("patches")
            .into_iter()
            .map(|patch| patch["path"].clone());
        let parts = list("resources").into_iter().chain(list("components"));
        for name in parts.chain(patches) {
            let name = name.as_str().unwrap();
            assert!(here.join(name).exists(), "{}: {name}", path.display());
        }
    }
    // Monitoring, and the one for old servers, which every variant can be combined with.
    assert_eq!(kustomizations, VARIANTS.len() + 2);
}

#[test]
fn the_agent_has_no_more_rights_than_are_written_down() {
    let pod = daemon_set()["spec"]["template"]["spec"].clone();
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["hostNetwork"], false);
    assert_eq!(
        pod["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    let security = &pod["containers"][0]["securityContext"];
    assert_eq!(security["privileged"], false);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
    // The systemd unit has the same.
    let unit = fs::read_to_string(folder().join("ctpressure.service")).unwrap();
    let mut of_unit: Vec<&str> = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="))
        .unwrap()
        .split_whitespace()
        .map(|name| name.strip_prefix("CAP_").unwrap())
        .collect();
    let added = security["capabilities"]["add"].as_array().unwrap();
    let mut added: Vec<&str> = added.iter().map(|name| name.as_str().unwrap()).collect();
    of_unit.sort_unstable();
    added.sort_unstable();
    assert_eq!(added, of_unit);
}

#[test]
fn apparmor_is_told_by_the_field_and_not_by_the_annotation() {
    let template = &daemon_set()["spec"]["template"];
    assert_eq!(
        template["spec"]["securityContext"]["appArmorProfile"]["type"],
        "Unconfined"
    );
    assert!(template["metadata"]["annotations"].is_null());
}

#[test]
fn what_is_mounted_from_the_host_can_only_be_read() {
    let pod = daemon_set()["spec"]["template"]["spec"].clone();
    let volumes = pod["volumes"].as_array().unwrap();
    for mount in pod["containers"][0]["volumeMounts"].as_array().unwrap() {
        let volume = volumes
            .iter()
            .find(|volume| volume["name"] == mount["name"])
            .unwrap_or_else(|| panic!("{mount} has no volume"));
        let from_host = volume["hostPath"]["path"].as_str();
        // The journal is the one thing that the agent keeps on its node.
        let own = from_host.is_none_or(|path| path == "/var/lib/ctpressure");
        assert!(own || mount["readOnly"] == true, "{mount}");
    }
}

#[test]
fn a_difference_is_found() {
    let of = |command: &str| {
        vec![
            json!({ "kind": "DaemonSet", "spec": { "template": { "spec": {
            "containers": [{ "args": [command], "name": "a" }], "x": null,
        } } } }),
        ]
    };
    same_pods(&of("run"), &of("run")).unwrap();
    let error = same_pods(&of("run"), &of("walk")).unwrap_err().to_string();
    assert!(error.contains("run") && error.contains("walk"), "{error}");
}

/// The files below a folder with this ending.
fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.extension().is_some_and(|found| found == ending) {
            found.push(path);
        }
    }
}
