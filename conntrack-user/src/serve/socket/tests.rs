use std::{fs, os::unix::fs::PermissionsExt as _};

use ctpressure_model::{
    events::{Event, Kind},
    tests::sample,
};
use tempfile::TempDir;
use tokio::{
    net::{UnixListener, UnixStream},
    task::LocalSet,
};

use super::*;
use crate::{
    agent::{Charged, Publisher, Snapshot, Tables, channel},
    owners::Owner,
    serve::{
        Companions,
        top::{LINE_BYTES as TOP_LINE_BYTES, TopSample, tests::example},
    },
};

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("made/by/bind/socket");
    (folder, path)
}

fn drops() -> Filter {
    Filter {
        kinds: vec![Kind::Drop],
        ..Filter::default()
    }
}

/// Runs an agent's socket while `test` talks to it.
async fn served<F: Future<Output = ()>>(test: impl FnOnce(PathBuf, Publisher) -> F) {
    let (folder, path) = place();
    let socket = LocalSocket::bind(&path).await.expect("a socket");
    let (publisher, handle) = channel();
    LocalSet::new()
        .run_until(async move {
            tokio::select! {
                never = socket.serve(handle, Companions::default()) => match never {},
                () = test(path, publisher) => {}
            }
        })
        .await;
    drop(folder);
}

/// Sends drops until one arrives: the subscription begins some time after the request.
async fn first_drop(remote: &mut Remote, publisher: &Publisher) -> Event {
    let mut sink = publisher.sink();
    loop {
        sink(&sample::insert());
        sink(&sample::icmpv6_drop());
        if let Ok(event) = timeout(Duration::from_millis(20), remote.next()).await {
            return event.expect("the agent runs");
        }
    }
}

#[tokio::test]
async fn events_come_through() {
    served(|path, publisher| async move {
        let mut remote = Remote::watch(&path, &drops())
            .await
            .expect("an answer")
            .expect("an agent");
        let event = first_drop(&mut remote, &publisher).await;
        let Event::Drop(drop) = event else {
            panic!("{event:?}")
        };
        assert_eq!(drop.reason.name(), "table_full");
        assert_eq!(drop.seen.netns, 4_026_532_177);
    })
    .await;
}

#[tokio::test]
async fn only_root_may_open_it_and_it_goes_with_the_agent() {
    let (_folder, path) = place();
    let socket = LocalSocket::bind(&path).await.expect("a socket");
    let mode = fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(socket);
    assert!(!path.exists());
}

#[tokio::test]
async fn its_folder_is_for_root_only_if_it_is_made_and_else_left_as_it_is() {
    let mode = |path: &Path| {
        let folder = path.parent().expect("a folder");
        let metadata = fs::metadata(folder).expect("it is there");
        metadata.permissions().mode() & 0o7777
    };
    let (folder, path) = place();
    let socket = LocalSocket::bind(&path).await.expect("a socket");
    assert_eq!(mode(&path), 0o700);
    drop(socket);
    let other = folder.path().join("socket");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o751)).expect("its mode");
    let _socket = LocalSocket::bind(&other).await.expect("a socket");
    assert_eq!(mode(&other), 0o751);
}

#[tokio::test]
async fn a_second_agent_is_refused_and_leaves_the_first_alone() {
    let (_folder, path) = place();
    let first = LocalSocket::bind(&path).await.expect("a socket");
    let (_publisher, handle) = channel();
    LocalSet::new()
        .run_until(async {
            tokio::select! {
                never = first.serve(handle, Companions::default()) => match never {},
                () = async {
                    let error = LocalSocket::bind(&path).await.expect_err("it is taken");
                    assert!(matches!(error, SocketError::Taken(_)), "{error}");
                    assert!(path.exists());
                } => {}
            }
        })
        .await;
}

#[tokio::test]
async fn a_socket_that_nobody_listens_on_is_replaced() {
    let (_folder, path) = place();
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    assert!(path.exists());
    assert!(
        Remote::watch(&path, &drops())
            .await
            .expect("no error")
            .is_none()
    );
    LocalSocket::bind(&path).await.expect("it is replaced");
}

#[tokio::test]
async fn a_file_is_not_replaced() {
    let (_folder, path) = place();
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(&path, "precious").expect("a file");
    let error = LocalSocket::bind(&path).await.expect_err("it is a file");
    assert!(matches!(error, SocketError::NotASocket(_)), "{error}");
    assert_eq!(fs::read_to_string(&path).expect("still there"), "precious");
}

