use std::{path::Path, process::Command};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tempfile::TempDir;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    kept::{SPACE, ask},
    *,
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A folder with certificates, made by OpenSSL.
struct Certificates(TempDir);

impl Certificates {
    /// An authority, and certificates of it for a server and a client.
    fn new() -> Self {
        let made = Self(tempfile::tempdir().expect("a folder"));
        made.openssl(&format!(
            "req -x509 {KEY} ca.key -out ca.crt -days 2 -subj /CN=authority"
        ));
        made.certify("server");
        made.certify("client");
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn certify(&self, name: &str) {
        fs::write(self.path("extensions"), "subjectAltName=IP:127.0.0.1\n").expect("a file");
        self.openssl(&format!(
            "req {KEY} {name}.key -out request -subj /CN={name}"
        ));
        self.openssl(&format!(
            "x509 -req -in request -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out {name}.crt"
        ));
    }

    fn openssl(&self, arguments: &str) {
        let made = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(self.0.path())
            .output()
            .expect("openssl: `apt-get install openssl`");
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "openssl {arguments}: {said}");
    }

    fn files(&self) -> AccessFiles {
        AccessFiles {
            identity: Some((self.path("server.crt"), self.path("server.key"))),
            ..AccessFiles::default()
        }
    }

    /// A client that trusts the authority, and has a certificate if `as_client`.
    fn connector(&self, as_client: bool) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots
            .add(certificate(&self.path("ca.crt")))
            .expect("an authority");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = if as_client {
            let key = PrivateKeyDer::from_pem_file(self.path("client.key")).expect("a key");
            let chain = vec![certificate(&self.path("client.crt"))];
            config
                .with_client_auth_cert(chain, key)
                .expect("a certificate")
        } else {
            config.with_no_client_auth()
        };
        TlsConnector::from(Arc::new(config))
    }
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout";

fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).expect("a certificate")
}

async fn connect_by_tls(
    connector: &TlsConnector,
    address: SocketAddr,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::IpAddress(address.ip().into());
    connector.connect(name, stream).await
}

