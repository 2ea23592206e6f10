//! Which programs a guest has besides ours: what every guest has, and what goes only into those that ask for it.

use crate::arch::Arch;

/// The suite of the tools. Guests of every kernel have the same ones.
pub(crate) const SUITE: &str = "trixie";

/// A group of tools that goes into a guest together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// What every guest has.
    Base,
    /// bpftrace, which brings 200 MB of compiler: only where it is asked for.
    Bpftrace,
    /// containerd, runc and CNI plugins (130 MB): only where pods are made.
    Containers,
    /// Prometheus and Alertmanager (90 MB): only where our rules are tried.
    Prometheus,
    /// What a cluster has besides the programs that are built (`kubernetes.rs`): only where there is one.
    Kubernetes,
    /// systemd: the first process of a guest that has it (`xtask/guest/src/main.rs`).
    Systemd,
}

impl Group {
    /// What an unpacked group is made of: another recipe means that it has to be fetched anew.
    pub(crate) fn recipe(self) -> String {
        format!("{SUITE} {}", self.packages().join(" "))
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Bpftrace => "bpftrace",
            Self::Containers => "containers",
            Self::Prometheus => "prometheus",
            Self::Kubernetes => "kubernetes",
            Self::Systemd => "systemd",
        }
    }

    pub(crate) fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Base => &[
                "busybox-static",
                "coreutils",
                "dash",
                "conntrack",
                "iproute2",
                "nftables",
                "iptables",
                "bpftool",
                "kmod",
                "netbase",
                "libcap2-bin",
            ],
            Self::Bpftrace => &["bpftrace"],
            Self::Containers => &["containerd", "runc", "containernetworking-plugins"],
            Self::Prometheus => &["prometheus", "prometheus-alertmanager"],
            Self::Kubernetes => &["kubectl", "etcd-server"],
            Self::Systemd => &["systemd"],
        }
    }

    pub(crate) fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Base => &[
                "dash",
                "date",
                "conntrack",
                "ip",
                "ss",
                "tc",
                "bridge",
                "nstat",
                "nft",
                "xtables-nft-multi",
                "xtables-legacy-multi",
                "bpftool",
                "kmod",
                "setcap",
                "getcap",
                "capsh",
            ],
            Self::Bpftrace => &["bpftrace"],
            Self::Prometheus => &["prometheus", "prometheus-alertmanager"],
            Self::Kubernetes => &["kubectl", "etcd"],
            Self::Systemd => &["systemd", "systemctl", "systemd-executor"],
            Self::Containers => &[
                "containerd",
                "containerd-shim-runc-v2",
                "ctr",
                "runc",
                // CNI plugins.
                "bridge",
                "host-local",
                "loopback",
                "portmap",
                "ptp",
            ],
        }
    }

    /// Files that programs open by themselves.
    pub(crate) fn folders(self, arch: Arch) -> Vec<String> {
        match self {
            Self::Base => vec![
                format!("usr/lib/{}/xtables", arch.libraries()),
                "usr/share/iproute2".to_owned(),
                "etc".to_owned(),
            ],
            // Alertmanager does not start without its templates.
            Self::Prometheus => vec!["usr/share/prometheus/alertmanager".to_owned()],
            Self::Bpftrace | Self::Containers | Self::Kubernetes | Self::Systemd => Vec::new(),
        }
    }

    pub(crate) fn links(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Base => &[
                // Not busybox's shell: that one prefers busybox's `ip` and `modprobe` to the real ones.
                ("usr/bin/sh", "dash"),
                ("usr/sbin/iptables", "xtables-nft-multi"),
                ("usr/sbin/iptables-save", "xtables-nft-multi"),
                ("usr/sbin/iptables-restore", "xtables-nft-multi"),
                ("usr/sbin/iptables-nft", "xtables-nft-multi"),
                ("usr/sbin/ip6tables", "xtables-nft-multi"),
                ("usr/sbin/ip6tables-save", "xtables-nft-multi"),
                ("usr/sbin/ip6tables-restore", "xtables-nft-multi"),
                ("usr/sbin/ip6tables-nft", "xtables-nft-multi"),
                ("usr/sbin/iptables-legacy", "xtables-legacy-multi"),
                ("usr/sbin/iptables-legacy-save", "xtables-legacy-multi"),
                ("usr/sbin/ip6tables-legacy", "xtables-legacy-multi"),
                ("usr/sbin/ip6tables-legacy-save", "xtables-legacy-multi"),
                ("usr/sbin/modprobe", "../bin/kmod"),
                ("usr/sbin/insmod", "../bin/kmod"),
                ("usr/sbin/rmmod", "../bin/kmod"),
                ("usr/sbin/lsmod", "../bin/kmod"),
                ("usr/sbin/modinfo", "../bin/kmod"),
            ],
            Self::Bpftrace
            | Self::Containers
            | Self::Prometheus
            | Self::Kubernetes
            | Self::Systemd => &[],
        }
    }
}
