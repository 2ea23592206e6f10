//! `ctpressure`: see `conntrack_user::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    conntrack_user::cli::main()
}
