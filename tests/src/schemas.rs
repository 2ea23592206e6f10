//! The JSON schemas in `deploy/schemas/`, one for each form of `-o json`: made of the types that are printed ([`hold`]), and what is printed
//! is held against them ([`fault`]). A member that a schema does not have is a fault.

use std::{collections::BTreeSet, env, fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};

/// Set to 1, [`hold`] writes the files.
const WRITE: &str = "CTPRESSURE_WRITE_SCHEMAS";

/// Each form of output, and its schema.
const SCHEMAS: &[(&str, &str)] = &[
    ("contain", include_str!("../../deploy/schemas/contain.json")),
    ("doctor", include_str!("../../deploy/schemas/doctor.json")),
    ("health", include_str!("../../deploy/schemas/health.json")),
    (
        "incidents",
        include_str!("../../deploy/schemas/incidents.json"),
    ),
    ("limit", include_str!("../../deploy/schemas/limit.json")),
    ("report", include_str!("../../deploy/schemas/report.json")),
    ("status", include_str!("../../deploy/schemas/status.json")),
    ("table", include_str!("../../deploy/schemas/table.json")),
    (
        "table-list",
        include_str!("../../deploy/schemas/table-list.json"),
    ),
    ("top", include_str!("../../deploy/schemas/top.json")),
    ("watch", include_str!("../../deploy/schemas/watch.json")),
];

/// Each form that there is.
pub fn forms() -> impl Iterator<Item = &'static str> {
    SCHEMAS.iter().map(|(form, _)| *form)
}

/// What is wrong with a value by the schema of this form; `None`: nothing.
///
/// # Errors
/// If there is no such schema, or it is none.
pub fn fault(form: &str, value: &Value) -> Result<Option<String>> {
    let (_, text) = SCHEMAS
        .iter()
        .find(|(name, _)| *name == form)
        .with_context(|| format!("no schema {form}"))?;
    let schema: Value = serde_json::from_str(text).context("a schema is JSON")?;
    let validator = jsonschema::validator_for(&schema)?;
    let faults: Vec<String> = validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    Ok((!faults.is_empty()).then(|| faults.join("\n")))
}

/// For tests: the value passes.
///
/// # Panics
/// With what is wrong, if it does not.
pub fn assert_passes(form: &str, value: &Value) {
    let fault = fault(form, value).expect("a schema");
    assert_eq!(fault, None, "{form}: {value}");
}

/// The form of what a command line of `ctpressure` prints, by its words; `None`: no JSON.
pub fn form(words: &[&str]) -> Option<&'static str> {
    let has = |word: &str| words.contains(&word);
    let json = words.windows(2).any(|two| two == ["-o", "json"]);
    match *words.first()? {
        "status" => Some("status"),
        _ if !json => None,
        "contain" => Some("contain"),
        "doctor" => Some("doctor"),
        "health" => Some("health"),
        "limit" => Some("limit"),
        "report" if has("--since") || has("--incident") => Some("report"),
        "report" => Some("incidents"),
        "table" if has("--list") => Some("table-list"),
        "table" => Some("table"),
        "top" => Some("top"),
        "watch" => Some("watch"),
        _ => None,
    }
}

/// Compares the schema of a form, as it follows from its types, with the file.
///
/// # Panics
/// When they differ, with the command that writes the file.
pub fn hold(form: &str, schema: Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy/schemas")
        .join(form)
        .with_extension("json");
    // Descriptions are the types' own, which speak of Rust.
    let made = format!("{:#}\n", closed(schema)).replace("`None`", "null");
    if env::var(WRITE).is_ok_and(|value| value == "1") {
        fs::write(&path, made).expect("the schema can be written");
        return;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == made,
        "deploy/schemas/{form}.json is not what is printed: write it by running this test with {WRITE}=1"
    );
}

/// The schema that takes no member that it does not have. Where one is made of another and some members (a tagged variant, a flattened
/// choice), the whole is closed, and not its parts, which would refuse the others.
fn closed(mut schema: Value) -> Value {
    let mut parts = BTreeSet::new();
    find_parts(&schema, &mut parts);
    close(&mut schema, "#", &parts, false);
    schema
}

