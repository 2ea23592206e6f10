//! Connections that are kept between requests.

use tokio::io::{AsyncRead, AsyncWrite};

use super::*;

/// How far requests on one connection are apart at least.
pub(super) const SPACE: Duration = Duration::from_millis(1_100);

/// Asks, and takes the answer to its end but not to that of the connection; empty: there is none.
pub(super) async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), line: &str) -> String {
    let request = format!("{line}\r\nHost: test\r\n\r\n");
    drop(stream.write_all(request.as_bytes()).await);
    drop(stream.flush().await);
    answer(stream).await
}

async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    while !is_whole(&bytes) {
        let read = timeout(2 * SOON, stream.read_buf(&mut bytes)).await;
        match read.expect("more of it comes, or an end") {
            Ok(0) | Err(_) => return String::new(),
            Ok(_) => {}
        }
    }
    String::from_utf8(bytes).expect("UTF-8")
}

fn is_whole(answer: &[u8]) -> bool {
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n");
    end.is_some_and(|end| {
        let head = String::from_utf8_lossy(&answer[..end]);
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        answer.len() >= end + 4 + length.unwrap_or(0)
    })
}

fn is_kept(answer: &str) -> bool {
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    !answer.contains("connection: close")
}

/// For longer than a request and its header may take.
#[tokio::test]
async fn a_kept_connection_answers_again() {
    served_as(Some(full()), |address, _, health| async move {
        let mut stream = connect_from(1, address).await;
        for pause in [SPACE, SPACE, REQUEST_TIME + SPACE, Duration::ZERO] {
            let answer = ask(&mut stream, "GET /metrics HTTP/1.1").await;
            assert!(
                is_kept(&answer) && answer.contains("ctpressure_"),
                "{answer}"
            );
            sleep(pause).await;
        }
        assert_eq!(health.status(), PortStatus::default());
    })
    .await;
}

#[tokio::test]
async fn two_requests_at_once_get_one_answer() {
    served(Some(full()), |address, _publisher| async move {
        let one = "GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n";
        for more in [one, &one[..10], "\r\n", "x"] {
            let said = timeout(SOON, talk(address, format!("{one}{more}").as_bytes())).await;
            let answer = said.expect("it is closed soon");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{more}: {answer}");
        }
    })
    .await;
}

#[tokio::test]
async fn who_asks_too_often_has_to_come_anew() {
    served_as(Some(full()), |address, _, health| async move {
        let mut stream = connect_from(1, address).await;
        assert!(is_kept(&ask(&mut stream, "GET /healthz HTTP/1.1").await));
        assert!(!is_kept(&ask(&mut stream, "GET /healthz HTTP/1.1").await));
        let read = timeout(SOON, stream.read(&mut [0])).await;
        assert_eq!(read.expect("it is closed").expect("well"), 0);
        assert_eq!(health.status(), PortStatus::default());
    })
    .await;
}

#[tokio::test]
async fn a_connection_is_kept_for_plain_requests_that_are_granted() {
    served(None, |address, _publisher| async move {
        for (request, status) in [
            ("GET /healthz HTTP/1.0", "HTTP/1.0 200"),
            (
                "GET /healthz HTTP/1.0\r\nConnection: keep-alive",
                "HTTP/1.0 200",
            ),
            ("GET /healthz HTTP/1.1\r\nConnection: close", "HTTP/1.1 200"),
            (
                "GET /healthz HTTP/1.1\r\nConnection: te, Close",
                "HTTP/1.1 200",
            ),
            // What follows is its body.
            (
                "GET /healthz HTTP/1.1\r\nContent-Length: 14\r\n",
                "HTTP/1.1 200",
            ),
            ("GET /none HTTP/1.1", "HTTP/1.1 404"),
            ("POST /healthz HTTP/1.1", "HTTP/1.1 405"),
            ("GET /readyz HTTP/1.1", "HTTP/1.1 503"),
            ("nonsense", "HTTP/1.1 400"),
        ] {
            let mut stream = connect_from(1, address).await;
            let answer = ask(&mut stream, request).await;
            assert!(answer.starts_with(status), "{request}: {answer}");
            assert!(is_closed(&mut stream).await, "{request}");
        }
    })
    .await;
}

