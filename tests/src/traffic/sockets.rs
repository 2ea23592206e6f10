//! Flows with a real socket at both ends: answered, so that conntrack sees replies (and calls TCP
//! entries ASSURED, which `early_drop` never evicts).

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

use super::tally::Tally;

/// Which kind of socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// One datagram there, the same one back.
    Udp,
    /// Connect; one byte there and back.
    Tcp,
}

/// How long a peer may take to answer, on a busy host too.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Answers TCP connections and UDP datagrams on `address`, until the process is ended.
///
/// Prints one line when both are bound, so that a caller knows when to begin.
pub fn serve(address: SocketAddr) -> Result<()> {
    let udp = UdpSocket::bind(address).with_context(|| format!("binding UDP {address}"))?;
    let tcp = TcpListener::bind(address).with_context(|| format!("binding TCP {address}"))?;
    tcp.set_nonblocking(true)?;
    thread::spawn(move || echo_datagrams(&udp));
    println!("serving {}", tcp.local_addr()?);
    io::stdout().flush()?;
    let mut streams: Vec<TcpStream> = Vec::new();
    loop {
        let mut waiting: Vec<PollFd<'_>> = streams.iter().map(readable).collect();
        waiting.push(readable(&tcp));
        // Nothing of the processor until something comes: a node has one of this for each pod.
        poll(&mut waiting, PollTimeout::NONE).context("waiting for a connection")?;
        let woken: Vec<bool> = waiting.iter().map(|one| one.any() != Some(false)).collect();
        let mut of_streams = woken.into_iter();
        streams.retain_mut(|stream| of_streams.next() == Some(false) || echo_byte(stream));
        loop {
            match tcp.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    streams.push(stream);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("accepting a connection"),
            }
        }
    }
}

fn readable(socket: &impl AsFd) -> PollFd<'_> {
    PollFd::new(socket.as_fd(), PollFlags::POLLIN)
}

fn echo_datagrams(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    loop {
        // An error here belongs to an earlier answer (ICMP); the socket itself goes on.
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            drop(socket.send_to(&buffer[..length], from));
        }
    }
}

/// Sends back what came; false when the peer is gone.
fn echo_byte(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(0) => false,
        Ok(_) => stream.write_all(&byte).is_ok(),
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Opens `flows` flows to `address`, each from a port of its own, and keeps them open for `hold`
/// after the last one.
///
/// A flow is accepted when its answer is back.
pub fn connect(
    transport: Transport,
    address: SocketAddr,
    flows: u64,
    hold: Duration,
) -> Result<Tally> {
    let start = Instant::now();
    let mut tally = Tally::default();
    let mut streams = Vec::new();
    let mut sockets = Vec::new();
    for _ in 0..flows {
        match transport {
            Transport::Tcp => match tcp_flow(address) {
                Ok(stream) => {
                    streams.push(stream);
                    tally.count("tcp", Ok(()));
                }
                Err(error) => tally.count("tcp", Err(error)),
            },
            Transport::Udp => match udp_flow(address) {
                Ok(socket) => {
                    sockets.push(socket);
                    tally.count("udp", Ok(()));
                }
                Err(error) => tally.count("udp", Err(error)),
            },
        }
    }
    tally.seconds = start.elapsed().as_secs_f64();
    thread::sleep(hold);
    Ok(tally)
}

fn tcp_flow(address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])?;
    Ok(stream)
}

fn udp_flow(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if address.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    socket.send(b"?")?;
    socket.recv(&mut [0; 16])?;
    Ok(socket)
}

/// Accepts TCP connections on `address` and keeps them open, until the process is ended.
///
/// Prints one line when it is bound.
pub fn keep(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("binding TCP {address}"))?;
    println!("keeping {}", listener.local_addr()?);
    io::stdout().flush()?;
    let mut streams = Vec::new();
    loop {
        streams.push(listener.accept().context("accepting a connection")?);
    }
}

/// Opens `flows` TCP connections to `port` of the addresses in turn, `rate` of them a second, without
/// waiting for any, and keeps all of them open for `hold` after the last one.
///
/// A flow is accepted when it is connected at the end.
pub fn fan(
    addresses: &[IpAddr],
    port: u16,
    flows: u64,
    rate: u32,
    hold: Duration,
) -> Result<Tally> {
    let start = Instant::now();
    let gap = Duration::from_secs(1) / rate.max(1);
    let mut tally = Tally::default();
    let mut sockets = Vec::new();
    for (turn, address) in (0..flows).zip(addresses.iter().cycle()) {
        let due = gap * u32::try_from(turn).unwrap_or(u32::MAX);
        thread::sleep((start + due).saturating_duration_since(Instant::now()));
        let address = SocketAddr::new(*address, port);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)
            .context("opening a socket")?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => {
                tally.count("tcp", Err(error));
            }
            _ => sockets.push(socket),
        }
    }
    thread::sleep(hold);
    for socket in sockets {
        let refused = socket.take_error()?;
        let connected = match refused {
            Some(error) => Err(error),
            None => socket.peer_addr().map(drop),
        };
        tally.count("tcp", connected);
    }
    tally.seconds = start.elapsed().as_secs_f64();
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answered_flows_are_accepted_and_unanswered_ones_are_not() {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        thread::spawn(move || serve(port));
        let deadline = Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(port).is_err() {
            assert!(Instant::now() < deadline, "the server did not come up");
            thread::sleep(Duration::from_millis(5));
        }
        for transport in [Transport::Tcp, Transport::Udp] {
            let tally = connect(transport, port, 5, Duration::ZERO).unwrap();
            assert_eq!(
                (tally.sent, tally.accepted),
                (5, 5),
                "{transport:?}: {:?}",
                tally.errors
            );
        }
        let closed = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let tally = connect(Transport::Tcp, closed, 2, Duration::ZERO).unwrap();
        assert_eq!((tally.accepted, tally.error("ECONNREFUSED")), (0, 2));
    }

    #[test]
    fn a_fan_counts_those_that_are_connected() {
        let free = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let (kept, closed) = (free(), free());
        thread::spawn(move || keep(kept));
        let deadline = Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(kept).is_err() {
            assert!(Instant::now() < deadline, "the keeper did not come up");
            thread::sleep(Duration::from_millis(5));
        }
        let addresses = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2])];
        let hold = Duration::from_millis(200);
        let tally = fan(&addresses[..1], kept.port(), 10, 1_000, hold).unwrap();
        assert_eq!((tally.sent, tally.accepted), (10, 10), "{:?}", tally.errors);
        let tally = fan(&addresses, closed.port(), 4, 1_000, hold).unwrap();
        assert_eq!((tally.sent, tally.error("ECONNREFUSED")), (4, 4));
    }
}
