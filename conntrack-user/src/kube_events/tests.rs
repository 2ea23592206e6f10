use std::time::UNIX_EPOCH;

use conntrack_ebpf::record::DropReason;
use ctpressure_model::{
    kubernetes::{About, Severity},
    pressure::state::Pressure,
    words::time::JsonTime,
};

use super::*;
use crate::{
    agent::{Activity, OwnerSample, OwnerTotals, Owners, Probed, Table, Tables, Tops},
    limit::{
        Report,
        change::{By, Change, ChangeOutcome, Purpose, Size},
        report::Fight,
    },
    owners::Owner,
};

const LIMIT: u64 = 2000;

/// A node whose time passes.
struct Node {
    rules: Rules,
    snapshot: Snapshot,
    limit: Option<Report>,
    second: u32,
}

impl Node {
    fn new(owners: Vec<OwnerSample>) -> Self {
        let table = |name: &str, netns| Table {
            netns,
            name: name.to_owned(),
            ..Table::default()
        };
        Self {
            rules: Rules::new("node-1", Following::since(UNIX_EPOCH)),
            snapshot: Snapshot {
                tables: Tables {
                    limit: Some(LIMIT),
                    list: vec![table("host", 1), table("cni-1", 2)],
                    ..Tables::default()
                },
                owners: Owners {
                    list: owners,
                    ..Owners::default()
                },
                probes: counted(),
                ..Snapshot::default()
            },
            limit: None,
            second: 0,
        }
    }

    /// Lets so many seconds pass; what is said, with the second.
    fn pass(&mut self, seconds: u32) -> Vec<(u32, Notice)> {
        let mut said = Vec::new();
        for _ in 0..seconds {
            self.second += 1;
            self.snapshot.uptime_seconds = f64::from(self.second);
            let notices = self.rules.next(&self.snapshot, self.limit.as_ref());
            said.extend(notices.into_iter().map(|notice| (self.second, notice)));
        }
        said
    }

    fn fill(&mut self, table: usize, pressure: Pressure) {
        self.snapshot.tables.list[table].pressure = pressure;
    }

    fn drop(&mut self, owner: usize, reason: DropReason, packets: u64) {
        self.snapshot.owners.list[owner].egress.drops[reason as usize - 1] += packets;
    }
}

fn pod(namespace: &str, name: &str, live: u64) -> OwnerSample {
    OwnerSample {
        slot: 2,
        owner: Owner::pod(
            &format!("uid-of-{namespace}-{name}"),
            Some((namespace, name)),
        ),
        present: true,
        egress: OwnerTotals {
            live: Some(live),
            ..OwnerTotals::default()
        },
        ingress: OwnerTotals::default(),
        held_at_most: 0,
        activity: Activity::default(),
        destinations: Tops::default(),
    }
}

fn seconds(said: &[(u32, Notice)]) -> Vec<u32> {
    said.iter().map(|(second, _)| *second).collect()
}

fn name(notice: &Notice) -> &str {
    match &notice.about {
        About::Pod { name, .. } => name,
        About::Node => "",
    }
}

#[test]
fn who_holds_most_of_a_full_table_is_told_at_intervals() {
    let mut node = Node::new(vec![pod("shop", "cart", 1500), pod("shop", "web", 400)]);
    node.fill(0, Pressure::High);
    assert_eq!(node.pass(60), [], "not full");
    node.fill(0, Pressure::Full);
    let said = node.pass(640);
    assert_eq!(seconds(&said), [71, 371, 671]);
    let notice = &said[0].1;
    assert_eq!(
        (notice.reason, notice.severity),
        ("ConntrackTableHeld", Severity::Warning)
    );
    assert_eq!(
        notice.about,
        About::Pod {
            namespace: "shop".into(),
            name: "cart".into(),
            uid: "uid-of-shop-cart".into()
        }
    );
    for words in ["1,500 of the 2,000", "node-1", "75 %"] {
        assert!(notice.note.contains(words), "{}", notice.note);
    }
    // It goes, and comes again at once: that is still the same trouble.
    node.fill(0, Pressure::Calm);
    assert_eq!(node.pass(5), []);
    node.fill(0, Pressure::Full);
    assert_eq!(seconds(&node.pass(300)), [971]);
}

#[test]
fn a_moment_is_not_told() {
    let mut node = Node::new(vec![pod("shop", "cart", 1900)]);
    for _ in 0..20 {
        node.fill(0, Pressure::Full);
        assert_eq!(node.pass(9), []);
        node.fill(0, Pressure::High);
        assert_eq!(node.pass(1), []);
    }
}

#[test]
fn a_full_table_of_a_namespace_is_held_by_who_can_have_filled_it() {
    let mut node = Node::new(vec![pod("shop", "cart", 1500), pod("shop", "own", 1990)]);
    node.fill(1, Pressure::Full);
    let said = node.pass(30);
    assert_eq!(said.len(), 1);
    assert_eq!(name(&said[0].1), "own");
}

