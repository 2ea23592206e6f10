use std::{
    collections::HashMap,
    fs,
    io::Read as _,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use flate2::read::GzDecoder;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::{sleep, timeout},
};

use super::{
    places::{MOST, MOST_OF_PEER},
    talk::{HEADER_BYTES, HEADER_TIME, REQUEST_TIME},
    *,
};
use crate::{
    agent::{AgentState, Publisher, Snapshot, channel},
    owners::Owner,
    serve::{Companions, metrics::Exporter, metrics::tests::full},
};

/// Before anybody is sent away for being slow.
const SOON: Duration = Duration::from_millis(4_500);

/// Serves `snapshot` on a free port of loopback while `test` talks to it.
async fn served<F: Future<Output = ()>>(
    snapshot: Option<Snapshot>,
    test: impl FnOnce(SocketAddr, Publisher) -> F,
) {
    served_as(snapshot, |address, publisher, _| test(address, publisher)).await;
}

async fn served_as<F: Future<Output = ()>>(
    snapshot: Option<Snapshot>,
    test: impl FnOnce(SocketAddr, Publisher, Arc<PortHealth>) -> F,
) {
    served_to(snapshot, AccessFiles::default(), test).await;
}

async fn served_to<F: Future<Output = ()>>(
    snapshot: Option<Snapshot>,
    files: AccessFiles,
    test: impl FnOnce(SocketAddr, Publisher, Arc<PortHealth>) -> F,
) {
    served_for(IDLE_TIME, snapshot, files, test).await;
}

/// Connections are kept for so long between two requests.
async fn served_for<F: Future<Output = ()>>(
    idle: Duration,
    snapshot: Option<Snapshot>,
    files: AccessFiles,
    test: impl FnOnce(SocketAddr, Publisher, Arc<PortHealth>) -> F,
) {
    let (publisher, handle) = channel();
    if let Some(snapshot) = snapshot {
        publisher.publish(snapshot);
    }
    let listener = listen(SocketAddr::from(([0; 4], 0))).expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let exporter =
        Exporter::new(handle.clone(), Companions::default(), false).expect("an exporter");
    let pages = Pages::new(handle, exporter);
    let health = Arc::new(PortHealth::default());
    let server =
        Server::start(listener, pages, files, Arc::clone(&health), idle).expect("a thread");
    tokio::select! {
        ended = server.ended() => panic!("{ended}"),
        () = test(SocketAddr::from(([127, 0, 0, 1], port)), publisher, health) => {}
    }
}

/// A connection from an address of loopback.
async fn connect_from(last: u8, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    let from = SocketAddr::from(([127, 0, 1, last], 0));
    socket.bind(from).expect("an address");
    socket.connect(address).await.expect("a connection")
}

/// Whether the other side closes it soon.
async fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(
        timeout(SOON, stream.read(&mut [0; 16])).await,
        Ok(Ok(0) | Err(_))
    )
}

/// Everything that is answered until the connection closes.
async fn talk(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    // The server may have answered and closed before it has read everything.
    drop(stream.write_all(request).await);
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    String::from_utf8(answer).expect("UTF-8")
}

async fn get(address: SocketAddr, path: &str) -> String {
    talk(
        address,
        format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").as_bytes(),
    )
    .await
}

