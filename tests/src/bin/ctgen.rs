//! `ctgen`: new flows of chosen tuples for the tests and benchmarks of ctpressure.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr as SocketName, UnixListener},
    },
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use ctpressure_tests::traffic::{
    bench,
    flow::{Addresses, Family, Plan, Ports, Protocol},
    race,
    send::{self, Pace},
    sockets::{self, Transport},
    worker,
};
use ipnet::IpNet;

/// Opens new flows of chosen tuples and counts what the kernel says to each. Every run prints one
/// JSON object.
#[derive(Parser)]
#[command(name = "ctgen", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Sends one packet for each flow through raw sockets; the tuples are all distinct. Needs root
    /// and a route to a place where nobody answers.
    Send(Send),
    /// Sends two packets of each flow at the same moment, from one UDP socket on two CPUs, so that their entries clash.
    Race(Race),
    /// Opens flows by real sockets to `ctgen serve`, answered, and holds them.
    Connect(Connect),
    /// Answers TCP connections and UDP datagrams until it is ended.
    Serve {
        /// Address and port of both.
        #[arg(long, default_value = "[::]:7000")]
        listen: SocketAddr,
    },
    /// Opens TCP connections to many addresses without waiting for any, and holds them.
    Fan(Fan),
    /// Accepts TCP connections and keeps them open until it is ended.
    Keep {
        /// Address and port.
        #[arg(long, default_value = "[::]:7000")]
        listen: SocketAddr,
    },
    /// Listens at an abstract Unix socket of this name until it is ended.
    Hold {
        /// Its name.
        name: String,
    },
    /// Does nothing until it is ended: what holds a pod's namespaces.
    Pause,
    /// Runs `ctgen` with the arguments that it is sent, until it is ended.
    Worker {
        /// Unix socket to make. A caller sends a line with a JSON array of arguments, and reads a
        /// JSON object with what that run printed.
        #[arg(long)]
        socket: PathBuf,
        /// Answer TCP connections and UDP datagrams here meanwhile.
        #[arg(long)]
        listen: Option<SocketAddr>,
    },
    /// Nanoseconds for new UDP flows, the sends only.
    BenchSend(Bench),
    /// Nanoseconds for the deletion of as many entries (a ctnetlink flush of the whole table of
    /// this network namespace).
    BenchEnd(Bench),
}

#[derive(Args)]
struct Bench {
    /// How many.
    #[arg(long, default_value_t = 20_000)]
    flows: u64,
    /// Where they come from; it need not be an address of this host.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    source: IpAddr,
    /// Where they go: from this address on, those of its network, each of this host, where it is received.
    #[arg(long, default_value = "127.0.0.2/8")]
    destination: IpNet,
    /// To each of these ports of an address before the next address, in place of a receiver's: nobody may answer.
    #[arg(long)]
    destination_ports: Option<Ports>,
    /// Leave others' entries in the table: those of the flows are deleted, by a request for each.
    #[arg(long)]
    spare: bool,
}

impl Bench {
    fn flows(self) -> bench::Flows {
        bench::Flows {
            number: self.flows,
            source: self.source,
            destination: self.destination,
            ports: self.destination_ports,
            spare: self.spare,
        }
    }
}

#[derive(Args)]
struct Send {
    /// Kinds of packets, dealt out in turn.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "udp")]
    protocol: Vec<Protocol>,
    /// Address families, dealt out in turn.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "4")]
    family: Vec<Family>,
    /// IPv4 sources; they need not be addresses of this host.
    #[arg(long, default_value = "198.18.0.0/16")]
    source: IpNet,
    /// IPv4 destinations.
    #[arg(long, default_value = "198.19.0.0/16")]
    destination: IpNet,
    /// IPv6 sources.
    #[arg(long, default_value = "fd00:c7:0:1::/112")]
    source6: IpNet,
    /// IPv6 destinations.
    #[arg(long, default_value = "fd00:c7:0:2::/112")]
    destination6: IpNet,
    /// Source ports (ICMP: ids).
    #[arg(long, default_value = "1024-65535")]
    source_ports: Ports,
    /// Destination ports.
    #[arg(long, default_value = "7000")]
    destination_ports: Ports,
    /// How many flows.
    #[arg(long, default_value_t = 1_000)]
    flows: u64,
    /// Number of the first flow: runs with disjoint numbers have disjoint tuples.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Flows a second, all threads together; without it as fast as it goes.
    #[arg(long)]
    rate: Option<u32>,
    /// Stop after this many seconds even if flows are left.
    #[arg(long)]
    seconds: Option<f64>,
    /// Sending threads; each takes one part of the flows.
    #[arg(long, default_value_t = 1)]
    threads: u32,
    /// CPUs that the threads are pinned to, in turn.
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
    /// Take the time of each `sendto`, and tell how long they took.
    #[arg(long)]
    times: bool,
}

