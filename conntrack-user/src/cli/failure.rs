//! Errors as people read them: what happened, and what to do.

use ctpressure_journal::JournalError;
use ctpressure_model::command_line::{self, Failure};

use crate::{
    kernel::entries::EntriesError,
    limit::{controller::SetError, settings::SettingsError},
    probes::AttachError,
    serve::{http::ListenError, socket::SocketError},
};

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
            if let Some(error) = cause.downcast_ref::<SetError>() {
                return Some(error.help());
            }
            if cause.is::<SettingsError>() {
                return Some(SettingsError::HELP);
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
    command_line::explain("ctpressure", error, Some(help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_does_not_move_the_cursor() {
        let error = Failure {
            what: "it says \u{1b}[2J\r\u{9b}2J".to_owned(),
            help: "none".to_owned(),
        };
        let text = explain(&error.into());
        assert_eq!(
            text,
            "ctpressure: error: it says \u{fffd}[2J\u{fffd}\u{fffd}2J\nhelp: none\n"
        );
    }

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
