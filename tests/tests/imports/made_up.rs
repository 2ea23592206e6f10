//! A small crate that is made up, with each fault.

use std::fs;

use tempfile::TempDir;

use super::graph::Crate;

/// A crate of these files.
fn tree(files: &[(&str, &str)]) -> (TempDir, Crate) {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
    let read = Crate::read(folder.path()).expect("it is read");
    (folder, read)
}

const ROOT: (&str, &str) = ("lib.rs", "pub mod low; pub mod high;");

#[test]
fn an_arrow_downward_is_right_and_one_upward_is_told() {
    let right = [
        ROOT,
        ("low.rs", "pub struct A;"),
        ("high/mod.rs", "mod part;"),
        ("high/part.rs", "use crate::low::A;"),
    ];
    let (_folder, tree) = tree(&right);
    assert_eq!(tree.upward(&["low", "high"]), [""; 0]);
    let told = tree.upward(&["high", "low"]);
    assert_eq!(
        told,
        ["high/part.rs:1: crate::low::A is in low.rs: `high` is below `low`"]
    );
}

#[test]
fn an_arrow_inside_a_function_counts_and_one_in_a_test_does_not() {
    let files = [
        ROOT,
        (
            "low.rs",
            "\nfn f() { super::high::g() }\n#[cfg(test)]\nmod tests { use crate::high::g; }",
        ),
        ("high.rs", "pub fn g() {}"),
    ];
    let told = tree(&files).1.upward(&["low", "high"]);
    assert_eq!(
        told,
        ["low.rs:2: super::high::g is in high.rs: `low` is below `high`"]
    );
    let files = [
        ROOT,
        ("low/mod.rs", "#[cfg(test)] mod tests;"),
        ("low/tests.rs", "use crate::high::g;"),
        ("high.rs", "pub fn g() {}"),
    ];
    assert_eq!(tree(&files).1.upward(&["low", "high"]), [""; 0]);
}

#[test]
fn two_files_that_import_each_other_are_told() {
    let files = [
        ROOT,
        ("high.rs", ""),
        ("low/mod.rs", "mod a; mod b;"),
        ("low/a.rs", "use super::b::B; pub struct A;"),
        ("low/b.rs", "pub struct B(super::a::A);"),
    ];
    let told = tree(&files).1.circles();
    assert_eq!(
        told,
        ["low/a.rs:1: super::b::B is in low/b.rs, and back: low/b.rs -> low/a.rs"]
    );
}

#[test]
fn a_circle_through_a_re_export_and_a_third_file_is_told() {
    let files = [
        ROOT,
        ("high.rs", "use crate::low::C; pub struct D;"),
        ("low/mod.rs", "mod a; mod b; pub use b::{B as C};"),
        ("low/a.rs", "pub use crate::high::D; pub fn f(_: D) {}"),
        (
            "low/b.rs",
            "use super::a; pub struct B; fn g() { a::f(crate::high::D) }",
        ),
    ];
    let told = tree(&files).1.circles();
    assert_eq!(
        told,
        ["high.rs:1: crate::low::C is in low/b.rs, and back: low/b.rs -> high.rs"]
    );
}

#[test]
fn a_module_in_pieces_is_no_circle() {
    let files = [
        ROOT,
        ("high.rs", ""),
        (
            "low/mod.rs",
            "mod a; mod b; pub use a::A; pub use b::B; pub struct C;",
        ),
        ("low/a.rs", "pub struct A(super::C);"),
        ("low/b.rs", "mod c; pub struct B(super::A, c::D);"),
        ("low/b/c.rs", "use super::B; pub struct D; fn f(_: B) {}"),
    ];
    assert_eq!(tree(&files).1.circles(), [""; 0]);
}

#[test]
fn what_the_root_hands_on_from_another_crate_is_not_the_roots() {
    let files = [
        ("lib.rs", "pub mod low; pub use model::events;"),
        ("low.rs", "use crate::{events::Event,}; use std::fmt;"),
    ];
    assert_eq!(tree(&files).1.upward(&["low"]), [""; 0]);
}

#[test]
fn rooms_that_import_each_other_are_told_where_no_file_does() {
    let files = [
        ROOT,
        ("low.rs", "pub mod a; pub mod b;"),
        ("low/a.rs", "use crate::high::C;"),
        ("low/b.rs", "pub struct B;"),
        ("high.rs", "mod d; pub struct C;"),
        ("high/d.rs", "use crate::low::b::B;"),
    ];
    let (_folder, tree) = tree(&files);
    assert_eq!(tree.circles(), [""; 0]);
    let told = tree.room_circles();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("crate::low::b::B") || told[0].contains("crate::high::C"),
        "{told:?}"
    );
}
