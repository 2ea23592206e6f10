//! One captured node, told of by doctor, `limit`, report and metrics: the same bytes, share and number of buckets.

use std::{fs, os::unix::fs::symlink, path::Path};

use ctpressure_model::{verdict::Composition, words};
use ctpressure_report::{
    self as report,
    evidence::{Evidence, EvidencePoint, NodeFacts, Span},
};
use serde_json::Value;
use tempfile::TempDir;

use super::{look, text};
use crate::{
    agent::{Snapshot, Tables, channel},
    census::Charging,
    doctor,
    kernel::{Root, fixtures, memory, release, slab, tables::TableReader},
    limit::{Controller, ControllerPlace, Mode, Settings},
    recorder::facts,
    serve::{Companions, metrics::Exporter},
};

/// A node with a table of 262,144 entries that runs a captured kernel.
fn node(kernel: &str, slab: [(&str, u64); 4]) -> (TempDir, Root) {
    let folder = tempfile::tempdir().expect("a folder");
    let root = Root::at(folder.path());
    let write = |path: &Path, text: &str| {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    };
    let captured = Root::at(fixtures::folder(kernel));
    for file in [
        "net/stat/nf_conntrack",
        "sys/kernel/osrelease",
        "sys/net/netfilter/nf_conntrack_count",
        "sys/net/netfilter/nf_conntrack_events",
    ] {
        let text = fs::read_to_string(captured.proc(file)).expect("captured");
        write(&root.proc(file), &text);
    }
    for sysctl in ["max", "buckets"] {
        let file = format!("sys/net/netfilter/nf_conntrack_{sysctl}");
        write(&root.proc(file), "262144\n");
    }
    for (name, number) in slab {
        let file = root.sys("kernel/slab/nf_conntrack").join(name);
        write(&file, &format!("{number}\n"));
    }
    write(&root.sys("module/nf_conntrack/initstate"), "live\n");
    write(&root.sys("devices/system/cpu/possible"), "0-3\n");
    write(
        &root.proc("meminfo"),
        "MemTotal: 8100000 kB\nMemAvailable: 6000000 kB\n",
    );
    for process in ["thread-self", "1"] {
        let link = root.proc(process).join("ns/net");
        fs::create_dir_all(link.parent().expect("a folder")).expect("a folder");
        symlink("net:[100]", link).expect("a link");
    }
    (folder, root)
}

/// What one of them says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Figures {
    /// Bytes of full tables, and their share of the node's memory.
    when_full: String,
    now: u64,
    buckets: String,
}

/// What stands between two pieces of a text whose lines may be wrapped anywhere.
fn between(text: &str, before: &str, after: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    let (_, rest) = text
        .split_once(before)
        .unwrap_or_else(|| panic!("no {before:?} in {text}"));
    let (found, _) = rest
        .split_once(after)
        .unwrap_or_else(|| panic!("no {after:?} in {rest}"));
    found.to_owned()
}

fn of_doctor(root: &Root) -> Figures {
    let report = doctor::DoctorReport::new(&doctor::Facts::gather(root, &Charging::default));
    let text = report.text(false);
    let json = serde_json::to_value(&report).expect("JSON");
    Figures {
        when_full: between(&text, "full tables take ", " tables host"),
        now: json["node"]["table_bytes"].as_u64().expect("a number"),
        buckets: between(&text, "when full ", " buckets"),
    }
}

fn of_limit(root: &Root, folder: &Path) -> Figures {
    let settings = Settings {
        mode: Mode::DryRun,
        state: folder.join("limit.state"),
        ..Settings::default()
    };
    let place = ControllerPlace {
        root: root.clone(),
        lock: String::new(),
        look: Box::new(|_| Some(Composition::default())),
        stepped: |_| {},
    };
    let mut controller = Controller::new(settings, place);
    let view = look(&mut controller, root).expect("tables");
    let text = text::of(&view, false);
    let now = view.table_bytes.expect("a number");
    assert_eq!(between(&text, "memory ", " now,"), words::bytes(now));
    assert_eq!(
        between(&text, " now, without", " extensions"),
        "",
        "what is now is told as what it is"
    );
    Figures {
        when_full: between(&text, "extensions; ", " when full"),
        now,
        buckets: between(&text, "entries a table; ", " buckets"),
    }
}

fn of_report(root: &Root) -> Figures {
    let tables = TableReader::new(root.clone()).read().expect("tables");
    let memory = memory::read(root).expect("meminfo");
    let point = EvidencePoint {
        seconds: 1,
        entries_most: tables.tables[0].entries,
        limit: tables.limit,
        ..EvidencePoint::default()
    };
    let span = Span {
        from: 1_000_000,
        until: 1_000_060,
    };
    let evidence = Evidence {
        focus: span,
        shown: span,
        step: 1,
        points: vec![point; 60],
        node: NodeFacts {
            kernel: release::release(root).expect("a release"),
            ram_bytes: memory.total,
            buckets: Some(tables.buckets),
            table_bytes: slab::table_bytes(root, tables.buckets),
            facts: facts::read(root),
            ..NodeFacts::default()
        },
        ..Evidence::default()
    };
    let report = report::Report::new(&evidence);
    let text = report::text::report(&report);
    let json: Value = serde_json::to_value(&report).expect("JSON");
    Figures {
        when_full: between(&text, " buckets take ", " of the node's memory"),
        now: json["node"]["table_bytes"].as_u64().expect("a number"),
        buckets: between(&text, "full tables and their ", " buckets"),
    }
}

fn of_metrics(root: &Root) -> [u64; 3] {
    let tables = TableReader::new(root.clone()).read().expect("tables");
    let (publisher, agent) = channel();
    publisher.publish(Snapshot {
        tables: Tables {
            limit: Some(tables.limit),
            buckets: Some(tables.buckets),
            table_bytes: slab::table_bytes(root, tables.buckets),
            ..Tables::default()
        },
        ..Snapshot::default()
    });
    let exporter = Exporter::new(agent, Companions::default(), false).expect("a registry");
    let text = String::from_utf8(exporter.text().expect("text")).expect("text");
    ["limit", "buckets", "bytes"].map(|name| {
        let name = format!("ctpressure_table_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.expect("a sample").parse().expect("a number")
    })
}

#[test]
fn a_node_costs_the_same_whoever_is_asked() {
    let page = procfs::page_size();
    let objects = |bytes: u64| page / bytes;
    for (kernel, object, slabs, when_full) in [
        // No extension unless something asks for one, so a range.
        ("debian-6.12", 256, 2, "66 to 98 MiB (0.8 to 1.2 %)"),
        // Each entry has one: nf_conntrack_events is 1.
        ("debian-5.10", 320, 3, "119 MiB (1.5 %)"),
    ] {
        let shape = [
            ("slab_size", object),
            ("objs_per_slab", objects(object)),
            ("order", 0),
            ("slabs", slabs),
        ];
        let (folder, root) = node(kernel, shape);
        let expected = Figures {
            when_full: when_full.to_owned(),
            now: slabs * page + 262_144 * 8,
            buckets: "262,144".to_owned(),
        };
        assert_eq!(of_doctor(&root), expected, "doctor, {kernel}");
        assert_eq!(of_limit(&root, folder.path()), expected, "limit, {kernel}");
        assert_eq!(of_report(&root), expected, "report, {kernel}");
        assert_eq!(
            of_metrics(&root),
            [262_144, 262_144, expected.now],
            "metrics, {kernel}"
        );
    }
}
