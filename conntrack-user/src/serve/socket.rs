//! The local socket: how `ctpressure` commands ask a running agent.
//!
//! Lines of JSON both ways. The agent says `{"hello":"ctpressure","protocol":1,"version":"..."}`; the
//! client asks one thing:
//!
//! * `{"watch":{...filter...}}`: from then on each line is an event (see [`ctpressure_model::events`]);
//! * `{"top":{}}`: a line at once and then one each second (see `crate::serve::top`); `{"top":{"once":true}}`:
//!   one line, as soon as there are rates;
//! * `{"charged":{}}`: one line, whose entries are (see `crate::serve::charged`);
//! * `{"status":{}}`: one line, all that the agent says of itself (see `crate::serve::status`);
//! * `{"health":{}}`: one line, `{"well":true}` if it is alive, else `{"well":false,"problem":"..."}`; `{"health":{"ready":true}}`: whether it is ready. It is answered
//!   however many other clients there are;
//! * `{"contain":{"note":{...}}}`: what `ctpressure contain` did is counted and noted (see `crate::serve::containments`); nothing else is done;
//! * `{"limit":{}}`: one line, what limits the tables and what the controller does (see `crate::serve::limit`);
//!   `{"limit":{"set":{"limit":N}}}`: the controller sets it, if nothing speaks against it.
//!
//! A request that is not understood gets `{"error":"..."}`. No line is longer than 64 KiB, but for those of `top`, `charged` and
//! `status` (`top::LINE_BYTES`). Who takes nothing of what waits for it for five seconds is dropped. Only the user that the agent runs as, root, can open the socket (mode 0600), and that is
//! checked once more by the peer's credentials.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::Duration,
};

use ctpressure_model::{containment::ContainNote, events::Filter};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::{
    io::{
        AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
        BufReader,
    },
    net::{UnixStream, unix::OwnedWriteHalf},
    time::{sleep, timeout},
};

use crate::{kernel::confinement::as_root, limit::controller::SetRequest};

mod client;
mod server;

pub(crate) use client::Remote;
pub use server::LocalSocket;

/// Where the socket is unless told otherwise.
pub const DEFAULT_PATH: &str = "/run/ctpressure/ctpressure.sock";
/// Raised when a line changes its meaning; new kinds of requests do not raise it.
pub const PROTOCOL: u32 = 1;
/// Bytes of a line at most, except in answer to `top`.
const LINE_BYTES: u64 = 64 << 10;
/// How long the other side may take for the first line.
const GREETING_TIME: Duration = Duration::from_secs(5);
/// How long a client may take nothing of what waits for it; then it is dropped.
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
    /// Send what `ctpressure top` shows.
    Top {
        /// One line; else one each second.
        #[serde(default)]
        once: bool,
    },
    /// Send by what entries are charged.
    Charged {},
    /// Send all that the agent says of itself.
    Status {},
    /// Send whether it is alive.
    Health {
        /// Whether it is ready, instead.
        #[serde(default)]
        ready: bool,
    },
    /// Note what `ctpressure contain` did, and send where.
    Contain {
        /// One step of it.
        note: ContainNote,
    },
    /// Send what `ctpressure limit` shows.
    Limit {
        /// Set the limit first, then say what there is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        set: Option<SetRequest>,
    },
}

/// The answer to `health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HealthAnswer {
    /// It is alive, or ready, as was asked.
    pub well: bool,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The answer to `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StatusAnswer {
    /// Of the agent.
    pub version: String,
    /// All that [`super::StatusPage`] has beside it.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// What the agent says to a request that it can't serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RefusedRequest {
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
        /// The path of the socket.
        path: PathBuf,
        /// What the kernel said to it.
        #[source]
        source: io::Error,
    },
    /// What answers is not an agent of this protocol.
    #[error("what listens on {} does not speak this protocol: {reason}", path.display())]
    Protocol {
        /// The path of the socket.
        path: PathBuf,
        /// In which way it differs.
        reason: String,
    },
    /// It took the request and ended.
    #[error("the agent has ended")]
    Ended,
    /// It took the request and hung up, and an agent is there: the same one, or its successor.
    #[error("the agent that listens on {} closed the connection", .0.display())]
    HungUp(PathBuf),
    /// It took the request and says nothing.
    #[error("the agent that listens on {} says nothing", .0.display())]
    Silent(PathBuf),
}

impl SocketError {
    /// What to do about it, for a person.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Taken(_) => "stop it first, or choose another path with --socket",
            Self::NotASocket(_) => "move it away, or choose another path with --socket",
            Self::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
                as_root("run as root")
            }
            Self::Io { .. } => "choose another path with --socket",
            Self::Protocol { .. } => {
                "use the ctpressure of the same version as the running agent (see /status of its port)"
            }
            Self::Ended => {
                "start it again; while none runs, `ctpressure top` and `ctpressure watch` load the probes themselves"
            }
            Self::HungUp(_) => {
                "start the command again; an agent does this when it is restarted, and to who reads nothing for 5 s"
            }
            Self::Silent(_) => "see whether it is stopped or has no CPU time; restart it",
        }
    }
}

async fn write_line(writer: &mut OwnedWriteHalf, line: &impl Serialize) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    write_while_taken(writer, &bytes).await
}

/// Writes all of it to a reader that may be slow, but not idle for [`WRITE_TIME`].
async fn write_while_taken(
    writer: &mut (impl AsyncWrite + Unpin),
    mut bytes: &[u8],
) -> io::Result<()> {
    while !bytes.is_empty() {
        match timeout(WRITE_TIME, writer.write(bytes)).await?? {
            0 => return Err(ErrorKind::WriteZero.into()),
            written => bytes = &bytes[written..],
        }
    }
    Ok(())
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

/// A connection to who listens; `None` if nobody does.
async fn connect(path: &Path) -> io::Result<Option<UnixStream>> {
    match UnixStream::connect(path).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => Ok(None),
            _ => Err(error),
        },
    }
}

/// Whether somebody serves the socket; waits while one who was killed is being taken apart.
async fn is_served(path: &Path) -> io::Result<bool> {
    for _ in 0..20 {
        let Some(stream) = connect(path).await? else {
            return Ok(false);
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

#[cfg(test)]
mod tests;
