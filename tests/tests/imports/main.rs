//! What imports what, read from the sources: no arrow runs upward, and no circle. See it by
//!
//!     cargo test -p ctpressure-tests --test imports -- --ignored --nocapture
//!
//! * Crates: cargo itself refuses a circle of them; what a crate needs is in its Cargo.toml.
//! * Rooms are the modules that a crate's root declares. Those of `conntrack-user` have an order, [`ROOMS`]: each may import from those that
//!   stand before it. In other crates the rooms must not form a circle, so that there is an order.
//! * Files of one crate must not form a circle: two of them that import each other are the shortest. An arrow goes to the file that has the
//!   item, through re-exports, so a `mod.rs` that hands on what its children have (`pub use`) is part of no circle. Arrows between a file and
//!   one inside its module (`a.rs` and `a/b.rs`) do not count: that is one module, cut in pieces.
//!
//! Read are the files below `src/` of each member of the workspace, without what is compiled for tests only (`#[cfg(test)]`), and without
//! integration tests, benchmarks and examples: nobody can import from these.

use std::{
    fs,
    path::{Path, PathBuf},
};

mod graph;
mod made_up;
mod scan;

use graph::Crate;

/// The rooms of `conntrack-user`, the lowest first.
const ROOMS: &[&str] = &[
    "sys",
    "kernel",
    "owners",
    "probes",
    "walk",
    "census",
    "contain",
    "agent",
    "limit",
    "recorder",
    "kube_events",
    "doctor",
    "serve",
    "cli",
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folders of the workspace's members.
fn members() -> Vec<String> {
    let manifest = fs::read_to_string(repository().join("Cargo.toml")).expect("the workspace");
    let (_, members) = manifest.split_once("\nmembers = [").expect("members");
    let (members, _) = members.split_once(']').expect("an end of it");
    members
        .split(',')
        .map(|member| member.trim().trim_matches('"').to_owned())
        .filter(|member| !member.is_empty())
        .collect()
}

fn read(member: &str) -> Crate {
    let source = repository().join(member).join("src");
    Crate::read(&source).unwrap_or_else(|error| panic!("{}: {error}", source.display()))
}

/// Fails with all of them.
fn none(what: &str, offences: &[String]) {
    assert!(
        offences.is_empty(),
        "{} {what}:\n{}",
        offences.len(),
        offences.join("\n")
    );
}

#[test]
fn every_room_has_its_place_in_the_order() {
    let user = read("conntrack-user");
    let rooms: Vec<&str> = user.rooms().into_iter().collect();
    let mut order = ROOMS.to_vec();
    order.sort_unstable();
    assert_eq!(rooms, order, "ROOMS says which room stands above which");
}

#[test]
fn no_import_runs_upward() {
    none("arrows upward", &read("conntrack-user").upward(ROOMS));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let members = members();
    assert!(members.len() >= 4, "{members:?}");
    let circles: Vec<String> = members
        .iter()
        .flat_map(|member| {
            let read = read(member);
            let circles = [read.circles(), read.room_circles()].concat();
            circles
                .into_iter()
                .map(move |circle| format!("{member}: {circle}"))
        })
        .collect();
    none("circles", &circles);
}

#[test]
#[ignore = "prints what imports what: cargo test -p ctpressure-tests --test imports -- --ignored --nocapture"]
fn print_the_graph() {
    for member in members() {
        println!("{member}\n{}", read(&member).print());
    }
}
