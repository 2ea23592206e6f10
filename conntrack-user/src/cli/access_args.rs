//! Who may ask the agent by HTTP.

use std::path::PathBuf;

use clap::Args;

use crate::serve::http::AccessFiles;

/// By default everybody who can reach the port.
#[derive(Args, Debug)]
#[command(next_help_heading = "Access by HTTP")]
pub(super) struct AccessArgs {
    /// Serve TLS with the certificate chain in this file (PEM); reloaded when it changes
    #[arg(
        long,
        env = "CTPRESSURE_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,
    /// Private key of that certificate (PEM)
    #[arg(
        long,
        env = "CTPRESSURE_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,
    /// Require a client certificate signed by an authority in this file (PEM)
    #[arg(
        long,
        env = "CTPRESSURE_TLS_CLIENT_CA",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_client_ca: Option<PathBuf>,
    /// Require a token from this file (one per line) for /metrics and /status, as `Authorization: Bearer TOKEN`
    #[arg(long, env = "CTPRESSURE_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl AccessArgs {
    /// The files that were named.
    pub(super) fn files(&self) -> AccessFiles {
        if self.token_file.is_some() && self.tls_cert.is_none() {
            tracing::warn!(
                "tokens are sent in the clear without --tls-cert: whoever can read the traffic has them"
            );
        }
        AccessFiles {
            identity: self.tls_cert.clone().zip(self.tls_key.clone()),
            client_ca: self.tls_client_ca.clone(),
            tokens: self.token_file.clone(),
        }
    }
}
