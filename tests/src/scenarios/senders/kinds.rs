//! The kinds of flows, one function for each.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use nix::libc::EINPROGRESS;
use socket2::{Domain, Socket, Type};

use super::{Ground, Kind};
use crate::{
    guest::{
        busy::BusyLoops,
        command::{HANG, output, spawn, wait_for},
        entries::{self, Entry},
        generator, net,
        nfqueue::SilentQueue,
        owned::{ByOwner, Owner},
        unit::{Inside, folder, in_unit},
    },
    traffic::bench::flush_table,
};

/// Flows of the kinds that are cheap, and of the others.
const MANY: u16 = 4_000;
pub(super) const FEW: u16 = 300;
/// Entries that ctnetlink makes, each by a process.
pub(super) const REQUESTS: u16 = 20;
/// Somebody whose address is nobody's that is known, and the host's address on the way there.
pub(super) const CLIENT: &str = "ctp-client";
pub(super) const TO_CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Destination ports that rules look at.
const REFUSED_PORT: u16 = 7_901;
/// Of SYNs that are sent again.
const AGAIN_PORT: u16 = 7_904;
pub(super) const UNTRACKED_PORT: u16 = 7_902;
pub(super) const QUEUE: u16 = 7;
pub(super) const QUEUED_PORT: u16 = 7_903;

pub(super) const KINDS: [Kind; 11] = [
    Kind {
        name: "UDP, who made the socket sends",
        units: &["ctp-own.service"],
        run: own,
    },
    Kind {
        name: "raw sockets of a program",
        units: &["ctp-raw.service"],
        run: raw,
    },
    Kind {
        name: "UDP, somebody else made the socket",
        units: &["ctp-maker.service", "ctp-user.service"],
        run: handed,
    },
    Kind {
        name: "UDP, whoever made the socket is gone",
        units: &["ctp-heir.service"],
        run: orphaned,
    },
    Kind {
        name: "TCP client connects",
        units: &["ctp-client.service"],
        run: connects,
    },
    Kind {
        name: "TCP SYN is sent again, entry deleted",
        units: &["ctp-again.service", "ctp-busy.service"],
        run: again,
    },
    Kind {
        name: "TCP SYN is sent again, first one refused",
        units: &["ctp-late.service", "ctp-busy.service"],
        run: refused,
    },
    Kind {
        name: "server, asked from elsewhere",
        units: &["ctp-served.service"],
        run: served,
    },
    Kind {
        name: "UDP server answers what has no entry",
        units: &["ctp-answers.service"],
        run: answers,
    },
    Kind {
        name: "entries by ctnetlink",
        units: &["ctp-requests.service"],
        run: requests,
    },
    Kind {
        name: "UDP, another program lets it go on",
        units: &["ctp-asks.service", "ctp-judge.service"],
        run: judged,
    },
];

/// All are this one's.
fn all_of(owner: Owner, flows: u16) -> ByOwner {
    let mut expected = ByOwner::default();
    expected.add(owner, "egress", flows.into());
    expected
}

fn udp_socket() -> Result<UdpSocket> {
    UdpSocket::bind("192.0.2.1:0").context("binding to the host's address")
}

/// Sends to so many places where nobody is.
fn send_from(socket: &UdpSocket, flows: u16) -> Result<()> {
    for number in 0..flows {
        socket.send_to(b"x", (Ipv4Addr::new(198, 19, 0, 1), 10_000 + number))?;
    }
    Ok(())
}

fn own(_: &Ground) -> Result<ByOwner> {
    let _inside = Inside::enter("ctp-own.service")?;
    send_from(&udp_socket()?, MANY)?;
    Ok(all_of(Owner::unit("ctp-own.service"), MANY))
}

fn raw(_: &Ground) -> Result<ByOwner> {
    let mut command = in_unit("ctp-raw.service", "ctgen");
    command.args(["send", "--protocol", "udp,tcp", "--source", "192.0.2.1/32"]);
    command.args(["--flows", &MANY.to_string()]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let tally = generator::counted(spawn(&mut command)?)?;
    ensure!(tally.accepted == u64::from(MANY), "{tally:?}");
    Ok(all_of(Owner::unit("ctp-raw.service"), MANY))
}

fn handed(ground: &Ground) -> Result<ByOwner> {
    let inside = Inside::enter("ctp-maker.service")?;
    let socket = udp_socket()?;
    drop(inside);
    let _inside = Inside::enter("ctp-user.service")?;
    send_from(&socket, MANY)?;
    let charged = if ground.told {
        "ctp-user.service"
    } else {
        "ctp-maker.service"
    };
    Ok(all_of(Owner::unit(charged), MANY))
}

fn orphaned(ground: &Ground) -> Result<ByOwner> {
    const GONE: &str = "ctp-gone.service";
    fs::create_dir(folder(GONE))?;
    let inside = Inside::enter(GONE)?;
    let socket = udp_socket()?;
    drop(inside);
    fs::remove_dir(folder(GONE)).context("removing a control group that nobody is in")?;
    let _inside = Inside::enter("ctp-heir.service")?;
    send_from(&socket, FEW)?;
    let heir = Owner::unit("ctp-heir.service");
    Ok(all_of(if ground.told { heir } else { Owner::host() }, FEW))
}

/// Sockets that have sent a SYN to where nobody is.
fn connecting(unit: &str, port: u16) -> Result<Vec<Socket>> {
    let _inside = Inside::enter(unit)?;
    (0..FEW)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            let there = SocketAddr::from((Ipv4Addr::new(198, 19, 1 + high, low), port));
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            match socket.connect(&there.into()) {
                Err(error) if error.raw_os_error() != Some(EINPROGRESS) => Err(error.into()),
                _ => Ok(socket),
            }
        })
        .collect()
}

