//! One connection. It is kept between requests: to come anew takes an entry in the table, which a full one refuses, and then who scrapes
//! would see nothing at the time for which this agent is there.
//!
//! Each request has a small header, five seconds for it and ten for all, until the other side has confirmed the whole answer. hyper gets one
//! request at a time and is gone while the connection is idle: its own timer for the header would run then, and close what asks every minute.

use std::{
    cell::Cell,
    future::{Future as _, poll_fn, ready},
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode, Version,
    body::{Body as _, Incoming},
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    task::AbortHandle,
    time::{error::Elapsed, sleep, timeout, timeout_at},
};

use super::{
    access::Access,
    health::{Closed, PortHealth},
    pages::Pages,
    places::TakenPlace,
};
use crate::sys::tcp;

/// Bytes of a request's header at most (hyper's smallest).
pub(super) const HEADER_BYTES: usize = 8192;
/// Header fields of a request at most.
const HEADERS: usize = 64;
/// How long a client may take to send the header.
pub(super) const HEADER_TIME: Duration = Duration::from_secs(5);
/// How long a request may take, from its first byte (the first one of a connection: from when that was accepted) to the moment when the
/// other side has confirmed the whole answer.
pub(super) const REQUEST_TIME: Duration = Duration::from_secs(10);
/// How long a connection is kept between two requests. Prometheus forgets a series after five minutes without a sample, so who wants to
/// survive one that failed scrapes every two minutes at least.
pub(crate) const IDLE_TIME: Duration = Duration::from_secs(150);
/// Who asks sooner than this after asking has to come anew for more. Nobody scrapes more than once a second; this leaves him a tenth for
/// not being exact.
const PACE: Duration = Duration::from_millis(900);

/// What each connection needs.
pub(super) struct Site {
    pub(super) pages: Pages,
    pub(super) access: Access,
    pub(super) health: Arc<PortHealth>,
    /// How long a connection is kept between two requests.
    pub(super) idle: Duration,
}

/// Why a connection is closed in the middle of a request. What is left of it is reset.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("it took too long")]
    Slow,
    #[error(transparent)]
    Failed(#[from] io::Error),
}

impl From<Elapsed> for Cut {
    fn from(_: Elapsed) -> Self {
        Self::Slow
    }
}

/// Answers what comes by a connection until it ends.
pub(super) async fn attend(stream: TcpStream, site: Rc<Site>, place: TakenPlace<AbortHandle>) {
    let due = Instant::now() + REQUEST_TIME;
    let edition = site.access.edition(&site.health);
    let visit = Visit {
        site,
        place,
        edition,
        asked: Cell::new(None),
    };
    let ended = async {
        if let Some(acceptor) = visit.site.access.tls() {
            let stream = timeout(HEADER_TIME, acceptor.accept(stream)).await??;
            talk(stream, |stream| stream.get_ref().0, &visit, due).await
        } else {
            talk(stream, |stream| stream, &visit, due).await
        }
    };
    if let Err(cut) = ended.await {
        tracing::debug!(%cut, "a connection was closed");
        if matches!(cut, Cut::Slow) {
            visit.site.health.closed(Closed::Slow);
        }
    }
}

/// A connection, for as long as it lasts.
struct Visit {
    site: Rc<Site>,
    place: TakenPlace<AbortHandle>,
    /// Of what was in force when it came.
    edition: u64,
    /// When it asked last.
    asked: Cell<Option<Instant>>,
}

impl Visit {
    /// Whether the certificates and tokens are still those by which it was let in.
    fn is_of_now(&self) -> bool {
        self.site.access.edition(&self.site.health) == self.edition
    }

