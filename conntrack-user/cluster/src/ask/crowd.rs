//! Many agents asked at once: no more at a time than is allowed, each for no longer than it may take.

use std::time::Duration;

use ctpressure_model::words;
use futures_util::{StreamExt as _, stream};
use kube::Client;
use tokio::time::timeout;

use super::{exec, progress::Progress};
use crate::{answer::Ran, coverage::Why, fleet::Agent, options::AgentArgs};

/// One agent, and what it answered.
pub(crate) struct Asked<'a, T> {
    pub(crate) agent: &'a Agent,
    pub(crate) answer: Result<T, Why>,
}

/// The way to many agents.
pub(crate) struct Crowd {
    client: Client,
    program: String,
    concurrency: usize,
    patience: Duration,
}

impl Crowd {
    pub(crate) fn new(client: Client, args: &AgentArgs, patience: Duration) -> Self {
        Self {
            client,
            program: args.agent_program.clone(),
            concurrency: usize::from(args.concurrency),
            patience: args.patience(patience),
        }
    }

    /// Asks each agent its own question, and reads the answer at once, so that no more is kept than is needed. Answers are in the
    /// order of the questions.
    pub(crate) async fn ask<'a, T>(
        &self,
        questions: impl IntoIterator<Item = (&'a Agent, Vec<String>)>,
        read: impl Fn(&Ran) -> Result<T, Why>,
    ) -> Vec<Asked<'a, T>> {
        let questions: Vec<_> = questions.into_iter().collect();
        let mut progress = Progress::new(questions.len());
        let (read, this) = (&read, &self);
        let mut asked: Vec<(usize, Asked<'a, T>)> = stream::iter(questions.into_iter().enumerate())
            .map(|(at, (agent, arguments))| async move {
                let answer = this.one(agent, arguments).await;
                let answer = answer.and_then(|ran| read(&ran));
                (at, Asked { agent, answer })
            })
            .buffer_unordered(self.concurrency)
            .inspect(|_| progress.one())
            .collect()
            .await;
        asked.sort_by_key(|(at, _)| *at);
        asked.into_iter().map(|(_, asked)| asked).collect()
    }

    async fn one(&self, agent: &Agent, arguments: Vec<String>) -> Result<Ran, Why> {
        let mut command = vec![self.program.clone()];
        command.extend(arguments);
        let ran = timeout(self.patience, exec::run(&self.client, agent, &command)).await;
        ran.unwrap_or_else(|_| {
            let why = format!("no answer within {}", words::span(self.patience));
            Err(Why::new(
                &why,
                "--timeout gives it longer; is its node well?",
            ))
        })
    }
}