#[tokio::test]
async fn who_is_idle_goes_before_who_takes_an_answer() {
    served_as(Some(long()), |address, _, health| async move {
        let mut slow = Vec::new();
        for _ in 0..MOST_OF_PEER / 2 {
            let mut stream = connect_from(1, address).await;
            let request = b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n";
            stream.write_all(request).await.expect("it is read");
            slow.push(stream);
        }
        let mut idle = Vec::new();
        for _ in 0..MOST_OF_PEER / 2 {
            let mut stream = connect_from(1, address).await;
            assert!(is_kept(&ask(&mut stream, "GET /healthz HTTP/1.1").await));
            idle.push(stream);
        }
        let begin = Instant::now();
        let mut newcomers = Vec::new();
        for one in &mut idle {
            let mut newcomer = connect_from(1, address).await;
            assert!(is_closed(one).await, "the next one that is idle");
            assert!(is_kept(&ask(&mut newcomer, "GET /healthz HTTP/1.1").await));
            newcomers.push(newcomer);
        }
        assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
        for one in &mut slow {
            let answer = answer(one).await;
            assert!(answer.ends_with('\n'), "nothing of it is lost");
        }
        assert_eq!(health.status().closed_peer_full, MOST_OF_PEER as u64 / 2);
    })
    .await;
}

/// They ask once a minute, and hold all places in between.
#[tokio::test]
async fn nobody_is_locked_out_by_hundreds_of_idle_ones() {
    served_as(Some(full()), |address, _, health| async move {
        let mut idle = Vec::new();
        for number in 0..200_u32 {
            let last = u8::try_from(number % 100).expect("it is small") + 1;
            let mut stream = connect_from(last, address).await;
            assert!(is_kept(&ask(&mut stream, "GET /healthz HTTP/1.1").await));
            idle.push(stream);
        }
        for path in ["/healthz", "/metrics"] {
            let begin = Instant::now();
            let answer = get(address, path).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
        }
        let status = health.status();
        assert!(status.closed_full >= 200 - MOST as u64, "{status:?}");
    })
    .await;
}

#[tokio::test]
async fn who_asks_slowly_for_more_goes_after_a_time() {
    served_as(Some(full()), |address, _, health| async move {
        let mut stream = connect_from(1, address).await;
        assert!(is_kept(&ask(&mut stream, "GET /healthz HTTP/1.1").await));
        sleep(SPACE).await;
        let begin = Instant::now();
        drop(stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ").await);
        while stream.write_all(b"x").await.is_ok() {
            let read = timeout(Duration::from_millis(200), stream.read(&mut [0])).await;
            if matches!(read, Ok(Ok(0) | Err(_))) {
                break;
            }
            let long = begin.elapsed();
            assert!(long < HEADER_TIME + SOON, "{long:?}");
        }
        assert!(begin.elapsed() + SPACE > HEADER_TIME, "it had its time");
        while health.status().closed_slow == 0 {
            assert!(begin.elapsed() < HEADER_TIME + SOON, "not counted");
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn who_takes_nothing_of_another_answer_goes_after_a_time() {
    served_as(Some(long()), |address, _, health| async move {
        let mut stream = connect_from(1, address).await;
        assert!(is_kept(&ask(&mut stream, "GET /healthz HTTP/1.1").await));
        sleep(SPACE).await;
        let begin = Instant::now();
        let request = b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n";
        stream.write_all(request).await.expect("it is read");
        while health.status().closed_slow == 0 {
            let long = begin.elapsed();
            assert!(long < REQUEST_TIME + SOON, "{long:?}");
            sleep(Duration::from_millis(50)).await;
        }
        let long = begin.elapsed();
        assert!(long + SPACE > REQUEST_TIME, "it had its time: {long:?}");
        let error = loop {
            match stream.read(&mut [0; 4096]).await {
                Ok(0) => panic!("half of an answer looks like a whole one"),
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    })
    .await;
}

#[tokio::test]
async fn who_is_idle_for_long_is_parted_from_and_was_not_slow() {
    let idle = Duration::from_secs(2);
    served_for(
        idle,
        Some(full()),
        AccessFiles::default(),
        |address, _, health| async move {
            let mut stream = connect_from(1, address).await;
            assert!(is_kept(&ask(&mut stream, "GET /healthz HTTP/1.1").await));
            sleep(SPACE).await;
            assert!(is_kept(&ask(&mut stream, "GET /healthz HTTP/1.1").await));
            let begin = Instant::now();
            let read = timeout(idle + SOON, stream.read(&mut [0])).await;
            assert_eq!(read.expect("it ends").expect("well"), 0);
            let long = begin.elapsed();
            assert!(long + SPACE > idle, "since the last request: {long:?}");
            sleep(Duration::from_millis(200)).await;
            assert!(matches!(stream.take_error(), Ok(None)), "no reset either");
            assert_eq!(health.status(), PortStatus::default());
        },
    )
    .await;
}
