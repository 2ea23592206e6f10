//! The controller on sysctl files in a folder.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use ctpressure_model::verdict::Part;
use tempfile::TempDir;

use super::*;
use crate::{kernel::Root, limit::policy::TableLosses};

mod killed;
mod timeouts;

/// A node in a folder.
struct Fixture {
    folder: TempDir,
    lock: String,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Fixture {
    fn new(limit: u64, buckets: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let lock = format!("ctpressure/test-controller-{}-{number}", std::process::id());
        let fixture = Self { folder, lock };
        let sysctls = fixture.root().proc("sys/net/netfilter");
        fs::create_dir_all(&sysctls).expect("a folder");
        for (name, value) in [
            ("nf_conntrack_max", limit),
            ("nf_conntrack_buckets", buckets),
            ("nf_conntrack_count", 0),
            ("nf_conntrack_tcp_timeout_time_wait", 120),
        ] {
            fs::write(sysctls.join(name), format!("{value}\n")).expect("a file");
        }
        let root = fixture.root();
        fs::write(root.proc("sys/net/nf_conntrack_max"), "").expect("a file");
        fs::create_dir_all(root.proc("sys/kernel/random")).expect("a folder");
        fs::write(root.proc("sys/kernel/random/boot_id"), "this-boot\n").expect("a file");
        for file in [
            root.sys("module/nf_conntrack/parameters/hashsize"),
            root.proc("locks"),
        ] {
            fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        }
        fs::write(
            root.sys("module/nf_conntrack/parameters/hashsize"),
            "1024\n",
        )
        .expect("a file");
        symlink("/proc/locks", root.proc("locks")).expect("a link");
        let meminfo = "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n";
        fs::write(root.proc("meminfo"), meminfo).expect("a file");
        fixture
    }

    fn root(&self) -> Root {
        Root::at(self.folder.path())
    }

    fn state(&self) -> std::path::PathBuf {
        self.root().var("lib/ctpressure/limit.state")
    }

    fn controller(&self, mode: Mode) -> Controller {
        let settings = Settings {
            mode,
            raise_for: Duration::from_secs(3),
            cooldown: Duration::from_secs(10),
            state: self.state(),
            ..Settings::default()
        };
        let place = ControllerPlace {
            root: self.root(),
            lock: self.lock.clone(),
            look: Box::new(|_| Some(Composition::default())),
            stepped: |_| {},
        };
        Controller::new(settings, place)
    }

    fn sysctl(&self, name: &str) -> std::path::PathBuf {
        self.root().proc(Path::new("sys/net/netfilter").join(name))
    }

    fn limit(&self) -> u64 {
        Knobs::new(self.root()).read().expect("there").limit
    }

    fn set(&self, limit: u64) {
        fs::write(self.sysctl("nf_conntrack_max"), format!("{limit}\n")).expect("written");
    }
}

/// A table with so many entries.
fn entries(entries: u64) -> ControllerSample {
    ControllerSample {
        tables: vec![TableSeen {
            netns: 1,
            name: "host".to_owned(),
            entries,
            losses: Some(TableLosses::default()),
            ..TableSeen::default()
        }],
        flow: None,
    }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(10_000 + seconds)
}

/// Ticks once a second, from the one to before the other.
fn run(controller: &mut Controller, seconds: std::ops::Range<u64>, sample: &ControllerSample) {
    for second in seconds {
        controller.tick(sample, at(second));
    }
}

fn outcomes(controller: &Controller) -> Vec<(Purpose, ChangeOutcome)> {
    let changes = &controller.report().changes;
    changes
        .iter()
        .map(|change| (change.purpose, change.outcome))
        .collect()
}

#[test]
fn it_raises_says_so_and_remembers_it() {
    let node = Fixture::new(1_000, 1_024);
    let mut controller = node.controller(Mode::On);
    run(&mut controller, 0..5, &entries(900));
    let raised = node.limit();
    assert!(raised > 1_000, "{:?}", controller.report());
    assert_eq!(
        outcomes(&controller),
        [(Purpose::Raise, ChangeOutcome::Applied)]
    );
    let report = controller.report();
    assert_eq!(report.raised_from, Some(1_000));
    assert_eq!(report.changes[0].after.limit, raised);
    assert!(report.bytes_at_ceiling > report.bytes_when_full);
    // The next one knows.
    drop(controller);
    let mut next = node.controller(Mode::On);
    run(&mut next, 6..8, &entries(900));
    assert_eq!(next.report().raised_from, Some(1_000));
    assert_eq!(next.report().changes.len(), 1);
    assert_eq!(node.limit(), raised);
}

#[test]
fn a_lost_damaged_or_old_state_means_that_nothing_is_ours() {
    for damage in ["", "ctpressure-limit 1 00000000\n{}", "nonsense"] {
        let node = Fixture::new(1_000, 1_024);
        let mut controller = node.controller(Mode::On);
        run(&mut controller, 0..5, &entries(900));
        drop(controller);
        if damage.is_empty() {
            fs::remove_file(node.state()).expect("it was there");
        } else {
            fs::write(node.state(), damage).expect("written");
        }
        let mut next = node.controller(Mode::On);
        run(&mut next, 6..8, &entries(10));
        assert_eq!(next.report().raised_from, None, "{damage:?}");
        assert_eq!(next.policy.ledger().give_back_to(), None);
    }
    let node = Fixture::new(1_000, 1_024);
    let mut controller = node.controller(Mode::On);
    run(&mut controller, 0..5, &entries(900));
    drop(controller);
    fs::write(node.root().proc("sys/kernel/random/boot_id"), "next-boot\n").expect("written");
    let mut next = node.controller(Mode::On);
    run(&mut next, 6..8, &entries(10));
    assert_eq!(next.report().raised_from, None);
    assert_eq!(
        next.report().changes.len(),
        1,
        "what was done is still told"
    );
}

#[test]
fn of_two_controllers_one_acts_and_the_other_says_who_does_and_takes_over() {
    let node = Fixture::new(1_000, 1_024);
    let mut first = node.controller(Mode::On);
    let mut second = node.controller(Mode::On);
    run(&mut first, 0..1, &entries(10));
    run(&mut second, 0..4, &entries(900));
    assert_eq!(node.limit(), 1_000, "the second wrote");
    let Standing::Standby(why) = &second.report().standing else {
        panic!("{:?}", second.report());
    };
    assert!(
        why.contains(&format!("process {} ", std::process::id())),
        "{why}"
    );
    run(&mut first, 1..6, &entries(900));
    let raised = node.limit();
    assert!(raised > 1_000);
    drop(first);
    run(&mut second, 6..20, &entries(900));
    assert_eq!(second.report().standing, Standing::Acting);
    assert_eq!(
        second.report().raised_from,
        Some(1_000),
        "it does not know what the first did"
    );
}

/// Write calls of this thread so far.
fn writes() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/io").expect("/proc");
    let line = text.lines().find_map(|line| line.strip_prefix("syscw: "));
    line.expect("a count").parse().expect("a number")
}

