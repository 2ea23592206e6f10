//! One command in the container of one agent.

use std::{error::Error, pin::pin};

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{
    Api, Client,
    api::{AttachParams, AttachedProcess},
    client::UpgradeConnectionError,
};
use tokio::io::{self, AsyncRead, AsyncReadExt as _};

use super::connection::causes;
use crate::{
    answer::{LONGEST, LONGEST_ERROR, Ran},
    coverage::Why,
    fleet::Agent,
};

/// Bytes that wait to be read here, of each stream.
const BUFFER: usize = 64 << 10;

/// Begins a command.
pub(super) async fn begin(
    client: &Client,
    agent: &Agent,
    command: &[String],
) -> Result<AttachedProcess, Why> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &agent.namespace);
    let how = AttachParams::default()
        .container(agent.container.clone())
        .stdin(false)
        .stdout(true)
        .stderr(true)
        .max_stdout_buf_size(BUFFER)
        .max_stderr_buf_size(BUFFER);
    let begun = pods.exec(&agent.pod, command, &how).await;
    begun.map_err(|error| why_not(&error))
}

/// Runs a command to its end.
pub(super) async fn run(client: &Client, agent: &Agent, command: &[String]) -> Result<Ran, Why> {
    let mut process = begin(client, agent, command).await?;
    let (mut out, mut error) = (
        pin!(read(process.stdout(), LONGEST)),
        pin!(read_and_drain(process.stderr())),
    );
    let status = process.take_status();
    let mut said = None;
    let out = loop {
        tokio::select! {
            out = &mut out => break out,
            error = &mut error, if said.is_none() => said = Some(error),
        }
    };
    if out.len() > LONGEST {
        // The rest is not waited for.
        return Ok(Ran {
            too_long: true,
            ..Ran::default()
        });
    }
    let error = match said {
        Some(error) => error,
        None => error.await,
    };
    let mut ran = Ran {
        out,
        error,
        ..Ran::default()
    };
    let status = match status {
        Some(status) => status.await,
        None => None,
    };
    (ran.status, ran.said) = outcome(status);
    Ok(ran)
}

/// All of a stream, but no more than a byte beyond `most`.
async fn read(stream: Option<impl AsyncRead + Unpin>, most: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        // What broke off is seen by the status, which is missing then.
        let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
        let _ended = stream.take(limit).read_to_end(&mut bytes).await;
    }
    bytes
}

/// The begin of what a command says of errors; the rest is read too, or the command would wait.
async fn read_and_drain(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let Some(mut stream) = stream else {
        return Vec::new();
    };
    let bytes = read(Some(&mut stream), LONGEST_ERROR).await;
    let _rest = io::copy(&mut stream, &mut io::sink()).await;
    bytes
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
