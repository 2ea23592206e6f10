//! One unary gRPC call over a unix socket: an HTTP/2 request whose body is a message with five
//! bytes before it, and whose trailers say how it went.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::UnixStream;

use crate::guest::command::Late;

/// Not compressed, and the length of what follows.
const PREFIX: usize = 5;

/// Calls `method` (`package.Service/Method`) and waits for its answer.
///
/// # Errors
///
/// When nobody listens, [`Late`] when `limit` is over, and what the server says when it refuses.
pub fn call<A: Message + Default>(
    socket: &Path,
    method: &str,
    request: &impl Message,
    limit: Duration,
) -> Result<A> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting a runtime for one call")?;
    let answer = runtime.block_on(async {
        tokio::time::timeout(limit, exchange(socket, method, frame(request)?))
            .await
            .map_err(|_| Late(format!("no answer within {} s", limit.as_secs())))?
    });
    let answer = answer.with_context(|| format!("calling {method} at {}", socket.display()))?;
    A::decode(unframe(&answer)?).with_context(|| format!("reading the answer of {method}"))
}

async fn exchange(socket: &Path, method: &str, body: Bytes) -> Result<Bytes> {
    let stream = UnixStream::connect(socket).await.context("connecting")?;
    let (client, connection) = h2::client::handshake(stream).await?;
    // Ends with the runtime, that is with the call.
    tokio::spawn(connection);
    let request = Request::post(format!("http://localhost/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (response, mut out) = client.ready().await?.send_request(request, false)?;
    out.send_data(body, true)?;
    let response = response.await?;
    ensure!(
        response.status().is_success(),
        "HTTP status {}",
        response.status()
    );
    // A refusal may come without a body, its status among the headers.
    check_status(response.headers())?;
    let mut incoming = response.into_body();
    let mut answer = BytesMut::new();
    while let Some(piece) = incoming.data().await {
        let piece = piece?;
        incoming.flow_control().release_capacity(piece.len())?;
        answer.put(piece);
    }
    if let Some(trailers) = incoming.trailers().await? {
        check_status(&trailers)?;
    }
    Ok(answer.freeze())
}

fn check_status(headers: &HeaderMap) -> Result<()> {
    let text = |name: &str| {
        headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    match text("grpc-status").as_deref() {
        None | Some("0") => Ok(()),
        Some(status) => bail!(
            "refused with status {status}: {}",
            text("grpc-message").unwrap_or_default()
        ),
    }
}

fn frame(message: &impl Message) -> Result<Bytes> {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).context("a message above 4 GiB")?);
    message.encode(&mut bytes)?;
    Ok(bytes.freeze())
}

fn unframe(bytes: &[u8]) -> Result<&[u8]> {
    // An empty message may be sent as nothing at all.
    let Some((prefix, message)) = bytes.split_first_chunk::<PREFIX>() else {
        ensure!(bytes.is_empty(), "an answer of {} bytes", bytes.len());
        return Ok(bytes);
    };
    ensure!(prefix[0] == 0, "a compressed answer that nobody asked for");
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
    ensure!(
        usize::try_from(length) == Ok(message.len()),
        "an answer of {} bytes that says {length}",
        message.len()
    );
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, PartialEq, Message)]
    struct Text {
        #[prost(string, tag = "1")]
        text: String,
    }

    #[test]
    fn frames_are_read_back_and_torn_ones_are_errors() {
        let message = Text {
            text: "hello".to_owned(),
        };
        let bytes = frame(&message).unwrap();
        assert_eq!(&bytes[..PREFIX], [0, 0, 0, 0, 7]);
        assert_eq!(Text::decode(unframe(&bytes).unwrap()).unwrap(), message);
        assert_eq!(unframe(&[]).unwrap(), [0_u8; 0]);
        for torn in [&bytes[..3], &bytes[..8], b"\x01\0\0\0\0"] {
            assert!(unframe(torn).is_err(), "{torn:?}");
        }
    }

    #[test]
    fn a_refusal_carries_the_servers_words() {
        let mut headers = HeaderMap::new();
        check_status(&headers).unwrap();
        headers.insert("grpc-status", "0".parse().unwrap());
        check_status(&headers).unwrap();
        headers.insert("grpc-status", "5".parse().unwrap());
        headers.insert("grpc-message", "no such pod".parse().unwrap());
        let error = check_status(&headers).unwrap_err().to_string();
        assert_eq!(error, "refused with status 5: no such pod");
    }

    #[test]
    fn nobody_there_is_said_with_the_method() {
        let error = call::<Text>(
            Path::new("/nowhere/socket"),
            "a.B/C",
            &Text::default(),
            Duration::from_secs(5),
        )
        .unwrap_err();
        assert!(error.to_string().contains("a.B/C at /nowhere"), "{error}");
    }
}