#[test]
fn a_dry_run_decides_the_same_and_writes_nothing() {
    let samples: Vec<ControllerSample> = (0..200_u64)
        .map(|second| {
            let mut sample = entries(600 + second * 40);
            sample.tables[0].losses = Some(TableLosses {
                drop: second.saturating_sub(100) * 3,
                ..TableLosses::default()
            });
            sample
        })
        .collect();
    let real = Fixture::new(1_000, 512);
    let dry = Fixture::new(1_000, 512);
    let files = ["nf_conntrack_max", "nf_conntrack_buckets"];
    let stamps = |node: &Fixture| {
        files.map(|name| {
            let metadata = fs::metadata(node.sysctl(name)).expect("there");
            (
                metadata.mtime(),
                metadata.mtime_nsec(),
                metadata.ctime_nsec(),
            )
        })
    };
    let before = stamps(&dry);
    let mut on = real.controller(Mode::On);
    let mut pretends = dry.controller(Mode::DryRun);
    // `write(2)` and its kin, of this thread, as the kernel counts them.
    let mut written = [0; 2];
    for (second, sample) in (0..).zip(&samples) {
        let begin = writes();
        on.tick(sample, at(second));
        let between = writes();
        pretends.tick(sample, at(second));
        written[0] += between - begin;
        written[1] += writes() - between;
    }
    assert!(written[0] > 0 && written[1] == 0, "{written:?}");
    let decisions = |controller: &Controller| -> Vec<_> {
        let changes = &controller.report().changes;
        changes
            .iter()
            .map(|change| {
                (
                    change.purpose,
                    change.before,
                    change.after,
                    change.reason.clone(),
                )
            })
            .collect()
    };
    assert!(decisions(&on).len() >= 3, "{:?}", decisions(&on));
    assert_eq!(decisions(&on), decisions(&pretends));
    assert!(
        outcomes(&pretends)
            .iter()
            .all(|(_, outcome)| *outcome == ChangeOutcome::DryRun)
    );
    assert!(real.limit() > 1_000);
    assert_eq!(dry.limit(), 1_000);
    assert_eq!(before, stamps(&dry));
    assert!(!dry.state().exists() && !dry.root().var("lib").exists());
}

#[test]
fn somebody_else_is_recorded_and_countered() {
    let node = Fixture::new(1_000, 1_024);
    let mut controller = node.controller(Mode::On);
    run(&mut controller, 0..5, &entries(900));
    let ours = node.limit();
    node.set(1_000);
    run(&mut controller, 5..15, &entries(900));
    assert_eq!(node.limit(), ours);
    assert_eq!(
        outcomes(&controller),
        [
            (Purpose::Raise, ChangeOutcome::Applied),
            (Purpose::Found, ChangeOutcome::Applied),
            (Purpose::Reapply, ChangeOutcome::Applied)
        ]
    );
    assert_eq!(controller.report().changes[1].by, By::SomebodyElse);
    assert_eq!(
        controller.report().fight.as_ref().map(|fight| fight.rounds),
        Some(1)
    );
    // Lowered while no controller ran: found at the next start.
    drop(controller);
    node.set(1_100);
    let mut next = node.controller(Mode::On);
    run(&mut next, 20..22, &entries(900));
    assert_eq!(
        next.report().changes.last().map(|change| change.purpose),
        Some(Purpose::Found)
    );
}

