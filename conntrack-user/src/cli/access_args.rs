//! Who may ask the agent by HTTP.

use std::path::PathBuf;

use clap::Args;

use crate::serve::http::AccessFiles;

/// By default everybody who can reach the port.
#[derive(Args, Debug)]
#[command(next_help_heading = "Access by HTTP")]
pub(super) struct AccessArgs {
    /// Speak TLS, with the certificate and its chain in this file (PEM), which may be replaced while the agent runs
    #[arg(
        long,
        env = "CTPRESSURE_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,
    /// The private key of that certificate (PEM)
    #[arg(
        long,
        env = "CTPRESSURE_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,
    /// Only for clients with a certificate that an authority in this file (PEM) has signed
    #[arg(
        long,
        env = "CTPRESSURE_TLS_CLIENT_CA",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_client_ca: Option<PathBuf>,
    /// /metrics and /status only for clients that send a token of this file (one a line) as `Authorization: Bearer TOKEN`
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
