//! The documents, and what of them is checked: their command lines are run (the scenario `documents`), and looked at where
//! they can't be (the test `documents` of conntrack-user, and xtask's own); paths and links are there (the test `documents` of this crate).

use std::{
    fs,
    path::{Path, PathBuf},
};

macro_rules! documents {
    ($($path:literal,)*) => {
        /// Each document of the project: its path and its text.
        pub const DOCUMENTS: &[(&str, &str)] =
            &[$(($path, include_str!(concat!("../../", $path)))),*];
    };
}

documents! {
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "conntrack-user/journal/README.md",
    "deploy/README.md",
    "deploy/helm/ctpressure/CHANGELOG.md",
    "deploy/helm/ctpressure/README.md",
    "deploy/runbooks/CtpressureAgentDown.md",
    "deploy/runbooks/CtpressureAgentMissing.md",
    "deploy/runbooks/CtpressureChainTooLong.md",
    "deploy/runbooks/CtpressureClashDrops.md",
    "deploy/runbooks/CtpressureConnectionsEvicted.md",
    "deploy/runbooks/CtpressureCountsDisagree.md",
    "deploy/runbooks/CtpressureEventsLost.md",
    "deploy/runbooks/CtpressureExpectationsFull.md",
    "deploy/runbooks/CtpressureInstanceAllowanceExceeded.md",
    "deploy/runbooks/CtpressureLimitChanged.md",
    "deploy/runbooks/CtpressureLimitFight.md",
    "deploy/runbooks/CtpressureLossesWithoutOwner.md",
    "deploy/runbooks/CtpressureNatPortsUsed.md",
    "deploy/runbooks/CtpressureOneOwnerHoldsTable.md",
    "deploy/runbooks/CtpressurePacketsDropped.md",
    "deploy/runbooks/CtpressureProbeNotAttached.md",
    "deploy/runbooks/CtpressureTableFills.md",
    "deploy/runbooks/README.md",
    "docs/SUMMARY.md",
    "docs/alerts.md",
    "docs/commands/contain.md",
    "docs/commands/doctor.md",
    "docs/commands/health.md",
    "docs/commands/index.md",
    "docs/commands/kubectl.md",
    "docs/commands/limit.md",
    "docs/commands/report.md",
    "docs/commands/run.md",
    "docs/commands/status.md",
    "docs/commands/table.md",
    "docs/commands/top.md",
    "docs/commands/watch.md",
    "docs/concepts.md",
    "docs/costs.md",
    "docs/developing/architecture.md",
    "docs/developing/hook.md",
    "docs/developing/measure.md",
    "docs/developing/scenario.md",
    "docs/developing/style.md",
    "docs/events.md",
    "docs/how-it-works.md",
    "docs/incidents.md",
    "docs/installation.md",
    "docs/kernels.md",
    "docs/limit-controller.md",
    "docs/limits.md",
    "docs/losses.md",
    "docs/metrics.md",
    "docs/owners.md",
    "docs/principles.md",
    "docs/roadmap.md",
    "docs/scraping.md",
    "docs/security.md",
    "tests/fixtures/README.md",
}

/// The folder of the repository that is being tested.
pub fn repository() -> PathBuf {
    // What cargo says when it runs a test: the program may have been built in another copy of the repository.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let mut folders = manifest.ancestors();
    let found = folders.find(|folder| folder.join("Cargo.lock").is_file());
    found.expect("the workspace").to_owned()
}

/// All files below a folder, but for what is hidden and what cargo makes (`target`).
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let entry = entry.expect("an entry");
        let (name, path) = (entry.file_name(), entry.path());
        if name.as_encoded_bytes().starts_with(b".") || name == "target" {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// Those of them with this ending, without its dot.
pub fn files_ending(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut files = files(folder);
    files.retain(|path| path.extension().is_some_and(|found| found == ending));
    files
}

/// Code in a document, piece by piece: what is indented, and what is between back quotes.
pub fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| {
        let indented = line.strip_prefix("    ");
        let code = indented.map(|line| line.strip_prefix("$ ").unwrap_or(line));
        code.into_iter().chain(line.split('`').skip(1).step_by(2))
    })
}

/// The command lines of a program in a document, without its name: up to a comment, a pipe or a redirection.
pub fn command_lines(text: &str, program: &str) -> Vec<String> {
    let begin = format!("{program} ");
    // In a container it is at the root.
    let inside = format!(" -- /{begin}");
    let arguments = |code: &str| {
        let inside = code.split_once(&inside).map(|(_, rest)| rest);
        let rest = code.strip_prefix(&begin).or(inside)?;
        let end = rest.find(['#', '|', '>', '<', '&']).unwrap_or(rest.len());
        Some(rest[..end].trim().to_owned())
    };
    code(text).filter_map(arguments).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_found() {
        let text = "Try `ctpressure watch --kind drops` or\n\n    $ ctpressure run --listen nowhere   # no\n\
                    \n    kubectl exec pod -- /ctpressure top --once | head\n    cargo xtask vm --kernels 6   # no\n";
        assert_eq!(
            command_lines(text, "ctpressure"),
            ["watch --kind drops", "run --listen nowhere", "top --once"]
        );
        assert_eq!(command_lines(text, "cargo xtask"), ["vm --kernels 6"]);
    }
}
