//! Where control groups can be walked.

use std::path::Path;

use super::tree::CgroupTree;
use crate::kernel::{Problem, Root};

/// Hierarchies of version 1, of which runtimes and systemd make use of at least one.
const V1: [&str; 3] = ["systemd", "memory", "pids"];

/// The hierarchies that there are: version 2 alone, both (hybrid), or version 1 alone.
pub(super) fn find(root: &Root, home: &str, problems: &mut Vec<Problem>) -> Vec<CgroupTree> {
    let base = root.sys("fs/cgroup");
    let unified = [base.clone(), base.join("unified")]
        .into_iter()
        .find(|path| path.join("cgroup.controllers").exists());
    let mut found = Vec::new();
    if let Some(path) = &unified {
        found.push((path.clone(), true));
    }
    if unified.as_ref() != Some(&base) {
        let old = V1.iter().map(|name| base.join(name));
        found.extend(
            old.filter(|path| path.join("cgroup.procs").exists())
                .map(|path| (path, false)),
        );
    }
    let (whole, part): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|(path, unified)| is_root(path, *unified));
    if let Some((path, _)) = part.first() {
        let problem = format!(
            "{} is not the root of its hierarchy but that of a container: owners are looked for in \
             /proc, and sockets' control groups are not known",
            path.display()
        );
        problems.push(Problem::new(problem).help("make the host's /sys/fs/cgroup visible"));
    } else if whole.is_empty() {
        let problem = format!(
            "no control groups in {}: owners are looked for in /proc, and sockets' control groups \
             are not known",
            base.display()
        );
        problems.push(problem.into());
    }
    whole
        .into_iter()
        .map(|(path, unified)| CgroupTree::new(path, home, unified))
        .collect()
}

/// Whether it is the whole hierarchy: only below the root there are `cgroup.events` (version 2),
/// only at it `release_agent` (version 1).
fn is_root(path: &Path, unified: bool) -> bool {
    if unified {
        !path.join("cgroup.events").exists()
    } else {
        path.join("release_agent").exists()
    }
}
