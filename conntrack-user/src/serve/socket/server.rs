//! The agent's side.

use std::{
    convert::Infallible,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use ctpressure_model::events::Filter;
use nix::sys::stat::{Mode, umask};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_local,
    time::{sleep, timeout},
};

use super::{
    GREETING_TIME, HealthAnswer, Hello, LINE_BYTES, PROTOCOL, RefusedRequest, Request, SocketError,
    is_served, write_line, write_while_taken,
};
use crate::{
    agent::Handle,
    serve::{
        Companions, StatusPage,
        charged::ChargedAnswer,
        life, limit,
        top::{self, TopSample},
    },
};

/// Clients at a time, but for those that only ask whether the agent lives.
const CLIENTS: usize = 16;
/// Those that have asked for nothing yet, and those that ask whether the agent lives.
const NEWCOMERS: usize = 32;

/// The listening socket; its file goes when this is dropped.
#[derive(Debug)]
pub struct LocalSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of our file: another agent's is left alone.
    identity: Option<(u64, u64)>,
}

impl Drop for LocalSocket {
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

impl LocalSocket {
    /// Makes the socket, and its folder, for root only, if there is none (one that is there is left as it is); replaces a socket that nobody
    /// listens on.
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
                .mode(0o700)
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
    pub async fn serve(self, agent: Handle, companions: Companions) -> Infallible {
        let slots = Arc::new(Semaphore::new(CLIENTS));
        let newcomers = Arc::new(Semaphore::new(NEWCOMERS));
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(newcomer) = Arc::clone(&newcomers).try_acquire_owned() else {
                tracing::warn!("too many clients on the local socket that ask for nothing");
                // Fits into an empty socket buffer; and if not, it still ends.
                drop(stream.try_write(b"{\"error\":\"the agent has too many clients\"}\n"));
                continue;
            };
            let (agent, companions) = (agent.clone(), companions.clone());
            let slots = Arc::clone(&slots);
            spawn_local(async move {
                if let Err(error) = client(stream, &agent, &companions, newcomer, &slots).await {
                    tracing::debug!(%error, "a client of the local socket is gone");
                }
            });
        }
    }
}

/// One client, from hello to its end.
async fn client(
    stream: UnixStream,
    agent: &Handle,
    companions: &Companions,
    newcomer: OwnedSemaphorePermit,
    slots: &Arc<Semaphore>,
) -> io::Result<()> {
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
    let mut reader = reader.into_inner();
    let request = match serde_json::from_slice(&line) {
        Ok(request) => request,
        Err(error) => {
            let error = format!("not a request that this agent knows: {error}");
            return write_line(&mut writer, &RefusedRequest { error }).await;
        }
    };
    // Who asks whether the agent lives waits for nobody: that answer decides whether it does.
    let _place = if matches!(request, Request::Health { .. }) {
        newcomer
    } else {
        drop(newcomer);
        let Ok(slot) = Arc::clone(slots).try_acquire_owned() else {
            tracing::warn!("too many clients on the local socket");
            let error = "the agent has too many clients".to_owned();
            return write_line(&mut writer, &RefusedRequest { error }).await;
        };
        slot
    };
    match request {
        Request::Watch(filter) => watch(filter, &mut reader, &mut writer, agent).await,
        Request::Top { once: true } => {
            let sample = top::settled(&mut agent.snapshots()).await;
            write_line(&mut writer, &sample).await
        }
        Request::Top { once: false } => follow(&mut reader, &mut writer, agent).await,
        Request::Charged {} => {
            let answer = ChargedAnswer::from(&*agent.charged());
            write_line(&mut writer, &answer).await
        }
        Request::Contain { note } => {
            write_line(&mut writer, &companions.containments.note(&note)).await
        }
        Request::Limit { set } => {
            let view = limit::answer(set, agent, companions.limit.as_ref()).await;
            write_line(&mut writer, &view).await
        }
        Request::Status {} => {
            let (snapshot, companions) = (agent.latest(), companions.status());
            write_line(&mut writer, &StatusPage::new(&snapshot, &companions)).await
        }
        Request::Health { ready } => {
            let snapshot = agent.latest();
            let found = if ready {
                life::ready(&snapshot).map(drop)
            } else {
                life::alive(&snapshot)
            };
            let answer = HealthAnswer {
                well: found.is_ok(),
                problem: found.err(),
            };
            write_line(&mut writer, &answer).await
        }
    }
}

/// Sends events until one side closes.
async fn watch(
    filter: Filter,
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    agent: &Handle,
) -> io::Result<()> {
    let mut subscription = agent.subscribe(filter).map_err(io::Error::other)?;
    let mut events = Vec::new();
    let mut bytes = Vec::new();
    let mut ignored = [0; 64];
    loop {
        tokio::select! {
            more = subscription.next(&mut events) => more.map_err(io::Error::other)?,
            // Nothing more is asked: this is how a client's end is noticed while nothing happens.
            read = reader.read(&mut ignored) => if read? == 0 { return Ok(()) } else { continue },
        }
        for event in events.drain(..) {
            event.write_json(&mut bytes);
        }
        write_while_taken(writer, &bytes).await?;
        bytes.clear();
    }
}

/// Sends what there is at each second until one side closes.
async fn follow(
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    agent: &Handle,
) -> io::Result<()> {
    let mut snapshots = agent.snapshots();
    let mut ignored = [0; 64];
    snapshots.mark_changed();
    loop {
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return Ok(()) },
            read = reader.read(&mut ignored) => if read? == 0 { return Ok(()) } else { continue },
        }
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        write_line(writer, &TopSample::new(&snapshot, SystemTime::now())).await?;
    }
}
