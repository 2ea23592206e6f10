//! kube-proxy: whether it runs here, what it was told, and which version it is.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Facts, read_if_there};
use crate::kernel::{Root, namespace::namespace_of};

/// Where it tells its version and metrics unless told otherwise.
const METRICS: &str = "127.0.0.1:10249";
/// How long it may take to answer: it is on this machine.
const PATIENCE: Duration = Duration::from_millis(300);
/// Bytes of its metrics that are read: the version is among the first.
const MOST_BYTES: u64 = 1 << 20;

/// What kube-proxy would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KubeProxy {
    pub process: u32,
    /// The folder of its configuration, as it sees it.
    pub config: Option<PathBuf>,
    /// `conntrack.maxPerCore`; 0: it leaves the limit alone.
    pub max_per_core: u64,
    pub min: u64,
    pub be_liberal: bool,
    /// Minor version of Kubernetes 1; `None`: not known.
    pub minor: Option<u32>,
    /// As it calls its version.
    pub version: Option<String>,
}

/// The most that newer ones set (kubernetes PR 137002).
const CAP: u64 = 1 << 20;

impl KubeProxy {
    /// The limit that it wants on a machine with `cpus`; `None`: it leaves it alone.
    pub(crate) fn wanted(&self, cpus: u64) -> Option<u64> {
        if self.max_per_core == 0 {
            return None;
        }
        let scaled = self.max_per_core.saturating_mul(cpus);
        let capped = self.minor.is_none_or(|minor| minor >= 36);
        if capped && scaled > CAP {
            return Some(CAP);
        }
        Some(scaled.max(self.min))
    }

    /// Whether it lowers a limit that somebody raised, when it starts. From 1.22 to 1.28 it only raises; before
    /// and after, it sets what it wants, until kubernetes PR 142035 (after 1.37). `None`: not known.
    pub(crate) fn lowers(&self) -> Option<bool> {
        self.minor
            .map(|minor| !(22..=28).contains(&minor) && minor <= 37)
    }
}

/// Settings by the name of their flag.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ProxyFlags {
    config: Option<String>,
    max_per_core: Option<u64>,
    min: Option<u64>,
    be_liberal: Option<bool>,
    metrics: Option<String>,
}

pub(super) fn look(root: &Root, facts: &mut Facts) {
    let entries = match fs::read_dir(root.proc("")) {
        Ok(entries) => entries,
        Err(error) => {
            facts.could_not("whether kube-proxy runs", &error, "mount procfs");
            return;
        }
    };
    let process = entries.flatten().find_map(|entry| {
        let process = entry.file_name().to_str()?.parse::<u32>().ok()?;
        let name = fs::read(entry.path().join("comm")).ok()?;
        name.trim_ascii_end().eq(b"kube-proxy").then_some(process)
    });
    facts.looked.push("kube-proxy");
    let Some(process) = process else {
        return;
    };
    let folder = root.proc(process.to_string());
    let mut told = match fs::read(folder.join("cmdline")) {
        Ok(line) => flags(&line),
        Err(error) => {
            facts.could_not("kube-proxy's flags", &error, "run as root");
            ProxyFlags::default()
        }
    };
    if let Some(path) = told.config.clone() {
        let inside = Path::new(&path);
        let path = folder
            .join("root")
            .join(inside.strip_prefix("/").unwrap_or(inside));
        match read_if_there(&path) {
            // What the file says goes before flags (kube-proxy warns that it ignores them).
            Ok(Some(text)) => told = settings(&text, told),
            Ok(None) => facts.could_not(
                "kube-proxy's configuration",
                &format!("{} is not there", inside.display()),
                "run in the host's process namespace",
            ),
            Err(error) => facts.could_not(
                "kube-proxy's configuration",
                &format!("{}: {error}", inside.display()),
                "run as root",
            ),
        }
    }
    let version = if root.is_live() && shares_our_network(root, &folder) {
        ask_version(told.metrics.as_deref().unwrap_or(METRICS))
    } else {
        Err(io::Error::other("it is in another network namespace"))
    };
    let version = match version {
        Ok(version) => version,
        Err(error) => {
            facts.could_not(
                "kube-proxy's version",
                &format!("its metrics could not be read: {error}"),
                "run in the host's network namespace; `kubectl -n kube-system get pods -o wide` says it too",
            );
            None
        }
    };
    facts.proxy = Some(KubeProxy {
        process,
        config: told.config.map(PathBuf::from),
        max_per_core: told.max_per_core.unwrap_or(32_768),
        min: told.min.unwrap_or(131_072),
        be_liberal: told.be_liberal.unwrap_or(false),
        minor: version.as_deref().and_then(minor),
        version,
    });
}

