//! A stand-in for an API server: lists pods and nodes, and runs commands in pods over WebSocket as a real one does
//! (`v5.channel.k8s.io`, `v4.channel.k8s.io`). What a pod answers, its node decides.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
    },
};

/// What a command of a pod comes to.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// It prints this, and ends with a status.
    Prints {
        out: Vec<u8>,
        error: String,
        status: i32,
    },
    /// The same, after a while.
    Late(Duration, Box<Reply>),
    /// It prints lines, and goes on running.
    GoesOn(Vec<String>),
    /// Nothing comes.
    Hangs,
    /// The connection ends in the middle of this.
    Cut(Vec<u8>),
    /// The container has no such program.
    NoProgram,
    /// The API server itself refuses, with this HTTP status.
    Refused(u16),
}

impl Reply {
    pub(crate) fn json(value: &Value) -> Self {
        Self::Prints {
            out: format!("{value}\n").into_bytes(),
            error: String::new(),
            status: 0,
        }
    }
}

/// What a command line of a pod comes to.
pub(crate) type Replies = dyn Fn(&str, &[String]) -> Reply + Send + Sync;

/// What there is in the cluster.
pub(crate) struct World {
    pub(crate) pods: Vec<Value>,
    /// Names of nodes; `None`: they can't be listed.
    pub(crate) nodes: Option<Vec<String>>,
    /// What the command line of a pod comes to.
    pub(crate) reply: Box<Replies>,
}

/// What is counted while it serves.
#[derive(Default)]
pub(crate) struct Counts {
    now: AtomicUsize,
    most: AtomicUsize,
    /// Command lines, as they came.
    pub(crate) asked: Mutex<Vec<(String, Vec<String>)>>,
}

impl Counts {
    /// Commands that ran at the same time, at most.
    pub(crate) fn most_at_a_time(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

/// Serves until the test ends.
pub(crate) async fn serve(world: World) -> (SocketAddr, Arc<Counts>) {
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port on the loopback");
    let address = listener.local_addr().expect("its number");
    let counts = Arc::new(Counts::default());
    let (world, counted) = (Arc::new(world), Arc::clone(&counts));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            tokio::spawn(one(stream, Arc::clone(&world), Arc::clone(&counted)));
        }
    });
    (address, counts)
}

async fn one(mut stream: TcpStream, world: Arc<World>, counts: Arc<Counts>) {
    let mut seen = [0; 4096];
    let line = loop {
        let Ok(bytes) = stream.peek(&mut seen).await else {
            return;
        };
        let text = String::from_utf8_lossy(&seen[..bytes]).into_owned();
        match text.split_once("\r\n") {
            Some((line, _)) => break line.to_owned(),
            None if bytes == 0 => return,
            None => sleep(Duration::from_millis(1)).await,
        }
    };
    if line.contains("/exec?") {
        exec(stream, &world, &counts).await;
    } else {
        let (status, body) = list(&line, &world);
        let body = body.to_string();
        let answer = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        read_head(&mut stream).await;
        // Who asked may be gone.
        drop(stream.write_all(answer.as_bytes()).await);
        drop(stream.shutdown().await);
    }
}

async fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
}

fn list(line: &str, world: &World) -> (u16, Value) {
    let refused = |code: u16, what: &str| {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Forbidden",
            "message": format!("{what} is forbidden"), "code": code,
        });
        (code, status)
    };
    if line.contains("/api/v1/nodes?") {
        let Some(nodes) = &world.nodes else {
            return refused(403, "nodes");
        };
        assert!(line.contains("kubernetes.io%2Fos%3Dlinux"), "{line}");
        let kind = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"});
        let items: Vec<Value> = nodes
            .iter()
            .map(|name| {
                let mut node = kind.clone();
                node["metadata"] = json!({ "name": name });
                node
            })
            .collect();
        return (
            200,
            json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": items}),
        );
    }
    assert!(
        line.contains("/pods?") && line.contains("labelSelector="),
        "{line}"
    );
    let namespace = line
        .split("/namespaces/")
        .nth(1)
        .and_then(|rest| rest.split('/').next());
    let pods: Vec<&Value> = world
        .pods
        .iter()
        .filter(|pod| namespace.is_none_or(|namespace| pod["metadata"]["namespace"] == namespace))
        .collect();
    (
        200,
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}),
    )
}

