//! The programs that kube-proxy runs in, and where each keeps what it is told.

use std::{fmt, path::Path};

use serde::Deserialize;

use super::settings::{Told, documents, flags, text_inside};

/// A program that has kube-proxy in it; its own first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Program {
    /// Its own, such as kubeadm's `DaemonSet` and RKE2's pod.
    #[default]
    KubeProxy,
    /// All of Kubernetes in one program, up to 1.18: `hyperkube proxy`.
    Hyperkube,
    /// `MicroK8s`; the arguments are in a file.
    Kubelite,
    /// k3s, server and agent; arguments are handed on.
    K3s,
}

impl fmt::Display for Program {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::KubeProxy => "kube-proxy",
            Self::Hyperkube => "hyperkube",
            Self::Kubelite => "kubelite",
            Self::K3s => "k3s",
        })
    }
}

/// What k3s is told in its file.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct K3sFile {
    kube_proxy_arg: OneOrMore,
    disable_kube_proxy: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl Default for OneOrMore {
    fn default() -> Self {
        Self::More(Vec::new())
    }
}

impl Program {
    /// By the name of a process, and its command line.
    pub(super) fn of(comm: &[u8], line: impl FnOnce() -> Vec<u8>) -> Option<Self> {
        let does = |names: &[&[u8]]| {
            line()
                .split(|byte| *byte == 0)
                .any(|word| names.contains(&word))
        };
        match comm {
            b"kube-proxy" => Some(Self::KubeProxy),
            b"hyperkube" => does(&[b"proxy", b"kube-proxy"]).then_some(Self::Hyperkube),
            b"kubelite" => Some(Self::Kubelite),
            b"k3s-server" | b"k3s-agent" => Some(Self::K3s),
            b"k3s" => does(&[b"server", b"agent"]).then_some(Self::K3s),
            _ => None,
        }
    }

    /// What it was told; `root` is where its files are.
    pub(super) fn told(self, cmdline: &[u8], root: &Path) -> Told {
        let text = String::from_utf8_lossy(cmdline);
        let words = || text.split('\0').skip(1);
        match self {
            Self::KubeProxy | Self::Hyperkube => Told::by_flags(words()).or_by_file(root),
            Self::Kubelite => of_kubelite(words(), root),
            Self::K3s => of_k3s(words(), root),
        }
    }
}

/// A flag in each line of a file, which may be quoted.
fn of_kubelite<'a>(words: impl Iterator<Item = &'a str>, root: &Path) -> Told {
    let Some((_, path)) = flags(words).find(|(name, _)| *name == "proxy-args-file") else {
        return Told::default();
    };
    match text_inside(root, path) {
        // Taken as without arguments where the file is not there: it runs all the same.
        Ok(text) => {
            let text = text.unwrap_or_default();
            let lines = text.lines().map(str::trim);
            let lines = lines.filter(|line| !line.starts_with('#'));
            let words = lines.flat_map(str::split_whitespace);
            Told::by_flags(words.map(|word| word.trim_matches(['"', '\'']))).or_by_file(root)
        }
        Err(error) => Told {
            unread: Some(format!("{path}: {error}")),
            ..Told::default()
        },
    }
}

/// `--kube-proxy-arg NAME=VALUE`, and the same in its file, of which the command line is the last word.
fn of_k3s<'a>(words: impl Iterator<Item = &'a str>, root: &Path) -> Told {
    let own: Vec<_> = flags(words).collect();
    let of = |wanted: &'static str| {
        let of_name = own.iter().filter(move |(name, _)| *name == wanted);
        of_name.map(|(_, value)| *value)
    };
    let path = of("config")
        .next_back()
        .unwrap_or("/etc/rancher/k3s/config.yaml");
    let file = match text_inside(root, path).map(|text| text.as_deref().map(documents)) {
        Ok(None) => Ok(K3sFile::default()),
        Ok(Some(Ok(files))) => Ok(files.into_iter().next().unwrap_or_default()),
        Ok(Some(Err(because))) => Err(format!("{path}: {because}")),
        Err(error) => Err(format!("{path}: {error}")),
    };
    let (file, unread) = match file {
        Ok(file) => (file, None),
        Err(because) => (K3sFile::default(), Some(because)),
    };
    let mut handed_on = match file.kube_proxy_arg {
        OneOrMore::One(one) => vec![one],
        OneOrMore::More(more) => more,
    };
    handed_on.extend(of("kube-proxy-arg").map(str::to_owned));
    let handed_on: Vec<String> = handed_on
        .iter()
        .map(|argument| format!("--{}", argument.trim_start_matches("--")))
        .collect();
    let told = Told::by_flags(handed_on.iter().map(String::as_str)).or_by_file(root);
    Told {
        is_off: file.disable_kube_proxy || of("disable-kube-proxy").next_back() == Some("true"),
        unread: unread.or(told.unread),
        ..told
    }
}
