//! The command's side.

use std::{
    io::{self, ErrorKind},
    marker::PhantomData,
    path::{Path, PathBuf},
    time::Duration,
};

use ctpressure_model::{
    containment::ContainNote,
    events::{Event, Filter},
};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    time::timeout,
};

use super::{
    HealthAnswer, Hello, LINE_BYTES, PROTOCOL, RefusedRequest, Request, SetRequest, SocketError,
    StatusAnswer, connect, greeting, is_served, write_line,
};
use crate::serve::{
    charged::ChargedAnswer,
    containments::ContainNoted,
    limit::{self, LimitView},
    top::{self, TopSample},
};

/// How long the agent may be without a word in answer to [`Remote::top`]: it says something every
/// second, and takes at most this long to begin.
const SILENCE: Duration = Duration::from_secs(15);

/// What a refusal says, if the line is one.
fn refusal(line: &[u8]) -> Option<String> {
    serde_json::from_slice(line)
        .ok()
        .map(|refusal: RefusedRequest| refusal.error)
}

/// What a running agent says, line by line: events, or what `top` shows.
#[derive(Debug)]
pub(crate) struct Remote<T = Event> {
    path: PathBuf,
    reader: BufReader<OwnedReadHalf>,
    /// Kept open: closing it tells the agent that nobody reads any more.
    _writer: OwnedWriteHalf,
    line: Vec<u8>,
    line_bytes: u64,
    lines: PhantomData<fn() -> T>,
}

impl Remote<Event> {
    /// Asks the agent at `path` for events; `None` if no agent runs there.
    ///
    /// # Errors
    /// If there is one but it can't be asked.
    pub(crate) async fn watch(path: &Path, filter: &Filter) -> Result<Option<Self>, SocketError> {
        Self::ask(path, &Request::Watch(filter.clone()), LINE_BYTES).await
    }

    /// Waits for the next event. May be cancelled.
    ///
    /// # Errors
    /// If what comes is not an event, or the agent is gone.
    pub(crate) async fn next(&mut self) -> Result<Event, SocketError> {
        match self.line().await? {
            Some(event) => Ok(event),
            None => Err(self.end().await),
        }
    }
}

impl Remote<TopSample> {
    /// Asks the agent at `path` for what there is, at each second or `once`; `None` if no agent runs
    /// there.
    ///
    /// # Errors
    /// If there is one but it can't be asked.
    pub(crate) async fn top(path: &Path, once: bool) -> Result<Option<Self>, SocketError> {
        Self::ask(path, &Request::Top { once }, top::LINE_BYTES).await
    }

    /// Waits for the next second. May be cancelled.
    ///
    /// # Errors
    /// If what comes is something else, nothing comes for a long time, or the agent is gone.
    pub(crate) async fn next(&mut self) -> Result<TopSample, SocketError> {
        match self.soon().await? {
            Some(sample) => Ok(sample),
            None => Err(self.end().await),
        }
    }
}

impl Remote<ChargedAnswer> {
    /// Asks the agent at `path` by what it charges entries; `None` if no agent runs there, or one that does not know the question.
    ///
    /// # Errors
    /// If there is one but it can't be asked, or does not answer.
    pub(crate) async fn charged(path: &Path) -> Result<Option<ChargedAnswer>, SocketError> {
        Self::answer(path, &Request::Charged {}, top::LINE_BYTES).await
    }
}

impl Remote<StatusAnswer> {
    /// Asks the agent at `path` for all that it says of itself; `None` if no agent runs there.
    ///
    /// # Errors
    /// If there is one but it can't be asked, or does not answer.
    pub(crate) async fn status(path: &Path) -> Result<Option<StatusAnswer>, SocketError> {
        Self::sure_answer(path, &Request::Status {}, top::LINE_BYTES).await
    }
}

impl Remote<HealthAnswer> {
    /// Asks the agent at `path` whether it is alive, or ready; `None` if no agent runs there.
    ///
    /// # Errors
    /// If there is one but it can't be asked, or does not answer.
    pub(crate) async fn health(
        path: &Path,
        ready: bool,
    ) -> Result<Option<HealthAnswer>, SocketError> {
        Self::sure_answer(path, &Request::Health { ready }, LINE_BYTES).await
    }
}

