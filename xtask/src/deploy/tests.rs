//! Tests of the Prometheus rules: valid, tested both ways by promtool, about metrics that there are, each with a runbook.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::exported::Exported;
use super::{dashboard, folder, runbooks};
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
    let base = runbooks::Base::read().unwrap();
    let mut alerts = 0;
    let mut seen = BTreeSet::new();
    for rule in rules() {
        let Some(alert) = &rule.alert else { continue };
        alerts += 1;
        let page = folder().join("runbooks").join(format!("{alert}.md"));
        // One alert of several severities has one page.
        assert!(
            pages.remove(&page) || seen.contains(alert),
            "{alert} has no page"
        );
        seen.insert(alert.clone());
        assert_eq!(rule.annotations["runbook_url"], base.link(alert));
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

/// Several clusters may have nodes of one name, and pods of one name.
#[test]
fn no_rule_and_no_panel_takes_two_clusters_for_one() {
    let queries: Vec<String> = dashboard::queries().unwrap();
    let rules: Vec<String> = rules().into_iter().map(|rule| rule.expr).collect();
    let mut groups = 0;
    for query in rules.iter().chain(&queries) {
        for (before, rest) in query.match_indices('(').map(|(at, _)| query.split_at(at)) {
            let word = before.trim_end().rsplit([' ', '\n', '(']).next();
            if !matches!(word, Some("by" | "on" | "ignoring" | "without")) {
                continue;
            }
            let labels = rest[1..].split([',', ')']).next().unwrap_or_default();
            assert_eq!(labels.trim(), "cluster", "{query}");
            groups += 1;
        }
    }
    assert!(groups >= 50, "{groups}");
    // The variable that has the clusters asks for all of them.
    for query in queries.iter().skip(1) {
        for selector in super::exported::selectors(query) {
            assert!(selector.contains("cluster=$cluster"), "{query}: {selector}");
        }
    }
}

/// The inhibition rules that people have (`equal: [namespace, alertname]`) need one name, of which the graver one has no label `namespace` that
/// the other lacks; and a page is one for a node, so that a node in trouble is not a page for each of its namespaces.
#[test]
fn who_is_paged_is_told_of_a_node_and_not_of_each_owner() {
    let mut pages = 0;
    for rule in rules() {
        let Some(alert) = &rule.alert else { continue };
        if rule.labels["severity"] == "critical" {
            pages += 1;
            let by_owner = ["namespace", "pod", "owner"];
            let found = by_owner
                .iter()
                .find(|label| rule.expr.contains(&format!("{label},")));
            assert_eq!(found, None, "{alert} is one page for each owner");
        }
    }
    assert!(pages >= 3, "{pages}");
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