fn connects(_: &Ground) -> Result<ByOwner> {
    drop(connecting("ctp-client.service", 7_000)?);
    Ok(all_of(Owner::unit("ctp-client.service"), FEW))
}

/// Waits until each has sent its SYN to this port again, while others use the CPUs. The kernel's count would have what was flushed and
/// waits somewhere, too.
fn sent_again(port: u16) -> Result<()> {
    let _busy = BusyLoops::start(Some("ctp-busy.service"))?;
    wait_for("SYNs to be sent again", HANG, || {
        let listed = entries::list(None)?;
        let to_port = |entry: &&Entry| entry.original.destination_port == Some(port);
        let again = listed.iter().filter(to_port).count();
        Ok((again >= FEW.into()).then_some(()))
    })
}

fn again(ground: &Ground) -> Result<ByOwner> {
    const UNIT: &str = "ctp-again.service";
    let _sockets = connecting(UNIT, AGAIN_PORT)?;
    flush_table()?;
    sent_again(AGAIN_PORT)?;
    let mut expected = all_of(Owner::unit(UNIT), FEW);
    expected.add(ground.of_socket(UNIT), "egress", FEW.into());
    Ok(expected)
}

fn refused(ground: &Ground) -> Result<ByOwner> {
    const UNIT: &str = "ctp-late.service";
    let chain = "type filter hook output priority 100;";
    let rules = format!(
        "table inet ctp_refused {{\nchain sent {{ {chain}\ntcp dport {REFUSED_PORT} drop\n}}\n}}\n"
    );
    net::nft(None, &rules)?;
    let _sockets = connecting(UNIT, REFUSED_PORT)?;
    net::nft(None, "delete table inet ctp_refused\n")?;
    sent_again(REFUSED_PORT)?;
    Ok(all_of(ground.of_socket(UNIT), FEW))
}

/// `ctgen serve` in a unit; ended when this is dropped.
struct Server(Child);

impl Server {
    fn start(unit: &str, address: SocketAddr) -> Result<Self> {
        let mut command = in_unit(unit, "ctgen");
        command.args(["serve", "--listen", &address.to_string()]);
        let mut server = Self(spawn(command.stdout(Stdio::piped()))?);
        let said = server.0.stdout.take().context("no pipe")?;
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        ensure!(line.starts_with("serving"), "the server said `{line}`");
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Either it is already gone, or it is to be.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Opens flows from elsewhere to a server; all are answered.
fn ask(unit: &str, port: u16, transports: &[&str]) -> Result<()> {
    let address = SocketAddr::from((TO_CLIENT, port));
    let _server = Server::start(unit, address)?;
    for transport in transports {
        let connect = format!(
            "netns exec {CLIENT} ctgen connect --transport {transport} --destination {address} --flows {FEW}"
        );
        let words: Vec<&str> = connect.split(' ').collect();
        let said = output("ip", &words)?;
        ensure!(said.contains(&format!("\"accepted\":{FEW}")), "{said}");
    }
    Ok(())
}

fn served(_: &Ground) -> Result<ByOwner> {
    ask("ctp-served.service", 7_000, &["tcp", "udp"])?;
    let mut expected = ByOwner::default();
    expected.add(Owner::host(), "ingress", (2 * FEW).into());
    Ok(expected)
}

fn answers(_: &Ground) -> Result<ByOwner> {
    ask("ctp-answers.service", UNTRACKED_PORT, &["udp"])?;
    Ok(all_of(Owner::unit("ctp-answers.service"), FEW))
}

fn requests(_: &Ground) -> Result<ByOwner> {
    let _inside = Inside::enter("ctp-requests.service")?;
    for number in 0..REQUESTS {
        let request = format!(
            "-I -p udp -s 192.0.2.1 -d 198.19.3.1 --sport 7000 --dport {} -t 600",
            7_000 + number
        );
        output("conntrack", &request.split(' ').collect::<Vec<_>>())?;
    }
    Ok(all_of(Owner::host(), REQUESTS))
}

fn judged(ground: &Ground) -> Result<ByOwner> {
    let queue = SilentQueue::bind(QUEUE)?;
    let inside = Inside::enter("ctp-asks.service")?;
    // Not all from one socket: packets that wait fill its buffer.
    for part in 0..FEW / 20 {
        let socket = udp_socket()?;
        for number in 0..20 {
            let [high, low] = (part * 20 + number).to_be_bytes();
            socket.send_to(b"x", (Ipv4Addr::new(198, 19, 1 + high, low), QUEUED_PORT))?;
        }
    }
    drop(inside);
    let _inside = Inside::enter("ctp-judge.service")?;
    queue.accept(QUEUE, FEW.into())?;
    Ok(all_of(ground.of_judged("ctp-asks.service"), FEW))
}