#[test]
fn lost_packets_are_counted_until_they_are_told() {
    let mut node = Node::new(vec![pod("shop", "cart", 10)]);
    assert_eq!(node.pass(3), []);
    node.drop(0, DropReason::TableFull, 100);
    assert_eq!(node.pass(5), []);
    node.drop(0, DropReason::TableFull, 50);
    node.drop(0, DropReason::ChainTooLong, 2);
    let said = node.pass(1000);
    assert_eq!(seconds(&said), [14]);
    let notice = &said[0].1;
    assert_eq!(notice.reason, "ConntrackPacketsDropped");
    assert!(
        notice.note.contains("within 10 s: 150 because"),
        "{}",
        notice.note
    );
    assert!(
        notice.note.contains("2 because a hash chain"),
        "{}",
        notice.note
    );
    // On and on: said again every five minutes.
    let mut said = Vec::new();
    for _ in 0..700 {
        node.drop(0, DropReason::TableFull, 1);
        said.extend(node.pass(1));
    }
    assert_eq!(seconds(&said), [1019, 1319, 1619]);
    assert!(
        said[1].1.note.contains("within 4 min 59 s: 300 because"),
        "{}",
        said[1].1.note
    );
}

#[test]
fn clashes_now_and_then_are_no_news() {
    let mut node = Node::new(vec![pod("shop", "cart", 10)]);
    for _ in 0..50 {
        node.drop(0, DropReason::Clash, 1);
        assert_eq!(node.pass(60), []);
    }
    node.drop(0, DropReason::Clash, 20);
    assert_eq!(node.pass(15).len(), 1);
    // An entry that ctnetlink could not make is no packet; one that somebody deleted is no fault of the table.
    node.drop(0, DropReason::TableFullRequest, 1000);
    node.drop(0, DropReason::Dying, 1000);
    assert_eq!(node.pass(400), []);
}

#[test]
fn names_of_pods_of_other_namespaces_are_not_told() {
    let mut node = Node::new(vec![
        pod("payments", "ledger", 1800),
        pod("shop", "cart", 10),
        pod("payments", "gate", 10),
    ]);
    node.fill(0, Pressure::Full);
    for owner in 0..3 {
        node.drop(owner, DropReason::TableFull, 5);
    }
    let said = node.pass(15);
    let lost = |wanted: &str| {
        let mut all = said.iter().map(|(_, notice)| notice);
        let of =
            all.find(|notice| name(notice) == wanted && notice.reason == "ConntrackPacketsDropped");
        of.unwrap().note.clone()
    };
    assert!(
        lost("cart").contains("a pod of another namespace holds most"),
        "{}",
        lost("cart")
    );
    assert!(!lost("cart").contains("ledger") && !lost("cart").contains("payments"));
    assert!(
        lost("gate").contains("(pod ledger holds most of it)"),
        "{}",
        lost("gate")
    );
    assert!(
        lost("ledger").contains("this pod itself"),
        "{}",
        lost("ledger")
    );
    assert_eq!(said.len(), 4);
    assert_eq!(
        said[0].1.reason, "ConntrackTableHeld",
        "who fills it comes first"
    );
}

#[test]
fn the_rate_is_bounded_and_nothing_is_forgotten() {
    let pods = (0..250).map(|number| pod("shop", &format!("pod-{number}"), 1));
    let mut node = Node::new(pods.collect());
    for owner in 0..250 {
        node.drop(owner, DropReason::TableFull, 1 + owner as u64);
    }
    let said = node.pass(30);
    assert_eq!(
        said.len(),
        21,
        "a bucket of 20, and one that came after 15 s"
    );
    assert_eq!(name(&said[0].1), "pod-249", "the worst first");
    let mut more = node.pass(250 * 15);
    assert_eq!(said.len() + more.len(), 250, "each once");
    let last = more.pop().unwrap().1;
    assert_eq!(name(&last), "pod-0");
}

#[test]
fn a_pod_without_a_name_waits_for_it_and_others_are_not_told() {
    let mut nameless = pod("shop", "cart", 1900);
    nameless.owner = Owner::pod("uid", None);
    let mut host = pod("", "", 1900);
    host.owner = Owner::host();
    let mut node = Node::new(vec![host, nameless]);
    node.fill(0, Pressure::Full);
    node.drop(0, DropReason::TableFull, 5);
    assert_eq!(node.pass(60), []);
    node.snapshot.owners.list[1].owner = Owner::pod("uid", Some(("shop", "cart")));
    assert_eq!(node.pass(1).len(), 1);
    // What is said of a pod is forgotten with it.
    node.snapshot.owners.list.pop();
    node.pass(1);
    node.snapshot.owners.list.push(pod("shop", "cart", 1900));
    assert_eq!(node.pass(15).len(), 1);
}

