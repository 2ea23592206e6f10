//! The controller is killed right after each single step of a change; the next one finds a consistent node and
//! knows what was done.
//!
//! The test runs itself as a child, which kills itself by SIGKILL after a step: nothing is cleaned up, as
//! with `kill -9` from outside.

use std::{
    env,
    os::unix::process::ExitStatusExt as _,
    process::{Command, Stdio},
};

use nix::{
    sys::signal::{Signal, raise},
    unistd::getpid,
};

use super::*;

/// The folder of the child's node, and the step after which it ends.
const FOLDER: &str = "CTPRESSURE_TEST_FOLDER";
const AFTER: &str = "CTPRESSURE_TEST_STEP";
/// What the child is to be in the midst of.
const DOING: &str = "CTPRESSURE_TEST_DOING";
const STEPS: [ControllerStep; 6] = [
    ControllerStep::IntentDrafted,
    ControllerStep::IntentKept,
    ControllerStep::Written,
    ControllerStep::Confirmed,
    ControllerStep::ResultDrafted,
    ControllerStep::ResultKept,
];

/// The step that ends the child, as its place in [`STEPS`].
static FATAL: AtomicU32 = AtomicU32::new(u32::MAX);

fn end_after(step: ControllerStep) {
    let place = STEPS.iter().position(|known| *known == step);
    if place.and_then(|place| u32::try_from(place).ok()) == Some(FATAL.load(Ordering::Relaxed)) {
        raise(Signal::SIGKILL).expect("it ends here");
    }
}

/// Not a test of its own: what the child does.
#[test]
fn child() {
    let (Some(folder), Ok(after)) = (env::var_os(FOLDER), env::var(AFTER)) else {
        return;
    };
    let doing = env::var(DOING).expect("what it does");
    let root = Root::at(&folder);
    let mut settings = timeouts::settings(Mode::On, &root);
    let mut look: fn(u32) -> Option<Composition> = |_| Some(timeouts::closed());
    if doing == Purpose::Raise.name() {
        settings.max_limit = Settings::default().max_limit;
        look = |_| Some(Composition::default());
    }
    let place = ControllerPlace {
        root,
        lock: format!("ctpressure/test-killed-{}", getpid()),
        look: Box::new(look),
        stepped: end_after,
    };
    let mut controller = Controller::new(settings, place);
    // The first two seconds change nothing; then each change has the fatal step.
    let mut quiet = 0..2;
    if doing == Purpose::Restore.name() {
        quiet = 0..10;
    }
    let then = quiet.end..quiet.end + 18;
    run(&mut controller, quiet, &entries(900));
    FATAL.store(after.parse().expect("a number"), Ordering::Relaxed);
    if doing == Purpose::Restore.name() {
        controller.end(at(then.start));
    } else {
        run(&mut controller, then, &entries(900));
    }
    panic!("the child lived through its step");
}

/// Runs the child on this node until it kills itself after the step.
fn kill_after(node: &Fixture, step: usize) {
    kill_while(node, step, Purpose::Raise);
}

fn kill_while(node: &Fixture, step: usize, doing: Purpose) {
    let name = "limit::controller::tests::killed::child";
    let status = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", name, "--nocapture"])
        .env(FOLDER, node.folder.path())
        .env(AFTER, step.to_string())
        .env(DOING, doing.name())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("it starts");
    assert_eq!(
        status.signal(),
        Some(9),
        "after {:?}: {status}",
        STEPS[step]
    );
}