    /// The answer, and whether the connection is kept after it.
    fn answer(&self, request: &Request<Incoming>) -> (Response<Full<Bytes>>, bool) {
        self.place.asked();
        let allowed = self.site.access.allows(request.headers());
        let mut response = self.site.pages.answer(request, allowed);
        let now = Instant::now();
        let last = self.asked.replace(Some(now));
        let is_kept = request.version() == Version::HTTP_11
            && !says_close(request)
            && request.body().is_end_stream()
            && response.status() == StatusCode::OK
            && last.is_none_or(|last| now - last >= PACE);
        if !is_kept {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        (response, is_kept)
    }
}

/// Whether who asks wants the connection closed (RFC 9112, 9.6).
fn says_close(request: &Request<Incoming>) -> bool {
    let values = request.headers().get_all(CONNECTION).into_iter();
    let mut options = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    options.any(|option| option.trim().eq_ignore_ascii_case("close"))
}

/// One request after another; the first has time until `due`.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    tcp: impl Fn(&S) -> &TcpStream,
    visit: &Visit,
    mut due: Instant,
) -> Result<(), Cut> {
    // By one byte it is known that another request comes. It is read and not only waited for: what TLS has read already wakes nobody.
    let mut stream = BufReader::with_capacity(1, stream);
    loop {
        let one = async {
            if converse(&mut stream, visit).await? {
                confirmed(tcp(stream.get_ref())).await?;
                return Ok::<_, Cut>(true);
            }
            part(&mut stream, &tcp).await?;
            Ok(false)
        };
        if !timeout_at(due.into(), one).await?? {
            return Ok(());
        }
        visit.place.idle();
        let asks = match timeout(visit.site.idle, stream.fill_buf()).await {
            Ok(read) => !read?.is_empty(),
            Err(_) => false,
        };
        if !asks || !visit.is_of_now() {
            // Nobody waits for an answer: who does not confirm that this is the end has gone, and was not slow.
            let parted = timeout(REQUEST_TIME, part(&mut stream, &tcp)).await;
            return parted.unwrap_or(Ok(())).map_err(Cut::from);
        }
        due = Instant::now() + REQUEST_TIME;
    }
}

/// One request and its answer; gives whether the connection is kept.
async fn converse(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    visit: &Visit,
) -> Result<bool, Cut> {
    let kept = Cell::new(None);
    let service = service_fn(|request: Request<Incoming>| {
        ready(if kept.get().is_none() {
            let (response, is_kept) = visit.answer(&request);
            kept.set(Some(is_kept));
            Ok(response)
        } else {
            // It came together with the one before.
            Err(io::Error::other("it does not wait for its answer"))
        })
    });
    let mut served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(HEADER_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let done = poll_fn(|context| {
        if kept.get() != Some(true) {
            let polled = Pin::new(&mut served).poll(context);
            if polled.is_ready() || kept.get() != Some(true) {
                return polled;
            }
            // Its answer says already that the connection is kept. So this only makes hyper end when all of it is written.
            Pin::new(&mut served).graceful_shutdown();
        }
        served.poll_without_shutdown(context)
    })
    .await;
    match done {
        Ok(()) => Ok(kept.get() == Some(true) && served.into_parts().read_buf.is_empty()),
        Err(error) if error.is_timeout() => Err(Cut::Slow),
        Err(error) => {
            tracing::debug!(%error, "a request failed");
            Ok(false)
        }
    }
}

/// Says that no more comes, and waits until the other side has confirmed everything: what is closed before that is reset.
async fn part<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    tcp: impl Fn(&S) -> &TcpStream,
) -> io::Result<()> {
    stream.shutdown().await?;
    let tcp = tcp(stream.get_ref());
    confirmed(tcp).await?;
    SockRef::from(tcp).set_linger(None)
}

/// Waits until the other side has confirmed all that it was sent.
async fn confirmed(tcp: &TcpStream) -> io::Result<()> {
    let mut pause = Duration::from_millis(1);
    while tcp::unconfirmed(tcp)? > 0 {
        if let Some(error) = tcp.take_error()? {
            return Err(error);
        }
        sleep(pause).await;
        pause = (2 * pause).min(Duration::from_millis(100));
    }
    Ok(())
}
