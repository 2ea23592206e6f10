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
        ("deploy/docs/events.md", "../../conntrack-user/src/nobody/"),
    ] {
        assert!(
            matches!(here.path(document, word), Some(Err(_))),
            "{document}: {word}"
        );
    }
    for link in [
        "deploy/doc/events.md",
        "deploy/docs/events.md#no-such-heading",
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
        ("deploy/docs/events.md", "../README.md"),
    ] {
        assert_eq!(here.path(document, word), Some(Ok(())), "{word}");
    }
    for link in [
        "deploy/docs/events.md#kubernetes-events",
        "#what-it-doesnt-do",
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
