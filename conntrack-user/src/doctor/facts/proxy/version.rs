//! Which version of kube-proxy it is: among its metrics.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use crate::{kernel::namespace::namespace_of, sys::netns};

/// Where it tells its version and metrics unless told otherwise.
const METRICS: &str = "127.0.0.1:10249";
/// How long it may take to answer: on a busy node its metrics take a while.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of its metrics that are read: the version is among the first.
const MOST_BYTES: usize = 1 << 20;

/// Asks a kube-proxy that is in this network namespace, where it listens or by default.
pub(super) fn ask(address: Option<&str>, netns: &Path) -> io::Result<Option<String>> {
    let address = address.and_then(with_port);
    let address = address.as_deref().unwrap_or(METRICS);
    let its = namespace_of(netns)?;
    if namespace_of(Path::new("/proc/thread-self/ns/net")).is_ok_and(|own| own == its) {
        return ask_here(address);
    }
    let asked = netns::visit(&[(its, netns.to_owned(), ())], |(), entered| {
        entered.and_then(|()| ask_here(address))
    });
    let (_, answer) = asked.into_iter().next().ok_or(io::ErrorKind::NotFound)?;
    answer
}

/// An address without a port gets kube-proxy's own; none is none.
pub(super) fn with_port(text: &str) -> Option<String> {
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

/// Asks for its metrics; the version among them, if it is there.
pub(super) fn ask_here(address: &str) -> io::Result<Option<String>> {
    let mut address: SocketAddr = address.parse().map_err(io::Error::other)?;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let end = Instant::now() + PATIENCE;
    let left = || {
        let left = end.saturating_duration_since(Instant::now());
        let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer within 3 s");
        (!left.is_zero()).then_some(left).ok_or_else(late)
    };
    let mut stream = TcpStream::connect_timeout(&address, left()?)?;
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    loop {
        // Whatever came before it went silent may have it.
        if let Some(version) = version(&String::from_utf8_lossy(&text)) {
            return Ok(Some(version));
        }
        stream.set_read_timeout(Some(left()?))?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(None),
            Ok(length) => text.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if text.len() >= MOST_BYTES {
            return Ok(None);
        }
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

pub(super) fn minor(version: &str) -> Option<u32> {
    let rest = version.trim_start_matches('v').strip_prefix("1.")?;
    rest.split(|letter: char| !letter.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}
