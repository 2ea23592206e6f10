use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::LocalSet,
};

use super::*;
use crate::{
    agent::{Publisher, Snapshot, channel},
    serve::metrics::tests::full,
};

/// Serves `snapshot` on a free port of loopback while `test` talks to it.
async fn served<F: Future<Output = ()>>(
    snapshot: Option<Snapshot>,
    test: impl FnOnce(SocketAddr, Publisher) -> F,
) {
    let (publisher, handle) = channel();
    if let Some(snapshot) = snapshot {
        publisher.publish(snapshot);
    }
    let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("an address");
    let exporter =
        Arc::new(Exporter::new(handle.clone(), Companions::default(), false).expect("an exporter"));
    LocalSet::new()
        .run_until(async move {
            tokio::select! {
                never = serve(listener, handle, Companions::default(), exporter) => match never {},
                () = test(address, publisher) => {}
            }
        })
        .await;
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
        format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes(),
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
async fn other_methods_are_refused() {
    served(Some(full()), |address, _publisher| async move {
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let request =
                format!("{method} /metrics HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n");
            let answer = talk(address, request.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
            assert!(answer.contains("allow: GET, HEAD"), "{answer}");
        }
        let head = talk(address, b"HEAD /metrics HTTP/1.1\r\nHost: test\r\n\r\n").await;
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

#[tokio::test]
async fn an_agent_that_hangs_is_not_healthy() {
    let at = std::time::Instant::now().checked_sub(STALE + Duration::from_secs(1));
    let Some(at) = at else { return };
    served(
        Some(Snapshot { at, ..full() }),
        |address, _publisher| async move {
            assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 503 "));
        },
    )
    .await;
}

#[tokio::test]
async fn the_status_has_what_was_promised() {
    served(Some(full()), |address, _publisher| async move {
        let answer = get(address, "/status").await;
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        let status: serde_json::Value = serde_json::from_str(body).expect("JSON");
        for pointer in [
            "/version",
            "/state",
            "/reason",
            "/kernel/release",
            "/uptime_seconds",
            "/hooks/0/event",
            "/hooks/0/mechanism",
            "/fields",
            "/limit",
            "/buckets",
            "/tables/0/netns",
            "/tables/0/name",
            "/tables/0/entries",
            "/tables/0/pressure",
            "/totals/inserts",
            "/totals/drops/table_full",
            "/totals/lost/missed_runs",
            "/drift/difference",
            "/own/rss_bytes",
            "/own/cpu_seconds",
            "/capabilities/kept",
        ] {
            assert!(status.pointer(pointer).is_some(), "no {pointer} in {body}");
        }
        assert_eq!(status["tables"][0]["pressure"], "high");
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

#[tokio::test]
async fn one_request_for_each_connection() {
    served(Some(full()), |address, _publisher| async move {
        let two = "GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n".repeat(2);
        let answer = talk(address, two.as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 1, "{answer}");
    })
    .await;
}

#[tokio::test]
async fn clients_that_hold_connections_do_not_lock_others_out() {
    served(Some(full()), |address, _publisher| async move {
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(TcpStream::connect(address).await.expect("a connection"));
        }
        // Their header never comes: the places are free again after HEADER_TIME.
        let begin = std::time::Instant::now();
        let answer = get(address, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(
            begin.elapsed() < HEADER_TIME + Duration::from_secs(3),
            "{:?}",
            begin.elapsed()
        );
        drop(idle);
    })
    .await;
}

#[tokio::test]
async fn a_taken_port_says_what_to_do() {
    let taken = listen(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .expect("a free port");
    let address = taken.local_addr().expect("an address");
    let error = listen(address).await.expect_err("it is taken");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert!(error.help().contains("--listen"), "{}", error.help());
}
