//! Where the doctor looks from, and who keeps the settings of the node: both decide where its advice can be followed.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use nix::sys::statvfs::{FsFlags, statvfs};

use super::Facts;
use crate::kernel::{Root, host, namespace::namespace_of};
use crate::sys::netns::Inode;

/// Where the doctor looks from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Standpoint {
    /// The node itself: what it advises can be run where it runs.
    #[default]
    Node,
    /// A container of the node in another network namespace. The node's was entered to look.
    Container,
    /// In the node's network namespace, but `/proc/sys` is mounted read-only, as in a container that is not privileged.
    ReadOnly,
    /// A node that is a container itself (kind, LXC, Incus): the limit is that of the machine outside.
    NestedNode,
    /// A network namespace that is not the machine's first, and whose node is not known.
    Elsewhere,
}

impl Standpoint {
    /// Whether a network namespace was looked at from which the kernel lets nobody set the limit and the buckets.
    pub(crate) const fn is_without_limit(self) -> bool {
        matches!(self, Self::NestedNode | Self::Elsewhere)
    }
}

/// Who keeps the settings of a node over its next boot or its replacement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Keeper {
    /// Files of `/etc/sysctl.d`.
    #[default]
    Files,
    Talos,
    Bottlerocket,
    /// A node pool of Google's Kubernetes Engine; Container-Optimized OS forgets `/etc` at each boot.
    Gke,
    /// A node pool of Azure's.
    Aks,
    /// A node group of Amazon's.
    Eks,
    /// Files that Ignition writes at the first boot: Flatcar, Fedora `CoreOS`.
    Ignition,
    OpenShift,
    NixOs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub standpoint: Standpoint,
    /// Of the machine whose limit it is; the usual one if its files are not seen.
    pub keeper: Keeper,
    /// Files of the node are not seen, so nobody knows what they set.
    pub hides_files: bool,
}

/// The folder with the files of the node; `None`: from here they are not seen. In a pod that sees the node's processes they are
/// those of its first process, not those of the image.
pub(super) fn files_of_node(root: &Root) -> Option<PathBuf> {
    let first = root.proc("1/root");
    if !root.is_live() {
        return Some(root.file(""));
    }
    if matches!(host::find(root), Err(host::HostUnseen::OwnNumbers(_))) {
        return None;
    }
    Some(if first.join("etc").is_dir() {
        first
    } else {
        root.file("")
    })
}

/// The network namespace of the node, if it is another one than that of this thread.
pub(super) fn other_than_own(root: &Root) -> Option<(Inode, PathBuf)> {
    let own = namespace_of(&root.proc("thread-self/ns/net")).ok()?;
    let node = host::find(root).ok()?;
    (own != node.inode).then(|| {
        let path = root.proc(node.folder).join("ns/net");
        (node.inode, path)
    })
}

/// `entered`: the thread was in another network namespace before.
pub(super) fn look(root: &Root, entered: bool, facts: &mut Facts) {
    let files = files_of_node(root);
    facts.place.hides_files = files.is_none();
    facts.place.keeper = files.map(|files| keeper(&files)).unwrap_or_default();
    if !root.is_live() {
        return;
    }
    facts.place.standpoint = if facts.loaded && !holds_limit(root) {
        match host::find(root) {
            Ok(_) => Standpoint::NestedNode,
            Err(_) => Standpoint::Elsewhere,
        }
    } else if entered {
        Standpoint::Container
    } else if statvfs(&root.proc("sys"))
        .is_ok_and(|about| about.flags().contains(FsFlags::ST_RDONLY))
    {
        Standpoint::ReadOnly
    } else {
        Standpoint::Node
    };
    if facts.place.standpoint.is_without_limit() {
        facts.place.keeper = Keeper::default();
    }
}

/// Whether the limit can be set from this network namespace: only the first has `net.nf_conntrack_max`
/// (`nf_conntrack_standalone_init_net`). The file below `netfilter` can't be written in the others since Linux 5.13, 5.12.2,
/// 5.10.35 and 5.4.117.
fn holds_limit(root: &Root) -> bool {
    let of_netfilter = fs::metadata(root.proc("sys/net/netfilter/nf_conntrack_max"));
    root.proc("sys/net/nf_conntrack_max").exists()
        || of_netfilter.is_ok_and(|about| about.permissions().mode() & 0o200 != 0)
}

/// By what the node's files say of it.
fn keeper(files: &Path) -> Keeper {
    let release = ["etc/os-release", "usr/lib/os-release"]
        .iter()
        .find_map(|name| fs::read_to_string(files.join(name)).ok())
        .unwrap_or_default();
    let word = |name: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(name));
        line.map_or("", |value| value.trim_matches(['"', '\'']))
    };
    match (word("ID="), word("VARIANT_ID=")) {
        ("talos", _) => Keeper::Talos,
        ("bottlerocket", _) => Keeper::Bottlerocket,
        ("cos", _) => Keeper::Gke,
        ("rhcos", _) => Keeper::OpenShift,
        ("nixos", _) => Keeper::NixOs,
        ("flatcar", _) | ("fedora", "coreos") => Keeper::Ignition,
        _ if files.join("home/kubernetes/kube-env").exists() => Keeper::Gke,
        _ if files.join("etc/kubernetes/azure.json").exists() => Keeper::Aks,
        _ if files.join("etc/eks").is_dir() => Keeper::Eks,
        _ => Keeper::Files,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper_of(release: &str, there: &[&str]) -> Keeper {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in there
            .iter()
            .map(|path| (*path, ""))
            .chain([("etc/os-release", release)])
        {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        keeper(folder.path())
    }

    #[test]
    fn who_keeps_the_settings() {
        for (release, there, expected) in [
            (
                "NAME=\"Debian GNU/Linux\"\nID=debian\n",
                &[][..],
                Keeper::Files,
            ),
            ("ID=ubuntu\nID_LIKE=debian\n", &[], Keeper::Files),
            (
                "NAME=\"Talos\"\nID=talos\nVERSION_ID=v1.10.4\n",
                &[],
                Keeper::Talos,
            ),
            (
                "NAME=Bottlerocket\nID=bottlerocket\nVARIANT_ID=aws-k8s-1.32\n",
                &["etc/eks/x"],
                Keeper::Bottlerocket,
            ),
            (
                "NAME=\"Container-Optimized OS\"\nID=cos\n",
                &[],
                Keeper::Gke,
            ),
            ("ID=ubuntu\n", &["home/kubernetes/kube-env"], Keeper::Gke),
            ("ID=flatcar\nID_LIKE=coreos\n", &[], Keeper::Ignition),
            ("ID=fedora\nVARIANT_ID=coreos\n", &[], Keeper::Ignition),
            ("ID=fedora\nVARIANT_ID=server\n", &[], Keeper::Files),
            ("ID=\"rhcos\"\n", &[], Keeper::OpenShift),
            ("ID=nixos\n", &[], Keeper::NixOs),
            (
                "ID=azurelinux\n",
                &["etc/kubernetes/azure.json"],
                Keeper::Aks,
            ),
            ("ID=\"amzn\"\n", &["etc/eks/bootstrap.sh"], Keeper::Eks),
        ] {
            assert_eq!(keeper_of(release, there), expected, "{release}");
        }
    }

    #[test]
    fn of_captured_state_only_the_files_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::at(folder.path());
        let mut facts = Facts {
            loaded: true,
            ..Facts::default()
        };
        look(&root, false, &mut facts);
        assert_eq!(facts.place, Place::default());
    }
}
