//! One guest machine: boot, stream what its script says, end.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cache::Cache;
use crate::frame::{self, Kind};
use crate::initramfs::{self, Content};
use crate::kernels::Kernel;
use crate::qemu::{Machine, Qemu, Sockets};

/// As `timeout(1)` has it.
pub(crate) const EXIT_TIMEOUT: i32 = 124;
/// The guest ended without a status: a panic, or QEMU failed.
pub(crate) const EXIT_GUEST_DIED: i32 = 125;
/// How much of the kernel's console is shown when a guest fails.
const CONSOLE_LINES: usize = 40;

/// A guest that is to run.
#[derive(Debug)]
pub(crate) struct Guest<'a> {
    pub(crate) qemu: &'a Qemu,
    pub(crate) kernel: &'a Kernel,
    pub(crate) machine: Machine,
    pub(crate) timeout: Duration,
    pub(crate) content: Content<'a>,
    /// Where the files go that the host wants, in the order of `content.fetch`.
    pub(crate) fetch_to: &'a [PathBuf],
    /// Where to keep everything that the kernel said.
    pub(crate) console: Option<&'a Path>,
}

/// How a guest ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum GuestOutcome {
    /// The script ended with this status.
    Exited(i32),
    /// The time was up.
    TimedOut,
    /// The guest ended without a status; why, as far as its console tells.
    Died(String),
}

/// An outcome and what the kernel said last.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: GuestOutcome,
    pub(crate) console_tail: Vec<String>,
    /// Files that the host wanted and the guest could not give.
    pub(crate) missing: Vec<String>,
}

impl Ended {
    /// The exit status for the command line.
    pub(crate) fn status(&self) -> i32 {
        match &self.outcome {
            GuestOutcome::Exited(0) if !self.missing.is_empty() => 1,
            GuestOutcome::Exited(status) => *status,
            GuestOutcome::TimedOut => EXIT_TIMEOUT,
            GuestOutcome::Died(_) => EXIT_GUEST_DIED,
        }
    }
}

/// Which of the script's outputs some bytes belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// Takes what a script writes, with the process of QEMU.
pub(crate) type Sink<'a> = dyn FnMut(Stream, &[u8], u32) -> Result<()> + 'a;

enum Event {
    Frame(Kind, Vec<u8>),
    Console(Vec<u8>),
    PortClosed(Option<io::Error>),
}

/// Ends QEMU when it goes out of scope.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        if self.0.kill().is_ok() {
            self.0.wait().ok();
        }
    }
}

