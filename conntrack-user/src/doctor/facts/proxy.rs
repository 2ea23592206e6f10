//! kube-proxy: whether it runs here and in what program, what it was told, and which version it is.

use std::{fs, io, path::PathBuf};

use super::Facts;
use crate::kernel::{Root, namespace::namespace_of};

mod program;
mod settings;
mod version;

pub(crate) use program::Program;
pub(crate) use settings::ProxySettings;
use settings::Told;

/// What kube-proxy would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KubeProxy {
    pub process: u32,
    /// What runs it.
    pub program: Program,
    /// The file of its configuration, as it sees it.
    pub config: Option<PathBuf>,
    /// `None`: it could not be read.
    pub settings: Option<ProxySettings>,
    /// Minor version of Kubernetes 1; `None`: not known.
    pub minor: Option<u32>,
    /// As it calls its version.
    pub version: Option<String>,
}

/// The most that newer ones set (kubernetes PR 137002).
const CAP: u64 = 1 << 20;

impl KubeProxy {
    /// The limit that it wants on a machine with `cpus`; `None`: it leaves it alone, or what it was told is not known.
    pub(crate) fn wanted(&self, cpus: u64) -> Option<u64> {
        let ProxySettings { max_per_core, min } = self.settings?;
        if max_per_core == 0 {
            return None;
        }
        let scaled = max_per_core.saturating_mul(cpus);
        let capped = self.minor.is_none_or(|minor| minor >= 36);
        if capped && scaled > CAP {
            return Some(CAP);
        }
        Some(scaled.max(min))
    }

    /// Whether it lowers a limit that somebody raised, when it starts. From 1.22 to 1.28 it only raises; before
    /// and after, it sets what it wants, until kubernetes PR 142035 (after 1.37). `None`: not known.
    pub(crate) fn lowers(&self) -> Option<bool> {
        self.minor
            .map(|minor| !(22..=28).contains(&minor) && minor <= 37)
    }

    /// By what people call it, with its version.
    pub(crate) fn words(&self) -> String {
        let version = self.version.as_deref().unwrap_or("of unknown version");
        match self.program {
            Program::KubeProxy => format!("kube-proxy {version}"),
            inside => format!("kube-proxy {version} inside {inside}"),
        }
    }
}

pub(super) fn look(root: &Root, facts: &mut Facts) {
    let entries = match fs::read_dir(root.proc("")) {
        Ok(entries) => entries,
        Err(error) => {
            facts.could_not("whether kube-proxy runs", &error, "mount procfs");
            return;
        }
    };
    let host = namespace_of(&root.proc("1/ns/net")).ok();
    let found = entries.flatten().filter_map(|entry| {
        let process = entry.file_name().to_str()?.parse::<u32>().ok()?;
        let name = fs::read(entry.path().join("comm")).ok()?;
        let line = || fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let program = Program::of(name.trim_ascii_end(), line)?;
        // Any pod may call a process so. From another network namespace than the host's nobody sets the limit.
        let its = namespace_of(&entry.path().join("ns/net")).ok();
        let elsewhere = host.is_some() && its.is_some() && its != host;
        (!elsewhere).then_some((program, process))
    });
    facts.looked.push("kube-proxy");
    let Some((program, process)) = found.min() else {
        return;
    };
    let folder = root.proc(process.to_string());
    let told = match fs::read(folder.join("cmdline")) {
        Ok(line) => program.told(&line, &folder.join("root")),
        Err(error) => Told {
            unread: Some(error.to_string()),
            ..Told::default()
        },
    };
    if told.is_off {
        return;
    }
    let settings = match &told.unread {
        None => Some(told.settings()),
        Some(because) => {
            facts.could_not(
                "kube-proxy's configuration",
                because,
                "`kubectl -n kube-system get configmap kube-proxy -o yaml` shows it on a cluster of kubeadm's",
            );
            None
        }
    };
    let version = if root.is_live() {
        version::ask(told.metrics.as_deref(), &folder.join("ns/net"))
    } else {
        Err(io::Error::other("it is in another machine"))
    };
    let version = match version {
        Ok(version) => version,
        Err(error) => {
            facts.could_not(
                "kube-proxy's version",
                &format!("its metrics could not be read: {error}"),
                "`kubectl -n kube-system get pods -o wide` says it too",
            );
            None
        }
    };
    facts.proxy = Some(KubeProxy {
        process,
        program,
        config: told.config.map(PathBuf::from),
        settings,
        minor: version.as_deref().and_then(version::minor),
        version,
    });
}

#[cfg(test)]
mod tests;
