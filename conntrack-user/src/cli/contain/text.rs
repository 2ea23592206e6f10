//! `ctpressure contain` for people.

use std::{fmt::Write as _, net::IpAddr};

use ctpressure_model::words::{clean, grouped, seconds};

use super::ContainDocument;
use crate::{
    contain::{ContainPlan, Contained, Deletion},
    serve::containments::ContainNoted,
};

/// The whole text.
pub(super) fn of(document: &ContainDocument) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    let _: Result<(), std::fmt::Error> = write(&mut text, document);
    text
}

fn write(text: &mut String, document: &ContainDocument) -> std::fmt::Result {
    let ContainDocument {
        plan,
        done,
        entries,
        lifted,
        contained,
        noted,
    } = document;
    if let Some(plan) = plan {
        writeln!(text, "owner       {}", clean(&plan.owner))?;
        for overridden in &plan.overridden {
            writeln!(text, "overridden  {}", clean(overridden))?;
        }
        writeln!(text, "limit       {}", limit(plan))?;
        if let Some(entries) = entries {
            writeln!(text, "entries     {}", deleted(entries, *done))?;
        }
        if !done {
            writeln!(text, "nothing is done yet: the same with --yes does it")?;
        }
    }
    if let Some(lifted) = lifted {
        writeln!(text, "lifted      {}", clean(lifted))?;
    }
    if *done {
        writeln!(text, "noted       {}", where_noted(*noted))?;
    }
    if contained.is_empty() && plan.is_none() {
        writeln!(text, "contained   nobody")?;
    }
    for owner in contained {
        writeln!(text, "contained   {}", line(owner))?;
    }
    Ok(())
}

fn where_noted(noted: Option<ContainNoted>) -> &'static str {
    match noted {
        None => "nowhere: no agent runs here that would",
        Some(ContainNoted {
            journal: false,
            events: false,
        }) => "in the agent's log and metrics; it has no journal",
        Some(ContainNoted {
            journal: true,
            events: false,
        }) => "in the agent's journal",
        Some(ContainNoted {
            journal: false,
            events: true,
        }) => "as a Kubernetes Event",
        Some(ContainNoted {
            journal: true,
            events: true,
        }) => "in the agent's journal, and as a Kubernetes Event",
    }
}

fn limit(plan: &ContainPlan) -> String {
    if plan.addresses.is_empty() {
        return "none: it has no address of its own, so it goes on".to_owned();
    }
    let addresses: Vec<String> = plan.addresses.iter().map(IpAddr::to_string).collect();
    format!(
        "{} from {}, for {}",
        entries_a_second(plan.rate),
        addresses.join(", "),
        seconds(plan.seconds)
    )
}

fn entries_a_second(rate: u32) -> String {
    match rate {
        0 => "no new entry".to_owned(),
        1 => "1 new entry a second".to_owned(),
        more => format!("{} new entries a second", grouped(more.into())),
    }
}

fn deleted(entries: &Deletion, done: bool) -> String {
    let mut parts = if done {
        vec![format!("{} deleted", grouped(entries.deleted))]
    } else {
        vec![format!("{} would be deleted", grouped(entries.found))]
    };
    for (number, what) in [
        (entries.gone, "gone by themselves"),
        (entries.refused, "not deleted by the kernel"),
        (entries.undecided, "left alone, since they may be another's"),
    ] {
        if number > 0 {
            parts.push(format!("{} {what}", grouped(number)));
        }
    }
    parts.join(", ")
}

fn line(owner: &Contained) -> String {
    let left = owner.addresses.iter().map(|own| own.seconds_left).max();
    let addresses: Vec<String> = owner
        .addresses
        .iter()
        .map(|own| own.address.to_string())
        .collect();
    format!(
        "{}: {} from {}, {} left; {} packets refused",
        clean(&owner.owner),
        entries_a_second(owner.rate),
        addresses.join(", "),
        seconds(left.unwrap_or_default()),
        grouped(owner.refused_packets)
    )
}
