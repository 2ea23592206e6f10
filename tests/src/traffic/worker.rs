//! A generator that takes commands: one process in a pod, asked by scenarios over a unix socket.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::SocketAddr,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::sockets;

/// How often a worker looks whether a run has ended or its caller has gone.
const POLL: Duration = Duration::from_millis(20);

/// What a run of `ctgen` gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it ended with status 0.
    pub success: bool,
    /// What it printed.
    pub stdout: String,
    /// What it said of errors.
    pub stderr: String,
}

/// Runs `ctgen` with the arguments that callers send, until it is ended, and answers flows at
/// `listen` meanwhile.
pub fn work(socket: &Path, listen: Option<SocketAddr>) -> Result<()> {
    // Left by an earlier process of the same name.
    drop(std::fs::remove_file(socket));
    let listener = UnixListener::bind(socket)
        .with_context(|| format!("making the socket {}", socket.display()))?;
    if let Some(listen) = listen {
        thread::spawn(move || {
            if let Err(error) = sockets::serve(listen) {
                eprintln!("ctgen: error: {error:#}");
                std::process::exit(1);
            }
        });
    }
    loop {
        let (stream, _) = listener.accept().context("waiting for a command")?;
        thread::spawn(move || {
            // A caller that has gone wants no answer.
            drop(serve(stream));
        });
    }
}

fn serve(stream: UnixStream) -> Result<()> {
    let mut line = String::new();
    let mut reader = BufReader::new(stream);
    reader.read_line(&mut line)?;
    let mut stream = reader.into_inner();
    let answer = run(&line, &mut stream).unwrap_or_else(|error| Answer {
        stderr: format!("{error:#}"),
        ..Answer::default()
    });
    serde_json::to_writer(&stream, &answer)?;
    stream.flush().context("answering")
}

fn run(line: &str, caller: &mut UnixStream) -> Result<Answer> {
    let arguments: Vec<String> = serde_json::from_str(line).context("reading a command")?;
    let mut child = Command::new("/proc/self/exe")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting ctgen")?;
    caller.set_read_timeout(Some(POLL))?;
    // What it prints fits into a pipe: one object, or one line.
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if gone(caller) {
            child.kill()?;
            child.wait()?;
            bail!("the caller has gone");
        }
    };
    Ok(Answer {
        success: status.success(),
        ..printed(&mut child)?
    })
}

fn printed(child: &mut Child) -> Result<Answer> {
    let mut answer = Answer::default();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut answer.stdout)?;
    }
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut answer.stderr)?;
    }
    Ok(answer)
}

/// Waits a moment; true when the other side has closed.
fn gone(stream: &mut UnixStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => !matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
        ),
    }
}

/// A command that a worker carries out.
#[derive(Debug)]
#[must_use = "call `finish`"]
pub struct Running(UnixStream);

/// Has the worker at `socket` run `ctgen` with these arguments (split at spaces). Dropping what is
/// returned ends the run.
pub fn start(socket: &Path, arguments: &str) -> Result<Running> {
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("asking the worker at {}", socket.display()))?;
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let line = serde_json::to_string(&arguments)? + "\n";
    stream.write_all(line.as_bytes())?;
    Ok(Running(stream))
}

impl Running {
    /// Waits for the end; what it printed.
    ///
    /// # Errors
    ///
    /// When it did not end with status 0: with its own words.
    pub fn finish(mut self) -> Result<String> {
        let mut text = String::new();
        self.0
            .read_to_string(&mut text)
            .context("waiting for a worker's answer")?;
        let answer: Answer =
            serde_json::from_str(&text).with_context(|| format!("a worker answered `{text}`"))?;
        if !answer.success {
            bail!("ctgen in a pod: {}", answer.stderr.trim());
        }
        Ok(answer.stdout)
    }
}
