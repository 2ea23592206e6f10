//! Reports of journals that are made for it.

use std::{fs, path::Path};

use ctpressure_journal::Reader;

use super::{Report, cause::CauseKind, evidence::Span, gather, html, reading::Reading, text};

mod bounds;
mod incidents;
mod scene;

use scene::Scene;

/// The report of the newest incident, else of everything.
fn report_of(scene: &Scene) -> Report {
    Report::new(&evidence_of(scene))
}

fn evidence_of(scene: &Scene) -> super::evidence::Evidence {
    let reader = Reader::open(&scene.path()).expect("a journal");
    let covered = gather::covered(&reader)
        .expect("readable")
        .expect("seconds");
    let (incidents, _) = gather::incidents(&reader, covered).expect("readable");
    let made = match incidents.first() {
        Some(first) => {
            let focus = Span {
                from: first.from,
                until: first.until,
            };
            let shown = gather::around(focus, covered);
            gather::evidence(&reader, focus, shown, Some(first.netns))
        }
        None => gather::evidence(&reader, covered, covered, None),
    };
    made.expect("readable")
}

/// The kind of the cause, the three sentences, and which rules gave advice.
fn told(report: &Report) -> String {
    let rules: Vec<&str> = report.advice.iter().map(|advice| advice.rule).collect();
    format!(
        "{:?}\n{}\nadvice: {}\n",
        report.cause.kind,
        report.summary.join("\n"),
        rules.join(", ")
    )
}

/// Compares with what is in `golden/`; `CTPRESSURE_BLESS=1` writes it anew.
#[track_caller]
fn golden(name: &str, told: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/golden")
        .join(format!("{name}.txt"));
    if std::env::var_os("CTPRESSURE_BLESS").is_some() {
        fs::write(&path, told).expect("written");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        told,
        expected,
        "{}; CTPRESSURE_BLESS=1 writes it anew",
        path.display()
    );
}

/// `CTPRESSURE_PAGES=DIR` keeps the pages there, to be looked at.
fn keep(name: &str, page: &str) {
    if let Some(folder) = std::env::var_os("CTPRESSURE_PAGES") {
        fs::write(Path::new(&folder).join(format!("{name}.html")), page).expect("written");
    }
}

macro_rules! incidents {
    ($($name:ident $kind:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                let report = report_of(&incidents::$name());
                assert_eq!(report.cause.kind, CauseKind::$kind, "{:?}", report.summary);
                golden(stringify!($name), &told(&report));
                for advice in &report.advice {
                    let whole = advice.text.ends_with('.') && !advice.evidence.is_empty();
                    assert!(whole, "{advice:?}");
                }
                for line in text::report(&report).lines() {
                    assert!(line.chars().count() <= 80, "too wide: {line}");
                }
                let page = html::page(&report);
                check_page(&page);
                keep(stringify!($name), &page);
            }
        )*
    };
}

incidents! {
    slow_leak SlowLeak,
    burst Burst,
    near_miss Burst,
    unit_of_the_host Burst,
    syn_flood SynFlood,
    one_way_udp OneWayUdp,
    dns_storm DnsStorm,
    evictions_without_drops Burst,
    nat_ports NatExhausted,
    clash_storm Clash,
    long_chains LongChains,
    dying Dying,
    requests_refused Requests,
    limit_lowered LimitLowered,
    limit_halved_and_backends_doubled LimitLoweredAndGrowth,
    backends_doubled MoreDestinations,
    table_of_a_pod Burst,
    not_conntrack NotConntrack,
    instance_allowance InstanceAllowance,
    instance_bandwidth NotConntrack,
    full_and_instance_allowance Burst,
    invalid_packets Invalid,
    time_wait TimeWait,
    retry_storm RetryStorm,
    established_idle EstablishedIdle,
    new_pod NewOwner,
    many_owners ManyOwners,
    not_watched NotWatched,
}

#[test]
fn the_workload_of_an_owner_is_told_where_the_journal_has_it() {
    let scene = incidents::burst();
    let report = report_of(&scene);
    let owner = report.filled_by[0].owner.clone();
    assert_eq!(report.filled_by[0].workload, None);
    let (namespace, pod) = owner.split_once('/').expect("a pod");
    scene.execute(&format!(
        "UPDATE owner SET workload_kind = 'Deployment', workload = 'cart' WHERE pod = '{pod}'"
    ));
    let told = serde_json::to_value(report_of(&scene)).expect("JSON");
    let expected =
        serde_json::json!({"namespace": namespace, "kind": "Deployment", "name": "cart"});
    assert_eq!(told["filled_by"][0]["workload"], expected);
}

