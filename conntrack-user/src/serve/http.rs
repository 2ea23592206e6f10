//! HTTP: `/metrics`, `/healthz`, `/readyz`, `/status`, and a page of links.
//!
//! Whoever can reach the port may be a stranger. So it is answered by a thread of its own, without capabilities ([`server`]); places for
//! connections are few, and a newcomer always gets one ([`places`]); a connection is kept for who asks now and then, and each request has its
//! time ([`talk`]); the text of the metrics is made once a second, however many ask
//! ([`pages`]); and if it is asked for, only who has a certificate or a token gets more than whether the agent lives ([`access`]).

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

mod access;
mod connections;
mod health;
mod pages;
mod places;
mod server;
mod talk;
mod tokens;

pub(crate) use access::AccessFiles;
pub(crate) use health::{PortHealth, PortStatus};
pub(crate) use pages::Pages;
pub(crate) use server::{ServeError, Server};
pub(crate) use talk::IDLE_TIME;

/// The address to listen on can't be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub(crate) struct ListenError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

impl ListenError {
    /// What to do about it, for a person.
    pub(crate) fn help(&self) -> &'static str {
        match self.source.kind() {
            io::ErrorKind::AddrInUse => {
                "another program (or another ctpressure) has this port: stop it, or choose another with --listen"
            }
            io::ErrorKind::AddrNotAvailable => {
                "no interface of this machine has this address: choose another with --listen"
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need CAP_NET_BIND_SERVICE: choose another with --listen"
            }
            _ => "choose another address with --listen",
        }
    }
}

/// Listens on `address`; on all IPv4 addresses instead of all IPv6 ones where IPv6 is off.
///
/// # Errors
/// If the address can't be had.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let has_no_ipv6 = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
        ) // EAFNOSUPPORT has no kind of its own.
            || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
    };
    let all = address.is_ipv6() && address.ip().is_unspecified();
    let (address, listener) = match TcpListener::bind(address) {
        Err(error) if all && has_no_ipv6(&error) => {
            tracing::info!("IPv6 is off: listening on all IPv4 addresses");
            let address = SocketAddr::from(([0, 0, 0, 0], address.port()));
            (address, TcpListener::bind(address))
        }
        listener => (address, listener),
    };
    listener
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|source| ListenError { address, source })
}

#[cfg(test)]
mod tests;
