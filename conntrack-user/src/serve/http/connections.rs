//! The connections to the port. Each has a place ([`Places`]) until it is closed and the other side has confirmed all that it was sent. So what
//! a peer leaves behind in the kernel, too, is only what fits the places.

use std::{
    cell::RefCell,
    convert::Infallible,
    io,
    net::{IpAddr, TcpListener as StdListener},
    rc::Rc,
    time::{Duration, Instant},
};

use socket2::SockRef;
use tokio::{
    net::TcpListener,
    task::{AbortHandle, spawn_local, yield_now},
    time::sleep,
};

use super::{
    health::{Closed, PortHealth},
    places::{Displaced, MOST, MOST_OF_PEER, Places, TakenPlace},
    talk::{Site, attend},
};

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
    // Where the connection is kept no end of it pushes the end of an answer out.
    socket.set_tcp_nodelay(true)?;
    socket.set_linger(Some(Duration::ZERO))
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
