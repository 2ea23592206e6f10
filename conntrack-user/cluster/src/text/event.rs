//! `watch`: one line of one agent.

use ctpressure_model::{
    events::{Event, text},
    words::shorten,
};

use super::{Look, WIDTH};

/// Columns of a node's name.
const NODE: usize = 20;

/// The line as text; `None`: it is no event that is known here.
pub(crate) fn line(node: &str, line: &str, look: Look) -> Option<String> {
    let event: Event = serde_json::from_str(line).ok()?;
    let node = shorten(node, NODE);
    let rest = text::line_within(&event, look.colour, WIDTH - NODE - 1);
    Some(format!("{node:<NODE$} {rest}"))
}

/// The line as JSON, with its node in front; `None`: it is no object.
pub(crate) fn json(node: &str, line: &str) -> Option<String> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).ok()?;
    // As the agent wrote it, also what is not known here.
    let rest = line.trim_start().strip_prefix('{')?.trim_start();
    let comma = if object.is_empty() { "" } else { "," };
    let node = serde_json::Value::from(node);
    Some(format!("{{\"node\":{node}{comma}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_keeps_what_is_not_known_here() {
        let told = json("n\"1", r#"{"kind":"later","x":[1]}"#).expect("an object");
        assert_eq!(told, r#"{"node":"n\"1","kind":"later","x":[1]}"#);
        assert_eq!(json("n", "{}").as_deref(), Some(r#"{"node":"n"}"#));
        for garbage in ["", "{", "[1]", "{} {}", "\u{1b}[2J"] {
            assert_eq!(json("n", garbage), None, "{garbage}");
            assert_eq!(line("n", garbage, Look { colour: false }), None);
        }
    }
}
