//! `ctpressure run` as a process, and what it says about itself.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use super::{
    command::{self, HANG, Late, wait_for},
    confinement::Confinement,
    prom::Metrics,
};

/// How programs are attached; what `--mechanism` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mechanism {
    /// fentry and fexit.
    Fentry,
    /// kprobe and kretprobe.
    Kprobe,
}

impl Mechanism {
    /// What this kernel allows: fentry needs BTF of the conntrack module (or built-in).
    pub fn allowed() -> Vec<Self> {
        let btf = |name: &str| PathBuf::from("/sys/kernel/btf").join(name).exists();
        let built_in = !PathBuf::from("/sys/module/nf_conntrack/initstate").exists();
        if btf("nf_conntrack") || (built_in && btf("vmlinux")) {
            vec![Self::Fentry, Self::Kprobe]
        } else {
            vec![Self::Kprobe]
        }
    }

    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
        }
    }
}

/// A running agent; killed when dropped.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
    /// Its last answer.
    scraped: Mutex<Metrics>,
}

impl Agent {
    /// Starts `ctpressure run` with these further arguments (split at spaces) and waits until it
    /// is ready.
    pub fn start(mechanism: Option<Mechanism>, arguments: &str) -> Result<Self> {
        let agent = Self::launch(mechanism, arguments)?;
        agent.wait_until_ready()
    }

    /// Starts `ctpressure run` and does not wait.
    pub fn launch(mechanism: Option<Mechanism>, arguments: &str) -> Result<Self> {
        let address = free_address()?;
        let command = Command::new("ctpressure");
        Self::launch_by(command, address, address, mechanism, arguments)
    }

    /// Starts it confined, and does not wait; in its network namespace it has `address`.
    pub fn launch_confined(
        confinement: &Confinement,
        address: IpAddr,
        arguments: &str,
    ) -> Result<Self> {
        let port = free_address()?.port();
        let mut command = confinement.command()?;
        command.arg("ctpressure");
        let listen = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        let address = SocketAddr::new(address, port);
        Self::launch_by(command, listen, address, None, arguments)
    }

    /// Starts it by way of `command`, which becomes what it is given behind its own arguments, and waits until it is ready.
    pub fn start_by(mut command: Command, arguments: &str) -> Result<Self> {
        command.arg("ctpressure");
        let address = free_address()?;
        Self::launch_by(command, address, address, None, arguments)?.wait_until_ready()
    }