impl Guest<'_> {
    /// Runs the guest to its end. What the script writes is handed on as it comes.
    pub(crate) fn run(&self, cache: &Cache, sink: &mut Sink<'_>) -> Result<Ended> {
        // Short: the path of a socket has at most 107 bytes.
        let folder = tempfile::Builder::new()
            .prefix("ctp")
            .tempdir()
            .context("make a folder")?;
        let initramfs = folder.path().join("initramfs");
        initramfs::write(cache, self.kernel, &self.content, &initramfs)?;
        let sockets = Sockets {
            console: folder.path().join("console"),
            port: folder.path().join("port"),
        };
        let console = listen(&sockets.console)?;
        let port = listen(&sockets.port)?;
        let mut command =
            self.qemu
                .boot(&self.machine, &self.kernel.image, &initramfs, &sockets)?;
        let mut qemu = start(&mut command)?;
        // `setpriv` became QEMU.
        let process = qemu.0.id();
        let started = Instant::now();
        let console = accept(&console, &mut qemu, started)?;
        let port = accept(&port, &mut qemu, started)?;

        let (sender, events) = mpsc::channel();
        let port_sender = sender.clone();
        thread::spawn(move || read_frames(port, &port_sender));
        thread::spawn(move || read_console(console, &sender));

        let mut record = Record::new(self)?;
        let deadline = started + self.timeout;
        let mut status = None;
        let mut timed_out = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match events.recv_timeout(left) {
                Ok(Event::Frame(Kind::Stdout, bytes)) => sink(Stream::Out, &bytes, process)?,
                Ok(Event::Frame(Kind::Stderr, bytes)) => sink(Stream::Err, &bytes, process)?,
                Ok(Event::Frame(Kind::File, bytes)) => record.file(&bytes)?,
                Ok(Event::Frame(Kind::FileMissing, bytes)) => record.missing(&bytes)?,
                Ok(Event::Frame(Kind::Status, bytes)) => {
                    let bytes = bytes
                        .as_slice()
                        .try_into()
                        .context("a status has four bytes")?;
                    status = Some(i32::from_le_bytes(bytes));
                    break;
                }
                Ok(Event::Console(bytes)) => record.console(&bytes)?,
                Ok(Event::PortClosed(error)) => {
                    if let Some(error) = error {
                        record.say(&format!("reading from the guest failed: {error}"));
                    }
                    break;
                }
                Err(RecvTimeoutError::Timeout) => {
                    timed_out = true;
                    break;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // The kernel's last words may come after the port's end.
        if status.is_none() {
            while let Ok(event) = events.recv_timeout(Duration::from_millis(300)) {
                if let Event::Console(bytes) = event {
                    record.console(&bytes)?;
                }
            }
        }
        let complaint = end(qemu);
        Ok(record.ended(status, timed_out, &complaint))
    }
}

fn listen(path: &Path) -> Result<UnixListener> {
    let listener =
        UnixListener::bind(path).with_context(|| format!("make the socket {}", path.display()))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn start(command: &mut Command) -> Result<Running> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start QEMU")?;
    Ok(Running(child))
}

/// Waits for QEMU to connect; an error with what it said when it ended instead.
fn accept(listener: &UnixListener, qemu: &mut Running, started: Instant) -> Result<UnixStream> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("wait for QEMU"),
        }
        if qemu.0.try_wait().context("wait for QEMU")?.is_some() {
            bail!("QEMU did not start:\n{}", complaint(&mut qemu.0));
        }
        if started.elapsed() > Duration::from_mins(1) {
            bail!("QEMU did not start within 60 s");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn complaint(qemu: &mut Child) -> String {
    let mut text = String::new();
    if let Some(mut stderr) = qemu.stderr.take() {
        // What can't be read can't be shown; the failure itself is reported anyway.
        stderr.read_to_string(&mut text).ok();
    }
    text.trim().to_owned()
}

fn end(mut qemu: Running) -> String {
    qemu.0.kill().ok();
    complaint(&mut qemu.0)
}

fn read_frames(mut port: UnixStream, events: &Sender<Event>) {
    loop {
        let event = match read_frame(&mut port) {
            Ok(Some((kind, payload))) => Event::Frame(kind, payload),
            Ok(None) => Event::PortClosed(None),
            Err(error) => Event::PortClosed(Some(error)),
        };
        let last = matches!(event, Event::PortClosed(_));
        if events.send(event).is_err() || last {
            return;
        }
    }
}

/// Reads one frame; `None` when the guest has closed between two frames.
fn read_frame(port: &mut impl Read) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut kind = [0];
    if port.read(&mut kind)? == 0 {
        return Ok(None);
    }
    let kind = [
        Kind::Stdout,
        Kind::Stderr,
        Kind::File,
        Kind::FileMissing,
        Kind::Status,
    ]
    .into_iter()
    .find(|known| *known as u8 == kind[0])
    .ok_or_else(|| invalid("unknown kind of frame"))?;
    let mut length = [0; 4];
    port.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > frame::LONGEST {
        return Err(invalid("frame longer than any guest sends"));
    }
    let mut payload = vec![0; length as usize];
    port.read_exact(&mut payload)?;
    Ok(Some((kind, payload)))
}

fn read_console(mut console: UnixStream, events: &Sender<Event>) {
    let mut buffer = [0; 4096];
    while let Ok(length) = console.read(&mut buffer) {
        if length == 0
            || events
                .send(Event::Console(buffer[..length].to_vec()))
                .is_err()
        {
            return;
        }
    }
}