#[tokio::test]
async fn no_agent_is_no_error() {
    let (_folder, path) = place();
    assert!(
        Remote::watch(&path, &drops())
            .await
            .expect("no error")
            .is_none()
    );
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let (_folder, path) = place();
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    for hello in [
        "{\"hello\":\"ctpressure\",\"protocol\":2,\"version\":\"9.0\"}\n",
        "SSH-2.0\n",
    ] {
        drop(fs::remove_file(&path));
        let listener = UnixListener::bind(&path).expect("a socket");
        let other = async {
            let (mut stream, _) = listener.accept().await.expect("a client");
            stream.write_all(hello.as_bytes()).await.expect("written");
        };
        let filter = drops();
        let (result, ()) = tokio::join!(Remote::watch(&path, &filter), other);
        let error = result.expect_err("not an agent of ours");
        assert!(matches!(error, SocketError::Protocol { .. }), "{error}");
    }
}

#[tokio::test]
async fn one_that_hangs_up_without_a_word_is_no_agent() {
    let (_folder, path) = place();
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    let listener = UnixListener::bind(&path).expect("a socket");
    let dying = async {
        drop(listener.accept().await.expect("a client"));
        drop(listener);
    };
    let filter = drops();
    let (remote, ()) = tokio::join!(Remote::watch(&path, &filter), dying);
    assert!(remote.expect("no error").is_none());

    drop(fs::remove_file(&path));
    let listener = UnixListener::bind(&path).expect("a socket");
    let dying = async {
        drop(listener.accept().await.expect("a client"));
        drop(listener);
    };
    let (socket, ()) = tokio::join!(LocalSocket::bind(&path), dying);
    socket.expect("its place is free");
}

#[tokio::test]
async fn a_request_that_is_not_known_gets_an_error_line() {
    served(|path, _publisher| async move {
        let mut stream = UnixStream::connect(&path).await.expect("a connection");
        stream
            .write_all(b"{\"explode\":{}}\n")
            .await
            .expect("written");
        let mut said = String::new();
        stream.read_to_string(&mut said).await.expect("read");
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), 2, "{said}");
        assert!(
            lines[0].starts_with("{\"hello\":\"ctpressure\",\"protocol\":1,"),
            "{said}"
        );
        assert!(lines[1].starts_with("{\"error\":\""), "{said}");
    })
    .await;
}

#[tokio::test]
async fn the_end_of_the_agent_is_the_end_of_the_stream() {
    served(|path, publisher| async move {
        let mut remote = Remote::watch(&path, &drops())
            .await
            .expect("an answer")
            .expect("an agent");
        first_drop(&mut remote, &publisher).await;
        drop(publisher);
        while remote.next().await.is_ok() {}
    })
    .await;
}

async fn top(path: &Path, once: bool) -> Remote<TopSample> {
    Remote::top(path, once)
        .await
        .expect("an answer")
        .expect("an agent")
}

#[tokio::test]
async fn what_top_shows_comes_at_once_and_with_every_snapshot() {
    served(|path, publisher| async move {
        let mut remote = top(&path, false).await;
        let first = remote.next().await.expect("a line");
        assert_eq!(first.reason.as_deref(), Some("not attached yet"));
        for entries in [5, 6, 7] {
            let mut snapshot = example::snapshot();
            snapshot.tables.list[0].entries = entries;
            publisher.publish(snapshot);
            let sample = remote.next().await.expect("a line");
            assert_eq!(sample.tables[0].entries, entries);
            assert_eq!(sample.owners.len(), 5);
        }
        drop(publisher);
        assert_hung_up(remote.next().await);
    })
    .await;
}

#[tokio::test]
async fn once_is_one_line() {
    served(|path, publisher| async move {
        publisher.publish(example::snapshot());
        let mut remote = top(&path, true).await;
        let sample = remote.next().await.expect("a line");
        assert!(sample.is_settled());
        publisher.publish(example::snapshot());
        assert_hung_up(remote.next().await);
    })
    .await;
}

#[tokio::test]
async fn by_what_entries_are_charged() {
    served(|path, publisher| async move {
        let charged = Charged {
            owners: [(7, Owner::pod("u-7", Some(("shop", "cart-1"))))].into(),
            host_netns: 4_026_531_840,
            ..Charged::default()
        };
        publisher.charge(charged);
        let answer = Remote::charged(&path).await.unwrap().expect("an agent");
        let charging = answer.charging().expect("the host's namespace is known");
        assert_eq!(charging.name(7), "shop/cart-1");
    })
    .await;
}

/// The stream ended while somebody still serves the socket.
fn assert_hung_up(result: Result<TopSample, SocketError>) {
    let error = result.expect_err("no more lines");
    assert!(matches!(error, SocketError::HungUp(_)), "{error}");
    assert!(!error.to_string().contains("ended"), "{error}");
}

