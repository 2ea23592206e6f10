//! A timeout is shortened and restored, on files in a folder.

use super::*;

/// A table at its ceiling that is full of closed connections.
pub(super) fn closed() -> Composition {
    Composition {
        entries: 900,
        time_wait: 800,
        ..Composition::default()
    }
}

/// What may be done when the limit is at its ceiling of 1,000.
pub(super) fn settings(mode: Mode, root: &Root) -> Settings {
    Settings {
        mode,
        raise_for: Duration::from_secs(3),
        cooldown: Duration::from_secs(10),
        max_limit: 1_000,
        shorten_timeouts: true,
        state: root.var("lib/ctpressure/limit.state"),
        ..Settings::default()
    }
}

impl Fixture {
    fn shortening(&self, mode: Mode) -> Controller {
        let place = ControllerPlace {
            root: self.root(),
            lock: self.lock.clone(),
            look: Box::new(|_| Some(closed())),
            stepped: |_| {},
        };
        Controller::new(settings(mode, &self.root()), place)
    }

    pub(super) fn time_wait(&self) -> u64 {
        let size = Knobs::new(self.root()).read().expect("there");
        size.time_wait.expect("there")
    }

    fn set_time_wait(&self, seconds: u64) {
        let path = self.sysctl("nf_conntrack_tcp_timeout_time_wait");
        fs::write(path, format!("{seconds}\n")).expect("written");
    }
}

/// The last change that is known, and what came of it.
fn last(controller: &Controller) -> Option<(Purpose, ChangeOutcome)> {
    outcomes(controller).last().copied()
}

#[test]
fn it_is_shortened_said_remembered_and_restored() {
    let node = Fixture::new(1_000, 1_024);
    let mut controller = node.shortening(Mode::On);
    run(&mut controller, 0..6, &entries(900));
    assert_eq!((node.time_wait(), node.limit()), (30, 1_000));
    assert_eq!(
        last(&controller),
        Some((Purpose::Shorten, ChangeOutcome::Applied))
    );
    let report = controller.report();
    let shortened = report.shortened.as_ref().expect("shortened");
    assert_eq!((shortened.from, shortened.to), (120, 30));
    assert!(shortened.name.ends_with("time_wait"));
    let applied = report
        .tallies
        .iter()
        .find(|tally| tally.outcome == ChangeOutcome::Applied);
    assert_eq!(applied.map(|tally| tally.number), Some(1));
    // Calm, but not for long enough; then it is restored.
    run(&mut controller, 6..500, &entries(100));
    assert_eq!(node.time_wait(), 30);
    run(&mut controller, 500..1_500, &entries(100));
    assert_eq!(node.time_wait(), 120);
    assert_eq!(
        last(&controller),
        Some((Purpose::Restore, ChangeOutcome::Applied))
    );
    assert_eq!(controller.report().shortened, None);
    assert_eq!(controller.end(at(1_500)), []);
}

#[test]
fn an_end_in_order_restores_it_and_a_raise_stays() {
    let node = Fixture::new(1_000, 1_024);
    let mut controller = node.shortening(Mode::On);
    run(&mut controller, 0..6, &entries(900));
    assert_eq!(node.time_wait(), 30);
    let changes = controller.end(at(6));
    assert_eq!(node.time_wait(), 120);
    let [change] = changes.as_slice() else {
        panic!("{changes:?}");
    };
    assert_eq!(
        (
            change.purpose,
            change.before.time_wait,
            change.after.time_wait
        ),
        (Purpose::Restore, Some(30), Some(120))
    );
    assert!(change.reason.contains("the controller ends"), "{change:?}");
    assert_eq!(controller.end(at(7)), []);
    // The next one finds nothing to put back.
    drop(controller);
    let mut next = node.shortening(Mode::On);
    run(&mut next, 8..10, &entries(100));
    assert_eq!(next.report().shortened, None);
    assert_eq!(next.report().changes.len(), outcomes(&next).len());
    assert_eq!(
        last(&next),
        Some((Purpose::Restore, ChangeOutcome::Applied))
    );
}

#[test]
fn with_the_controller_off_what_a_killed_one_left_is_put_back_once() {
    let node = Fixture::new(1_000, 1_024);
    let mut controller = node.shortening(Mode::On);
    run(&mut controller, 0..6, &entries(900));
    // While it runs it is its own.
    assert_eq!(node.shortening(Mode::Off).put_back(at(6)), []);
    assert_eq!(node.time_wait(), 30);
    drop(controller);
    let changes = node.shortening(Mode::Off).put_back(at(7));
    assert_eq!((node.time_wait(), node.limit()), (120, 1_000));
    assert_eq!(
        changes.first().map(|change| change.purpose),
        Some(Purpose::Restore)
    );
    assert_eq!(node.shortening(Mode::Off).put_back(at(8)), []);
    // Nothing is made where there was no controller.
    let other = Fixture::new(1_000, 1_024);
    assert_eq!(other.shortening(Mode::Off).put_back(at(8)), []);
    assert!(!other.state().exists());
}