/// What is kept of a running guest.
struct Record<'a> {
    fetch_to: &'a [PathBuf],
    files: Vec<Option<File>>,
    missing: Vec<String>,
    log: Option<File>,
    lines: VecDeque<String>,
    line: Vec<u8>,
}

impl<'a> Record<'a> {
    fn new(guest: &Guest<'a>) -> Result<Self> {
        let create =
            |path: &Path| File::create(path).with_context(|| format!("write {}", path.display()));
        Ok(Self {
            fetch_to: guest.fetch_to,
            files: guest.fetch_to.iter().map(|_| None).collect(),
            missing: Vec::new(),
            log: guest.console.map(create).transpose()?,
            lines: VecDeque::new(),
            line: Vec::new(),
        })
    }

    fn file(&mut self, bytes: &[u8]) -> Result<()> {
        let (index, piece) = split_index(bytes)?;
        let path = self
            .fetch_to
            .get(index)
            .context("the guest sent a file that nobody wants")?;
        let file = match &mut self.files[index] {
            Some(file) => file,
            slot => slot
                .insert(File::create(path).with_context(|| format!("write {}", path.display()))?),
        };
        file.write_all(piece)
            .with_context(|| format!("write {}", path.display()))
    }

    fn missing(&mut self, bytes: &[u8]) -> Result<()> {
        let (_, message) = split_index(bytes)?;
        self.missing
            .push(String::from_utf8_lossy(message).into_owned());
        Ok(())
    }

    fn console(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(log) = &mut self.log {
            log.write_all(bytes).context("write the console's log")?;
        }
        for byte in bytes {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.say(String::from_utf8_lossy(&line).trim_end());
            } else {
                self.line.push(*byte);
            }
        }
        Ok(())
    }

    fn say(&mut self, line: &str) {
        self.lines.push_back(line.to_owned());
        if self.lines.len() > CONSOLE_LINES {
            self.lines.pop_front();
        }
    }

    fn ended(mut self, status: Option<i32>, timed_out: bool, complaint: &str) -> Ended {
        let rest = std::mem::take(&mut self.line);
        if !rest.is_empty() {
            self.say(&String::from_utf8_lossy(&rest));
        }
        let outcome = match status {
            Some(status) => GuestOutcome::Exited(status),
            None if timed_out => GuestOutcome::TimedOut,
            None => GuestOutcome::Died(self.why(complaint)),
        };
        Ended {
            outcome,
            console_tail: self.lines.into(),
            missing: self.missing,
        }
    }

    fn why(&self, complaint: &str) -> String {
        let told = ["Kernel panic", "Oops", "BUG:", "guest init:"];
        let line = self
            .lines
            .iter()
            .rev()
            .find(|line| told.iter().any(|word| line.contains(word)));
        match line {
            Some(line) => line.clone(),
            None if complaint.is_empty() => "the guest ended without an exit status".to_owned(),
            None => complaint.to_owned(),
        }
    }
}

fn split_index(bytes: &[u8]) -> Result<(usize, &[u8])> {
    let (index, rest) = bytes
        .split_first_chunk::<4>()
        .context("a file's frame has an index")?;
    Ok((u32::from_le_bytes(*index) as usize, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_to_the_end() {
        let mut bytes: &[u8] = b"\x01\x02\0\0\0hi\x05\x04\0\0\0\x03\0\0\0";
        let first = read_frame(&mut bytes).unwrap();
        assert_eq!(first, Some((Kind::Stdout, b"hi".to_vec())));
        let second = read_frame(&mut bytes).unwrap();
        assert_eq!(second, Some((Kind::Status, 3_i32.to_le_bytes().to_vec())));
        assert_eq!(read_frame(&mut bytes).unwrap(), None);
    }

    #[test]
    fn a_broken_frame_is_an_error() {
        for bytes in [
            b"\x09\0\0\0\0".as_slice(),
            b"\x01\xff\xff\xff\xff",
            b"\x01\x02\0\0\0h",
        ] {
            assert!(read_frame(&mut &*bytes).is_err(), "{bytes:?}");
        }
    }
}