/// What is answered, and by whom.
async fn get_by_tls(
    connector: &TlsConnector,
    address: SocketAddr,
    path: &str,
) -> io::Result<(String, CertificateDer<'static>)> {
    let mut stream = connect_by_tls(connector, address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let presented = stream.get_ref().1.peer_certificates();
    let presented = presented.and_then(<[_]>::first).expect("a certificate");
    Ok((answer, presented.clone().into_owned()))
}

#[tokio::test]
async fn by_tls_and_not_without() {
    let made = Certificates::new();
    served_to(Some(long()), made.files(), |address, _, _| async move {
        let connector = made.connector(false);
        let (answer, _) = get_by_tls(&connector, address, "/metrics")
            .await
            .expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(
            answer.len() > 1_000_000 && answer.ends_with('\n'),
            "{}",
            answer.len()
        );
        let plain = TcpStream::connect(address).await.expect("a connection");
        let (mut reader, mut writer) = plain.into_split();
        drop(
            writer
                .write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n")
                .await,
        );
        let mut answer = Vec::new();
        drop(reader.read_to_end(&mut answer).await);
        assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    })
    .await;
}

#[tokio::test]
async fn a_client_needs_a_certificate_if_one_is_asked_for() {
    let made = Certificates::new();
    let files = AccessFiles {
        client_ca: Some(made.path("ca.crt")),
        ..made.files()
    };
    served_to(Some(full()), files, |address, _, _| async move {
        let (answer, _) = get_by_tls(&made.connector(true), address, "/metrics")
            .await
            .expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let refused = get_by_tls(&made.connector(false), address, "/metrics").await;
        assert!(refused.is_err(), "{refused:?}");
        let stranger = Certificates::new();
        let mut config = made.connector(false);
        let other = stranger.connector(true);
        let theirs = Arc::clone(&other.config().client_auth_cert_resolver);
        let mut trusted = ClientConfig::clone(config.config());
        trusted.client_auth_cert_resolver = theirs;
        config = TlsConnector::from(Arc::new(trusted));
        let refused = get_by_tls(&config, address, "/metrics").await;
        assert!(refused.is_err(), "of another authority: {refused:?}");
    })
    .await;
}

#[tokio::test]
async fn by_tls_too_a_connection_is_kept_and_ends_well() {
    let made = Certificates::new();
    let idle = Duration::from_secs(3);
    served_for(
        idle,
        Some(long()),
        made.files(),
        |address, _, health| async move {
            let mut stream = connect_by_tls(&made.connector(false), address)
                .await
                .expect("a connection");
            for _ in 0..2 {
                let answer = ask(&mut stream, "GET /metrics HTTP/1.1").await;
                assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
                assert!(answer.ends_with('\n'), "all of it");
                sleep(SPACE).await;
            }
            let read = timeout(2 * idle, stream.read(&mut [0])).await;
            let read = read.expect("it ends").map_err(|error| error.to_string());
            assert_eq!(
                read,
                Ok(0),
                "TLS says that this is the end, and nothing is cut off"
            );
            assert_eq!(health.status(), PortStatus::default());
        },
    )
    .await;
}

#[tokio::test]
async fn who_was_let_in_by_what_is_no_longer_in_force_has_to_come_anew() {
    let made = Certificates::new();
    let files = AccessFiles {
        client_ca: Some(made.path("ca.crt")),
        ..made.files()
    };
    served_to(Some(full()), files, |address, _, health| async move {
        let mut stream = connect_by_tls(&made.connector(true), address)
            .await
            .expect("a connection");
        let answer = ask(&mut stream, "GET /metrics HTTP/1.1").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let other = Certificates::new();
        fs::copy(other.path("ca.crt"), made.path("ca.crt")).expect("another authority");
        let begin = Instant::now();
        loop {
            sleep(SPACE).await;
            let answer = ask(&mut stream, "GET /metrics HTTP/1.1").await;
            if answer.is_empty() {
                break;
            }
            assert!(!answer.contains("connection: close"), "{answer}");
            assert!(begin.elapsed() < Duration::from_secs(30), "still let in");
        }
        assert_eq!(health.status(), PortStatus::default());
    })
    .await;
}

#[tokio::test]
async fn a_token_is_needed_for_what_not_everybody_may_know() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokens");
    fs::write(&path, format!("{TOKEN}\n")).expect("a file");
    let files = AccessFiles {
        tokens: Some(path),
        ..AccessFiles::default()
    };
    served_to(Some(full()), files, |address, _, _| async move {
        for path in ["/metrics", "/status"] {
            let answer = get(address, path).await;
            assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
            assert!(answer.contains("www-authenticate: Bearer"), "{answer}");
            assert!(!answer.contains("ctpressure_"), "{answer}");
            for (token, status) in [(TOKEN, 200), ("0123456789abcdef", 401)] {
                let request = format!(
                    "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
                );
                let answer = talk(address, request.as_bytes()).await;
                assert!(
                    answer.starts_with(&format!("HTTP/1.1 {status} ")),
                    "{answer}"
                );
            }
        }
        for path in ["/healthz", "/readyz"] {
            assert!(
                get(address, path).await.starts_with("HTTP/1.1 200 "),
                "{path}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_replaced_is_read_again_and_what_is_wrong_changes_nothing() {
    let made = Certificates::new();
    served_to(
        Some(full()),
        made.files(),
        |address, _, health| async move {
            let connector = made.connector(false);
            let begin = Instant::now();
            let presented = async || {
                let answered = get_by_tls(&connector, address, "/healthz").await;
                answered.expect("an answer").1
            };
            let first = certificate(&made.path("server.crt"));
            assert_eq!(presented().await, first);
            made.certify("server");
            let second = certificate(&made.path("server.crt"));
            assert_ne!(first, second);
            while presented().await != second {
                assert!(
                    begin.elapsed() < Duration::from_secs(30),
                    "never read again"
                );
                sleep(Duration::from_millis(200)).await;
            }
            assert_eq!(health.status().problem, None);
            fs::write(made.path("server.key"), "half a fi").expect("a file");
            while health.status().problem.is_none() {
                assert!(begin.elapsed() < Duration::from_mins(1), "never said");
                assert_eq!(presented().await, second, "what was read stays in force");
                sleep(Duration::from_millis(200)).await;
            }
            assert_eq!(presented().await, second);
            made.certify("server");
            while health.status().problem.is_some() {
                assert!(begin.elapsed() < Duration::from_mins(2), "never put right");
                presented().await;
                sleep(Duration::from_millis(200)).await;
            }
        },
    )
    .await;
}

#[test]
fn what_can_not_be_used_is_said_before_anybody_is_answered() {
    let made = Certificates::new();
    let other = Certificates::new();
    fs::write(made.path("empty"), "").expect("a file");
    let identity = |cert: PathBuf, key: PathBuf| AccessFiles {
        identity: Some((cert, key)),
        ..AccessFiles::default()
    };
    let (cert, key) = (made.path("server.crt"), made.path("server.key"));
    for (files, word) in [
        (identity(made.path("none"), key.clone()), "cannot read"),
        (
            identity(made.path("empty"), key.clone()),
            "not a certificate",
        ),
        (
            identity(cert.clone(), made.path("empty")),
            "not a private key",
        ),
        (
            identity(cert.clone(), other.path("server.key")),
            "can't be used for TLS",
        ),
        (
            AccessFiles {
                client_ca: Some(made.path("empty")),
                ..identity(cert, key)
            },
            "not a certificate",
        ),
        (
            AccessFiles {
                tokens: Some(made.path("empty")),
                ..AccessFiles::default()
            },
            "no token",
        ),
    ] {
        let (_, handle) = channel();
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let exporter = Exporter::new(handle.clone(), Companions::default(), false).expect("one");
        let started = Server::start(
            listener,
            Pages::new(handle, exporter),
            files,
            Arc::default(),
            IDLE_TIME,
        );
        let error = started.expect_err("it can't be used");
        assert!(error.to_string().contains(word), "{error}");
        assert!(!error.help().is_empty());
    }
}