#[tokio::test]
async fn a_socket_that_nobody_serves_any_more_tells_that_the_agent_has_ended() {
    let (_folder, path) = place();
    let socket = LocalSocket::bind(&path).await.expect("a socket");
    let (publisher, handle) = channel();
    publisher.publish(example::snapshot());
    let serve = socket.serve(handle, Companions::default());
    let mut remote = LocalSet::new()
        .run_until(async {
            tokio::select! {
                never = serve => match never {},
                remote = top(&path, false) => remote,
            }
        })
        .await;
    let error = loop {
        if let Err(error) = remote.next().await {
            break error;
        }
    };
    assert!(matches!(error, SocketError::Ended), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_gets_everything() {
    let (mut writer, mut reader) = tokio::io::duplex(64);
    let sent = vec![b'x'; 640];
    let read = async {
        let mut taken = vec![0; 640];
        for piece in taken.chunks_mut(64) {
            sleep(WRITE_TIME.mul_f32(0.9)).await;
            reader.read_exact(piece).await.expect("more");
        }
        taken
    };
    let (written, taken) = tokio::join!(write_while_taken(&mut writer, &sent), read);
    written.expect("it was never idle for long");
    assert_eq!(taken, sent);

    let idle = write_while_taken(&mut writer, &sent).await;
    let kind = idle.expect_err("nobody reads").kind();
    assert_eq!(kind, ErrorKind::TimedOut);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_dropped() {
    served(|path, publisher| async move {
        let mut snapshot = example::snapshot();
        let owner = snapshot.owners.list[2].clone();
        snapshot
            .owners
            .list
            .extend((5..2_000).map(|slot| crate::agent::OwnerSample {
                slot,
                ..owner.clone()
            }));
        publisher.publish(snapshot);
        let mut remote = top(&path, false).await;
        sleep(WRITE_TIME + Duration::from_millis(500)).await;
        // What fits into the socket's buffer is cut off.
        assert_hung_up(remote.next().await);
    })
    .await;
}

/// What `top` says of an answer that is not the agent's.
async fn answered(answer: &[u8]) -> SocketError {
    let (_folder, path) = place();
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    let listener = UnixListener::bind(&path).expect("a socket");
    let liar = async {
        let (mut stream, _) = listener.accept().await.expect("a client");
        stream
            .write_all(b"{\"hello\":\"ctpressure\",\"protocol\":1,\"version\":\"9.0\"}\n")
            .await
            .expect("written");
        // It may hang up before it has read everything.
        drop(stream.write_all(answer).await);
        stream
    };
    let ask = async {
        let mut remote = top(&path, false).await;
        if answer.is_empty() {
            tokio::time::pause();
        }
        remote.next().await
    };
    let (result, stream) = tokio::join!(ask, liar);
    drop(stream);
    result.expect_err("it lies")
}

#[tokio::test]
async fn a_socket_that_lies_is_named() {
    for (answer, word) in [
        (b"{\"error\":\"not today\"}\n".to_vec(), "not today"),
        (b"[]\n".to_vec(), "does not speak this protocol"),
        (b"\xff\xfe\n".to_vec(), "does not speak this protocol"),
        (
            vec![b' '; usize::try_from(TOP_LINE_BYTES).expect("it fits") + 2],
            "a line of more than",
        ),
    ] {
        let error = answered(&answer).await.to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[tokio::test]
async fn an_agent_that_says_nothing_is_not_waited_for() {
    let error = answered(b"").await;
    assert!(matches!(error, SocketError::Silent(_)), "{error}");
    assert!(!error.help().is_empty());
}

#[tokio::test]
async fn the_limit_is_told_and_set_only_by_a_controller_that_may() {
    served(|path, publisher| async move {
        publisher.publish(Snapshot {
            tables: Tables {
                limit: Some(1000),
                ..example::snapshot().tables
            },
            ..Snapshot::default()
        });
        let set = SetRequest {
            limit: 2000,
            force: false,
            who: None,
        };
        let view = Remote::limit(&path, Some(set))
            .await
            .expect("an answer")
            .expect("an agent");
        assert_eq!(view.limit, Some(1000));
        assert!(view.fullest.is_some());
        assert_eq!(
            (view.controller, view.set),
            (None, None),
            "there is no controller"
        );
    })
    .await;
    let (_folder, path) = place();
    let asked = Remote::limit(&path, None).await;
    assert_eq!(asked.expect("no error"), None, "no agent");
}