#[test]
fn what_somebody_else_set_since_is_theirs() {
    let node = Fixture::new(1_000, 1_024);
    let mut controller = node.shortening(Mode::On);
    run(&mut controller, 0..6, &entries(900));
    node.set_time_wait(60);
    assert_eq!(controller.end(at(6)), [], "it is not ours any more");
    run(&mut controller, 7..40, &entries(900));
    assert_eq!(node.time_wait(), 60);
    assert_eq!(
        last(&controller),
        Some((Purpose::Found, ChangeOutcome::Applied))
    );
    let change = controller.report().changes.last().expect("found");
    assert_eq!((change.by, &change.who), (By::SomebodyElse, &None));
    assert_eq!(controller.report().shortened, None);
    assert_eq!(controller.report().fight, None, "it is not about the limit");
    // The same while no controller ran.
    let node = Fixture::new(1_000, 1_024);
    let mut controller = node.shortening(Mode::On);
    run(&mut controller, 0..6, &entries(900));
    drop(controller);
    node.set_time_wait(60);
    let mut next = node.shortening(Mode::On);
    run(&mut next, 10..14, &entries(100));
    assert_eq!(node.time_wait(), 60);
    assert_eq!(last(&next), Some((Purpose::Found, ChangeOutcome::Applied)));
}

#[test]
fn a_controller_that_may_not_shorten_restores_what_another_left() {
    let node = Fixture::new(1_000, 1_024);
    let mut controller = node.shortening(Mode::On);
    run(&mut controller, 0..6, &entries(900));
    drop(controller);
    let mut next = node.controller(Mode::On);
    run(&mut next, 10..12, &entries(100));
    assert_eq!(node.time_wait(), 120);
    assert_eq!(
        last(&next),
        Some((Purpose::Restore, ChangeOutcome::Applied))
    );
    let change = next.report().changes.last().expect("restored");
    assert!(change.reason.contains("left it shortened"), "{change:?}");
}

#[test]
fn a_lost_state_means_that_it_is_not_ours() {
    let node = Fixture::new(1_000, 1_024);
    let mut controller = node.shortening(Mode::On);
    run(&mut controller, 0..6, &entries(900));
    drop(controller);
    let text = fs::read_to_string(node.state()).expect("there");
    let damaged = text.replace("\"from\":120", "\"from\":999");
    assert_ne!(text, damaged);
    fs::write(node.state(), damaged).expect("written");
    let mut next = node.shortening(Mode::On);
    run(&mut next, 10..14, &entries(100));
    assert_eq!(node.time_wait(), 30);
    assert_eq!(outcomes(&next), []);
}

#[test]
fn a_dry_run_says_the_same_and_writes_nothing() {
    let real = Fixture::new(1_000, 1_024);
    let dry = Fixture::new(1_000, 1_024);
    let mut on = real.shortening(Mode::On);
    let mut pretends = dry.shortening(Mode::DryRun);
    let stamp = || {
        let path = dry.sysctl("nf_conntrack_tcp_timeout_time_wait");
        let metadata = fs::metadata(path).expect("there");
        (metadata.mtime_nsec(), metadata.ctime_nsec())
    };
    let before = stamp();
    let mut written = 0;
    for second in 0..1_600 {
        let sample = entries(if second < 60 { 900 } else { 100 });
        on.tick(&sample, at(second));
        let begin = writes();
        pretends.tick(&sample, at(second));
        written += writes() - begin;
    }
    assert_eq!(pretends.end(at(1_600)), []);
    let told = |controller: &Controller| -> Vec<_> {
        let changes = controller.report().changes.iter();
        changes
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
    let purposes: Vec<_> = told(&on).iter().map(|change| change.0).collect();
    // The refused raise, then this.
    assert_eq!(
        purposes,
        [Purpose::Raise, Purpose::Shorten, Purpose::Restore]
    );
    assert_eq!(told(&on), told(&pretends));
    assert_eq!((written, dry.time_wait()), (0, 120));
    assert_eq!(before, stamp());
    assert!(!dry.root().var("lib").exists());
}

#[test]
fn a_timeout_that_can_t_be_written_is_said() {
    let node = Fixture::new(1_000, 1_024);
    fs::remove_file(node.sysctl("nf_conntrack_tcp_timeout_time_wait")).expect("there");
    let mut controller = node.shortening(Mode::On);
    run(&mut controller, 0..10, &entries(900));
    let Standing::Blocked(why) = &controller.report().standing else {
        panic!("{:?}", controller.report());
    };
    assert!(why.contains("nf_conntrack_tcp_timeout_time_wait"), "{why}");
}
