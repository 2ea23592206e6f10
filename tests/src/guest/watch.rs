//! `ctpressure watch -o json` as a process, and the lines that it prints.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    agent::Agent,
    command::{self, HANG, Late, wait_for},
};

/// One line and when it came.
#[derive(Clone, Debug)]
pub struct Line {
    /// The event.
    pub event: Value,
    /// When it was read.
    pub arrived: SystemTime,
}

impl Line {
    /// A text field of the event; empty when it is absent.
    pub fn text(&self, pointer: &str) -> &str {
        self.event
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or("")
    }

    /// `insert`, `drop`, `eviction` or `lost`.
    pub fn kind(&self) -> &str {
        self.text("/kind")
    }

    /// When it happened in the kernel, by the line itself.
    pub fn happened(&self) -> Result<SystemTime> {
        let time = self.text("/time");
        humantime::parse_rfc3339(time).with_context(|| format!("`{time}` is no RFC 3339 time"))
    }
}

/// Somebody who watches by the agent's socket and reads nothing: comes and goes at once, where a program takes seconds to start under
/// emulation.
#[derive(Debug)]
pub struct Onlooker(UnixStream);

impl Onlooker {
    /// Asks for all events of a kind.
    pub fn of(agent: &Agent, kind: &str) -> Result<Self> {
        let mut stream = UnixStream::connect(agent.socket()).context("connecting to the agent")?;
        writeln!(stream, "{{\"watch\":{{\"kinds\":[\"{kind}\"]}}}}")?;
        Ok(Self(stream))
    }

    /// Goes.
    pub fn leave(self) -> Result<()> {
        self.0.shutdown(Shutdown::Both).context("leaving the agent")
    }
}

/// A running watch; killed when dropped.
#[derive(Debug)]
pub struct Watch {
    child: Child,
    lines: Arc<Mutex<Vec<Line>>>,
    errors: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    /// Starts `ctpressure watch -o json` at an agent's socket, with these further arguments (split
    /// at spaces).
    pub fn start(socket: &Path, arguments: &str) -> Result<Self> {
        let mut command = Command::new("ctpressure");
        command
            .args(["watch", "-v", "-o", "json", "--socket"])
            .arg(socket);
        command.args(arguments.split_whitespace());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command::spawn(&mut command)?;
        let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
            bail!("ctpressure watch has no pipes");
        };
        let lines: Arc<Mutex<Vec<Line>>> = Arc::default();
        let errors: Arc<Mutex<String>> = Arc::default();
        // One thread notes when a line comes, another one reads what it says: that takes its time.
        let (arrivals, arrived) = mpsc::channel();
        let out = thread::spawn(move || {
            for text in BufReader::new(stdout).lines().map_while(Result::ok) {
                if arrivals.send((text, SystemTime::now())).is_err() {
                    break;
                }
            }
        });
        let parsed = {
            let (lines, errors) = (Arc::clone(&lines), Arc::clone(&errors));
            thread::spawn(move || {
                for (text, arrived) in arrived {
                    match serde_json::from_str(&text) {
                        Ok(event) => lock(&lines).push(Line { event, arrived }),
                        Err(error) => {
                            let message = format!("not JSON ({error}): {text}\n");
                            lock(&errors).push_str(&message);
                        }
                    }
                }
            })
        };
        let err = {
            let errors = Arc::clone(&errors);
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = stderr.read(&mut buffer) {
                    lock(&errors).push_str(&String::from_utf8_lossy(&buffer[..length]));
                }
            })
        };
        Ok(Self {
            child,
            lines,
            errors,
            readers: vec![out, parsed, err],
        })
    }

    /// Starts several at one agent and waits until it knows what each wants to see: from then on
    /// they miss nothing.
    pub fn start_all(agent: &Agent, arguments: &[&str]) -> Result<Vec<Self>> {
        let watches = arguments
            .iter()
            .map(|arguments| Self::start(&agent.socket(), arguments))
            .collect::<Result<Vec<_>>>()?;
        for watch in &watches {
            wait_for("a watch to have asked the agent", HANG, || {
                let asked = lock(&watch.errors).contains("asking the running agent");
                Ok(asked.then_some(()))
            })?;
        }
        // All requests are in the agent's sockets: it reads them before it answers a later one.
        agent.get("/healthz")?;
        Ok(watches)
    }

    /// Lines so far.
    pub fn lines(&self) -> Vec<Line> {
        lock(&self.lines).clone()
    }

    /// Number of lines so far.
    pub fn len(&self) -> usize {
        lock(&self.lines).len()
    }

    /// Whether there is no line yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until a line fits.
    pub fn wait_for(&self, what: &str, fits: impl Fn(&Line) -> bool) -> Result<Line> {
        wait_for(what, HANG, || {
            Ok(lock(&self.lines).iter().find(|line| fits(line)).cloned())
        })
        .with_context(|| {
            let errors = command::one_line(&lock(&self.errors));
            format!(
                "ctpressure watch printed {} lines and said `{errors}`",
                self.len()
            )
        })
    }

    /// Ends it as a person does, by SIGINT, and returns all lines.
    ///
    /// # Errors
    ///
    /// When it does not end, or not with status 0, or printed what is no JSON.
    pub fn stop(mut self) -> Result<Vec<Line>> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        if self.child.try_wait()?.is_none() {
            kill(pid, Signal::SIGINT).context("sending SIGINT to the watch")?;
        }
        let status =
            command::wait_for_end("ctpressure watch, told to end,", &mut self.child, HANG)?;
        for reader in self.readers.drain(..) {
            drop(reader.join());
        }
        let errors = lock(&self.errors).clone();
        if errors.contains("closed the connection") {
            // It had no time to read for seconds, or the agent none to write.
            return Err(Late(format!("ctpressure watch: {}", command::one_line(&errors))).into());
        }
        if !status.success() || errors.contains("not JSON") {
            bail!("ctpressure watch: {status}: {}", command::one_line(&errors));
        }
        Ok(std::mem::take(&mut *lock(&self.lines)))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Either it is already gone, or it is to be.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
