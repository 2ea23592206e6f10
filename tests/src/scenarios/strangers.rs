//! Whoever can reach the port of the metrics: it costs the agent no more than a few connections, and nobody else an answer.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use socket2::{Domain, Socket, Type};

use crate::guest::{
    agent::{Agent, Mechanism},
    checks::Checks,
    command::{self, HANG, wait_for},
};

/// Connections that strangers hold, or try to.
const CONNECTIONS: usize = 800;
/// How long a kubelet waits for an answer (`timeoutSeconds` of the probes in the manifests); Prometheus waits longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often each is asked meanwhile.
const ROUNDS: usize = 4;
/// Files that the agent may have open beyond those that it had: the places that there are for connections, and some of its own.
const FILES: usize = 64 + 32;
/// Memory that it may have beyond what it had, KiB.
const MEMORY_KIB: u64 = 16 << 10;

/// What strangers do with a connection.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// Nothing.
    Silent,
    /// They ask, a byte at a time, and never to the end.
    SlowToAsk,
    /// They ask, and take nothing of the answer.
    SlowToRead,
    /// They ask, have their answer, and stay.
    Idle,
}

/// They hold connections until they are sent away, and make those anew that the agent ends.
struct Strangers {
    end: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Strangers {
    /// Begins, from so many addresses.
    fn come(to: SocketAddr, addresses: u8, manner: Manner) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = thread::spawn(move || {
            let mut held: Vec<Option<TcpStream>> = (0..CONNECTIONS).map(|_| None).collect();
            let mut made = 0;
            while !ended.load(Ordering::Relaxed) {
                for (number, place) in held.iter_mut().enumerate() {
                    if place.as_mut().is_none_or(|stream| is_over(stream, manner)) {
                        let last = 2 + u8::try_from(number % usize::from(addresses)).unwrap_or(0);
                        *place = connect(to, Ipv4Addr::new(127, 0, 1, last), manner).ok();
                        made += u64::from(place.is_some());
                    }
                }
                thread::sleep(Duration::from_millis(250));
            }
            made
        });
        Self { end, thread }
    }

    /// Ends all; gives how many connections were made.
    fn leave(self) -> Result<u64> {
        self.end.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("the strangers panicked"))
    }
}

fn connect(to: SocketAddr, from: Ipv4Addr, manner: Manner) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if matches!(manner, Manner::SlowToRead) {
        // What is not taken stays with the agent.
        socket.set_recv_buffer_size(1)?;
    }
    socket.bind(&SocketAddr::V4(SocketAddrV4::new(from, 0)).into())?;
    socket.connect_timeout(&to.into(), Duration::from_millis(100))?;
    let mut stream = TcpStream::from(socket);
    stream.set_nonblocking(true)?;
    match manner {
        Manner::Silent => {}
        Manner::SlowToAsk => stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ")?,
        Manner::SlowToRead => stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")?,
        Manner::Idle => stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")?,
    }
    Ok(stream)
}

/// Whether the agent has ended it.
fn is_over(stream: &mut TcpStream, manner: Manner) -> bool {
    if matches!(manner, Manner::SlowToAsk) && stream.write_all(b"x").is_err() {
        return true;
    }
    if !matches!(stream.take_error(), Ok(None)) {
        return true;
    }
    match stream.peek(&mut [0]) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

fn open_files(agent: &Agent) -> Result<usize> {
    let path = format!("/proc/{}/fd", agent.pid());
    let files = fs::read_dir(&path).with_context(|| format!("reading {path}"))?;
    Ok(files.count())
}

/// Silent, slow, idle and many: nobody holds a place for ever, nobody's answer waits for them, and who asks whether the agent lives does not pass
/// by the port at all.
pub(super) fn strangers(mechanism: Option<Mechanism>) -> Result<()> {
    let agent = Agent::start(mechanism, "")?;
    let mut checks = Checks::new();
    let (files, memory) = (open_files(&agent)?, agent.memory_kib("VmRSS")?);
    for (addresses, manner) in [
        (1, Manner::Silent),
        (100, Manner::Silent),
        (1, Manner::SlowToAsk),
        (1, Manner::SlowToRead),
        (100, Manner::SlowToRead),
        (100, Manner::Idle),
    ] {
        let told = format!("{manner:?} from {addresses} addresses");
        let strangers = Strangers::come(agent.address(), addresses, manner);
        // All of them are there.
        thread::sleep(Duration::from_secs(3));
        for _ in 0..ROUNDS {
            for path in ["/healthz", "/metrics"] {
                let begin = Instant::now();
                let answer = agent.get(path).map(|(status, _)| status);
                let status = *answer.as_ref().unwrap_or(&0);
                checks.equal(format!("{told}: {path}"), status, "expected", 200);
                checks.within(format!("{told}: {path}"), begin.elapsed(), PATIENCE);
            }
            let begin = Instant::now();
            let socket = agent.socket();
            let socket = socket.to_string_lossy();
            let said = command::output("ctpressure", &["health", "--socket", &socket]);
            checks.holds(said.is_ok(), || format!("{told}: health: {said:?}"));
            checks.within(format!("{told}: health"), begin.elapsed(), PATIENCE);
            let open = open_files(&agent)?;
            checks.at_most(format!("{told}: open files"), open, files + FILES);
        }
        let made = strangers.leave()?;
        println!("{told}: {made} connections made");
        checks.at_least(format!("{told}: connections"), made, CONNECTIONS as u64);
    }
    let grown = agent.memory_kib("VmRSS")?.saturating_sub(memory);
    println!("resident memory grew by {grown} KiB");
    checks.at_most("growth of memory", grown, MEMORY_KIB);
    wait_for("the agent to close what was left", HANG, || {
        Ok((open_files(&agent)? <= files + 4).then_some(()))
    })?;
    checks.finish()?;
    agent.stop()
}
