//! What the API's client says when something goes wrong.

use std::{
    error::Error,
    fmt::{self, Write as _},
};

use ctpressure_model::words::{NAME_BYTES, clean_within};

/// An error with its causes, each once, on one line of bounded length.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            let _: fmt::Result = write!(text, ": {said}");
        }
        next = cause.source();
    }
    clean_within(&text, NAME_BYTES)
}