/// Pod and command line of `/api/v1/namespaces/N/pods/POD/exec?command=...`.
fn question(uri: &str) -> (String, Vec<String>) {
    let (path, query) = uri.split_once('?').expect("a query");
    let pod = path.split('/').rev().nth(1).expect("a pod").to_owned();
    let words = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("command="));
    (pod, words.map(decoded).collect())
}

/// Without `%2F` and `+`.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().expect("a digit"), rest.next().expect("a digit")];
                let digits = std::str::from_utf8(&digits).expect("digits");
                u8::from_str_radix(digits, 16).expect("a number")
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).expect("text")
}

async fn exec(stream: TcpStream, world: &World, counts: &Counts) {
    let mut asked = None;
    #[expect(clippy::result_large_err, reason = "the type is the library's")]
    let choose = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let (pod, command) = question(&request.uri().to_string());
        let reply = (world.reply)(&pod, &command);
        let offered = request.headers()["sec-websocket-protocol"]
            .to_str()
            .expect("text");
        assert_eq!(offered, "v5.channel.k8s.io, v4.channel.k8s.io");
        // Old and new servers: by the length of the name one or the other.
        let protocol = if pod.len().is_multiple_of(2) {
            "v5.channel.k8s.io"
        } else {
            "v4.channel.k8s.io"
        };
        if let Reply::Refused(code) = reply {
            let mut refused = ErrorResponse::new(Some("refused".to_owned()));
            *refused.status_mut() = code.try_into().expect("an HTTP status");
            return Err(refused);
        }
        let headers = response.headers_mut();
        headers.insert(
            "sec-websocket-protocol",
            protocol.parse().expect("a header"),
        );
        counts
            .asked
            .lock()
            .expect("not poisoned")
            .push((pod, command));
        asked = Some(reply);
        Ok(response)
    };
    let accepted = accept_hdr_async(stream, choose).await;
    let (Ok(mut socket), Some(reply)) = (accepted, asked) else {
        return;
    };
    let now = counts.now.fetch_add(1, Ordering::SeqCst) + 1;
    counts.most.fetch_max(now, Ordering::SeqCst);
    play(&mut socket, reply, Runs(&counts.now)).await;
}

/// A command runs until this is dropped.
struct Runs<'a>(&'a AtomicUsize);

impl Drop for Runs<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

const OUT: u8 = 1;
const ERROR: u8 = 2;
const STATUS: u8 = 3;
/// As much as a kubelet puts into a message.
const PIECE: usize = 32 << 10;

async fn send(socket: &mut WebSocketStream<TcpStream>, channel: u8, bytes: &[u8]) {
    for piece in bytes.chunks(PIECE) {
        let message = Message::binary([&[channel], piece].concat());
        if socket.send(message).await.is_err() {
            return;
        }
    }
}

async fn play(socket: &mut WebSocketStream<TcpStream>, mut reply: Reply, runs: Runs<'_>) {
    while let Reply::Late(time, then) = reply {
        sleep(time).await;
        reply = *then;
    }
    match reply {
        Reply::Prints { out, error, status } => {
            send(socket, OUT, &out).await;
            send(socket, ERROR, error.as_bytes()).await;
            let ended = match status {
                0 => json!({"metadata": {}, "status": "Success"}),
                code => json!({
                    "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                    "message": format!("command terminated with non-zero exit code: exit status {code}"),
                    "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
                }),
            };
            // Before who asked knows: it goes on to the next one at once.
            drop(runs);
            send(socket, STATUS, ended.to_string().as_bytes()).await;
        }
        Reply::NoProgram => {
            let what = "error executing command in container: exec: \"/ctpressure\": stat /ctpressure: no such file or directory";
            let ended = json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "message": what, "code": 500});
            // Before who asked knows: it goes on to the next one at once.
            drop(runs);
            send(socket, STATUS, ended.to_string().as_bytes()).await;
        }
        Reply::GoesOn(lines) => {
            for line in lines {
                send(socket, OUT, format!("{line}\n").as_bytes()).await;
            }
            wait_for_end(socket).await;
            return;
        }
        Reply::Hangs => {
            wait_for_end(socket).await;
            return;
        }
        Reply::Cut(bytes) => {
            send(socket, OUT, &bytes).await;
            return;
        }
        Reply::Refused(_) | Reply::Late(..) => unreachable!("answered before"),
    }
    // As a kubelet does: then the other side ends too.
    drop(socket.close(None).await);
    wait_for_end(socket).await;
}

async fn wait_for_end(socket: &mut WebSocketStream<TcpStream>) {
    while let Some(Ok(_)) = socket.next().await {}
}