/// Keywords whose schemas describe the same object.
const CHOICES: [&str; 3] = ["allOf", "anyOf", "oneOf"];

fn find_parts(value: &Value, parts: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            if object.contains_key("properties") {
                let reference = |value: &Value| value.get("$ref")?.as_str().map(str::to_owned);
                parts.extend(reference(value));
                let choices = CHOICES
                    .iter()
                    .filter_map(|name| object.get(*name)?.as_array());
                parts.extend(choices.flatten().filter_map(reference));
            }
            object.values().for_each(|value| find_parts(value, parts));
        }
        Value::Array(list) => list.iter().for_each(|value| find_parts(value, parts)),
        _ => {}
    }
}

fn close(value: &mut Value, place: &str, parts: &BTreeSet<String>, is_part: bool) {
    match value {
        Value::Object(object) => {
            let is_whole = object.contains_key("properties");
            for (name, value) in object.iter_mut() {
                let is_part = is_whole && CHOICES.contains(&name.as_str());
                close(value, &format!("{place}/{name}"), parts, is_part);
            }
            if is_open(object) && !is_part && !parts.contains(place) {
                object.insert("unevaluatedProperties".into(), false.into());
            }
        }
        Value::Array(list) => {
            for value in list {
                close(value, place, parts, is_part);
            }
        }
        _ => {}
    }
}

/// Whether it describes an object's members, and says nothing of others.
fn is_open(object: &Map<String, Value>) -> bool {
    object.get("properties").is_some_and(Value::is_object)
        && object.get("type").is_some_and(|of| *of == "object")
        && !object.contains_key("additionalProperties")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_described_is_refused() {
        let schema = json!({
            "type": "object",
            "properties": { "inner": { "$ref": "#/$defs/Inner" }, "event": { "oneOf": [
                { "type": "object", "$ref": "#/$defs/Part", "properties": { "kind": { "const": "a" } }, "required": ["kind"] },
            ] } },
            "$defs": {
                "Inner": { "type": "object", "properties": { "a": { "type": "integer" } } },
                "Part": { "type": "object", "properties": { "b": { "type": "integer" } } },
            },
        });
        let validator = jsonschema::validator_for(&closed(schema)).expect("a schema");
        let takes = |value: Value| validator.is_valid(&value);
        assert!(takes(
            json!({ "inner": { "a": 1 }, "event": { "kind": "a", "b": 2 } })
        ));
        assert!(!takes(json!({ "inner": { "a": 1, "c": 1 } })));
        assert!(!takes(json!({ "event": { "kind": "a", "c": 2 } })));
        assert!(!takes(json!({ "other": 1 })));
        let flattened = json!({
            "type": "object",
            "properties": { "entries": { "type": "integer" } },
            "oneOf": [
                { "type": "object", "properties": { "kind": { "const": "held" } }, "required": ["kind"] },
                { "type": "object", "properties": { "kind": { "const": "flood" }, "who": {} }, "required": ["kind", "who"] },
            ],
        });
        let validator = jsonschema::validator_for(&closed(flattened)).expect("a schema");
        assert!(validator.is_valid(&json!({ "entries": 1, "kind": "held" })));
        assert!(!validator.is_valid(&json!({ "entries": 1, "kind": "held", "who": 1 })));
        assert!(
            !validator.is_valid(&json!({ "entries": 1, "kind": "flood", "who": 1, "other": 1 }))
        );
    }

    #[test]
    fn each_form_has_a_schema_that_refuses_something() {
        for (form, _) in SCHEMAS {
            let fault = fault(form, &json!({ "nobody": "prints this" })).expect("a schema");
            assert!(fault.is_some(), "{form}");
        }
        assert!(fault("nothing", &json!({})).is_err());
    }

    #[test]
    fn a_command_line_has_its_form() {
        let of = |line: &str| form(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(of("top --once -o json"), Some("top"));
        assert_eq!(
            of("table --list -o json --state syn_sent"),
            Some("table-list")
        );
        assert_eq!(
            of("report --since 03:00 --until 03:30 -o json"),
            Some("report")
        );
        assert_eq!(of("status"), Some("status"));
        assert_eq!(of("top --once"), None);
    }
}
