//! Which tables are meant, and what came of reading them.

use std::collections::BTreeMap;

use ctpressure_model::events::Netns;

use crate::{
    census::{Labels, PortSpace},
    cli::Failure,
    kernel::{
        Problem, Root,
        confinement::Confinement,
        entries::{EntryWalk, Unlisted, WalkOutcome},
        host,
        tables::{Namespace, TO_ENTER, discover},
    },
    owners::{ALL, TableOwners, table_names},
    sys::netns::{self, Inode},
};

/// One table that was read.
#[derive(Clone, Debug)]
pub(super) struct WalkedTable {
    pub(super) netns: Inode,
    /// What the reading came to.
    pub(super) walk: EntryWalk,
    /// What those are that the kernel counts and that are in no table; `None`: it does not say, or was not asked since there are none.
    pub(super) unlisted: Option<Unlisted>,
    /// Ports that source NAT has in use, of the fullest spaces.
    pub(super) ports: Vec<(PortSpace, u64)>,
}

/// The namespaces that were asked for, the caller's own if none was; each by the name of whose table it has.
pub(super) fn find(
    root: &Root,
    wanted: &[Netns],
    owners: &TableOwners,
) -> anyhow::Result<Vec<Namespace>> {
    if wanted.is_empty() {
        return own(root, owners).map(|own| vec![own]);
    }
    let found = discover(root);
    let names = names(found.namespaces.values(), owners);
    let mut chosen: Vec<Namespace> = Vec::new();
    for want in wanted {
        let meant = meant(want, &found.namespaces, &names);
        let all = *want == Netns::Name(ALL.to_owned());
        let is_there = all || !meant.is_empty();
        for namespace in meant {
            if !chosen.contains(namespace) {
                chosen.push(namespace.clone());
            }
        }
        if !is_there {
            let name = match want {
                Netns::Name(name) => name.clone(),
                Netns::Inode(inode) => inode.to_string(),
            };
            let mut problems = found.problems;
            problems.extend(found.host.err().map(|unseen| unseen.problem()));
            return Err(unknown(&name, &problems));
        }
    }
    for namespace in &mut chosen {
        if let Some(name) = names.get(&namespace.inode) {
            namespace.name.clone_from(name);
        }
    }
    // The host's first, then by name.
    chosen.sort_by_key(|namespace| {
        let is_host = found.host == Ok(namespace.inode);
        (!is_host, namespace.name.clone(), namespace.inode)
    });
    for problem in &found.problems {
        eprintln!("ctpressure: {problem}");
    }
    Ok(chosen)
}

/// Those that are meant by this. Others give names to tables: one that is called [`ALL`] takes nothing from that word, and
/// one whose name is a number is meant by it only if no namespace has that number.
fn meant<'a>(
    want: &Netns,
    found: &'a BTreeMap<Inode, Namespace>,
    names: &BTreeMap<Inode, String>,
) -> Vec<&'a Namespace> {
    let called = |name: &str| {
        let is_it = |namespace: &&Namespace| {
            let name_now = names.get(&namespace.inode);
            namespace.name == name || name_now.is_some_and(|it| it == name)
        };
        found.values().filter(is_it).collect()
    };
    match want {
        Netns::Name(name) if name == ALL => found.values().collect(),
        Netns::Name(name) => called(name),
        Netns::Inode(inode) => match found.get(inode) {
            Some(namespace) => vec![namespace],
            None => called(&inode.to_string()),
        },
    }
}

/// What their tables are called.
fn names<'a>(
    namespaces: impl IntoIterator<Item = &'a Namespace>,
    owners: &TableOwners,
) -> BTreeMap<Inode, String> {
    let kept_as = namespaces.into_iter();
    table_names(
        kept_as.map(|namespace| (namespace.inode, namespace.name.as_str())),
        owners,
    )
}

