//! What the program is made of, in the format of `CycloneDX`, from cargo's own resolution of the dependencies.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::command;

/// The bill of materials of one package's program for one target.
pub(super) fn of(package: &str, target: &str, features: &[String]) -> Result<String> {
    let mut arguments = vec!["--locked", "--filter-platform", target];
    arguments.extend(features.iter().map(String::as_str));
    let metadata = command::metadata(&arguments)?;
    let mut text = serde_json::to_string_pretty(&bill(&metadata, package)?)?;
    text.push('\n');
    Ok(text)
}

fn bill(metadata: &Value, package: &str) -> Result<Value> {
    let by_id = |list: &Value| -> BTreeMap<String, Value> {
        let list = list.as_array().into_iter().flatten();
        list.map(|one| (text(&one["id"]), one.clone())).collect()
    };
    let packages = by_id(&metadata["packages"]);
    let nodes = by_id(&metadata["resolve"]["nodes"]);
    let root = packages
        .iter()
        .find(|(_, found)| found["name"] == package)
        .map(|(id, _)| id.clone())
        .with_context(|| format!("no package {package}"))?;
    // What is linked in: no build scripts' and no tests' dependencies.
    let linked = |id: &str| -> Vec<String> {
        let deps = nodes.get(id).and_then(|node| node["deps"].as_array());
        deps.into_iter()
            .flatten()
            .filter(|dependency| {
                let kinds = dependency["dep_kinds"].as_array();
                kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
            })
            .map(|dependency| text(&dependency["pkg"]))
            .collect()
    };
    let mut all = BTreeSet::from([root.clone()]);
    let mut pending = vec![root.clone()];
    while let Some(id) = pending.pop() {
        for dependency in linked(&id) {
            if all.insert(dependency.clone()) {
                pending.push(dependency);
            }
        }
    }
    let name = |id: &String| packages.get(id).map_or_else(String::new, reference);
    let components: Vec<Value> = all
        .iter()
        .filter(|id| **id != root)
        .filter_map(|id| packages.get(id))
        .map(component)
        .collect();
    let dependencies: Vec<Value> = all
        .iter()
        .map(|id| {
            let mut on: Vec<String> = linked(id).iter().map(name).collect();
            on.sort();
            json!({ "ref": name(id), "dependsOn": on })
        })
        .collect();
    let mut main = component(packages.get(&root).context("the package")?);
    main["type"] = "application".into();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": main },
        "components": components,
        "dependencies": dependencies,
    }))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn reference(package: &Value) -> String {
    format!(
        "pkg:cargo/{}@{}",
        text(&package["name"]),
        text(&package["version"])
    )
}

fn component(package: &Value) -> Value {
    let reference = reference(package);
    let mut component = json!({
        "type": "library",
        "bom-ref": reference,
        "name": package["name"],
        "version": package["version"],
        "purl": reference,
    });
    if let Some(license) = package["license"].as_str() {
        // Some crates still have the old way to write "or".
        component["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
    }
    component
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_listed_and_what_only_tests_need_is_not() {
        let text = of("conntrack-user", crate::arch::Arch::Amd64.target(), &[]).unwrap();
        let bill: Value = serde_json::from_str(&text).unwrap();
        let names: BTreeSet<&str> = bill["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|component| component["name"].as_str().unwrap())
            .collect();
        for linked in ["aya", "tokio", "prometheus", "conntrack-ebpf", "libc"] {
            assert!(names.contains(linked), "{linked}");
        }
        for other in ["proptest", "tempfile", "cc", "conntrack-user"] {
            assert!(!names.contains(other), "{other}");
        }
        assert_eq!(
            text,
            of("conntrack-user", crate::arch::Arch::Amd64.target(), &[]).unwrap()
        );
    }
}