/// The arguments, as `/proc/PID/cmdline` has them.
fn flags(cmdline: &[u8]) -> ProxyFlags {
    let mut told = ProxyFlags::default();
    let text = String::from_utf8_lossy(cmdline);
    let mut words = text.split('\0').skip(1).peekable();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--") else {
            continue;
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, value),
            // `--flag value`; a switch has none.
            None => match words.next_if(|next| !next.starts_with("--")) {
                Some(value) => (flag, value),
                None => (flag, "true"),
            },
        };
        match name {
            "config" => told.config = Some(value.to_owned()),
            "conntrack-max-per-core" => told.max_per_core = value.parse().ok(),
            "conntrack-min" => told.min = value.parse().ok(),
            "conntrack-tcp-be-liberal" => told.be_liberal = value.parse().ok(),
            "metrics-bind-address" => told.metrics = address(value),
            _ => {}
        }
    }
    told
}

/// An address without a port gets kube-proxy's own; none is none.
fn address(text: &str) -> Option<String> {
    let text = text.trim_matches(['"', '\'']);
    if text.is_empty() {
        None
    } else if text.parse::<SocketAddr>().is_ok() {
        Some(text.to_owned())
    } else if text.contains(':') {
        Some(format!("[{text}]:10249"))
    } else {
        Some(format!("{text}:10249"))
    }
}

/// The lines of `KubeProxyConfiguration` that matter here. A whole YAML reader for five scalars would be
/// the largest dependency of the program; what is written in another style is taken as not said.
fn settings(text: &str, flags: ProxyFlags) -> ProxyFlags {
    let mut told = ProxyFlags {
        config: flags.config,
        ..ProxyFlags::default()
    };
    let mut section = "";
    for line in text.lines() {
        let line = line.split(" #").next().unwrap_or_default();
        let Some((name, value)) = line.trim().split_once(':') else {
            continue;
        };
        let value = value.trim();
        if !line.starts_with([' ', '\t']) {
            section = name;
        }
        match (section, name) {
            ("conntrack", "maxPerCore") => told.max_per_core = value.parse().ok(),
            ("conntrack", "min") => told.min = value.parse().ok(),
            ("conntrack", "tcpBeLiberal") => told.be_liberal = value.parse().ok(),
            ("metricsBindAddress", "metricsBindAddress") => told.metrics = address(value),
            _ => {}
        }
    }
    told
}

fn shares_our_network(root: &Root, process: &Path) -> bool {
    let own = namespace_of(&root.proc("self/ns/net"));
    let its = namespace_of(&process.join("ns/net"));
    matches!((own, its), (Ok(own), Ok(its)) if own == its)
}

/// Asks for its metrics; the version among them, if it is there.
fn ask_version(address: &str) -> io::Result<Option<String>> {
    let mut address: SocketAddr = address.parse().map_err(io::Error::other)?;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut text = Vec::new();
    let read = stream.take(MOST_BYTES).read_to_end(&mut text);
    // Whatever came before it went silent may have it.
    let found = version(&String::from_utf8_lossy(&text));
    match read {
        Err(error) if found.is_none() => Err(error),
        _ => Ok(found),
    }
}

fn version(metrics: &str) -> Option<String> {
    let line = metrics
        .lines()
        .find(|line| line.starts_with("kubernetes_build_info{"))?;
    let (_, rest) = line.split_once("git_version=\"")?;
    let (version, _) = rest.split_once('"')?;
    let plain = |letter: char| letter.is_ascii_alphanumeric() || ".+-".contains(letter);
    (version.len() < 60 && version.chars().all(plain)).then(|| version.to_owned())
}

fn minor(version: &str) -> Option<u32> {
    let rest = version.trim_start_matches('v').strip_prefix("1.")?;
    rest.split(|letter: char| !letter.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests;
