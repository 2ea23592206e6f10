//! Reports of a healthy node and of others.

use ctpressure_tests::schemas;

use super::*;
use crate::doctor::{facts::Standpoint, tests::healthy};

#[test]
fn a_healthy_node() {
    let report = DoctorReport::new(&healthy());
    assert!(!report.is_bad());
    assert_eq!(
        report.text(false),
        "\
node      Linux 6.12.118+deb13-amd64, 4 CPUs, 7.7 GiB of RAM
limit     262,144 entries: kube-proxy's 65,536 a core, at least 131,072; also
          the kernel's default for this RAM; 33 for each MiB of RAM
when full 262,144 buckets, 2 entries per chain; an insert hits the chain limit
          less than once in 1,000,000; full tables take 66 to 98 MiB (0.8 to 1.2
          %)
tables    host 30,000 entries (11 %); 4026532177 50 entries (<0.1 %)
proxy     kube-proxy v1.31.4, iptables mode

no finding
looked at limit, buckets and timeouts
not seen  nothing: all of it could be looked at
"
    );
}

#[test]
fn connections_that_are_elsewhere_are_said_to_be() {
    let text = |change: fn(&mut Facts)| {
        let mut facts = healthy();
        facts.bpf_tables = Some(BpfTables {
            plugin: Plugin::Cilium,
            maps: vec!["cilium_ct4_global".to_owned()],
        });
        change(&mut facts);
        DoctorReport::new(&facts)
            .text(false)
            .replace("\n          ", " ")
    };
    assert!(!text(|_| {}).contains("Cilium"), "kube-proxy is here");
    let without = text(|facts| {
        facts.proxy = None;
        facts.rules.mode = None;
    });
    assert!(
        without.contains("are in Cilium's own tables (cilium_ct4_global)"),
        "{without}"
    );
}

#[test]
fn whose_the_limit_is() {
    let mut facts = healthy();
    facts.place.standpoint = Standpoint::NestedNode;
    facts.settings.limit = Some(4_096);
    let text = DoctorReport::new(&facts).text(false);
    assert!(
        !text.contains("sysctl -w net.netfilter.nf_conntrack_max"),
        "{text}"
    );
    assert!(
        text.replace("\n          ", " ")
            .contains("not the host's network namespace"),
        "{text}"
    );
}

#[test]
fn findings_in_words() {
    let mut facts = healthy();
    facts.settings.buckets = Some(12_000);
    facts.has_procfs = Some(false);
    facts.unseen.push(Unseen {
        what: "who listens",
        because: "no \u{1b}[31m rights".to_owned(),
        help: "run as root".into(),
    });
    let report = DoctorReport::new(&facts);
    assert!(report.is_bad());
    let text = report.text(false);
    assert!(
        text.contains("\nPROBLEM   hash chains are so long that the kernel refuses new connections\n  seen    12,000 buckets"),
        "{text}"
    );
    assert!(
        text.contains("\n  fix     sysctl -w net.netfilter.nf_conntrack_buckets=262656\n"),
        "{text}"
    );
    assert!(text.find("PROBLEM") < text.find("RISK"), "worst first");
    assert!(
        text.contains("not seen  who listens: no \u{fffd}[31m rights (help: run as root)"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'));
    assert!(
        text.lines().all(|line| line.chars().count() <= WIDTH),
        "{text}"
    );
    assert!(report.text(true).contains("\u{1b}[1m\u{1b}[33mPROBLEM"));
}

#[test]
fn nothing_known() {
    let report = DoctorReport::new(&Facts::default());
    let text = report.text(false);
    schemas::assert_passes("doctor", &serde_json::json!(report));
    assert!(text.contains("conntrack is not loaded"), "{text}");
    assert!(!report.is_bad());
}

#[test]
fn json_has_its_form() {
    let mut facts = healthy();
    facts.settings.limit = Some(31_000);
    let value = serde_json::to_value(DoctorReport::new(&facts)).expect("JSON");
    schemas::assert_passes("doctor", &value);
    assert_eq!(value["format"], 1);
    assert_eq!(value["severity"], "critical");
    let finding = &value["findings"][0];
    for field in ["id", "title", "evidence", "consequence", "advice", "cost"] {
        assert!(finding[field].is_string(), "{field}: {finding}");
    }
    assert!(finding["fix"][0].is_string());
    assert_eq!(value["node"]["limit"], 31_000);
    assert_eq!(value["node"]["limit_from"], serde_json::json!([]));
    assert_eq!(value["could_not_look"], serde_json::json!([]));
}
