//! Every manifest of the repository, and that a mistake in one is found.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;

fn manifests(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            manifests(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "yaml") {
            found.push(path);
        }
    }
}

/// Objects, each with its file.
type Found = Vec<(PathBuf, Value)>;

/// The objects in the files of `deploy/kubernetes`, each with its file; those for old servers apart.
fn objects() -> (Found, Found) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubernetes");
    let mut found = Vec::new();
    manifests(&root, &mut found);
    let mut all = Vec::new();
    for path in found {
        let text = fs::read_to_string(&path).unwrap();
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let of_kustomize = path.ends_with("kustomization.yaml");
        let documents = documents.into_iter().filter(|_| !of_kustomize);
        all.extend(documents.map(|document| (path.clone(), document)));
    }
    let is_old = |path: &Path| path.to_string_lossy().contains("before-kubernetes-");
    all.into_iter().partition(|(path, _)| !is_old(path))
}

#[test]
fn no_manifest_has_a_field_that_the_newest_types_do_not_know() {
    let (of_today, for_old_servers) = objects();
    assert!(of_today.len() >= 15, "{}", of_today.len());
    for (path, object) in &of_today {
        let problems = unknown(object).unwrap_or_else(|error| panic!("{path:?}: {error:#}"));
        assert!(problems.is_empty(), "{path:?}: {problems:?}");
    }
    // Which is why they stand apart.
    for (path, object) in &for_old_servers {
        let problems = unknown(object).unwrap();
        assert!(
            problems.iter().all(|what| what.contains("is deprecated")),
            "{path:?}: {problems:?}"
        );
    }
    assert!(!for_old_servers.is_empty());
}

/// Gives each object of each manifest, in turn, a field that nobody knows, in every place that can have one.
#[test]
fn a_field_that_nobody_knows_is_found_wherever_it_is() {
    let (of_today, _) = objects();
    let mut tried = 0;
    for (path, object) in &of_today {
        for place in places(object, "") {
            let mut wrong = object.clone();
            wrong.pointer_mut(&place).unwrap()["readOnyRootFilesystem"] = true.into();
            // A list of strings or names, which has no fields of its own.
            let found = unknown(&wrong).map_or(true, |problems| !problems.is_empty());
            assert!(found, "{path:?}: {place}");
            tried += 1;
        }
    }
    assert!(tried >= 100, "{tried}");
}

/// All places with fields: not those whose keys anybody may choose.
fn places(value: &Value, at: &str) -> Vec<String> {
    const FREE: &[&str] = &[
        "labels",
        "annotations",
        "matchLabels",
        "nodeSelector",
        "requests",
        "limits",
        "data",
    ];
    let is_free = FREE.iter().any(|free| at.ends_with(&format!("/{free}")));
    match value {
        Value::Object(_) if is_free => Vec::new(),
        Value::Object(fields) => {
            let below = fields.iter().flat_map(|(name, value)| {
                let name = name.replace('~', "~0").replace('/', "~1");
                places(value, &format!("{at}/{name}"))
            });
            std::iter::once(at.to_owned()).chain(below).collect()
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .flat_map(|(index, item)| places(item, &format!("{at}/{index}")))
            .collect(),
        _ => Vec::new(),
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "a", "annotations": {
            "container.apparmor.security.beta.kubernetes.io/b": "unconfined" } },
        "spec": { "containers": [{ "name": "b", "securityContext": { "priviledged": true } }] },
    });
    assert_eq!(
        unknown(&pod).unwrap(),
        [
            "Pod.spec.containers[0].securityContext.priviledged is no field that its type has",
            "Pod.metadata.annotations: container.apparmor.security.beta.kubernetes.io/b is deprecated",
        ]
    );
    let of_another_type =
        json!({ "apiVersion": "v1", "kind": "Pod", "spec": { "hostPID": "yes" } });
    assert!(unknown(&of_another_type).is_err());
    let error = unknown(&json!({ "apiVersion": "v1", "kind": "Pot" })).unwrap_err();
    assert!(error.to_string().contains("v1 Pot"), "{error}");
}
