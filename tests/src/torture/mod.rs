//! Torture: a random schedule of everything at once, in which every count has to stay true.
//!
//! * [`schedule`]: what is done, made from a seed;
//! * `node`: to what it is done;
//! * `steps`: how;
//! * `truth`: what has to hold, all the while and when everything rests.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};

mod node;
pub mod schedule;
mod steps;
mod truth;

use node::{Node, locked};
use schedule::{PODS, Round};
use truth::{Counts, Done};

/// Carries out the rounds, for at most so long, on a node with a table of `crowd` entries that no round touches; each is printed before
/// it begins.
///
/// # Errors
///
/// What did not hold, and in which round.
pub fn run(
    rounds: impl IntoIterator<Item = Round>,
    limit: Option<Duration>,
    crowd: u64,
) -> Result<u32> {
    let node = Node::new(None, crowd)?;
    let began = Instant::now();
    for pod in 0..PODS / 2 {
        node.make_pod(pod, pod)?;
    }
    node.wait_for_pods()?;
    let mut counts = Counts::read(&node.agent())?;
    let mut number = 0;
    for round in rounds {
        if limit.is_some_and(|limit| began.elapsed() >= limit) {
            break;
        }
        println!("ROUND {}", serde_json::to_string(&round)?);
        let first = Instant::now();
        let done = carry_out(&node, &round).and_then(|done| {
            node.wait_for_pods()?;
            counts = truth::check(&node, &counts, &done)?;
            Ok(())
        });
        done.inspect_err(|_| tell(&node))
            .with_context(|| format!("round {number}"))?;
        println!("round {number} took {:.1} s", first.elapsed().as_secs_f64());
        number += 1;
    }
    truth::emptied(&node).context("at the end")?;
    node.end().context("after the end")?;
    Ok(number)
}

/// Prints what helps to find out why something did not hold.
fn tell(node: &Node) {
    let agent = node.agent();
    for line in agent.log().lines() {
        println!("the agent's log: {line}");
    }
    match agent.status() {
        Ok(status) => println!("the agent's status: {status}"),
        Err(error) => println!("the agent has no status: {error:#}"),
    }
}

/// Begins all steps of a round, each at its time, and waits for all.
fn carry_out(node: &Node, round: &Round) -> Result<Done> {
    let is_over = AtomicBool::new(false);
    let all = Mutex::new(Done::default());
    thread::scope(|scope| {
        let watching = scope.spawn(|| truth::watch(node, || is_over.load(Ordering::Acquire)));
        let all = &all;
        let running: Vec<_> = round
            .steps
            .iter()
            .map(|step| {
                scope.spawn(move || -> Result<()> {
                    thread::sleep(Duration::from_millis(step.after));
                    let done = steps::carry_out(node, &step.action)
                        .with_context(|| format!("{:?}", step.action))
                        // One that fails makes others fail, which may be told first.
                        .inspect_err(|error| println!("a step failed: {error:#}"))?;
                    locked(all).add(done);
                    Ok(())
                })
            })
            .collect();
        let mut result = Ok(());
        for step in running {
            let ended = step.join().map_err(|_| anyhow!("a step panicked"));
            result = result.and(ended.and_then(|ended| ended));
        }
        is_over.store(true, Ordering::Release);
        let watched = watching.join().map_err(|_| anyhow!("the watch panicked"));
        result.and(watched.and_then(|watched| watched))
    })?;
    Ok(all.into_inner().unwrap_or_default())
}