#[test]
fn by_hand_the_same_guards_hold_and_what_is_forced_is_named() {
    let node = Fixture::new(1_000, 1_024);
    let mut controller = node.controller(Mode::On);
    run(&mut controller, 0..2, &entries(500));
    let mut set = |limit, force| controller.set(limit, force, Some("root".to_owned()), at(2));
    assert_eq!(set(0, true), Err(SetError::OutOfBounds(0)));
    assert_eq!(set(1 << 31, true), Err(SetError::OutOfBounds(1 << 31)));
    let Err(SetError::Refused(reasons)) = set(400, false) else {
        panic!("it was set below what is there");
    };
    assert!(
        reasons.iter().any(|reason| reason.contains("500 entries")),
        "{reasons:?}"
    );
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("somebody else wanted 1,000"))
    );
    let Err(SetError::Refused(reasons)) = set(50_000_000, false) else {
        panic!("it was set above the ceiling");
    };
    assert!(reasons[0].contains("ceiling"), "{reasons:?}");
    assert_eq!(node.limit(), 1_000);
    let done = set(20_000, false).expect("nothing speaks against it");
    assert_eq!(done.overridden, Vec::<String>::new());
    // Buckets go with it.
    assert_eq!(done.changes.len(), 2, "{done:?}");
    assert_eq!(node.limit(), 20_000);
    let forced = set(400, true).expect("forced");
    assert_eq!(forced.overridden.len(), 2, "{forced:?}");
    assert_eq!(node.limit(), 400);
    run(&mut controller, 3..4, &entries(500));
    let report = controller.report();
    assert_eq!(
        report.raised_from, None,
        "what is set by hand is not the controller's"
    );
    let refused = [
        ("hand", ChangeOutcome::Refused, 2),
        ("hand", ChangeOutcome::Applied, 3),
    ];
    for (by, outcome, number) in refused {
        let tally = report
            .tallies
            .iter()
            .find(|tally| tally.by.name() == by && tally.outcome == outcome);
        assert_eq!(
            tally.map(|tally| tally.number),
            Some(number),
            "{by} {outcome:?}"
        );
    }
}

#[test]
fn what_is_in_the_way_is_said_and_not_tried_again_and_again() {
    // Not the host's network namespace.
    let node = Fixture::new(1_000, 1_024);
    fs::remove_file(node.root().proc("sys/net/nf_conntrack_max")).expect("there");
    let mut controller = node.controller(Mode::On);
    run(&mut controller, 0..10, &entries(900));
    let Standing::Blocked(why) = &controller.report().standing else {
        panic!("{:?}", controller.report());
    };
    assert!(why.contains("hostNetwork"), "{why}");
    assert_eq!(node.limit(), 1_000);
    // No place for the state.
    let node = Fixture::new(1_000, 1_024);
    fs::create_dir_all(node.root().var("lib")).expect("a folder");
    fs::write(node.root().var("lib/ctpressure"), "a file").expect("a file");
    let mut controller = node.controller(Mode::On);
    run(&mut controller, 0..10, &entries(900));
    let Standing::Blocked(why) = &controller.report().standing else {
        panic!("{:?}", controller.report());
    };
    assert!(why.contains("--limit-state"), "{why}");
    assert_eq!(node.limit(), 1_000);
    // A kernel that does not take it: here a device that swallows everything.
    let node = Fixture::new(1_000, 1_024);
    let mut controller = node.controller(Mode::On);
    run(&mut controller, 0..2, &entries(900));
    let path = node.sysctl("nf_conntrack_max");
    let tainted = controller
        .knobs
        .write(Knob::Limit, 0)
        .expect_err("out of bounds");
    assert!(tainted.to_string().contains("from 1 to"), "{tainted}");
    fs::remove_file(&path).expect("there");
    controller.tick(&entries(900), at(3));
    assert!(matches!(controller.report().standing, Standing::Blocked(_)));
}

#[test]
fn a_flood_is_refused_and_recorded_once() {
    let node = Fixture::new(1_000, 1_024);
    let mut controller = node.controller(Mode::On);
    controller.place.look = Box::new(|_| {
        let part = |name: &str| {
            Some(Part {
                name: name.to_owned(),
                entries: 880,
            })
        };
        Some(Composition {
            entries: 900,
            count: None,
            one_way: 890,
            time_wait: 0,
            source: part("203.0.113.9"),
            opener: None,
            destination: part("10.0.0.9:80 tcp"),
            ..Composition::default()
        })
    });
    run(&mut controller, 0..100, &entries(900));
    assert_eq!(node.limit(), 1_000);
    assert_eq!(
        outcomes(&controller),
        [(Purpose::Raise, ChangeOutcome::Refused)]
    );
    let report = controller.report();
    assert!(
        report.advice[0].contains("203.0.113.9 towards 10.0.0.9:80 tcp"),
        "{report:?}"
    );
}
