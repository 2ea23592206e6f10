//! The connections to the port: each has one request, a small header and ten seconds, and a place ([`Places`]) until the other side has
//! confirmed all of the answer. So what a peer leaves behind in the kernel, too, is only what fits the places.

use std::{
    cell::RefCell,
    convert::Infallible,
    io,
    net::{IpAddr, TcpListener as StdListener},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, spawn_local, yield_now},
    time::{sleep, timeout},
};

use super::{
    access::Access,
    health::{Closed, PortHealth},
    pages::Pages,
    places::{Displaced, MOST, MOST_OF_PEER, Places},
};
use crate::sys::tcp;

/// Bytes of a request's header at most (hyper's smallest).
pub(super) const HEADER_BYTES: usize = 8192;
/// Header fields of a request at most.
const HEADERS: usize = 64;
/// How long a client may take to send the header.
pub(super) const HEADER_TIME: Duration = Duration::from_secs(5);
/// How long a connection may last.
pub(super) const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// What the kernel keeps of an answer that is not confirmed, bytes; it takes twice as much memory for it.
const SEND_BYTES: usize = 128 << 10;
/// What the kernel keeps of what was sent and not read, bytes: for each connection, and each that waits to be accepted.
const RECEIVE_BYTES: usize = 16 << 10;
/// How often a line in the log says that connections are closed for others.
const TOLD: Duration = Duration::from_mins(1);

/// Bounds what the kernel keeps for each connection, and lets those that are closed early leave nothing behind.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn bound(listener: &StdListener) -> io::Result<()> {
    // A connection has what its listener has.
    let socket = SockRef::from(listener);
    socket.set_send_buffer_size(SEND_BYTES)?;
    socket.set_recv_buffer_size(RECEIVE_BYTES)?;
    socket.set_linger(Some(Duration::ZERO))
}

/// What each connection needs.
pub(super) struct Site {
    pub(super) pages: Pages,
    pub(super) access: Access,
    pub(super) health: Arc<PortHealth>,
}

/// Answers requests for as long as it is polled, inside a [`tokio::task::LocalSet`].
pub(super) async fn serve(listener: TcpListener, site: Rc<Site>) -> Infallible {
    let places: Rc<RefCell<Places<AbortHandle>>> = Rc::new(RefCell::new(Places::new()));
    let mut told = None;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok((stream, peer)) => (stream, peer.ip().to_canonical()),
            Err(error) => {
                // Out of file descriptors, most likely: it passes, but not at once.
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let displaced = places.borrow_mut().make_room(peer);
        if let Some(displaced) = displaced {
            close(displaced, peer, &site.health, &mut told);
            // Its file is closed before there is another one.
            yield_now().await;
        }
        let number = places.borrow_mut().number();
        let place = TakenPlace {
            number,
            places: Rc::clone(&places),
        };
        let task = spawn_local(attend(stream, Rc::clone(&site), place));
        places.borrow_mut().take(number, peer, task.abort_handle());
    }
}

/// Closes a connection whose place somebody else gets.
fn close(
    displaced: Displaced<AbortHandle>,
    peer: IpAddr,
    health: &PortHealth,
    told: &mut Option<Instant>,
) {
    let (task, why) = match displaced {
        Displaced::OfPeer(task) => (task, Closed::PeerFull),
        Displaced::OfAll(task) => (task, Closed::Full),
    };
    task.abort();
    let closed = health.closed(why);
    if told.is_none_or(|told| told.elapsed() >= TOLD) {
        *told = Some(Instant::now());
        if why == Closed::PeerFull {
            tracing::warn!(
                %peer, closed,
                "a peer holds {MOST_OF_PEER} connections, its oldest are closed for new ones"
            );
        } else {
            tracing::warn!(
                %peer, closed,
                "all {MOST} connections are taken, the oldest are closed for new ones"
            );
        }
    }
}

/// Gives the place back when the connection has ended, however.
struct TakenPlace {
    number: u64,
    places: Rc<RefCell<Places<AbortHandle>>>,
}

impl Drop for TakenPlace {
    fn drop(&mut self) {
        self.places.borrow_mut().free(self.number);
    }
}

async fn attend(mut stream: TcpStream, site: Rc<Site>, place: TakenPlace) {
    let talk = async {
        if let Some(acceptor) = site.access.tls(&site.health) {
            let mut stream = timeout(HEADER_TIME, acceptor.accept(stream)).await??;
            converse(&mut stream, &site, &place).await;
            part(&mut stream, |stream| stream.get_ref().0).await
        } else {
            converse(&mut stream, &site, &place).await;
            part(&mut stream, |stream| stream).await
        }
    };
    match timeout(CONNECTION_TIME, talk).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection failed"),
        Err(_) => {
            site.health.closed(Closed::Slow);
            tracing::debug!("a connection took too long");
        }
    }
}

/// One request and its answer.
async fn converse(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    site: &Site,
    place: &TakenPlace,
) {
    let service = service_fn(|request: Request<Incoming>| {
        place.places.borrow_mut().asked(place.number);
        let allowed = site.access.allows(request.headers());
        let response = site.pages.answer(&request, allowed);
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
        tracing::debug!(%error, "a request failed");
        if error.is_timeout() {
            site.health.closed(Closed::Slow);
        }
    }
}

/// Says that no more comes, and waits until the other side has confirmed everything: what is closed before that is reset.
async fn part<S: AsyncWrite + Unpin>(
    stream: &mut S,
    tcp: impl Fn(&S) -> &TcpStream,
) -> io::Result<()> {
    stream.shutdown().await?;
    let tcp = tcp(stream);
    let mut pause = Duration::from_millis(1);
    while tcp::unconfirmed(tcp)? > 0 {
        if let Some(error) = tcp.take_error()? {
            return Err(error);
        }
        sleep(pause).await;
        pause = (2 * pause).min(Duration::from_millis(100));
    }
    SockRef::from(tcp).set_linger(None)
}
