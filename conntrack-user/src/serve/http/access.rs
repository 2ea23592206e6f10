//! Who may ask, if not everybody: TLS with certificates, and tokens. They are in files, which are looked at again while the agent runs, so that
//! they can be changed under it, as Kubernetes and cert-manager do. What can't be used changes nothing: what was read before stays in force, and
//! `problems` says so.

use std::{
    cell::RefCell,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::HeaderMap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier},
};
use tokio_rustls::TlsAcceptor;

use super::{health::PortHealth, tokens::Tokens};

/// How often the files are looked at, while somebody comes.
const LOOK: Duration = Duration::from_secs(5);
/// Bytes of a file at most.
const FILE_BYTES: u64 = 1 << 20;

/// Where certificates and tokens are.
#[derive(Clone, Debug, Default)]
pub(crate) struct AccessFiles {
    /// The certificate with its chain, and its key; `None`: no TLS.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Authorities, of which one must have signed a client's certificate; `None`: clients need none.
    pub client_ca: Option<PathBuf>,
    /// Tokens, of which a client must have one; `None`: clients need none.
    pub tokens: Option<PathBuf>,
}

/// What is in the files can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessError {
    /// A file can't be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A file does not have what it should.
    #[error("{} is not {what} in PEM: {reason}", path.display())]
    Pem {
        path: PathBuf,
        what: &'static str,
        reason: String,
    },
    /// Certificate and key.
    #[error("{} and its key can't be used for TLS: {source}", path.display())]
    Identity {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    /// The authorities.
    #[error("{} can't be used to check certificates of clients: {source}", path.display())]
    Authorities {
        path: PathBuf,
        #[source]
        source: VerifierBuilderError,
    },
    /// The tokens.
    #[error("{} can't be used for tokens: {reason}", path.display())]
    Tokens { path: PathBuf, reason: String },
}

impl AccessError {
    /// What to do about it, for a person.
    pub(crate) fn help(&self) -> &'static str {
        match self {
            Self::Read { .. } => {
                "the thread that answers HTTP has no capability: the file has to be root's own, or readable by everybody"
            }
            Self::Pem { .. } | Self::Identity { .. } | Self::Authorities { .. } => {
                "`openssl x509 -in FILE -text` and `openssl pkey -in FILE` say what is in a file; a key has to be that of the first certificate"
            }
            Self::Tokens { .. } => {
                "write one token a line, of 16 or more characters, e.g. by `openssl rand -hex 32`"
            }
        }
    }
}

/// What is in force, and where it is from.
#[derive(Debug)]
pub(super) struct Access {
    files: AccessFiles,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    read: Read,
    stamps: Vec<Option<Stamp>>,
    looked: Instant,
    /// How often it was replaced.
    edition: u64,
}

/// What was read from the files.
struct Read {
    tls: Option<TlsAcceptor>,
    tokens: Option<Tokens>,
}

impl std::fmt::Debug for Read {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "TLS {}, {:?}", self.tls.is_some(), self.tokens)
    }
}

/// By what a file that was changed is told from what it was: changed, length, inode.
type Stamp = (i64, i64, u64, u64);

impl Access {
    /// Reads the files.
    ///
    /// # Errors
    /// If they can't be used.
    pub(super) fn new(files: AccessFiles) -> Result<Self, AccessError> {
        let state = RefCell::new(State {
            // Before they are read: a change meanwhile is one that is seen later.
            stamps: stamps(&files),
            looked: Instant::now(),
            edition: 0,
            read: read(&files)?,
        });
        Ok(Self { files, state })
    }

    /// A number that is another one when what is in force is. Looks at the files again, now and then.
    pub(super) fn edition(&self, health: &PortHealth) -> u64 {
        let mut state = self.state.borrow_mut();
        if state.looked.elapsed() >= LOOK {
            self.look(&mut state, health);
        }
        state.edition
    }

    /// What makes a connection secure, if it has to be.
    pub(super) fn tls(&self) -> Option<TlsAcceptor> {
        self.state.borrow().read.tls.clone()
    }

    fn look(&self, state: &mut State, health: &PortHealth) {
        state.looked = Instant::now();
        let stamps = stamps(&self.files);
        if stamps == state.stamps {
            return;
        }
        state.stamps = stamps;
        match read(&self.files) {
            Ok(read) => {
                state.read = read;
                state.edition += 1;
                health.set_problem(None);
                tracing::info!("certificates and tokens of the port were read again");
            }
            Err(error) => {
                tracing::warn!(%error, help = error.help(), "certificates and tokens stay as they were");
                health.set_problem(Some(format!(
                    "certificates and tokens of the port stay as they were: {error}"
                )));
            }
        }
    }

    /// Whether a request may have what not everybody may.
    pub(super) fn allows(&self, headers: &HeaderMap) -> bool {
        let state = self.state.borrow();
        let tokens = state.read.tokens.as_ref();
        tokens.is_none_or(|tokens| tokens.allow(headers))
    }
}

fn stamps(files: &AccessFiles) -> Vec<Option<Stamp>> {
    let identity = files.identity.iter().flat_map(|(cert, key)| [cert, key]);
    let all = identity.chain(&files.client_ca).chain(&files.tokens);
    all.map(|path| {
        let metadata = fs::metadata(path).ok()?;
        Some((
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.len(),
            metadata.ino(),
        ))
    })
    .collect()
}

fn read(files: &AccessFiles) -> Result<Read, AccessError> {
    let tls = match &files.identity {
        Some((cert, key)) => {
            let config = server_config(cert, key, files.client_ca.as_deref())?;
            Some(TlsAcceptor::from(Arc::new(config)))
        }
        None => None,
    };
    let tokens = match &files.tokens {
        Some(path) => {
            let wrong = |reason| AccessError::Tokens {
                path: path.clone(),
                reason,
            };
            let text = String::from_utf8(contents(path)?)
                .map_err(|_| wrong("it is not UTF-8".to_owned()))?;
            Some(Tokens::read(&text).map_err(wrong)?)
        }
        None => None,
    };
    Ok(Read { tls, tokens })
}

fn contents(path: &Path) -> Result<Vec<u8>, AccessError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(bytes),
        Err(source) => Err(AccessError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// All certificates in a file.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    let wrong = |reason: String| AccessError::Pem {
        path: path.to_owned(),
        what: "a certificate",
        reason,
    };
    let bytes = contents(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() {
        return Err(wrong("there is none in it".to_owned()));
    }
    Ok(found)
}

fn server_config(
    cert: &Path,
    key: &Path,
    client_ca: Option<&Path>,
) -> Result<ServerConfig, AccessError> {
    let chain = certificates(cert)?;
    let private = PrivateKeyDer::from_pem_slice(&contents(key)?);
    let private = private.map_err(|error| AccessError::Pem {
        path: key.to_owned(),
        what: "a private key",
        reason: error.to_string(),
    })?;
    let provider = Arc::new(ring::default_provider());
    let unusable = |source| AccessError::Identity {
        path: cert.to_owned(),
        source,
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority).map_err(|source| AccessError::Pem {
                    path: path.to_owned(),
                    what: "a certificate of an authority",
                    reason: source.to_string(),
                })?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|source| AccessError::Authorities {
                    path: path.to_owned(),
                    source,
                })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, private).map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Who comes anew is checked anew: no session outlives a certificate that was taken away.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