#[tokio::test]
async fn every_page() {
    served(Some(full()), |address, _publisher| async move {
        for (path, status, content_type, word) in [
            ("/", 200, "text/html", "/metrics"),
            (
                "/metrics",
                200,
                "text/plain; version=0.0.4",
                "ctpressure_drops_total{",
            ),
            ("/metrics?x=1", 200, "text/plain", "ctpressure_drops_total{"),
            ("/healthz", 200, "text/plain", "alive"),
            ("/readyz", 200, "text/plain", "ready"),
            (
                "/status",
                200,
                "application/json",
                "\"state\": \"attached\"",
            ),
            ("/metrics/", 404, "text/plain", "not found"),
            ("/../etc/passwd", 404, "text/plain", "not found"),
        ] {
            let answer = get(address, path).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{path}: {answer}"
            );
            assert!(
                answer.contains(&format!("content-type: {content_type}")),
                "{path}: {answer}"
            );
            assert!(answer.contains(word), "{path}: {answer}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_metrics_come_packed_to_who_takes_that() {
    // As of a node with pods: of one without, most is help, each line of which is there once.
    let mut snapshot = full();
    let pod = snapshot.owners.list[0].clone();
    for number in 0..30 {
        let mut pod = pod.clone();
        pod.slot = 100 + number;
        let name = format!("cart-{number}");
        pod.owner = Owner::pod(&format!("u-{number}"), Some(("shop", &name)));
        snapshot.owners.list.push(pod);
    }
    served(Some(snapshot), |address, _publisher| async move {
        let plain = get(address, "/metrics").await;
        let (head, plain) = plain.split_once("\r\n\r\n").expect("an answer");
        assert!(
            head.contains("vary: accept-encoding") && !head.contains("content-encoding"),
            "{head}"
        );
        // Twice: the second is the first once more.
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            let request = "GET /metrics HTTP/1.1\r\nHost: test\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).await.expect("sent");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.expect("an answer");
            let end = answer.windows(4).position(|part| part == b"\r\n\r\n");
            let (head, packed) = answer.split_at(end.expect("a head") + 4);
            let head = String::from_utf8_lossy(head);
            assert!(head.contains("content-encoding: gzip"), "{head}");
            assert!(packed.len() * 3 < plain.len(), "{} bytes", packed.len());
            let mut text = String::new();
            GzDecoder::new(packed)
                .read_to_string(&mut text)
                .expect("gzip");
            assert_eq!(text, plain);
        }
    })
    .await;
}

#[tokio::test]
async fn other_methods_are_refused() {
    served(Some(full()), |address, _publisher| async move {
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let request =
                format!("{method} /metrics HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n");
            let answer = talk(address, request.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
            assert!(answer.contains("allow: GET, HEAD"), "{answer}");
        }
        let request = b"HEAD /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        let head = talk(address, request).await;
        assert!(
            head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"),
            "{head}"
        );
    })
    .await;
}

#[tokio::test]
async fn not_ready_says_why_and_then_ready() {
    served(None, |address, publisher| async move {
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("not attached yet"), "{answer}");
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200 "));
        publisher.publish(full());
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200 "));
    })
    .await;
}

/// A rollout goes on at nodes that track no connections, and whoever looks sees that they don't.
#[tokio::test]
async fn ready_while_it_waits_for_conntrack() {
    let waiting = Snapshot {
        state: AgentState::Waiting,
        reason: Some("nf_conntrack is not loaded".to_owned()),
        ..full()
    };
    served(Some(waiting), |address, _publisher| async move {
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(
            answer.contains("waiting: nf_conntrack is not loaded"),
            "{answer}"
        );
        let status = get(address, "/status").await;
        for said in [
            "\"state\": \"waiting\"",
            "\"waiting_for\": \"nf_conntrack\"",
        ] {
            assert!(status.contains(said), "{status}");
        }
        let metrics = get(address, "/metrics").await;
        assert!(
            metrics.contains("ctpressure_conntrack_loaded 0\n"),
            "{metrics}"
        );
    })
    .await;
}

#[tokio::test]
async fn nonsense_and_too_much_are_cut_off() {
    served(Some(full()), |address, _publisher| async move {
        let answer = talk(address, b"\x16\x03\x01 this is TLS\r\n\r\n").await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
            "{answer}"
        );
        let mut request = b"GET / HTTP/1.1\r\nHost: test\r\nX: ".to_vec();
        request.resize(4 * HEADER_BYTES, b'x');
        request.extend(b"\r\n\r\n");
        let answer = talk(address, &request).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
            "{answer}"
        );
        assert!(
            get(address, "/healthz").await.starts_with("HTTP/1.1 200 "),
            "it goes on"
        );
    })
    .await;
}

