//! HTTP: `/metrics`, `/healthz`, `/readyz`, `/status`, and a page of links.
//!
//! Nothing in a request is used but its method and path. Each connection has one request, a small
//! header and ten seconds; there are at most [`CONNECTIONS`] at a time.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Body,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::spawn_local,
    time::{sleep, timeout},
};

use super::{
    Companions, StatusPage,
    metrics::{self, Exporter, readiness},
};
use crate::agent::Handle;

/// Connections at a time.
pub(crate) const CONNECTIONS: usize = 64;
/// Bytes of a request's header at most (hyper's smallest).
const HEADER_BYTES: usize = 8192;
/// Header fields of a request at most.
const HEADERS: usize = 64;
/// How long a client may take to send the header.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// How long a connection may last.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// A snapshot older than this says that the sampler hangs.
const STALE: Duration = Duration::from_secs(30);

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
pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let has_no_ipv6 = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported
        ) // EAFNOSUPPORT has no kind of its own.
            || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
    };
    let all = address.is_ipv6() && address.ip().is_unspecified();
    let (address, listener) = match TcpListener::bind(address).await {
        Err(error) if all && has_no_ipv6(&error) => {
            tracing::info!("IPv6 is off: listening on all IPv4 addresses");
            let address = SocketAddr::from(([0, 0, 0, 0], address.port()));
            (address, TcpListener::bind(address).await)
        }
        listener => (address, listener),
    };
    listener.map_err(|source| ListenError { address, source })
}

/// Answers requests for as long as it is polled, inside a [`tokio::task::LocalSet`].
pub(crate) async fn serve(
    listener: TcpListener,
    agent: Handle,
    companions: Companions,
    exporter: Arc<Exporter>,
) -> Infallible {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Waiting for a slot before accepting: the rest queues in the kernel's backlog.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            std::future::pending().await
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: it passes, but not at once.
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (agent, companions) = (agent.clone(), companions.clone());
        let exporter = Arc::clone(&exporter);
        spawn_local(async move {
            if timeout(
                CONNECTION_TIME,
                connection(stream, agent, companions, exporter),
            )
            .await
            .is_err()
            {
                tracing::debug!("a connection took too long");
            }
            drop(slot);
        });
    }
}

async fn connection(
    stream: TcpStream,
    agent: Handle,
    companions: Companions,
    exporter: Arc<Exporter>,
) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let response = answer(&request, &agent, &companions, &exporter);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(HEADER_BYTES)
        .max_headers(HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection failed");
    }
}

/// The answer to one request.
pub(crate) fn answer<B: Body>(
    request: &Request<B>,
    agent: &Handle,
    companions: &Companions,
    exporter: &Exporter,
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !matches!(path, "/" | "/metrics" | "/healthz" | "/readyz" | "/status") {
        return text(StatusCode::NOT_FOUND, "not found; see /\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let snapshot = agent.latest();
    match path {
        "/metrics" => match exporter.text() {
            Ok(metrics) => reply(StatusCode::OK, metrics::CONTENT_TYPE, metrics),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        "/healthz" if snapshot.at.elapsed() > STALE => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "no sample for 30 seconds\n",
        ),
        "/healthz" => text(StatusCode::OK, "alive\n"),
        "/readyz" => match readiness(&snapshot) {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        },
        "/status" => {
            match serde_json::to_vec_pretty(&StatusPage::new(&snapshot, &companions.status())) {
                Ok(mut json) => {
                    json.push(b'\n');
                    reply(StatusCode::OK, "application/json", json)
                }
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            }
        }
        _ => reply(StatusCode::OK, "text/html; charset=utf-8", PAGE),
    }
}

const PAGE: &str = "<!DOCTYPE html>
<html lang=\"en\"><head><title>ctpressure</title></head><body>
<h1>ctpressure</h1>
<ul>
<li><a href=\"/metrics\">/metrics</a>: for Prometheus</li>
<li><a href=\"/status\">/status</a>: what is attached, what is seen, what it costs</li>
<li><a href=\"/readyz\">/readyz</a>: attached and sampling</li>
<li><a href=\"/healthz\">/healthz</a>: alive</li>
</ul>
</body></html>
";

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    reply(status, "text/plain; charset=utf-8", body)
}

fn reply(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
