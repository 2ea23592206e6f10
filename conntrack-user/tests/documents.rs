//! Every `ctpressure` command line in the documents, the runbooks and the service unit is one that the program takes.

use std::fs;

use conntrack_user::cli;
use ctpressure_model::cost::{EntryCost, LONGEST_CHAIN, buckets_for};
use ctpressure_tests::documents::{DOCUMENTS, command_lines, files_ending, repository};

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
        for line in command_lines(text, "ctpressure") {
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
        .filter_map(|line| line.strip_prefix("ExecStart=ctpressure "))
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
    let manifests = ["deploy/kubernetes", "deploy/helm"]
        .map(|folder| files_ending(&repository().join(folder), "yaml"));
    let mut found = 0;
    for path in manifests.into_iter().flatten() {
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

/// What a document says of memory is what the commands say.
#[test]
fn figures_of_memory_are_those_of_the_model() {
    let cost = |version| EntryCost::of(None, Some(version), |_| None);
    let (new, old) = (cost((6, 12)), cost((5, 10)));
    let table = |cost: &EntryCost| cost.bytes(262_144, 262_144).in_words();
    let room = |limit| new.bytes(limit, 65_536);
    for (path, figures) in [
        (
            "docs/commands/doctor.md",
            vec![format!("full tables take {} (", table(&new))],
        ),
        (
            "docs/limit-controller.md",
            vec![
                format!("{} (0.1 %) when full", room(7_168).in_words()),
                format!(
                    "; {} more when full",
                    room(7_168).beyond(&room(2_048)).in_words()
                ),
                new.bytes(263_910, buckets_for(263_910, 65_536)).in_words(),
            ],
        ),
        (
            "deploy/runbooks/CtpressureTableFills.md",
            vec![
                format!(
                    "an entry takes {} of kernel memory",
                    new.bytes(1, 0).in_words()
                ),
                format!("({} on Linux 5.10 and 5.15)", old.bytes(1, 0).most),
                format!("takes {} ({})", table(&new), table(&old)),
                format!("which chains of {LONGEST_CHAIN} are"),
            ],
        ),
    ] {
        let text = fs::read_to_string(repository().join(path)).expect("a document");
        let words: Vec<&str> = text.split_whitespace().collect();
        for figure in figures {
            assert!(words.join(" ").contains(&figure), "{path}: {figure}");
        }
    }
}

/// Each alert's page ends in commands.
#[test]
fn every_runbook_ends_in_commands() {
    for page in files_ending(&repository().join("deploy/runbooks"), "md") {
        if page.ends_with("README.md") {
            continue;
        }
        let text = fs::read_to_string(&page).expect("a page");
        let (_, commands) = text
            .split_once("\n## Commands\n")
            .unwrap_or_else(|| panic!("{}: no commands", page.display()));
        assert!(
            command_lines(commands, "ctpressure").len() >= 2,
            "{}: too few commands",
            page.display()
        );
        assert!(!commands.contains("\n## "), "{}", page.display());
    }
}
