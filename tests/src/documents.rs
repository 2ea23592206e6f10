//! The documents, and the command lines in them: they are run (the scenario `documents`), and looked at where
//! they can't be (the test `documents` of conntrack-user).

macro_rules! documents {
    ($($path:literal,)*) => {
        /// Each document of the project: its path and its text.
        pub const DOCUMENTS: &[(&str, &str)] =
            &[$(($path, include_str!(concat!("../../", $path)))),*];
    };
}

documents! {
    "README.md",
    "conntrack-user/src/journal/README.md",
    "deploy/README.md",
    "deploy/docs/events.md",
    "deploy/docs/kernels.md",
    "deploy/docs/metrics.md",
    "deploy/docs/principles.md",
    "deploy/docs/security.md",
    "deploy/runbooks/CtpressureAgentDown.md",
    "deploy/runbooks/CtpressureAgentMissing.md",
    "deploy/runbooks/CtpressureChainTooLong.md",
    "deploy/runbooks/CtpressureClashDrops.md",
    "deploy/runbooks/CtpressureConnectionsEvicted.md",
    "deploy/runbooks/CtpressureEventsLost.md",
    "deploy/runbooks/CtpressureLimitChanged.md",
    "deploy/runbooks/CtpressureLimitFight.md",
    "deploy/runbooks/CtpressureOneOwnerHoldsTable.md",
    "deploy/runbooks/CtpressurePacketsDropped.md",
    "deploy/runbooks/CtpressureProbeNotAttached.md",
    "deploy/runbooks/CtpressureTableFillsNow.md",
    "deploy/runbooks/CtpressureTableFillsSoon.md",
    "deploy/runbooks/README.md",
    "tests/fixtures/README.md",
}

/// The `ctpressure` command lines in a document, without that word: indented or between back quotes, up to a comment,
/// a pipe or a redirection.
pub fn command_lines(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines() {
        let indented = line.strip_prefix("    ");
        let code = indented.map(|line| line.strip_prefix("$ ").unwrap_or(line));
        let quoted = line.split('`').skip(1).step_by(2);
        for code in code.into_iter().chain(quoted) {
            // In a container it is at the root.
            let inside = code.split_once(" -- /ctpressure ").map(|(_, rest)| rest);
            let Some(rest) = code.strip_prefix("ctpressure ").or(inside) else {
                continue;
            };
            let end = rest.find(['#', '|', '>', '<', '&']).unwrap_or(rest.len());
            found.push(rest[..end].trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_found() {
        let text = "Try `ctpressure watch --kind drops` or\n\n    $ ctpressure run --listen nowhere   # no\n\
                    \n    kubectl exec pod -- /ctpressure top --once | head\n";
        let lines = command_lines(text);
        assert_eq!(
            lines,
            ["watch --kind drops", "run --listen nowhere", "top --once"]
        );
    }
}