#[derive(Args)]
struct Race {
    /// Address and port of the socket.
    #[arg(long, default_value = "0.0.0.0:0")]
    source: SocketAddr,
    /// IPv4 destinations.
    #[arg(long, default_value = "198.19.0.0/16")]
    destination: IpNet,
    /// How many flows.
    #[arg(long, default_value_t = 1_000)]
    flows: u64,
}

#[derive(Args)]
struct Connect {
    /// Kind of socket.
    #[arg(long, value_enum, default_value = "tcp")]
    transport: Transport,
    /// Where `ctgen serve` listens.
    #[arg(long)]
    destination: SocketAddr,
    /// How many flows, each from a port of its own.
    #[arg(long, default_value_t = 100)]
    flows: u64,
    /// Keep them open for this many seconds after the last one.
    #[arg(long, default_value_t = 0.0)]
    hold: f64,
}

#[derive(Args)]
struct Fan {
    /// The addresses of these networks, in turn.
    #[arg(long, value_delimiter = ',', required = true)]
    destination: Vec<IpNet>,
    /// Their port.
    #[arg(long, default_value_t = 7_000)]
    port: u16,
    /// How many flows.
    #[arg(long, default_value_t = 100)]
    flows: u64,
    /// Flows a second.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Keep them open for this many seconds after the last one.
    #[arg(long, default_value_t = 0.0)]
    hold: f64,
}

impl Fan {
    fn run(&self) -> Result<()> {
        let addresses: Vec<_> = self.destination.iter().flat_map(IpNet::hosts).collect();
        print(&sockets::fan(
            &addresses,
            self.port,
            self.flows,
            self.rate,
            seconds(self.hold, "--hold")?,
        )?)
    }
}

/// A duration of the command line.
fn seconds(value: f64, name: &str) -> Result<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|_| anyhow::anyhow!("{name} wants a number of seconds from 0 up"))
}

impl Send {
    fn run(self) -> Result<()> {
        let limit = self.seconds.map(|value| seconds(value, "--seconds"));
        let addresses: Vec<_> = self
            .family
            .iter()
            .map(|family| match family {
                Family::V4 => Addresses {
                    source: self.source,
                    destination: self.destination,
                },
                Family::V6 => Addresses {
                    source: self.source6,
                    destination: self.destination6,
                },
            })
            .collect();
        let plan = Plan::new(
            &self.protocol,
            &addresses,
            self.source_ports,
            self.destination_ports,
            self.first,
            self.flows,
        )?;
        let pace = Pace {
            threads: self.threads,
            cpus: self.cpus,
            rate: self.rate,
            limit: limit.transpose()?,
            times: self.times,
        };
        print(&send::send(&plan, &pace)?)
    }
}

fn print(value: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Send(send) => send.run(),
        Command::Race(Race {
            source,
            destination,
            flows,
        }) => print(&race::race(source, destination, flows)?),
        Command::Connect(Connect {
            transport,
            destination,
            flows,
            hold,
        }) => {
            let hold = seconds(hold, "--hold")?;
            print(&sockets::connect(transport, destination, flows, hold)?)
        }
        Command::Serve { listen } => sockets::serve(listen),
        Command::Fan(fan) => fan.run(),
        Command::Keep { listen } => sockets::keep(listen),
        Command::Hold { name } => {
            let _socket = UnixListener::bind_addr(&SocketName::from_abstract_name(name)?)?;
            loop {
                nix::unistd::pause();
            }
        }
        Command::Pause => loop {
            nix::unistd::pause();
        },
        Command::Worker { socket, listen } => worker::work(&socket, listen),
        Command::BenchSend(options) => print(&bench::send(&options.flows())?),
        Command::BenchEnd(options) => print(&bench::end(&options.flows())?),
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ctgen: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