    /// By a `command` that becomes `ctpressure` with what is added to it.
    fn launch_by(
        mut command: Command,
        listen: SocketAddr,
        address: SocketAddr,
        mechanism: Option<Mechanism>,
        arguments: &str,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ctp-agent-").tempdir()?;
        command.args(["run", "--listen", &listen.to_string(), "--socket"]);
        command.arg(folder.path().join("socket"));
        if let Some(mechanism) = mechanism {
            command.args(["--mechanism", mechanism.name()]);
        }
        command.args(arguments.split_whitespace());
        let log = File::create(folder.path().join("log"))?;
        let child = command::spawn(
            command
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log),
        )?;
        Ok(Self {
            child,
            address,
            folder,
            scraped: Mutex::default(),
        })
    }

    /// Waits for `/readyz` to say 200.
    pub fn wait_until_ready(mut self) -> Result<Self> {
        let deadline = Instant::now() + HANG;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "ctpressure run ended with {status}: {}",
                    command::one_line(&self.log())
                );
            }
            if matches!(self.get("/readyz"), Ok((200, _))) {
                return Ok(self);
            }
            if Instant::now() >= deadline {
                let said = command::one_line(&self.log());
                let long = HANG.as_secs();
                return Err(Late(format!(
                    "ctpressure run was not ready after {long} s: {said}"
                ))
                .into());
            }
            thread::sleep(command::POLL);
        }
    }

    /// Status and body of a page.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        let response = minreq::get(format!("http://{}{path}", self.address))
            .with_timeout(HANG.as_secs())
            .send()
            .with_context(|| format!("asking the agent for {path}"))?;
        let status = response.status_code;
        Ok((
            status,
            response
                .as_str()
                .context("a page that is not UTF-8")?
                .to_owned(),
        ))
    }

    /// `/metrics` now: a sample of at most a second ago.
    ///
    /// # Errors
    ///
    /// Also when a counter is less than it was at the last scrape.
    pub fn scrape(&self) -> Result<Metrics> {
        let mut last = self.scraped.lock().unwrap_or_else(PoisonError::into_inner);
        let (status, body) = self.get("/metrics")?;
        ensure!(status == 200, "/metrics answered {status}");
        let metrics = Metrics::parse(&body)?;
        metrics.check_counters_since(&last)?;
        last.clone_from(&metrics);
        drop(last);
        Ok(metrics)
    }

    /// What `ctpressure status` prints. Asked as that asks, since to start it each time takes a while in a guest.
    pub fn status(&self) -> Result<serde_json::Value> {
        let stream = UnixStream::connect(self.socket()).context("connecting to the agent")?;
        stream.set_read_timeout(Some(HANG))?;
        let mut lines = BufReader::new(&stream).lines();
        lines.next().context("the agent says no hello")??;
        writeln!(&stream, "{{\"status\":{{}}}}")?;
        let line = lines.next().context("the agent says no status")??;
        serde_json::from_str(&line).context("the status is not JSON")
    }

    /// Seconds from its start to its last sample.
    fn sampled(&self) -> Result<f64> {
        self.status()?["uptime_seconds"]
            .as_f64()
            .context("the status has no uptime_seconds")
    }

    /// `/metrics` of its next sample: enough while nobody sends anything.
    pub fn sample(&self) -> Result<Metrics> {
        let last = self.sampled()?;
        wait_for("another sample", HANG, || {
            // One each second: to ask more often would take longer than what is asked for.
            thread::sleep(Duration::from_millis(250));
            Ok((self.sampled()? > last).then_some(()))
        })?;
        self.scrape()
    }

    /// `/metrics` once nothing is counted any more: the same in samples two seconds apart, however
    /// long the agent needs for them.
    pub fn settled(&self) -> Result<Metrics> {
        let counts = |metrics: &Metrics| -> Result<Vec<u64>> {
            [
                "inserts_total",
                "deletes_total",
                "drops_total",
                "evictions_total",
                "node_drops_total",
                "node_evictions_total",
                "table_entries",
            ]
            .iter()
            .map(|name| metrics.count(&format!("ctpressure_{name}"), &[]))
            .collect()
        };
        let mut last: Option<(Instant, f64, Vec<u64>)> = None;
        wait_for("the agent's counts to settle", HANG, || {
            // Before the numbers here and after them below: they are of samples that far apart.
            let sampled = self.sampled()?;
            let metrics = self.scrape()?;
            let now = counts(&metrics)?;
            match &last {
                Some((since, first, same)) if *same == now => {
                    let long = since.elapsed() >= Duration::from_millis(2_500);
                    return Ok((long && sampled - first >= 2.0).then_some(metrics));
                }
                _ => last = Some((Instant::now(), self.sampled()?, now)),
            }
            thread::sleep(Duration::from_millis(800));
            Ok(None)
        })
    }

    /// Waits for the end of a census.
    pub fn wait_for_next_census(&self) -> Result<()> {
        let times = || -> Result<u64> {
            let times = self.status()?["census"]["times"].as_u64();
            times.context("no census in /status")
        };
        let before = times()?;
        wait_for("another census", HANG, || {
            Ok((times()? > before).then_some(()))
        })
    }

    /// Waits until a census has told whose the entries from before its start are.
    pub fn wait_for_census(&self) -> Result<()> {
        wait_for("a census", HANG, || {
            let status = self.status()?;
            let census = &status["census"];
            let all = census["owners"].as_u64().unwrap_or(0);
            let exact = census["exact_owners"].as_u64().unwrap_or(0);
            let counted = census["times"].as_u64().unwrap_or(0) > 0;
            Ok((counted && all > 0 && exact == all).then_some(()))
        })
        .context("the status has no census of all owners")
    }

    /// Waits until it knows the table of a named network namespace by its name: namespaces are
    /// looked for every few seconds.
    pub fn wait_for_table(&self, name: &str) -> Result<()> {
        wait_for("the agent to name the table", HANG, || {
            let status = self.status()?;
            let tables = status["tables"].as_array();
            Ok(tables
                .is_some_and(|tables| tables.iter().any(|table| table["name"] == name))
                .then_some(()))
        })
        .with_context(|| format!("the status has no table `{name}`"))
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Its local socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Where it serves HTTP.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, signal).with_context(|| format!("sending {signal} to the agent"))
    }

    /// Ends it as the kernel does when memory is short.
    ///
    /// # Errors
    ///
    /// When it had ended by itself before.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!(
                "the agent ended with {status}: {}",
                command::one_line(&self.log())
            );
        }
        self.child.kill().context("killing the agent")?;
        self.child
            .wait()
            .map(drop)
            .context("waiting for the agent's end")
    }

    /// A value of `/proc/PID/status` in KiB, such as `VmHWM`.
    pub fn memory_kib(&self, name: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .with_context(|| format!("{path} has no {name}"))
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        command::wait_for_end("the agent", &mut self.child, limit)
    }

    /// Ends it as systemd does; it has to exit with status 0.
    pub fn stop(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = self.wait(HANG)?;
        ensure!(
            status.success(),
            "after SIGTERM the agent ended with {status}: {}",
            command::one_line(&self.log())
        );
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Either it is already gone, or it is to be.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An address on loopback whose port nobody had a moment ago.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr())?)
}
