//! Of what, and by what an image was made, in the format of SLSA (provenance v1).

use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use super::attest::sha256;
use crate::{command, files};

/// What is known of a build. Nothing in it depends on when it was.
pub(super) fn of(target: &str, features: &[String]) -> Result<Value> {
    let lock = files::bytes(&command::repository().join("Cargo.lock"))?;
    let mut sources = vec![json!({ "name": "Cargo.lock", "digest": { "sha256": sha256(&lock) } })];
    // A source that was unpacked from an archive has no commit.
    if let Ok(commit) = git("rev-parse HEAD") {
        let changed = git("status --porcelain").map_or(true, |changes| !changes.is_empty());
        sources.push(json!({
            "name": "ctpressure", "digest": { "gitCommit": commit }, "annotations": { "changed": changed },
        }));
    }
    let compiler = command::output(Command::new("rustc").arg("--version"))?;
    Ok(json!({
        "buildDefinition": {
            "buildType": "urn:ctpressure:cargo-xtask-image:1",
            "externalParameters": { "target": target, "features": features },
            "internalParameters": { "compiler": compiler.trim() },
            "resolvedDependencies": sources,
        },
        "runDetails": { "builder": { "id": "urn:ctpressure:cargo-xtask" } },
    }))
}

/// What git says of this source.
fn git(words: &str) -> Result<String> {
    let mut git = Command::new("git");
    git.current_dir(command::repository());
    let said = command::output(git.args(words.split(' ')))?;
    Ok(said.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_told_by_its_sources_and_the_same_twice() {
        let told = of("x86_64-unknown-linux-musl", &["--features=a".to_owned()]).unwrap();
        let definition = &told["buildDefinition"];
        assert_eq!(
            definition["externalParameters"]["features"][0],
            "--features=a"
        );
        let lock = &definition["resolvedDependencies"][0]["digest"]["sha256"];
        assert_eq!(lock.as_str().map(str::len), Some(64));
        let again = of("x86_64-unknown-linux-musl", &["--features=a".to_owned()]).unwrap();
        assert_eq!(told, again);
    }
}
