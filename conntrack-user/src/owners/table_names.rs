//! What a table is called: by whose it is, so that nobody has to look for a number of `lsns`, or for what a runtime calls a sandbox.
//!
//! A table that somebody has goes by that one's name (`shop/web`), another one by the name that its network namespace is kept by
//! (`ingress_sbox`), else by the inode number in digits. No two go by one name at a time: of two pods of one name it is the one that is
//! there, and the other one's has the inode number behind it. A pod's is its before anybody's who names control groups or containers.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use ctpressure_model::words::{NAME_BYTES, clean_within};

use super::{Owner, OwnerKind};
use crate::{kernel::tables::HOST_NAME, sys::netns::Inode};

/// Who has a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableOwner {
    pub owner: Owner,
    /// Is there; else it is gone, and what it left is in the table.
    pub present: bool,
}

/// Who has which table, by inode number of the network namespace.
pub(crate) type TableOwners = HashMap<Inode, TableOwner>;

/// The name of each of these tables, given with the inode number and what the kernel's side calls it: [`HOST_NAME`], the file that keeps its
/// network namespace, or the inode number in digits.
pub(crate) fn table_names<'a>(
    tables: impl IntoIterator<Item = (Inode, &'a str)>,
    owners: &TableOwners,
) -> BTreeMap<Inode, String> {
    let mut wished: Vec<_> = tables
        .into_iter()
        .map(|(netns, kept_as)| {
            let owner = owners.get(&netns).filter(|_| kept_as != HOST_NAME);
            let rank = match owner {
                None if kept_as == HOST_NAME => 0,
                Some(owner) => match (owner.owner.kind, owner.present) {
                    (OwnerKind::Pod, true) => 1,
                    (OwnerKind::Pod, false) => 2,
                    (_, true) => 3,
                    (_, false) => 4,
                },
                None => 5,
            };
            let name = owner.map_or_else(
                || clean_within(kept_as, NAME_BYTES),
                // Two pods' names and a slash.
                |owner| clean_within(&owner.owner.name(), 2 * NAME_BYTES),
            );
            (rank, netns, name)
        })
        .collect();
    wished.sort_unstable();
    let mut taken = HashSet::with_capacity(wished.len());
    wished
        .into_iter()
        .map(|(_, netns, name)| {
            // Nobody chooses a name that looks numbered: so one that has its own number behind it is the only one of its kind.
            if !is_numbered(&name) && taken.insert(name.clone()) {
                return (netns, name);
            }
            (netns, format!("{name}:{netns}"))
        })
        .collect()
}

