//! One command in the container of one agent.

use std::{error::Error, future, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{
    Api, Client,
    api::{AttachParams, AttachedProcess},
    client::UpgradeConnectionError,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::{Instant, sleep_until},
};

use super::connection::causes;
use crate::{
    answer::{LONGEST, LONGEST_ERROR, Ran},
    coverage::Why,
    fleet::Agent,
};

/// Bytes that wait to be read here, of each stream.
const BUFFER: usize = 64 << 10;
/// Bytes that are read at a time.
const PIECE: usize = 16 << 10;
/// How long the rest of the output may take to come after the status, which a kubelet sends last.
const REST: Duration = Duration::from_millis(500);

/// A command that runs.
///
/// Whether it ended is told by its status: where a connection breaks, its streams come to no end by themselves.
pub(super) struct Running {
    // Ends the connection when it goes.
    _process: AttachedProcess,
    out: Option<Stream>,
    error: Option<Stream>,
    /// What it said of errors: the begin.
    said: Vec<u8>,
    status: BoxFuture<'static, Option<Status>>,
    /// Its status, once there is one, and how long the rest of its output is waited for.
    ended: Option<(Option<Status>, Instant)>,
    buffers: [Vec<u8>; 2],
}

type Stream = Box<dyn AsyncRead + Send + Unpin>;

/// What a command left behind, besides its output.
pub(super) struct Ended {
    pub(super) error: Vec<u8>,
    pub(super) status: Option<Status>,
}

/// Begins a command.
pub(super) async fn begin(
    client: &Client,
    agent: &Agent,
    command: &[String],
) -> Result<Running, Why> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &agent.namespace);
    let how = AttachParams::default()
        .container(agent.container.clone())
        .stdin(false)
        .stdout(true)
        .stderr(true)
        .max_stdout_buf_size(BUFFER)
        .max_stderr_buf_size(BUFFER);
    let begun = pods.exec(&agent.pod, command, &how).await;
    let mut process = begun.map_err(|error| why_not(&error))?;
    let status = process.take_status();
    Ok(Running {
        out: process.stdout().map(|stream| Box::new(stream) as Stream),
        error: process.stderr().map(|stream| Box::new(stream) as Stream),
        said: Vec::new(),
        status: match status {
            Some(status) => status.boxed(),
            None => future::ready(None).boxed(),
        },
        ended: None,
        buffers: [vec![0; PIECE], vec![0; PIECE]],
        _process: process,
    })
}

impl Running {
    /// The next piece of its output; `None`: there is no more.
    pub(super) async fn next(&mut self) -> Option<&[u8]> {
        loop {
            let until = match &self.ended {
                Some(_) if self.out.is_none() && self.error.is_none() => return None,
                // The connection broke.
                Some((None, _)) => return None,
                Some((Some(_), until)) => *until,
                None => Instant::now(),
            };
            let [of_out, of_error] = &mut self.buffers;
            tokio::select! {
                bytes = read(&mut self.out, of_out) => match bytes {
                    0 => self.out = None,
                    bytes => return self.buffers[0].get(..bytes),
                },
                bytes = read(&mut self.error, of_error) => match bytes {
                    0 => self.error = None,
                    bytes => {
                        let room = LONGEST_ERROR.saturating_sub(self.said.len());
                        self.said.extend(of_error.iter().take(bytes.min(room)));
                    }
                },
                status = &mut self.status, if self.ended.is_none() => {
                    self.ended = Some((status, Instant::now() + REST));
                }
                () = sleep_until(until), if self.ended.is_some() => return None,
            }
        }
    }

    /// What else there is when there is no more output.
    pub(super) fn end(self) -> Ended {
        Ended {
            error: self.said,
            status: self.ended.and_then(|(status, _)| status),
        }
    }
}

/// Bytes of a stream; 0: its end. Never, if it has ended.
async fn read(stream: &mut Option<Stream>, into: &mut [u8]) -> usize {
    match stream {
        Some(stream) => stream.read(into).await.unwrap_or(0),
        None => future::pending().await,
    }
}

/// Runs a command to its end.
pub(super) async fn run(client: &Client, agent: &Agent, command: &[String]) -> Result<Ran, Why> {
    let mut running = begin(client, agent, command).await?;
    let mut out = Vec::new();
    while let Some(piece) = running.next().await {
        if out.len() + piece.len() > LONGEST {
            // The rest is not waited for.
            return Ok(Ran {
                too_long: true,
                ..Ran::default()
            });
        }
        out.extend_from_slice(piece);
    }
    let Ended { error, status } = running.end();
    let (status, said) = outcome(status);
    Ok(Ran {
        out,
        error,
        status,
        said,
        too_long: false,
    })
}

/// Exit status of a command, or what the runtime says instead.
pub(super) fn outcome(status: Option<Status>) -> (Option<i32>, String) {
    let Some(status) = status else {
        return (None, String::new());
    };
    if status.status.as_deref() == Some("Success") {
        return (Some(0), String::new());
    }
    let causes = status.details.and_then(|details| details.causes);
    let exit = causes.unwrap_or_default().into_iter().find_map(|cause| {
        let is_it = cause.reason.as_deref() == Some("ExitCode");
        cause.message.filter(|_| is_it)?.parse().ok()
    });
    // A shell's status for what can't be found or run: nothing of the agent ran.
    match exit {
        Some(exit) if !matches!(exit, 126 | 127) => (Some(exit), String::new()),
        _ => (
            None,
            status
                .message
                .unwrap_or_else(|| "no reason is told".to_owned()),
        ),
    }
}

/// Why a command could not begin.
fn why_not(error: &kube::Error) -> Why {
    let code = match error {
        kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(code)) => {
            code.as_u16()
        }
        kube::Error::Api(status) => status.code,
        error => {
            let what = format!(
                "the API server can't be reached: {}",
                causes(error as &(dyn Error + 'static))
            );
            return Why::new(&what, "does `kubectl get nodes` work?");
        }
    };
    let (why, help) = match code {
        401 => (
            "the API server does not accept the credentials",
            "does `kubectl auth whoami` work?",
        ),
        403 => (
            "commands in its pod are not granted",
            "grant get and create on pods/exec: deploy/kubernetes/operator/rbac.yaml",
        ),
        404 => ("its pod is gone", "try again: a new one may be there"),
        429 => (
            "the API server has too much to do",
            "try again, with a lower --concurrency",
        ),
        500..600 => (
            "the API server does not reach its kubelet",
            "`kubectl get node` and `kubectl logs` of that pod may say more",
        ),
        _ => (
            "the API server refuses the command",
            "does `kubectl exec` work in that pod?",
        ),
    };
    Why::new(&format!("{why} (HTTP {code})"), help)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(status: Value) -> (Option<i32>, String) {
        outcome(Some(serde_json::from_value(status).expect("a status")))
    }

    #[test]
    fn a_status_in_words_of_the_kubelet() {
        assert_eq!(outcome(None), (None, String::new()));
        assert_eq!(
            of(json!({"metadata": {}, "status": "Success"})),
            (Some(0), String::new())
        );
        let ended = |code: &str| {
            of(json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": "command terminated with non-zero exit code",
                "details": {"causes": [{"reason": "ExitCode", "message": code}]},
            }))
        };
        assert_eq!(ended("1"), (Some(1), String::new()));
        assert_eq!(ended("127").0, None);
        let failed =
            json!({"metadata": {}, "status": "Failure", "message": "no such file", "code": 500});
        assert_eq!(of(failed), (None, "no such file".to_owned()));
    }
}