#[test]
fn a_taken_port_says_what_to_do() {
    let taken = listen(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let address = taken.local_addr().expect("an address");
    let error = listen(address).expect_err("it is taken");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert!(error.help().contains("--listen"), "{}", error.help());
}

/// What a stranger learns: nobody's name, address or number.
#[tokio::test]
async fn the_status_is_short() {
    served(Some(full()), |address, _publisher| async move {
        let answer = get(address, "/status").await;
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        let status: HashMap<String, serde_json::Value> = serde_json::from_str(body).expect("JSON");
        let mut fields: Vec<&str> = status.keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(
            fields,
            ["more", "ready", "state", "uptime_seconds", "version"]
        );
        assert_eq!(status["ready"], true);
    })
    .await;
}

#[tokio::test]
async fn who_says_nothing_goes_for_who_comes() {
    served_as(Some(full()), |address, _publisher, health| async move {
        let mut silent = Vec::new();
        for _ in 0..MOST_OF_PEER + 3 {
            silent.push(connect_from(1, address).await);
        }
        for one in &mut silent[..3] {
            assert!(is_closed(one).await, "the oldest three");
        }
        for one in &mut silent[3..] {
            let read = timeout(Duration::from_millis(10), one.read(&mut [0])).await;
            assert!(read.is_err(), "the others are left: {read:?}");
        }
        assert_eq!(health.status().closed_peer_full, 3);
        let begin = Instant::now();
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200 "));
        assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    })
    .await;
}

#[tokio::test]
async fn nobody_is_locked_out_by_hundreds_of_silent_ones() {
    served_as(Some(full()), |address, _publisher, health| async move {
        let mut silent = Vec::new();
        for number in 0..300_u32 {
            let last = u8::try_from(number % 100).expect("it is small") + 1;
            silent.push(connect_from(last, address).await);
        }
        for path in ["/healthz", "/metrics"] {
            let begin = Instant::now();
            let answer = get(address, path).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
        }
        let closed = health.status().closed_full;
        assert!(closed >= 300 - MOST as u64, "{closed}");
    })
    .await;
}

/// A text that does not fit what the kernel keeps for both sides: long names of few, since without optimisation the text of thousands takes
/// seconds, and it is made anew each second.
fn long() -> Snapshot {
    let mut snapshot = full();
    let owner = snapshot.owners.list[2].clone();
    for slot in 100..700 {
        let mut one = owner.clone();
        let name = format!("pod-{slot}-{}", "x".repeat(1_500));
        one.slot = slot;
        one.owner = Owner::pod("u", Some(("shop", &name)));
        snapshot.owners.list.push(one);
    }
    snapshot
}

#[tokio::test]
async fn who_takes_nothing_of_the_answer_goes_after_a_time_or_for_who_comes() {
    served_as(Some(long()), |address, _publisher, health| async move {
        let mut slow = Vec::new();
        for number in 0..80 {
            let mut stream = connect_from(number % 40 + 1, address).await;
            let request = b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n";
            stream.write_all(request).await.expect("it is read");
            slow.push(stream);
        }
        let begin = Instant::now();
        let answer = get(address, "/metrics").await;
        assert!(answer.len() > 1_000_000, "{} bytes", answer.len());
        assert!(
            answer.ends_with('\n') && begin.elapsed() < REQUEST_TIME,
            "{:?}",
            begin.elapsed()
        );
        assert!(health.status().closed_full >= 16, "{:?}", health.status());
        while health.status().closed_slow < 40 {
            assert!(begin.elapsed() < 3 * REQUEST_TIME, "{:?}", health.status());
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn who_asks_slowly_goes_after_a_time() {
    served(Some(full()), |address, _publisher| async move {
        let mut slow = connect_from(1, address).await;
        let begin = Instant::now();
        let mut said = Vec::new();
        slow.write_all(b"GET /metrics HTTP/1.1\r\nX: ")
            .await
            .expect("it is read");
        while slow.write_all(b"x").await.is_ok() {
            let read = timeout(Duration::from_millis(200), slow.read_buf(&mut said)).await;
            if matches!(read, Ok(Ok(0) | Err(_))) {
                break;
            }
            assert!(
                begin.elapsed() < HEADER_TIME + SOON,
                "{:?}",
                begin.elapsed()
            );
        }
    })
    .await;
}

#[tokio::test]
async fn the_text_is_made_once_for_all_who_ask() {
    let (publisher, handle) = channel();
    publisher.publish(full());
    let exporter = Exporter::new(handle.clone(), Companions::default(), false).expect("one");
    let pages = Pages::new(handle, exporter);
    let text = || pages.metrics().expect("a text");
    let first = text();
    assert_eq!(text().as_ptr(), first.as_ptr(), "the same one");
    publisher.publish(Snapshot {
        uptime_seconds: 2.0,
        ..full()
    });
    assert_ne!(text().as_ptr(), first.as_ptr(), "of the new sample");
}

#[tokio::test]
async fn the_thread_holds_no_capability() {
    served(Some(full()), |address, _publisher| async move {
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200 "));
        let begin = Instant::now();
        // Those of other tests may have just begun.
        while let Err(wrong) = threads_without_capabilities() {
            assert!(begin.elapsed() < SOON, "{wrong}");
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// Fails with what one of them has.
fn threads_without_capabilities() -> Result<(), String> {
    let mut threads = 0;
    for task in fs::read_dir("/proc/self/task").expect("/proc") {
        let status = task.expect("a thread").path().join("status");
        let Ok(status) = fs::read_to_string(status) else {
            continue;
        };
        if !status.starts_with("Name:\thttp\n") {
            continue;
        }
        threads += 1;
        let none = |set| format!("{set}:\t0000000000000000");
        let sets = ["CapInh", "CapPrm", "CapEff", "CapAmb"];
        if !sets.iter().all(|set| status.contains(&none(set))) {
            return Err(status);
        }
        if !status.contains("NoNewPrivs:\t1") {
            return Err(status);
        }
    }
    if threads == 0 {
        return Err("no thread of that name".to_owned());
    }
    Ok(())
}

mod access;
mod kept;
