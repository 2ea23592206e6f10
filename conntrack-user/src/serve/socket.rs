//! The local socket: how `ctpressure` commands ask a running agent.
//!
//! Lines of JSON both ways. The agent says `{"hello":"ctpressure","protocol":1,"version":"..."}`; the
//! client asks `{"watch":{...filter...}}`; from then on each line is an event (see
//! [`crate::events`]). A request that is not understood gets `{"error":"..."}`. Only the user that the
//! agent runs as, root, can open the socket (mode 0600), and that is checked once more by the
//! peer's credentials.

use std::{
    convert::Infallible,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::sys::stat::{Mode, umask};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Semaphore,
    task::spawn_local,
    time::{sleep, timeout},
};

use crate::{
    agent::Handle,
    events::{Event, Filter},
};

/// Where the socket is unless told otherwise.
pub const DEFAULT_PATH: &str = "/run/ctpressure/ctpressure.sock";
/// Raised when a line changes its meaning; new kinds of requests do not raise it.
pub const PROTOCOL: u32 = 1;
/// Clients at a time.
const CLIENTS: usize = 16;
/// Bytes of a line at most.
const LINE_BYTES: u64 = 64 << 10;
/// How long the other side may take for the first line.
const GREETING_TIME: Duration = Duration::from_secs(5);
/// How long a client may leave events unread; then it is dropped.
const WRITE_TIME: Duration = Duration::from_secs(5);

/// The agent's first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hello {
    #[serde(rename = "hello")]
    program: String,
    protocol: u32,
    version: String,
}

/// What a client can ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// Send events that pass this filter until one side closes.
    Watch(Filter),
}

/// What the agent says to a request that it can't serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Refusal {
    error: String,
}

/// The socket can't be made, or used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another agent has it.
    #[error("another ctpressure agent already listens on {}", .0.display())]
    Taken(PathBuf),
    /// Something else is there.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// It can't be made or opened.
    #[error("cannot use the socket {}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What answers is not an agent of this protocol.
    #[error("what listens on {} does not speak this protocol: {reason}", path.display())]
    Protocol {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl SocketError {
    /// What to do about it, for a person.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Taken(_) => "stop it first, or choose another path with --socket",
            Self::NotASocket(_) => "move it away, or choose another path with --socket",
            Self::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
                "run as root"
            }
            Self::Io { .. } => "choose another path with --socket",
            Self::Protocol { .. } => {
                "use the ctpressure of the same version as the running agent (see /status)"
            }
        }
    }
}

/// The listening socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of our file: another agent's is left alone.
    identity: Option<(u64, u64)>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // If it stays, the next agent finds that nobody listens and replaces it.
            drop(fs::remove_file(&self.path));
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path)
        .ok()
        .map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Socket {
    /// Makes the socket, its folder too; replaces one that nobody listens on.
    ///
    /// # Errors
    /// If another agent listens there, or the file can't be made.
    pub async fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Io {
            path: path.to_owned(),
            source,
        };
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(folder)
                .map_err(failed)?;
        }
        match fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(SocketError::NotASocket(path.to_owned()));
            }
            Ok(_) if is_served(path).await.map_err(failed)? => {
                return Err(SocketError::Taken(path.to_owned()));
            }
            Ok(_) => match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
                // Removed, or an agent that was just ending did it.
                _ => {}
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        // Mode 0600 from the first moment on. Nothing else makes files meanwhile: the agent has
        // one thread until it serves.
        let before = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        umask(before);
        let listener = bound.map_err(failed)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            identity: identity(path),
        })
    }

    /// Serves clients for as long as it is polled, inside a [`tokio::task::LocalSet`].
    pub async fn serve(self, agent: Handle) -> Infallible {
        let slots = Arc::new(Semaphore::new(CLIENTS));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                tracing::warn!("too many clients on the local socket");
                // Fits into an empty socket buffer; and if not, it still ends.
                drop(stream.try_write(b"{\"error\":\"the agent has too many clients\"}\n"));
                continue;
            };
            let agent = agent.clone();
            spawn_local(async move {
                if let Err(error) = client(stream, &agent).await {
                    tracing::debug!(%error, "a client of the local socket is gone");
                }
                drop(slot);
            });
        }
    }
}

