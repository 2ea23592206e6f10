//! All agents asked the same, and their answers sorted from the silence of the others.

use ctpressure_model::command_line::Failure;
use serde::de::DeserializeOwned;

use super::Reached;
use crate::{
    answer::Ran,
    ask::Asked,
    coverage::{Coverage, Silent},
    view::OfNode,
};

/// Asks all of them.
///
/// # Errors
/// If not one answered: then there is nothing to show.
pub(super) async fn all<T: DeserializeOwned>(
    reached: &Reached,
    arguments: &[String],
) -> Result<(Coverage, Vec<OfNode<T>>), Failure> {
    let Reached { crowd, fleet } = reached;
    let questions = fleet.agents.iter().map(|agent| (agent, arguments.to_vec()));
    let asked = crowd.ask(questions, Ran::json).await;
    let (answers, silent) = sort(asked);
    Ok((coverage(reached, answers.len(), silent)?, answers))
}

/// Answers, and who gave none.
pub(super) fn sort<T>(asked: Vec<Asked<'_, T>>) -> (Vec<OfNode<T>>, Vec<Silent>) {
    let (mut answers, mut silent) = (Vec::new(), Vec::new());
    for Asked { agent, answer } in asked {
        match answer {
            Ok(answer) => answers.push(OfNode {
                node: agent.node.clone(),
                answer,
            }),
            Err(why) => silent.push(agent.silent(why)),
        }
    }
    (answers, silent)
}

/// Who answered, with those who could not even be asked.
///
/// # Errors
/// If nobody did.
pub(super) fn coverage(
    reached: &Reached,
    answered: usize,
    mut silent: Vec<Silent>,
) -> Result<Coverage, Failure> {
    let fleet = &reached.fleet;
    silent.extend(fleet.silent.iter().cloned());
    let coverage = Coverage::new(answered, silent, fleet.notes.clone());
    if answered > 0 {
        return Ok(coverage);
    }
    let reasons = coverage.reasons();
    let first = reasons.first().map(|(why, help, nodes)| {
        let nodes = crate::coverage::names(nodes.iter().copied());
        (format!("{nodes}: {why}"), (*help).to_owned())
    });
    let (why, help) = first.unwrap_or_default();
    let more = match reasons.len() {
        0 | 1 => String::new(),
        many => format!("; {} other reasons", many - 1),
    };
    Err(Failure {
        what: format!("no node answered ({why}{more})"),
        help: if help.is_empty() {
            "does `kubectl exec` work in the agents' pods?".to_owned()
        } else {
            help
        },
    })
}
