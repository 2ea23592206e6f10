//! `cargo xtask`: everything a developer types.

fn main() {}
