//! What many agents go on saying: one line after another, from all of them in one stream. Who falls silent is asked again.

use std::{collections::HashSet, time::Duration};

use kube::Client;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    exec::{self, Ended, Running},
    list,
};
use crate::{answer::Ran, coverage::Why, fleet::Agent, options::AgentArgs};

/// Lines that wait to be printed; then whoever sends has to wait, and its agent counts what it loses meanwhile.
const WAITING: usize = 1024;
/// The longest line.
const LINE: usize = 64 << 10;
/// Before agents are looked for again: new ones, and those that fell silent.
const PAUSE: Duration = Duration::from_secs(10);

/// What comes out of the stream.
pub(crate) enum Line {
    /// A line of an agent.
    Of { node: String, line: String },
    /// It can be heard.
    Begun { node: String },
    /// It can't be heard, or not any more.
    Silent { node: String, why: Why },
}

/// Listens to all agents until the receiver is dropped.
pub(crate) fn follow(
    client: Client,
    args: AgentArgs,
    nodes: Vec<String>,
    first: Vec<Agent>,
    arguments: Vec<String>,
) -> mpsc::Receiver<Line> {
    let (lines, receiver) = mpsc::channel(WAITING);
    let mut command = vec![args.agent_program.clone()];
    command.extend(arguments);
    tokio::spawn(async move {
        let mut heard: HashSet<String> = HashSet::new();
        let mut streams: JoinSet<String> = JoinSet::new();
        let mut agents = first;
        loop {
            for agent in agents.drain(..) {
                // One stream for each pod, so that a new one in its place is heard at once.
                if heard.insert(agent.pod.clone()) {
                    let (client, command, lines) = (client.clone(), command.clone(), lines.clone());
                    let patience = args.patience(PAUSE);
                    streams.spawn(async move {
                        let end = one(&client, &agent, &command, &lines, patience).await;
                        let node = agent.node;
                        // Nobody listens any more: then nobody has to know.
                        drop(lines.send(Line::Silent { node, why: end }).await);
                        agent.pod
                    });
                }
            }
            let again = Instant::now() + PAUSE;
            loop {
                tokio::select! {
                    () = lines.closed() => return,
                    () = sleep(again.saturating_duration_since(Instant::now())) => break,
                    Some(ended) = streams.join_next(), if !streams.is_empty() => {
                        if let Ok(pod) = ended {
                            heard.remove(&pod);
                        }
                    }
                }
            }
            // Where the list can't be had, those who are heard are heard on.
            if let Ok(fleet) = list(&client, &args, &nodes).await {
                agents = fleet.agents;
            }
        }
    });
    receiver
}

/// Listens to one agent; says why that ended.
async fn one(
    client: &Client,
    agent: &Agent,
    command: &[String],
    lines: &mpsc::Sender<Line>,
    patience: Duration,
) -> Why {
    let begun = timeout(patience, exec::begin(client, agent, command)).await;
    let mut running = match begun {
        Ok(Ok(running)) => running,
        Ok(Err(why)) => return why,
        Err(_) => return Why::new("no answer in time", "--timeout gives it longer"),
    };
    let node = agent.node.clone();
    if lines.send(Line::Begun { node }).await.is_err() {
        return Why::new("nobody listens", "");
    }
    hand_on(&mut running, &agent.node, lines).await;
    let Ended { error, status } = running.end();
    let (status, said) = exec::outcome(status);
    let ran = Ran {
        error,
        status,
        said,
        ..Ran::default()
    };
    ran.text()
        .err()
        .unwrap_or_else(|| Why::new("its stream ended", "it is asked again"))
}

/// Hands on its lines until there are no more, or nobody listens.
async fn hand_on(running: &mut Running, node: &str, lines: &mpsc::Sender<Line>) {
    let mut line = Vec::new();
    while let Some(piece) = running.next().await {
        let mut parts = piece.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            // What is longer is cut, and then is no event.
            let room = LINE.saturating_sub(line.len());
            line.extend(part.iter().take(room));
            if parts.peek().is_some() {
                let whole = String::from_utf8_lossy(&line).into_owned();
                line.clear();
                let node = node.to_owned();
                if lines.send(Line::Of { node, line: whole }).await.is_err() {
                    return;
                }
            }
        }
    }
}