impl Remote<ContainNoted> {
    /// Tells the agent what was done; `None`: nobody listens there.
    ///
    /// # Errors
    /// When what listens is no agent of this version.
    pub(crate) async fn contain(
        path: &Path,
        note: ContainNote,
    ) -> Result<Option<ContainNoted>, SocketError> {
        Self::sure_answer(path, &Request::Contain { note }, LINE_BYTES).await
    }
}

impl Remote<LimitView> {
    /// Asks the agent at `path` what limits the tables, or to set the limit; `None` if no agent runs
    /// there.
    ///
    /// # Errors
    /// If there is one but it can't be asked.
    pub(crate) async fn limit(
        path: &Path,
        set: Option<SetRequest>,
    ) -> Result<Option<LimitView>, SocketError> {
        Self::answer(path, &Request::Limit { set }, limit::LINE_BYTES).await
    }
}

impl<T: DeserializeOwned> Remote<T> {
    /// The one line that answers a request.
    async fn answer(
        path: &Path,
        request: &Request,
        line_bytes: u64,
    ) -> Result<Option<T>, SocketError> {
        match Self::ask(path, request, line_bytes).await? {
            Some(mut remote) => remote.soon().await,
            None => Ok(None),
        }
    }

    /// The same; to hang up in place of an answer is an error.
    async fn sure_answer(
        path: &Path,
        request: &Request,
        line_bytes: u64,
    ) -> Result<Option<T>, SocketError> {
        let Some(mut remote) = Self::ask(path, request, line_bytes).await? else {
            return Ok(None);
        };
        match remote.soon().await? {
            Some(answer) => Ok(Some(answer)),
            None => Err(remote.end().await),
        }
    }

    /// Why there are no more lines: only who asks again knows whether the agent has ended.
    async fn end(&self) -> SocketError {
        let path = self.path.clone();
        match is_served(&path).await {
            Ok(true) => SocketError::HungUp(path),
            Ok(false) => SocketError::Ended,
            Err(source) => SocketError::Io { path, source },
        }
    }

    /// The next line, before the silence is too long.
    async fn soon(&mut self) -> Result<Option<T>, SocketError> {
        match timeout(SILENCE, self.line()).await {
            Ok(line) => line,
            Err(_) => Err(SocketError::Silent(self.path.clone())),
        }
    }

    async fn ask(
        path: &Path,
        request: &Request,
        line_bytes: u64,
    ) -> Result<Option<Self>, SocketError> {
        let failed = |source: io::Error| match source.kind() {
            // Nothing within the time, or a queue of clients that nobody takes.
            ErrorKind::TimedOut | ErrorKind::WouldBlock => SocketError::Silent(path.to_owned()),
            _ => SocketError::Io {
                path: path.to_owned(),
                source,
            },
        };
        let Some(stream) = connect(path).await.map_err(failed)? else {
            return Ok(None);
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
        write_line(&mut writer, request).await.map_err(failed)?;
        Ok(Some(Self {
            path: path.to_owned(),
            reader,
            _writer: writer,
            line: Vec::new(),
            line_bytes,
            lines: PhantomData,
        }))
    }

    /// The next line. What was read when this is cancelled is kept for the next call.
    async fn line(&mut self) -> Result<Option<T>, SocketError> {
        // One byte more than there may be tells a line that is too long from one that is cut off.
        let room = (self.line_bytes + 1).saturating_sub(self.line.len() as u64);
        let mut limited = (&mut self.reader).take(room);
        match limited.read_until(b'\n', &mut self.line).await {
            Ok(_) => {}
            // It hung up before it had read the request.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
            Err(source) => {
                let path = self.path.clone();
                return Err(SocketError::Io { path, source });
            }
        }
        let wrong = |reason| SocketError::Protocol {
            path: self.path.clone(),
            reason,
        };
        if self.line.len() as u64 > self.line_bytes {
            return Err(wrong(format!(
                "a line of more than {} bytes",
                self.line_bytes
            )));
        }
        if self.line.last() != Some(&b'\n') {
            return Ok(None);
        }
        let value = serde_json::from_slice(&self.line)
            .map_err(|error| wrong(refusal(&self.line).unwrap_or_else(|| error.to_string())))?;
        self.line.clear();
        Ok(Some(value))
    }

    /// Whether another whole line is already here.
    pub(crate) fn has_more(&self) -> bool {
        self.reader.buffer().contains(&b'\n')
    }
}
