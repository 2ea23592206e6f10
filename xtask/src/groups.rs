//! Which programs a guest has besides ours: `xtask/guest/tools.yaml` says of what each group is made.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

/// The suite of the tools. Guests of every kernel have the same ones.
pub(crate) const SUITE: &str = "trixie";

const TOOLS: &str = include_str!("../guest/tools.yaml");

/// A group of tools that goes into a guest together, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group(pub(crate) &'static str);

impl Group {
    /// What every guest has.
    pub(crate) const BASE: Self = Self("base");
    /// What loads `AppArmor`'s profiles: in every guest too.
    pub(crate) const APPARMOR: Self = Self("apparmor");
    /// bpftrace, which brings 200 MB of compiler.
    pub(crate) const BPFTRACE: Self = Self("bpftrace");
    /// containerd, runc and CNI plugins.
    pub(crate) const CONTAINERS: Self = Self("containers");
    /// Prometheus and Alertmanager.
    pub(crate) const PROMETHEUS: Self = Self("prometheus");
    /// `node_exporter`, whose CPU and memory the agent's are compared with.
    pub(crate) const NODE_EXPORTER: Self = Self("node-exporter");
    /// What a cluster has besides the programs that are built.
    pub(crate) const KUBERNETES: Self = Self("kubernetes");
    /// systemd: the first process of a guest that has it.
    pub(crate) const SYSTEMD: Self = Self("systemd");

    /// What it is made of.
    pub(crate) fn tools(self) -> Result<Tools> {
        let all: BTreeMap<String, Tools> = serde_saphyr::from_str(TOOLS)?;
        let own = all.into_iter().find(|(name, _)| name == self.0);
        let (_, own) = own.with_context(|| format!("xtask/guest/tools.yaml has no {}", self.0))?;
        Ok(own)
    }
}

/// What a group is made of. Paths are below the guest's root.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Tools {
    /// Debian's.
    pub(crate) packages: Vec<String>,
    /// Those that are taken from the packages.
    pub(crate) programs: Vec<String>,
    /// Of files that programs open by themselves; LIBRARIES stands for that of the architecture.
    pub(crate) folders: Vec<String>,
    /// Folders without anything.
    pub(crate) empty: Vec<String>,
    /// What links to where.
    pub(crate) links: BTreeMap<String, String>,
    /// What files hold that are in no package.
    pub(crate) files: BTreeMap<String, String>,
}

impl Tools {
    /// What an unpacked group is made of: another recipe means that it has to be fetched anew.
    pub(crate) fn recipe(&self) -> String {
        format!("{SUITE} {}", self.packages.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_is_described() {
        let all: BTreeMap<String, Tools> = serde_saphyr::from_str(TOOLS).unwrap();
        let groups = [
            Group::BASE,
            Group::APPARMOR,
            Group::BPFTRACE,
            Group::CONTAINERS,
            Group::PROMETHEUS,
            Group::NODE_EXPORTER,
            Group::KUBERNETES,
            Group::SYSTEMD,
        ];
        assert_eq!(all.len(), groups.len());
        for group in groups {
            let tools = group.tools().unwrap();
            assert!(
                !tools.packages.is_empty() && !tools.programs.is_empty(),
                "{}",
                group.0
            );
        }
        assert!(Group("nothing").tools().is_err());
    }
}
