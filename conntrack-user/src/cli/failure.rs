//! Errors as people read them: what happened, and what to do.

use std::error::Error;

use ctpressure_journal::JournalError;
use ctpressure_model::command_line::{self, Failure};

use crate::{
    kernel::entries::EntriesError,
    limit::{controller::SetError, settings::SettingsError},
    probes::AttachError,
    serve::{
        http::{ListenError, ServeError},
        socket::SocketError,
    },
};

/// What an error of this type says to do.
fn help_of<'a, 'h, E: Error + 'static>(
    cause: &'a (dyn Error + 'static),
    help: impl FnOnce(&'a E) -> &'h str,
) -> Option<&'h str> {
    cause.downcast_ref().map(help)
}

/// `ctpressure: error: ...` and `help: ...`, each with its line end.
pub(super) fn explain(error: &anyhow::Error) -> String {
    let help = error
        .chain()
        .find_map(|cause| {
            help_of(cause, |failure: &Failure| failure.help.as_str())
                .or_else(|| help_of(cause, AttachError::help))
                .or_else(|| help_of(cause, EntriesError::help))
                .or_else(|| help_of(cause, SetError::help))
                .or_else(|| help_of(cause, |_: &SettingsError| SettingsError::HELP))
                .or_else(|| help_of(cause, ListenError::help))
                .or_else(|| help_of(cause, ServeError::help))
                .or_else(|| help_of(cause, JournalError::help))
                .or_else(|| help_of(cause, SocketError::help))
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
