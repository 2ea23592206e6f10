//! Damaged and odd journals, and what a long report costs.

use std::fs;

use ctpressure_journal::Reader;

use super::{
    super::{Report, evidence::Span, gather, html, text},
    incidents, report_of,
    scene::{Actor, START, Scene},
};

/// All of it, or an error: never a panic.
fn try_report(path: &std::path::Path) -> Result<String, String> {
    let words = |error: ctpressure_journal::JournalError| error.to_string();
    let reader = Reader::open(path).map_err(words)?;
    let Some(covered) = gather::covered(&reader).map_err(words)? else {
        return Err("empty".to_owned());
    };
    let (list, names) = gather::incidents(&reader, covered).map_err(words)?;
    let mut out = text::incidents(&list, &names, covered);
    for incident in list.iter().take(2) {
        let focus = Span {
            from: incident.from,
            until: incident.until,
        };
        let shown = gather::around(focus, covered);
        let evidence =
            gather::evidence(&reader, focus, shown, Some(incident.netns)).map_err(words)?;
        let report = Report::new(&evidence);
        out += &text::report(&report);
        out += &html::page(&report);
    }
    Ok(out)
}

#[test]
fn bits_that_are_flipped_are_an_error_or_a_report_and_never_a_panic() {
    let scene = incidents::burst();
    scene.execute("PRAGMA wal_checkpoint(TRUNCATE)");
    let bytes = fs::read(scene.path()).expect("a file");
    let copy = scene.folder().join("copy.db");
    let (mut errors, mut seed) = (0, 0x9e37_79b9_u64);
    for round in 0..120 {
        let mut damaged = bytes.clone();
        for _ in 0..=(round % 3) {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(seed >> 20).expect("64 bits") % damaged.len();
            damaged[at] ^= 1 << (seed % 8);
        }
        if round % 10 == 9 {
            damaged.truncate(damaged.len() * usize::try_from(round).expect("small") / 120);
        }
        fs::write(&copy, &damaged).expect("written");
        errors += usize::from(try_report(&copy).is_err());
    }
    println!("{errors} of 120 could not be read");
    assert!(errors > 10, "{errors}");
}

#[test]
fn values_out_of_any_range_are_no_panic() {
    for statement in [
        "UPDATE flow SET inserts = 9223372036854775807, deletes = 9223372036854775807",
        "UPDATE flow SET live = 9223372036854775807",
        "UPDATE table_sample SET entries = 9223372036854775807, entries_max = 9223372036854775807",
        "UPDATE tick SET table_limit = 9223372036854775807, buckets = 9223372036854775807",
        "UPDATE tick SET table_limit = 0",
        "UPDATE tick SET table_limit = NULL, buckets = NULL, table_bytes = NULL",
        "UPDATE loss SET number = 9223372036854775807",
        "UPDATE OR REPLACE loss SET what = 77",
        "UPDATE kernel_stat SET found = 9223372036854775807, dropped = 9223372036854775807",
        "UPDATE tick SET at = at - 1772334000000",
        "UPDATE tick SET at = 1772334000000",
        "DELETE FROM owner",
        "DELETE FROM run",
        "DELETE FROM netns",
        "DELETE FROM drop_event; DELETE FROM eviction_event",
        "UPDATE destination SET count = 1e308, error = -1",
        "UPDATE state_mix SET entries = 9223372036854775807",
        "INSERT INTO fact (run, at, name, value) VALUES (1, 0, 'entry_bytes', '99999999999999999999')",
    ] {
        let scene = incidents::limit_halved_and_backends_doubled();
        scene.execute(statement);
        let told = try_report(&scene.path());
        println!(
            "{statement}: {}",
            told.map_or_else(|error| error, |text| format!("{} bytes", text.len()))
        );
    }
}

#[test]
fn a_gap_is_told() {
    let mut scene = Scene::new(|_| 4_000, vec![Actor::new("shop/web", |_| 150, 20)]);
    scene.asleep = |at| (100..150).contains(&at);
    scene.run(300);
    let report = report_of(&scene);
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("nothing in the journal from 03:01:40")),
        "{:?}",
        report.notes
    );
}

/// `cargo test --release ... -- --ignored --nocapture a_day`: time and memory of a day of 250 owners.
#[test]
#[ignore = "measures"]
fn a_day_of_250_owners() {
    let mut actors: Vec<Actor> = (0..249)
        .map(|number| {
            Actor::new(
                &format!("shop/pod-{number}"),
                |at| u64::from(at % 7 == 0),
                20,
            )
        })
        .collect();
    actors.push(Actor::new(
        "batch/burst",
        |at| {
            if (40_000..40_030).contains(&at) {
                300
            } else {
                0
            }
        },
        60,
    ));
    let mut scene = Scene::new(|_| 4_000, actors);
    scene.every = 10;
    scene.run(24 * 3600);
    let size = fs::metadata(scene.path()).expect("a file").len();
    println!(
        "journal of {} MiB at {}",
        size >> 20,
        scene.path().display()
    );
    if let Some(keep) = std::env::var_os("CTPRESSURE_KEEP") {
        fs::copy(scene.path(), keep).expect("copied");
    }
    let reader = Reader::open(&scene.path()).expect("a journal");
    let covered = gather::covered(&reader)
        .expect("readable")
        .expect("seconds");
    let begin = std::time::Instant::now();
    let evidence = gather::evidence(&reader, covered, covered, None).expect("readable");
    let page = html::page(&Report::new(&evidence));
    println!("{} KiB in {:?}", page.len() >> 10, begin.elapsed());
    assert_eq!(covered.from, START);
}
