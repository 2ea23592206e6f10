//! Who scrapes while the table is full: to come anew takes an entry, and there is none to be had.

use std::{
    io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::guest::{
    agent::{Agent, Mechanism},
    checks::Checks,
    command::{self, HANG},
    entries, kernel, net,
    prom::Metrics,
};

const LIMIT: u64 = 300;
/// Conntrack looks at everything, also on loopback.
const TRACK: &str = "
table inet ctp {
  chain track { type filter hook output priority filter; ct state new accept; }
}
";
/// How often it scrapes: each time there is another sample.
const INTERVAL: Duration = Duration::from_millis(1_500);
const SCRAPES: usize = 5;
/// How long a connection is waited for: its SYN is sent twice.
const PATIENCE: Duration = Duration::from_secs(3);

/// A client that keeps its connection, as Prometheus does.
struct Scraper(BufReader<TcpStream>);

impl Scraper {
    fn connect(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(to).context("connecting the scraper")?;
        stream.set_read_timeout(Some(HANG))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn scrape(&mut self) -> Result<Metrics> {
        let request = b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n";
        self.0.get_mut().write_all(request)?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = self.0.read_line(&mut head)?;
            ensure!(read > 0, "the agent closed the connection after `{head}`");
        }
        ensure!(head.starts_with("HTTP/1.1 200 "), "it answered `{head}`");
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
            .context("an answer without a length")?;
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Metrics::parse(&String::from_utf8(body)?)
    }
}

/// The kernel evicts no assured entry, so it drops the first packet of whatever is new: also Prometheus's.
pub(super) fn full(mechanism: Option<Mechanism>) -> Result<()> {
    net::nft(None, TRACK)?;
    let agent = Agent::start(mechanism, "")?;
    kernel::set_limit(LIMIT)?;
    // What the start left there is closed: the kernel may take it out whenever it comes by, and there would be room.
    command::output("conntrack", &["-F"])?;
    let mut scraper = Scraper::connect(agent.address())?;
    scraper.scrape()?;
    let script = format!(
        "port=2000; while [ $port -lt {} ] && conntrack -I -p tcp -s 198.18.200.1 -d 198.19.0.1 --sport $port --dport 443 \
         --state ESTABLISHED --timeout 3000 -u SEEN_REPLY,ASSURED >/dev/null 2>&1; do port=$((port + 1)); done",
        2_000 + 2 * LIMIT
    );
    command::output("sh", &["-c", &script])?;
    let mut checks = Checks::new();
    checks.equal("entries", kernel::entries()?, "the limit", LIMIT);
    let (own, port) = (scraper.0.get_ref().local_addr()?.port(), agent.address());
    let is_tracked = entries::list(None)?.iter().any(|entry| {
        entry.original.source_port == Some(own)
            && entry.original.destination_port == Some(port.port())
    });
    checks.holds(is_tracked, || {
        "the scraper's connection has no entry".to_owned()
    });
    for number in 1..=SCRAPES {
        thread::sleep(INTERVAL);
        let refused = TcpStream::connect_timeout(&agent.address(), PATIENCE);
        let kind = refused.err().map(|error| error.kind());
        checks.equal(
            format!("connection {number}"),
            kind,
            "dropped",
            Some(ErrorKind::TimedOut),
        );
        let metrics = scraper
            .scrape()
            .with_context(|| format!("scrape {number} of the full table"))?;
        let host = [("netns", "host")];
        let held = metrics.count("ctpressure_table_entries", &host)?;
        checks.equal(
            format!("table_entries of scrape {number}"),
            held,
            "the limit",
            LIMIT,
        );
    }
    thread::sleep(2 * INTERVAL);
    let dropped = scraper
        .scrape()?
        .count("ctpressure_drops_total", &[("reason", "table_full")])?;
    checks.at_least("drops_total{table_full}", dropped, SCRAPES as u64);
    checks.finish()?;
    agent.stop()
}