fn unknown(name: &str, problems: &[Problem]) -> anyhow::Error {
    let mut help =
        "`ctpressure table --netns all`, `ip netns list` and `lsns -t net` say which there are; \
                    `host`, `all` and a pod's such as `shop/web` are names too"
            .to_owned();
    for problem in problems {
        help += "; ";
        help += &problem.to_string();
    }
    Failure {
        what: format!("there is no network namespace {name}"),
        help,
    }
    .into()
}

/// The namespace that this command runs in.
fn own(root: &Root, owners: &TableOwners) -> anyhow::Result<Namespace> {
    let inode = netns::own_inode().map_err(|error| Failure {
        what: format!("the own network namespace can't be told: {error}"),
        help: "mount procfs at /proc".to_owned(),
    })?;
    // Most often it is the host's; to look at every process for a name takes longer.
    let host = host::find(root).ok().map(|host| host.inode);
    let named = |name: String| Namespace {
        inode,
        name,
        own: true,
        process: None,
        by_kernel: false,
        file: None,
    };
    if host == Some(inode) {
        return Ok(named("host".to_owned()));
    }
    let found = discover(root).namespaces.remove(&inode);
    let mut own = found.unwrap_or_else(|| named(inode.to_string()));
    if let Some(name) = names([&own], owners).remove(&inode) {
        own.name = name;
    }
    Ok(own)
}

/// The tables that were read, and what is to be said about the others. A single one that can't be
/// read is an error.
pub(super) fn sort_out(
    outcomes: Vec<(Inode, WalkOutcome)>,
    labels: &Labels<'_>,
) -> anyhow::Result<(Vec<WalkedTable>, Vec<String>)> {
    let mut tables = Vec::with_capacity(outcomes.len());
    let mut problems = Vec::new();
    let mut first: Option<anyhow::Error> = None;
    for (netns, outcome) in outcomes {
        let name = labels.netns(netns);
        let error: anyhow::Error = match outcome {
            WalkOutcome::Walked(walk) => {
                tables.push(WalkedTable {
                    netns,
                    walk,
                    unlisted: None,
                    ports: Vec::new(),
                });
                continue;
            }
            WalkOutcome::Failed(error) => error.into(),
            WalkOutcome::Gone => Failure {
                what: format!("the network namespace {name} is gone"),
                help: "`ip netns list` and `lsns -t net` say which there are".to_owned(),
            }
            .into(),
            WalkOutcome::NotEntered(error) => Failure {
                what: format!("the network namespace {name} can't be entered: {error}"),
                help: Confinement::of_this_thread(&Root::system(), TO_ENTER).help(),
            }
            .into(),
        };
        problems.push(format!("table {name} was not read: {error}"));
        first.get_or_insert(error);
    }
    match first {
        Some(error) if tables.is_empty() => Err(error),
        _ => Ok((tables, problems)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_an_inode_first_and_all_is_every_table() {
        let kept = [(1, "host"), (7, "7"), (8, "all"), (9, "7"), (10, "12")];
        let found: BTreeMap<Inode, Namespace> = kept
            .into_iter()
            .map(|(inode, name)| {
                let namespace = Namespace {
                    inode,
                    name: name.to_owned(),
                    own: false,
                    process: None,
                    by_kernel: false,
                    file: None,
                };
                (inode, namespace)
            })
            .collect();
        let names = BTreeMap::from([(10, "8".to_owned()), (9, "shop/web".to_owned())]);
        let meant = |want: &str| -> Vec<Inode> {
            let meant = meant(&want.parse().unwrap(), &found, &names);
            meant.iter().map(|namespace| namespace.inode).collect()
        };
        assert_eq!(meant("7"), [7], "not the one that is called so");
        assert_eq!(meant("8"), [8]);
        assert_eq!(meant("12"), [10], "no namespace has this number");
        assert_eq!(meant("all"), [1, 7, 8, 9, 10]);
        assert_eq!(meant("shop/web"), [9]);
        assert!(meant("13").is_empty());
    }
}
