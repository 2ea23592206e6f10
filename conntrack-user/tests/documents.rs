//! Every `ctpressure` command line in the documents, the runbooks and the service unit is one that the program takes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use conntrack_user::cli;
use ctpressure_tests::documents::{DOCUMENTS, command_lines};

fn repository() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().expect("the workspace").to_owned()
}

/// All files of that ending below a folder.
fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.extension().is_some_and(|found| found == ending) {
            found.push(path);
        }
    }
}

/// No document was forgotten.
#[test]
fn all_documents_are_looked_at() {
    let mut found = vec![repository().join("README.md")];
    for folder in ["deploy", "conntrack-user", "tests"] {
        files(&repository().join(folder), "md", &mut found);
    }
    found.sort();
    let mut listed: Vec<PathBuf> = DOCUMENTS
        .iter()
        .map(|(path, _)| repository().join(path))
        .collect();
    listed.sort();
    assert_eq!(
        found, listed,
        "the list in tests/src/documents.rs is not up to date"
    );
}

fn check(place: &str, line: &str) -> Result<(), String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    if words.is_empty() {
        return Ok(());
    }
    let all = std::iter::once("ctpressure").chain(words.iter().copied());
    match cli::definition().try_get_matches_from(all) {
        Ok(_) => Ok(()),
        Err(error) if error.exit_code() == 0 => Ok(()),
        Err(error) => Err(format!("{place}: `ctpressure {line}`: {error}")),
    }
}

#[test]
fn every_command_line_is_taken() {
    let mut lines = 0;
    let mut refused = Vec::new();
    for (path, text) in DOCUMENTS {
        for line in command_lines(text) {
            lines += 1;
            refused.extend(check(path, &line).err());
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert!(lines > 40, "only {lines} command lines were found");
}

#[test]
fn a_wrong_command_line_would_be_noticed() {
    for line in ["watch --kind drops", "run --listen nowhere", "tables"] {
        assert!(check("a test", line).is_err(), "{line}");
    }
}

#[test]
fn the_service_unit_starts_the_agent() {
    let unit = fs::read_to_string(repository().join("deploy/ctpressure.service")).expect("a unit");
    let starts: Vec<&str> = unit
        .lines()
        .filter_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/ctpressure "))
        .collect();
    assert_eq!(starts.len(), 1, "{unit}");
    check("the unit", starts[0]).unwrap();
}

/// What manifests, chart and unit set by the environment is what `run` takes from it.
#[test]
fn variables_in_the_manifests_are_those_of_the_agent() {
    let definition = cli::definition();
    let run = definition.find_subcommand("run").expect("the agent");
    let known: Vec<&str> = run
        .get_arguments()
        .filter_map(|argument| argument.get_env()?.to_str())
        .collect();
    let mut manifests = Vec::new();
    for folder in ["deploy/kubernetes", "deploy/helm"] {
        files(&repository().join(folder), "yaml", &mut manifests);
    }
    let mut found = 0;
    for path in manifests {
        let text = fs::read_to_string(&path).expect("a manifest");
        for line in text.lines() {
            let Some(name) = line.trim().strip_prefix("- name: CTPRESSURE_") else {
                continue;
            };
            found += 1;
            assert!(
                known.contains(&format!("CTPRESSURE_{name}").as_str()),
                "{}: CTPRESSURE_{name}",
                path.display()
            );
        }
    }
    assert!(found >= 6, "{found}");
}

#[test]
fn the_arguments_in_the_manifests_are_taken() {
    let path = repository().join("deploy/kubernetes/base/daemonset.yaml");
    let text = fs::read_to_string(path).expect("a manifest");
    let arguments: Vec<&str> = text
        .lines()
        .skip_while(|line| line.trim() != "args:")
        .skip(1)
        .map_while(|line| line.trim().strip_prefix("- "))
        .take_while(|word| !word.contains(": "))
        .collect();
    assert_eq!(arguments.first(), Some(&"run"));
    check("the DaemonSet", &arguments.join(" ")).unwrap();
}

/// Each alert's page ends in commands.
#[test]
fn every_runbook_ends_in_commands() {
    let mut pages = Vec::new();
    files(&repository().join("deploy/runbooks"), "md", &mut pages);
    for page in pages {
        if page.ends_with("README.md") {
            continue;
        }
        let text = fs::read_to_string(&page).expect("a page");
        let (_, commands) = text
            .split_once("\n## Commands\n")
            .unwrap_or_else(|| panic!("{}: no commands", page.display()));
        assert!(
            command_lines(commands).len() >= 2,
            "{}: too few commands",
            page.display()
        );
        assert!(!commands.contains("\n## "), "{}", page.display());
    }
}