fn is_numbered(name: &str) -> bool {
    let behind = name.rsplit_once(':').map(|(_, behind)| behind);
    behind.is_some_and(|it| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The word of commands for all tables.
pub(crate) const ALL: &str = "all";

/// The name as an argument of a command that people copy: anybody may name a control group, a shell reads some letters as orders,
/// and commands take digits for an inode number and [`ALL`] for every table.
pub(crate) fn as_argument(name: &str, netns: Inode) -> Cow<'_, str> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._:@-".contains(letter);
    let is_name = name != ALL && !name.bytes().all(|byte| byte.is_ascii_digit());
    if is_name
        && name.starts_with(|letter: char| letter.is_ascii_alphanumeric())
        && name.chars().all(is_plain)
    {
        Cow::Borrowed(name)
    } else {
        Cow::Owned(netns.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_shell_would_read_is_a_number() {
        for plain in ["shop/web-0", "host", "ingress_sbox", "a@b.service", "x:9"] {
            assert_eq!(as_argument(plain, 7), plain);
        }
        for odd in ["", "-x", "a b", "$(reboot)", "a;b", "pod u-1", "é"] {
            assert_eq!(as_argument(odd, 7), "7");
        }
    }

    #[test]
    fn a_name_that_commands_read_in_another_way_is_a_number() {
        for odd in ["all", "8", "4026532001", "99999999999"] {
            assert_eq!(as_argument(odd, 7), "7");
        }
        for plain in ["all:9", "8a", "wall", "a8"] {
            assert_eq!(as_argument(plain, 7), plain);
        }
    }

    const WEB: Option<(&str, &str)> = Some(("shop", "web"));

    fn owners(of: &[(Inode, Owner, bool)]) -> TableOwners {
        of.iter()
            .map(|(netns, owner, present)| {
                let (owner, present) = (owner.clone(), *present);
                (*netns, TableOwner { owner, present })
            })
            .collect()
    }

    fn names(tables: &[(Inode, &str)], owners: &TableOwners) -> Vec<String> {
        let names = table_names(tables.iter().copied(), owners);
        tables
            .iter()
            .map(|(netns, _)| names[netns].clone())
            .collect()
    }

    #[test]
    fn a_table_goes_by_whose_it_is() {
        let owners = owners(&[
            (2, Owner::pod("u-1", WEB), true),
            (3, Owner::cgroup("4f1d2c3b4a59", "/docker/4f1d"), true),
            (6, Owner::pod("u-6", None), true),
        ]);
        let tables = [
            (1, "host"),
            (2, "cni-5c1d7e2a-1111-4222-8333-000000000001"),
            (3, "8e3f6a1b2c4d"),
            (4, "ingress_sbox"),
            (5, "5"),
            (6, "6"),
        ];
        assert_eq!(
            names(&tables, &owners),
            [
                "host",
                "shop/web",
                "4f1d2c3b4a59",
                "ingress_sbox",
                "5",
                "pod u-6"
            ]
        );
    }

    #[test]
    fn of_two_pods_of_one_name_the_one_that_is_there_has_it() {
        let of = |gone, there| {
            owners(&[
                (gone, Owner::pod("u-1", WEB), false),
                (there, Owner::pod("u-2", WEB), true),
            ])
        };
        let tables = [(8, "8"), (9, "cni-x")];
        assert_eq!(names(&tables, &of(8, 9)), ["shop/web:8", "shop/web"]);
        assert_eq!(names(&tables, &of(9, 8)), ["shop/web", "shop/web:9"]);
        // A short while both are found.
        let both = owners(&[
            (8, Owner::pod("u-1", WEB), true),
            (9, Owner::pod("u-2", WEB), true),
        ]);
        assert_eq!(names(&tables, &both), ["shop/web", "shop/web:9"]);
    }

    #[test]
    fn nobody_takes_the_name_of_the_host_s() {
        let owners = owners(&[(7, Owner::cgroup("host", "/evil.slice/host"), true)]);
        let tables = [(7, "7"), (4_026_531_840, "host"), (8, "x"), (9, "x")];
        assert_eq!(names(&tables, &owners), ["host:7", "host", "x", "x:9"]);
    }

    #[test]
    fn nobody_takes_the_name_of_a_pod_s() {
        for present in [true, false] {
            let owners = owners(&[
                (7, Owner::cgroup("shop/web", "/shop/web"), true),
                (8, Owner::pod("u-1", WEB), present),
            ]);
            let tables = [(7, "7"), (8, "8")];
            assert_eq!(names(&tables, &owners), ["shop/web:7", "shop/web"]);
        }
    }

    #[test]
    fn no_two_have_one_name_whatever_they_are_called() {
        let all = ["x", "x", "x:9", "x:9:8", "x:6", "x:", "9"];
        let of = |number: usize| u32::try_from(number).unwrap() + 5;
        let owned: Vec<_> = all
            .iter()
            .enumerate()
            .map(|(at, name)| (of(at), Owner::cgroup(name, &format!("/{at}")), true))
            .collect();
        let mut tables: Vec<(Inode, &str)> = (0..all.len()).map(|at| (of(at), "kept")).collect();
        tables.extend([(12, "x"), (13, "x:6"), (14, "14")]);
        let found = names(&tables, &owners(&owned));
        assert_eq!(
            found,
            [
                "x", "x:6", "x:9:7", "x:9:8:8", "x:6:9", "x:", "9", "x:12", "x:6:13", "14"
            ]
        );
        // As many as anybody can make.
        let many: Vec<(Inode, &str)> = (0..100_000).map(|netns| (netns, "x")).collect();
        let found = names(&many, &TableOwners::new());
        assert_eq!(HashSet::<&String>::from_iter(&found).len(), many.len());
    }

    #[test]
    fn a_name_is_printable_and_short() {
        let long = "a\n\u{1b}[2J".repeat(100);
        let owners = owners(&[(7, Owner::cgroup(&long, "x"), true)]);
        for name in names(&[(7, "7"), (8, &long)], &owners) {
            assert!(name.len() <= NAME_BYTES, "{name:?}");
            assert!(!name.chars().any(char::is_control), "{name:?}");
        }
    }
}
