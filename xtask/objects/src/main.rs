//! Reads Kubernetes objects as JSON, in files that are named: each file has one object from a name to a list of objects. Each is parsed into
//! the newest types that k8s-openapi has and written again; a field that is lost on that way is one that a server of today does not know, and an
//! error. `cargo xtask manifests` hands it all that kustomize and Helm make. It is a program of its own since these types are as much to compile as
//! all of `xtask`.

use std::collections::BTreeMap;
use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::Value;

mod known;
mod operator;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ctpressure-objects: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut objects = 0;
    let mut problems = Vec::new();
    for file in std::env::args().skip(1) {
        let text = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
        let rendered: BTreeMap<String, Vec<Value>> =
            serde_json::from_str(&text).with_context(|| format!("{file} has no objects"))?;
        for (name, found) in &rendered {
            for object in found {
                let unknown = known::unknown(object).with_context(|| name.clone())?;
                problems.extend(unknown.into_iter().map(|what| format!("{name}: {what}")));
                objects += 1;
            }
        }
    }
    if objects == 0 {
        bail!("no objects to look at: name a file that has some");
    }
    if !problems.is_empty() {
        bail!("{}", problems.join("\n"));
    }
    println!("{objects} objects have no field that Kubernetes' newest types do not know");
    Ok(())
}
