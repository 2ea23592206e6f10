//! `ctpressure`: see `conntrack_user::cli`.

fn main() {}
