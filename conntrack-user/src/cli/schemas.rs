//! The schemas in `deploy/schemas/` are those of what the commands print; those of `report` are held by its crate.

use ctpressure_model::events::Event;
use ctpressure_tests::schemas;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::Value;

use super::{contain::ContainDocument, health::HealthDocument, table::CensusDocument};
use crate::{
    census::EntryLine,
    doctor::DoctorReport,
    serve::{StatusPage, limit::LimitView, top::TopSample},
};

/// What `ctpressure status` shows as null of an owner where no probe counts it, by the type that has it.
const NOT_COUNTED: [(&str, &[&str]); 2] = [
    ("OwnerTotals", &["inserts", "deletes", "victims", "causes"]),
    (
        "Activity",
        &[
            "inserts_per_second",
            "insert_share",
            "deletes_per_second",
            "drops_per_second",
            "drop_share",
            "live_share",
        ],
    ),
];

fn schema<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

/// Of the status: what no probe counts is null there.
fn status() -> Value {
    let mut schema = schema::<StatusPage<'_>>();
    for (name, members) in NOT_COUNTED {
        for member in members {
            let place = format!("/$defs/{name}/properties/{member}");
            let found = schema.pointer_mut(&place).expect("a member");
            *found = serde_json::json!({ "anyOf": [found.take(), { "type": "null" }] });
        }
    }
    schema
}

#[test]
fn the_schemas_are_those_of_the_output() {
    schemas::hold("top", schema::<TopSample>());
    schemas::hold("watch", schema::<Event>());
    schemas::hold("table", schema::<CensusDocument>());
    schemas::hold("table-list", schema::<EntryLine>());
    schemas::hold("doctor", schema::<DoctorReport>());
    schemas::hold("contain", schema::<ContainDocument>());
    schemas::hold("limit", schema::<LimitView>());
    schemas::hold("status", status());
    schemas::hold("health", schema::<HealthDocument>());
}
