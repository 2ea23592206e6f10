//! Errors as people read them: what happened, and what to do.

use crate::{
    journal::JournalError,
    kernel::entries::EntriesError,
    probes::AttachError,
    serve::{http::ListenError, socket::SocketError},
};

/// An error with advice.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    /// What went wrong.
    pub what: String,
    /// What to do about it.
    pub help: String,
}

/// `ctpressure: error: ...` and `help: ...`, each with its line end.
pub(super) fn explain(error: &anyhow::Error) -> String {
    let help = error
        .chain()
        .find_map(|cause| {
            if let Some(failure) = cause.downcast_ref::<Failure>() {
                return Some(failure.help.as_str());
            }
            if let Some(error) = cause.downcast_ref::<AttachError>() {
                return Some(error.help());
            }
            if let Some(error) = cause.downcast_ref::<EntriesError>() {
                return Some(error.help());
            }
            if let Some(error) = cause.downcast_ref::<ListenError>() {
                return Some(error.help());
            }
            if let Some(error) = cause.downcast_ref::<JournalError>() {
                return Some(error.help());
            }
            cause.downcast_ref::<SocketError>().map(SocketError::help)
        })
        .unwrap_or("please report this with the output of `uname -a`");
    // Messages of the library carry their cause themselves, so only the outermost is shown.
    format!("ctpressure: error: {error}\nhelp: {help}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_to_do() {
        let error = anyhow::Error::from(AttachError::NotLoaded).context("cannot watch");
        let text = explain(&error);
        assert!(
            text.starts_with("ctpressure: error: cannot watch\nhelp: it is loaded"),
            "{text}"
        );
        assert!(text.ends_with('\n'));
    }
}
