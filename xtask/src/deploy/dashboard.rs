//! The Grafana dashboard, made from `deploy/grafana/panels.yaml`.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Map, Value, json};

const PANELS: &str = include_str!("../../../deploy/grafana/panels.yaml");

/// How many columns Grafana has.
const COLUMNS: u32 = 24;

/// What is on the dashboard, row by row.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DashboardFile {
    /// What it is besides, as Grafana has it.
    dashboard: Value,
    /// Name, title and query: `label_values(QUERY, name)`.
    variables: Vec<(String, String, String)>,
    variable: Map<String, Value>,
    kinds: BTreeMap<String, PanelKind>,
    /// By name: a colour, and from which value on.
    thresholds: BTreeMap<String, Vec<(String, Option<f64>)>>,
    panels: Vec<Panel>,
}

/// What panels of a kind have in common.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PanelKind {
    height: u32,
    query: Map<String, Value>,
    panel: Map<String, Value>,
    /// How thresholds are shown, besides by colours.
    thresholds: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Panel {
    /// The title of its row.
    row: String,
    /// As Grafana calls it.
    kind: String,
    title: String,
    description: String,
    /// Grafana's name of the unit.
    #[serde(default = "short")]
    unit: String,
    #[serde(default = "half")]
    width: u32,
    /// Queries, each with its legend.
    queries: Vec<(String, String)>,
    #[serde(default = "none")]
    thresholds: String,
    /// Shown where there is no value.
    #[serde(default = "none")]
    none: String,
}

fn short() -> String {
    "short".to_owned()
}

const fn half() -> u32 {
    COLUMNS / 2
}

fn none() -> String {
    "none".to_owned()
}

impl DashboardFile {
    fn read() -> Result<Self> {
        serde_saphyr::from_str(PANELS).context("read deploy/grafana/panels.yaml")
    }
}

/// Every query of the dashboard.
pub(super) fn queries() -> Result<Vec<String>> {
    let DashboardFile {
        variables, panels, ..
    } = DashboardFile::read()?;
    let variables = variables.into_iter().map(|(_, _, query)| query);
    let panels = panels.into_iter().flat_map(|panel| panel.queries);
    Ok(variables.chain(panels.map(|(query, _)| query)).collect())
}

/// The dashboard as Grafana imports it.
pub(super) fn json() -> Result<String> {
    let mut all = DashboardFile::read()?;
    let mut drawn = Vec::new();
    let (mut x, mut y) = (0, 0);
    let mut before: Option<(&Panel, &PanelKind)> = None;
    for panel in &all.panels {
        let kind = all.kinds.get(&panel.kind);
        let kind = kind.with_context(|| format!("no kind of panel is called {}", panel.kind))?;
        let height = before.map_or(0, |(_, kind)| kind.height);
        if before.is_none_or(|(before, _)| before.row != panel.row) {
            y += height;
            drawn.push(row_panel(&panel.row, drawn.len() + 1, y));
            (x, y) = (0, y + 1);
        } else if x + panel.width > COLUMNS {
            (x, y) = (0, y + height);
        }
        let steps = all.thresholds.get(&panel.thresholds);
        let steps =
            steps.with_context(|| format!("no thresholds are called {}", panel.thresholds))?;
        drawn.push(one(panel, kind, steps, drawn.len() + 1, x, y));
        x += panel.width;
        before = Some((panel, kind));
    }
    let variables = all.dashboard["templating"]["list"].as_array_mut();
    let variables = variables.context("the dashboard has no list of variables")?;
    variables.extend(all.variables.iter().map(|(name, label, query)| {
        let query = format!("label_values({query}, {name})");
        let own = json!({
            "name": name, "label": label, "query": { "query": query, "refId": "variable" },
        });
        joined(&all.variable, own)
    }));
    all.dashboard["panels"] = drawn.into();
    Ok(serde_json::to_string_pretty(&all.dashboard)? + "\n")
}

/// What all of a kind have, with what one of them has.
fn joined(common: &Map<String, Value>, own: Value) -> Value {
    let mut fields = common.clone();
    if let Value::Object(own) = own {
        fields.extend(own);
    }
    fields.into()
}

fn row_panel(title: &str, id: usize, y: u32) -> Value {
    json!({
        "id": id, "type": "row", "title": title, "collapsed": false, "panels": [],
        "gridPos": { "h": 1, "w": COLUMNS, "x": 0, "y": y },
    })
}

fn one(
    panel: &Panel,
    kind: &PanelKind,
    steps: &[(String, Option<f64>)],
    id: usize,
    x: u32,
    y: u32,
) -> Value {
    let targets: Vec<Value> = ('A'..='Z')
        .zip(&panel.queries)
        .map(|(name, (query, legend))| {
            let own = json!({ "refId": name.to_string(), "expr": query, "legendFormat": legend });
            joined(&kind.query, own)
        })
        .collect();
    let steps: Vec<Value> = steps
        .iter()
        .map(|(color, value)| json!({ "color": color, "value": value }))
        .collect();
    let mut defaults = json!({
        "unit": panel.unit,
        "thresholds": { "mode": "absolute", "steps": steps },
        "noValue": panel.none,
    });
    if let Some(style) = kind
        .thresholds
        .as_ref()
        .filter(|_| panel.thresholds != "none")
    {
        defaults["custom"] = json!({ "thresholdsStyle": style });
    }
    let own = json!({
        "id": id,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "gridPos": { "h": kind.height, "w": panel.width, "x": x, "y": y },
        "targets": targets,
        "fieldConfig": { "defaults": defaults, "overrides": [] },
    });
    joined(&kind.panel, own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_have_their_own_places() {
        let dashboard: Value = serde_json::from_str(&json().unwrap()).unwrap();
        let mut taken = std::collections::HashSet::new();
        let mut identities = std::collections::HashSet::new();
        let panels = dashboard["panels"].as_array().unwrap();
        for panel in panels {
            assert!(identities.insert(panel["id"].as_u64().unwrap()));
            let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
            assert!(place("x") + place("w") <= u64::from(COLUMNS), "{panel}");
            for x in place("x")..place("x") + place("w") {
                for y in place("y")..place("y") + place("h") {
                    assert!(taken.insert((x, y)), "{panel}");
                }
            }
        }
        let rows = panels.iter().filter(|panel| panel["type"] == "row");
        let titles: Vec<&str> = rows.map(|row| row["title"].as_str().unwrap()).collect();
        assert_eq!(
            titles,
            ["Cluster", "Node: $node", "Owner: $owner", "The agent"]
        );
    }

    #[test]
    fn each_panel_says_what_it_shows_and_in_which_unit() {
        for panel in DashboardFile::read().unwrap().panels {
            assert!(!panel.description.is_empty() && !panel.unit.is_empty());
            assert!(!panel.queries.is_empty(), "{}", panel.title);
            for (query, legend) in &panel.queries {
                assert!(panel.kind == "table" || !legend.is_empty(), "{query}");
                // Rows below the first are about what was chosen.
                let chosen = query.contains("$node");
                assert_eq!(chosen, panel.row != "Cluster", "{query}");
            }
        }
    }
}
