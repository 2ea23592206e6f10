//! What it costs.

use std::{
    env,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use ctpressure_journal::{Loss, Reader, What};
use nix::time::{ClockId, clock_gettime};

use super::{Node, folder, live, observed, options, writer};

const DAY: Duration = Duration::from_hours(24);
const FOLDER: &str = "CTPRESSURE_TEST_JOURNAL";

/// CPU time of this thread.
fn cpu() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock"))
}

#[test]
fn a_second_of_250_owners() {
    const SECONDS: u32 = 300;
    let folder = folder();
    let mut node = Node::new(250);
    // So small that it thins all the time.
    let (mut writer, health) = writer(&options(folder.path(), 4 << 20, DAY));
    live(&mut node, &mut writer, 200);
    let mut written = Duration::ZERO;
    for _ in 0..SECONDS {
        let (snapshot, at) = node.second();
        let before = cpu();
        writer.second(observed(snapshot, <_>::default()), at);
        written += cpu().saturating_sub(before);
    }
    let share = written.as_secs_f64() / f64::from(SECONDS);
    println!(
        "250 owners: {:.2} % of a CPU, {} bytes",
        share * 100.0,
        health.status().bytes
    );
    assert!(share < 0.02, "{:.2} % of a CPU", share * 100.0);
}

/// Not for every run: it takes minutes, also with optimisation.
#[test]
#[ignore = "takes minutes: cargo test --release -p conntrack-user --lib recorder::tests::cost -- --ignored --nocapture"]
fn a_week_of_250_owners_and_a_report_of_its_last_day() {
    let folder = folder();
    let mut node = Node::new(250);
    let (mut writer, health) = writer(&options(folder.path(), 64 << 20, DAY));
    let mut most = 0;
    for hour in 1..=7 * 24 {
        let before = (cpu(), Instant::now());
        for _ in 0..720 {
            live(&mut node, &mut writer, 5);
            writer.fold_now();
            most = most.max(health.status().bytes);
        }
        assert_eq!(health.status().problem, None, "hour {hour}");
        assert!(most <= 64 << 20, "hour {hour}: {most} bytes");
        if hour < 4 || hour % 12 == 0 {
            println!(
                "hour {hour}: {} MiB, {:.2} % of a CPU with the node that is made up ({:.1} s)",
                health.status().bytes >> 20,
                cpu().saturating_sub(before.0).as_secs_f64() / 36.0,
                before.1.elapsed().as_secs_f64()
            );
        }
    }
    writer.end(None);
    let output = Command::new(env::current_exe().expect("this test"))
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("recorder::tests::cost::reads_like_a_report")
        .env(FOLDER, folder.path())
        .output()
        .expect("this test again");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success() && text.contains("report:"));
}

/// Not a test: the reading part, in a process of its own so that its memory can be told.
#[test]
#[ignore = "it is what the week starts"]
fn reads_like_a_report() {
    let Some(folder) = env::var_os(FOLDER) else {
        return;
    };
    let begin = Instant::now();
    let reader = Reader::open(&PathBuf::from(folder)).expect("a journal");
    let opened = begin.elapsed();
    let coverage = reader.coverage().expect("read").expect("something");
    let all = reader
        .read(coverage.until - DAY, coverage.until)
        .expect("read");
    let bucket = all.bucket(200);
    let mut spells = 0;
    all.each_table_sample(|_| spells += 1).expect("read");
    let tables = all.table_points(bucket).expect("read").len();
    let mut sums = all.owner_sums().expect("read");
    sums.sort_by_key(|sum| std::cmp::Reverse(sum.inserts));
    let top: Vec<_> = sums.iter().take(8).map(|sum| sum.owner).collect();
    let points = all.owner_points(bucket, &top).expect("read").len();
    let victims = sums
        .iter()
        .filter(|sum| sum.losses.contains_key(&Loss::Victim))
        .count();
    let kernel = all.kernel_points(bucket).expect("read").len();
    let destinations = all.destinations(What::Inserts, 5).expect("read").len();
    let states = all.state_mixes().expect("read").len();
    let totals = all.total_points(bucket).expect("read").len();
    let own = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let peak = own
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap_or("?");
    println!(
        "report: {:.2} s, of which {:.2} s to open; {peak}; {coverage:?}; {} samples, {bucket:?}, {spells}, {tables}, \
         {} owners, {points}, {victims}, {kernel}, {destinations}, {states}, {totals}",
        begin.elapsed().as_secs_f64(),
        opened.as_secs_f64(),
        all.samples(),
        sums.len()
    );
}