/// One file that asks nobody for anything, and whose tags are in order.
fn check_page(page: &str) {
    assert!(page.len() < 1 << 20, "{} bytes", page.len());
    for forbidden in [
        "<script",
        "http:",
        "https:",
        "url(",
        "@import",
        "<img",
        "javascript",
        " src=",
    ] {
        assert!(!page.contains(forbidden), "{forbidden} in the page");
    }
    let mut open: Vec<&str> = Vec::new();
    for tag in page.split('<').skip(1) {
        let tag = tag.split('>').next().expect("a tag");
        let name = tag
            .trim_start_matches('/')
            .split([' ', '\n', '/'])
            .next()
            .expect("a name");
        let alone = ["!doctype", "meta", "link"].contains(&name) || tag.ends_with('/');
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "</{closed}>");
        } else if !alone {
            open.push(name);
        }
    }
    assert_eq!(open, Vec::<&str>::new());
}

/// Inode numbers are used again within seconds: what comes later must not be blamed for what was before.
#[test]
fn a_table_that_later_has_the_number_of_another_s_is_not_named_for_it() {
    let scene = incidents::table_of_a_pod();
    scene.execute(
        "INSERT INTO netns (inode, name, last_tick) VALUES (4026532999, 'shop/innocent', 9000)",
    );
    let reader = Reader::open(&scene.path()).expect("a journal");
    let covered = gather::covered(&reader)
        .expect("readable")
        .expect("seconds");
    let (list, names) = gather::incidents(&reader, covered).expect("readable");
    let shown = text::incidents(&list, &names, covered);
    assert!(shown.contains("shop/sidecar"), "{shown}");
    assert!(!shown.contains("innocent"), "{shown}");
    let report = text::report(&report_of(&scene));
    assert!(report.contains("table of shop/sidecar"), "{report}");
}

#[test]
fn names_of_others_are_text_in_every_output() {
    let mut scene = incidents::burst();
    let hostile = "<script>alert(1)</script>\"'&\u{1b}[2J\u{202e}";
    scene.execute(&format!(
        "UPDATE owner SET pod = '{0}', namespace = '{0}'; UPDATE run SET node = '{0}', kernel = '{0}'; \
         UPDATE destination SET protocol = '{0}'; UPDATE drop_event SET protocol = '{0}'; \
         UPDATE state_mix SET state = state || '{0}'; UPDATE netns SET name = 'host';",
        hostile.replace('\'', "''")
    ));
    scene.change(210, Some(hostile), 4_000, 4_000);
    scene.execute("UPDATE limit_change SET limit_after = 5000");
    scene.table = "host";
    let report = report_of(&scene);
    check_page(&html::page(&report));
    let json = serde_json::to_string(&report).expect("JSON");
    let shown = text::report(&report);
    for (what, output) in [("text", &shown), ("JSON", &json)] {
        let moves = |letter: char| letter == '\u{1b}' || letter == '\u{202e}';
        assert!(!output.contains(moves), "{what}: {output:?}");
    }
    assert!(shown.contains("<script>"), "{shown}");
}

#[test]
fn the_advised_limit_holds_and_is_not_much_too_large() {
    for (name, scene, smallest) in [
        ("burst", incidents::burst(), 6_000 + 200),
        (
            "halved",
            incidents::limit_halved_and_backends_doubled(),
            3_600 + 200,
        ),
        ("new pod", incidents::new_pod(), 6_000 + 200),
        ("time_wait", incidents::time_wait(), 45 * 120 + 200),
        ("dns", incidents::dns_storm(), 250 * 30 + 200),
        ("retries", incidents::retry_storm(), 12 * 300 + 200),
    ] {
        let report = report_of(&scene);
        let raise = report.advice.iter().find(|advice| advice.rule == "raise");
        let set = raise
            .and_then(|advice| advice.set.as_ref())
            .expect("a limit");
        let least = report.limit_that_may_hold;
        println!("{name}: smallest {smallest}, advised {set:?}, {least:?} at least");
        assert_eq!(set.0, "nf_conntrack_max");
        // What comes at twenty times the rate as soon as it is refused may be all new, or none of it.
        assert_eq!(least.is_some(), name == "retries", "{name}");
        assert!(
            least.map_or(set.1 <= smallest * 13 / 10, |least| least <= smallest)
                && set.1 >= smallest,
            "{name}: the smallest that holds is {smallest}, advised {set:?}: {:?}",
            report.demand
        );
    }
}

#[test]
fn the_first_drop_is_told_to_the_second() {
    let scene = incidents::burst();
    let evidence = evidence_of(&scene);
    let reading = Reading::new(&evidence);
    // 300 a second from second 200 on, beside 200 of shop/web and 60 of its own.
    assert_eq!(reading.first_drop, Some(scene::START + 212));
}
