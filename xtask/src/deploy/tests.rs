//! Tests of the Prometheus rules: valid, tested both ways by promtool, about metrics that there are, each with a runbook.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::exported::Exported;
use super::{dashboard, folder};
use crate::cache::Cache;
use crate::command;

#[derive(Debug, Deserialize)]
struct File {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
struct Rule {
    alert: Option<String>,
    record: Option<String>,
    expr: String,
    #[serde(default)]
    labels: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

fn files_with(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "nothing in {}", folder.display());
    files
}

fn rule_files() -> Vec<PathBuf> {
    files_with(&folder().join("prometheus"), ".rules.yaml")
}

fn rules() -> Vec<Rule> {
    rule_files()
        .iter()
        .flat_map(|path| {
            let text = fs::read_to_string(path).unwrap();
            let file: File = serde_saphyr::from_str(&text).unwrap();
            file.groups
        })
        .flat_map(|group| group.rules)
        .collect()
}

fn recorded() -> BTreeSet<String> {
    rules().into_iter().filter_map(|rule| rule.record).collect()
}

fn promtool(arguments: &[&str], files: &[PathBuf]) {
    let program = Cache::open()
        .unwrap()
        .program("promtool")
        .expect("promtool is missing: run `cargo xtask setup`");
    command::output(Command::new(program).args(arguments).args(files)).unwrap();
}

#[test]
fn promtool_accepts_the_rules() {
    promtool(&["check", "rules"], &rule_files());
}

#[test]
fn promtool_accepts_the_configuration() {
    promtool(
        &["check", "config"],
        &[folder().join("prometheus/prometheus.yaml")],
    );
}

#[test]
fn each_alert_fires_when_it_should_and_not_when_it_should_not() {
    let tests = files_with(&folder().join("prometheus/tests"), ".test.yaml");
    promtool(&["test", "rules"], &tests);
}

#[test]
fn each_alert_has_a_test_for_both_and_a_runbook() {
    let tests: String = files_with(&folder().join("prometheus/tests"), ".test.yaml")
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let mut pages: BTreeSet<PathBuf> = files_with(&folder().join("runbooks"), ".md")
        .into_iter()
        .filter(|page| !page.ends_with("README.md"))
        .collect();
    let mut alerts = 0;
    for rule in rules() {
        let Some(alert) = &rule.alert else { continue };
        alerts += 1;
        let page = folder().join("runbooks").join(format!("{alert}.md"));
        assert!(pages.remove(&page), "{alert} has no page");
        let said = &rule.annotations["runbook"];
        assert_eq!(*said, format!("deploy/runbooks/{alert}.md"));
        let text = fs::read_to_string(&page).unwrap();
        assert!(text.starts_with(&format!("# {alert}\n")), "{alert}");
        for word in ["summary", "description"] {
            assert!(rule.annotations.contains_key(word), "{alert}: {word}");
        }
        let severity = rule.labels["severity"].as_str();
        assert!(["info", "warning", "critical"].contains(&severity));
        let fires = format!("- alertname: {alert}\n");
        let silent = format!("alertname: {alert}, ");
        assert!(tests.contains(&fires), "no test where {alert} fires");
        assert!(tests.contains(&silent), "no test where {alert} is silent");
    }
    assert!(alerts >= 12, "{alerts}");
    assert!(pages.is_empty(), "pages without an alert: {pages:?}");
}

#[test]
fn rules_ask_for_what_is_exported() {
    let exported = Exported::read().unwrap();
    let recorded = recorded();
    for rule in rules() {
        exported.check(&rule.expr, &recorded).unwrap();
    }
}

/// Each query of the dashboard, as a rule that promtool parses.
#[test]
fn queries_of_the_dashboard_are_valid_and_about_what_is_exported() {
    let exported = Exported::read().unwrap();
    let recorded = recorded();
    let mut file = String::from("groups:\n  - name: dashboard\n    rules:\n");
    for (index, query) in dashboard::queries().unwrap().iter().enumerate() {
        exported.check(query, &recorded).unwrap();
        let query = query
            .replace("$__rate_interval", "5m")
            .replace("$__range", "1h");
        let line = query.replace('\\', "\\\\").replace('"', "\\\"");
        let _ = write!(
            file,
            "      - record: query:{index}\n        expr: \"{line}\"\n"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queries.yaml");
    fs::write(&path, file).unwrap();
    promtool(&["check", "rules", "--lint=none"], &[path]);
}
