//! The journals of all nodes: the lists first, then what the nodes' own reports say of the gravest incidents.
//!
//! A node is asked for one report at a time: each reads its journal, in the agent's container and within its memory.

use std::collections::HashMap;

use ctpressure_model::command_line::Failure;

use super::{Reached, answers, arguments};
use crate::{
    answer::Ran,
    coverage::Coverage,
    fleet::Agent,
    shapes::{ListAnswer, ReportAnswer},
    view::journal::{Asked, Journal, JournalAnswer, of_node},
};

/// Incidents of a node whose causes are asked for: the gravest.
const TOLD: usize = 3;

/// Reads them.
///
/// # Errors
/// If no node answered.
pub(super) async fn read(
    reached: &Reached,
    asked: Asked,
) -> Result<(Coverage, Vec<Journal>), Failure> {
    let Reached { crowd, fleet } = reached;
    let list = arguments(&["report", "--output", "json"]);
    let questions = fleet.agents.iter().map(|agent| (agent, list.clone()));
    let mut lists = crowd.ask(questions, Ran::json::<ListAnswer>).await;
    let journals = lists.drain(..).map(|it| crate::ask::Asked {
        agent: it.agent,
        answer: it.answer.and_then(|list| {
            let (incidents, since) = of_node(&it.agent.node, list, asked)?;
            Ok(JournalAnswer {
                incidents,
                since,
                untold: Vec::new(),
            })
        }),
    });
    let (mut journals, silent) = answers::sort(journals.collect());
    let coverage = answers::coverage(reached, journals.len(), silent)?;
    let agents: HashMap<&str, &Agent> = fleet
        .agents
        .iter()
        .map(|agent| (agent.node.as_str(), agent))
        .collect();
    for round in 0..TOLD {
        learn(reached, &agents, &mut journals, round).await;
    }
    Ok((coverage, journals))
}

/// Asks each node for its report of the incident that comes next by what it cost.
async fn learn(
    reached: &Reached,
    agents: &HashMap<&str, &Agent>,
    journals: &mut [Journal],
    round: usize,
) {
    let mut wanted: Vec<(usize, usize)> = Vec::new();
    let mut questions = Vec::new();
    for (at, journal) in journals.iter().enumerate() {
        let incidents = &journal.answer.incidents;
        let mut by_gravity: Vec<usize> = (0..incidents.len()).collect();
        by_gravity.sort_by_key(|at| std::cmp::Reverse(incidents[*at].gravity()));
        let Some(which) = by_gravity.get(round) else {
            continue;
        };
        let Some(agent) = agents.get(journal.node.as_str()) else {
            continue;
        };
        let number = incidents[*which].number.to_string();
        wanted.push((at, *which));
        let question = arguments(&["report", "--incident", &number, "--output", "json"]);
        questions.push((*agent, question));
    }
    let asked = reached
        .crowd
        .ask(questions, Ran::json::<ReportAnswer>)
        .await;
    for ((at, which), asked) in wanted.into_iter().zip(asked) {
        let journal = &mut journals[at].answer;
        let learnt = asked
            .answer
            .and_then(|report| journal.incidents[which].learn(report));
        if let Err(why) = learnt {
            journal.untold.push(why.why);
        }
    }
}