fn change(sequence: u64, purpose: Purpose, outcome: ChangeOutcome, from: u64, to: u64) -> Change {
    let size = |limit| Size {
        limit,
        buckets: 512,
        time_wait: Some(120),
    };
    Change {
        sequence,
        time: JsonTime(UNIX_EPOCH + Duration::from_millis(sequence)),
        by: if purpose == Purpose::Found {
            By::SomebodyElse
        } else {
            By::Controller
        },
        who: (purpose == Purpose::Found).then(|| "perhaps kube-proxy\u{1b}[31m".to_owned()),
        purpose,
        before: size(from),
        after: size(to),
        outcome,
        reason: "the table will be full in 7 s.".to_owned(),
    }
}

fn report(changes: Vec<Change>) -> Report {
    Report {
        changes,
        ..Report::default()
    }
}

#[test]
fn each_action_of_the_limit_controller_is_told_once() {
    let mut node = Node::new(Vec::new());
    let all = [
        (
            Purpose::Raise,
            ChangeOutcome::Applied,
            2048,
            7168,
            "ConntrackLimitRaised",
        ),
        (
            Purpose::Found,
            ChangeOutcome::Applied,
            7168,
            2048,
            "ConntrackLimitChanged",
        ),
        (
            Purpose::Reapply,
            ChangeOutcome::Failed,
            2048,
            7168,
            "ConntrackLimitFailed",
        ),
        (
            Purpose::Raise,
            ChangeOutcome::DryRun,
            2048,
            7168,
            "ConntrackLimitDryRun",
        ),
    ];
    let changes = (1..).zip(all);
    let changes = changes.map(|(sequence, (purpose, outcome, from, to, _))| {
        change(sequence, purpose, outcome, from, to)
    });
    node.limit = Some(report(changes.collect()));
    let said = node.pass(100);
    let reasons: Vec<_> = said.iter().map(|(_, notice)| notice.reason).collect();
    assert_eq!(reasons, all.map(|(.., reason)| reason));
    assert!(said.iter().all(|(_, notice)| notice.about == About::Node));
    assert_eq!(
        said[0].1.note,
        "Node node-1: limit 2,048 -> 7,168, by ctpressure: the table will be full in 7 s."
    );
    let found = &said[1].1;
    assert_eq!(found.severity, Severity::Warning, "it was lowered");
    assert!(
        found
            .note
            .contains("by somebody else (perhaps kube-proxy\u{fffd}[31m)"),
        "{}",
        found.note
    );
}

#[test]
fn a_timeout_is_told_by_its_name() {
    let mut node = Node::new(Vec::new());
    let mut shorter = change(1, Purpose::Shorten, ChangeOutcome::Applied, 2048, 2048);
    shorter.after.time_wait = Some(30);
    node.limit = Some(report(vec![shorter]));
    let said = node.pass(1);
    assert_eq!(said[0].1.reason, "ConntrackTimeoutShortened");
    let text = &said[0].1.note;
    assert!(
        text.contains("nf_conntrack_tcp_timeout_time_wait 120 s -> 30 s"),
        "{text}"
    );
}

#[test]
fn a_fight_does_not_flood_the_api_and_its_end_is_told() {
    let mut node = Node::new(Vec::new());
    let mut said = Vec::new();
    let mut all = Vec::new();
    for second in 1..=100 {
        all.push(change(
            second,
            Purpose::Found,
            ChangeOutcome::Applied,
            7168,
            2048,
        ));
        node.limit = Some(report(all.clone()));
        said.extend(node.pass(1));
    }
    assert_eq!(said.len(), 13, "a bucket of 10, and one each 30 s");
    let last = &said[12].1.note;
    assert!(last.contains("29 changes before have no Event"), "{last}");
    let mut given_up = Report {
        changes: all,
        fight: Some(Fight {
            rounds: 5,
            given_up: true,
            who: Some("perhaps kube-proxy".to_owned()),
        }),
        ..Report::default()
    };
    node.limit = Some(given_up.clone());
    let said = node.pass(10);
    let reasons: Vec<_> = said.iter().map(|(_, notice)| notice.reason).collect();
    assert_eq!(reasons, ["ConntrackLimitGivenUp"]);
    assert!(said[0].1.note.contains("5 times"), "{}", said[0].1.note);
    given_up.fight = None;
    node.limit = Some(given_up);
    assert_eq!(node.pass(10), []);
}

#[test]
fn a_note_fits_into_an_event() {
    let mut node = Node::new(Vec::new());
    let mut long = change(1, Purpose::Raise, ChangeOutcome::Applied, 1, 2);
    long.reason = "ä\n".repeat(1000);
    node.limit = Some(report(vec![long]));
    let text = node.pass(1).remove(0).1.note;
    assert!(text.len() <= 1024 && !text.contains('\n'), "{text}");
}

/// Probes that count what comes and what goes.
fn counted() -> Probed {
    let mut probes = Probed::default();
    probes.totals.inserts = Some(0);
    probes.totals.deletes = Some(0);
    probes
}

#[test]
fn who_holds_a_table_is_not_told_where_entries_are_not_counted() {
    let mut node = Node::new(vec![pod("shop", "cart", 1500)]);
    node.snapshot.probes.totals.deletes = None;
    node.fill(0, Pressure::Full);
    assert_eq!(node.pass(60), []);
}