#[test]
fn after_each_step_the_next_start_knows_what_was_done() {
    for (place, step) in STEPS.iter().enumerate() {
        let node = Fixture::new(1_000, 1_024);
        kill_after(&node, place);
        let written = *step >= ControllerStep::Written;
        let after_kill = node.limit();
        assert_eq!(after_kill > 1_000, written, "{step:?}");
        // The next one, at rest: it changes nothing by itself.
        let mut next = node.controller(Mode::On);
        run(&mut next, 100..103, &entries(10));
        assert_eq!(next.report().standing, Standing::Acting, "{step:?}");
        assert_eq!(node.limit(), after_kill, "{step:?}");
        let expected: &[_] = match step {
            // Never begun, as far as anybody knows.
            ControllerStep::IntentDrafted => &[],
            ControllerStep::IntentKept => &[(Purpose::Raise, ChangeOutcome::Failed)],
            _ => &[(Purpose::Raise, ChangeOutcome::Applied)],
        };
        assert_eq!(outcomes(&next), expected, "{step:?}");
        assert_eq!(
            next.report().raised_from,
            written.then_some(1_000),
            "{step:?}"
        );
        assert!(next.state.pending.is_none());
        // And after one more restart it is the same, told once.
        drop(next);
        let mut later = node.controller(Mode::On);
        run(&mut later, 200..203, &entries(10));
        assert_eq!(outcomes(&later), expected, "{step:?}");
        assert_eq!(
            later.report().raised_from,
            written.then_some(1_000),
            "{step:?}"
        );
    }
}

#[test]
fn what_somebody_else_set_after_the_end_is_theirs() {
    for place in [1, 2, 5] {
        let node = Fixture::new(1_000, 1_024);
        kill_after(&node, place);
        node.set(777_777);
        let mut next = node.controller(Mode::On);
        run(&mut next, 100..103, &entries(10));
        assert_eq!(node.limit(), 777_777);
        assert_eq!(next.report().raised_from, None);
        assert_eq!(next.policy.ledger().give_back_to(), None);
    }
}

#[test]
fn a_timeout_is_restored_by_the_next_start_after_whichever_step_the_last_one_ended() {
    for doing in [Purpose::Shorten, Purpose::Restore] {
        for (place, step) in STEPS.iter().enumerate() {
            let node = Fixture::new(1_000, 1_024);
            kill_while(&node, place, doing);
            let written = *step >= ControllerStep::Written;
            let there = if written == (doing == Purpose::Shorten) {
                30
            } else {
                120
            };
            assert_eq!(node.time_wait(), there, "{doing:?} {step:?}");
            let mut next = node.controller(Mode::On);
            run(&mut next, 100..103, &entries(10));
            assert_eq!(node.time_wait(), 120, "{doing:?} {step:?}");
            assert_eq!(next.report().standing, Standing::Acting);
            assert_eq!(next.report().shortened, None);
            assert!(next.state.pending.is_none());
            // What was done is known, each once, and it is not done again.
            let done = outcomes(&next);
            let number = |wanted| {
                let applied = done
                    .iter()
                    .filter(|(_, outcome)| *outcome == ChangeOutcome::Applied);
                applied.filter(|(purpose, _)| *purpose == wanted).count()
            };
            let shortened = usize::from(written || doing == Purpose::Restore);
            assert_eq!(number(Purpose::Shorten), shortened, "{step:?} {done:?}");
            assert_eq!(number(Purpose::Restore), shortened, "{step:?} {done:?}");
            let changes = next.report().changes.len();
            drop(next);
            let mut later = node.controller(Mode::On);
            run(&mut later, 200..203, &entries(10));
            assert_eq!(later.report().changes.len(), changes);
        }
    }
}

#[test]
fn a_timeout_that_somebody_else_set_after_the_end_is_theirs() {
    for place in [1, 2, 5] {
        let node = Fixture::new(1_000, 1_024);
        kill_while(&node, place, Purpose::Shorten);
        let path = node.sysctl("nf_conntrack_tcp_timeout_time_wait");
        fs::write(path, "77\n").expect("written");
        let mut next = node.controller(Mode::On);
        run(&mut next, 100..103, &entries(10));
        assert_eq!(node.time_wait(), 77);
        assert_eq!(next.report().shortened, None);
    }
}