/// One client, from hello to its end.
async fn client(stream: UnixStream, agent: &Handle) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if peer != 0 && peer != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::new(
            ErrorKind::PermissionDenied,
            format!("user {peer}"),
        ));
    }
    let (reader, mut writer) = stream.into_split();
    let hello = Hello {
        program: "ctpressure".to_owned(),
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    write_line(&mut writer, &hello).await?;
    let mut reader = BufReader::new(reader).take(LINE_BYTES);
    let mut line = Vec::new();
    timeout(GREETING_TIME, reader.read_until(b'\n', &mut line)).await??;
    let filter = match serde_json::from_slice(&line) {
        Ok(Request::Watch(filter)) => filter,
        Err(error) => {
            let error = format!("not a request that this agent knows: {error}");
            return write_line(&mut writer, &Refusal { error }).await;
        }
    };
    let mut subscription = agent.subscribe(filter).map_err(io::Error::other)?;
    let mut events = Vec::new();
    let mut bytes = Vec::new();
    let mut ignored = [0; 64];
    loop {
        tokio::select! {
            more = subscription.next(&mut events) => more.map_err(io::Error::other)?,
            // Nothing more is asked: this is how a client's end is noticed while nothing happens.
            read = reader.get_mut().read(&mut ignored) => if read? == 0 { return Ok(()) } else { continue },
        }
        for event in events.drain(..) {
            event.write_json(&mut bytes);
        }
        timeout(WRITE_TIME, writer.write_all(&bytes)).await??;
        bytes.clear();
    }
}

async fn write_line(writer: &mut OwnedWriteHalf, line: &impl Serialize) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    timeout(WRITE_TIME, writer.write_all(&bytes)).await?
}

/// The first line of whoever listens; `None` if it hangs up without a word: an agent that was
/// killed accepts until the kernel has taken it apart, which can take a second.
async fn greeting(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut limited = reader.take(LINE_BYTES);
    match timeout(GREETING_TIME, limited.read_until(b'\n', &mut line)).await? {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(line)),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether somebody serves the socket; waits while one who was killed is being taken apart.
async fn is_served(path: &Path) -> io::Result<bool> {
    for _ in 0..20 {
        let stream = match UnixStream::connect(path).await {
            Ok(stream) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionRefused | ErrorKind::NotFound
                ) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        match greeting(&mut BufReader::new(stream)).await {
            Ok(None) => sleep(Duration::from_millis(250)).await,
            Ok(Some(_)) => return Ok(true),
            // It is there but does not speak: stopped, perhaps.
            Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(true),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// What a refusal says, if the line is one.
fn refusal(line: &[u8]) -> Option<String> {
    serde_json::from_slice(line)
        .ok()
        .map(|refusal: Refusal| refusal.error)
}

/// Events from a running agent.
#[derive(Debug)]
pub struct Remote {
    path: PathBuf,
    reader: BufReader<OwnedReadHalf>,
    /// Kept open: closing it tells the agent that nobody reads any more.
    _writer: OwnedWriteHalf,
    line: Vec<u8>,
}

impl Remote {
    /// Asks the agent at `path` for events; `None` if no agent runs there.
    ///
    /// # Errors
    /// If there is one but it can't be asked.
    pub async fn watch(path: &Path, filter: &Filter) -> Result<Option<Self>, SocketError> {
        let failed = |source| SocketError::Io {
            path: path.to_owned(),
            source,
        };
        let stream = match UnixStream::connect(path).await {
            Ok(stream) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let Some(line) = greeting(&mut reader).await.map_err(failed)? else {
            return Ok(None);
        };
        let wrong = |reason| SocketError::Protocol {
            path: path.to_owned(),
            reason,
        };
        let hello: Hello = serde_json::from_slice(&line).map_err(|error| {
            wrong(refusal(&line).unwrap_or_else(|| format!("no hello line ({error})")))
        })?;
        if hello.program != "ctpressure" || hello.protocol != PROTOCOL {
            return Err(wrong(format!(
                "{} {} has protocol {}, this is {PROTOCOL}",
                hello.program, hello.version, hello.protocol
            )));
        }
        write_line(&mut writer, &Request::Watch(filter.clone()))
            .await
            .map_err(failed)?;
        Ok(Some(Self {
            path: path.to_owned(),
            reader,
            _writer: writer,
            line: Vec::new(),
        }))
    }

    /// Waits for the next event; `None` when the agent has ended. May be cancelled.
    ///
    /// # Errors
    /// If what comes is not an event.
    pub async fn next(&mut self) -> Result<Option<Event>, SocketError> {
        let read = self.reader.read_until(b'\n', &mut self.line).await;
        read.map_err(|source| SocketError::Io {
            path: self.path.clone(),
            source,
        })?;
        if self.line.last() != Some(&b'\n') {
            return Ok(None);
        }
        let event = serde_json::from_slice(&self.line).map_err(|error| {
            let reason = refusal(&self.line).unwrap_or_else(|| error.to_string());
            SocketError::Protocol {
                path: self.path.clone(),
                reason,
            }
        })?;
        self.line.clear();
        Ok(Some(event))
    }

    /// Whether another whole event is already here.
    pub fn has_more(&self) -> bool {
        self.reader.buffer().contains(&b'\n')
    }
}

#[cfg(test)]
mod tests;
