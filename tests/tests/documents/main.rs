//! Each document of the project is looked at, and what it points to is there: paths (the rule is in `paths.rs`), links, and the headings
//! that links name.

use std::collections::BTreeSet;

use ctpressure_tests::documents::{DOCUMENTS, code, files, files_ending, repository};

mod paths;

use paths::{Repository, links};

fn here() -> Repository {
    let root = repository();
    let names = files(&root).into_iter().filter_map(|path| {
        let name = path.file_name()?;
        Some(name.to_string_lossy().into_owned())
    });
    Repository {
        names: names.collect(),
        root,
    }
}

#[test]
fn no_document_was_forgotten() {
    let root = repository();
    let found: BTreeSet<_> = files_ending(&root, "md").into_iter().collect();
    let listed = DOCUMENTS.iter().map(|(path, _)| root.join(path));
    assert_eq!(
        found,
        listed.collect(),
        "the list in tests/src/documents.rs is not up to date"
    );
}

#[test]
fn every_path_and_link_leads_somewhere() {
    let here = here();
    let mut looked_at = 0;
    let mut wrong = Vec::new();
    for (document, text) in DOCUMENTS {
        let words: BTreeSet<&str> = code(text).flat_map(str::split_whitespace).collect();
        let paths = words.iter().filter_map(|word| here.path(document, word));
        for found in paths.chain(links(text).map(|link| here.link(document, link))) {
            looked_at += 1;
            wrong.extend(found.err().map(|why| format!("{document}: {why}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(looked_at > 100, "only {looked_at} were found");
}

/// README is what a stranger reads first: short, with lines that fit a screen.
#[test]
fn the_first_page_is_short() {
    let readme = document("README.md");
    assert!(readme.lines().count() <= 120);
    let wide: Vec<&str> = readme
        .lines()
        .filter(|line| line.chars().count() > 100)
        .collect();
    assert!(wide.is_empty(), "{}", wide.join("\n"));
}

/// Each cost that README shows is a row of the page that has all of them.
#[test]
fn costs_on_the_first_page_are_those_that_were_measured() {
    let costs = document("docs/costs.md");
    let readme = document("README.md");
    let (_, shown) = readme.split_once("\n## What it costs\n").expect("costs");
    let (shown, _) = shown.split_once("\n## ").expect("what follows");
    let rows: Vec<&str> = shown.lines().filter(|line| line.contains("| ")).collect();
    assert!(rows.len() >= 5, "{shown}");
    for row in rows {
        assert!(costs.lines().any(|line| line == row), "{row}");
    }
}

fn document(wanted: &str) -> &'static str {
    let found = DOCUMENTS.iter().find(|(path, _)| *path == wanted);
    found.expect("a document of the list").1
}

#[test]
fn what_leads_nowhere_is_noticed() {
    let here = here();
    for (document, word) in [
        ("README.md", "conntrack-user/src/probes/plam.rs"),
        ("README.md", "conntrack-user/src/prob"),
        ("README.md", "conntrack-ebpf/src/programs/*.c"),
        ("README.md", "tests/fixture/NAME"),
        ("README.md", "no-such-folder/plan.rs"),
        ("README.md", "plam.rs,"),
        ("deploy/README.md", "kubernetes/base/daemonsets.yaml"),
        ("docs/events.md", "../conntrack-user/src/nobody/"),
    ] {
        assert!(
            matches!(here.path(document, word), Some(Err(_))),
            "{document}: {word}"
        );
    }
    for link in [
        "doc/events.md",
        "docs/events.md#no-such-heading",
        "#no-such-heading",
    ] {
        assert!(here.link("README.md", link).is_err(), "{link}");
    }
}

#[test]
fn what_is_there_is_found() {
    let here = here();
    for (document, word) in [
        ("README.md", "conntrack-user/src/probes/plan.rs"),
        ("README.md", "(conntrack-user/src/probes/),"),
        ("README.md", "tests/fixtures/*/notes.toml"),
        ("README.md", "tests/fixtures/NAME/notes.toml"),
        ("README.md", "tests/fixtures/<kernel>"),
        ("README.md", "plan.rs"),
        ("deploy/README.md", "kubernetes/base/daemonset.yaml"),
        ("docs/events.md", "../README.md"),
    ] {
        assert_eq!(here.path(document, word), Some(Ok(())), "{word}");
    }
    for link in [
        "docs/events.md#kubernetes-events",
        "#limits",
        "https://example.org/no-such-page",
    ] {
        assert_eq!(here.link("README.md", link), Ok(()), "{link}");
    }
}

#[test]
fn what_is_no_path_of_the_repository_is_left_alone() {
    let here = here();
    for word in [
        "/proc/sys/net/netfilter/nf_conntrack_max",
        "~/.cache/ctpressure",
        "target/test-times.json",
        "http://[::]:9743/metrics",
        "shop/cart",
        "10.0.0.0/8",
        "kubernetes.io/arch",
        "image.repository=REGISTRY/ctpressure",
        "net/netfilter/nf_conntrack_core.c",
        "DIR/journal.db",
        "table_full",
        ".rs",
        "journal.db",
    ] {
        assert_eq!(here.path("README.md", word), None, "{word}");
    }
}
