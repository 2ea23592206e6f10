//! The Grafana dashboard, made from the panels in `deploy/grafana/panels.yaml`.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const PANELS: &str = include_str!("../../../deploy/grafana/panels.yaml");

/// How many columns Grafana has.
const COLUMNS: u32 = 24;

/// Queries of the variables: `label_values(QUERY, label)`.
const VARIABLES: &[(&str, &str, &str)] = &[
    ("node", "Node", "ctpressure_table_limit"),
    (
        "owner",
        "Owner",
        "node_owner:ctpressure_entries:sum{node=~\"$node\"}",
    ),
];

/// What is on the dashboard, row by row.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Panels {
    /// By name: a colour, and from which value on.
    thresholds: BTreeMap<String, Vec<(String, Option<f64>)>>,
    panels: Vec<Panel>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Panel {
    /// The title of its row.
    row: String,
    kind: PanelKind,
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

/// As Grafana calls it.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum PanelKind {
    Stat,
    Table,
    TimeSeries,
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

impl PanelKind {
    const fn height(self) -> u32 {
        match self {
            Self::Stat => 4,
            Self::Table | Self::TimeSeries => 8,
        }
    }

    fn options(self) -> Value {
        match self {
            Self::Stat => json!({
                "colorMode": "background",
                "graphMode": "none",
                "reduceOptions": { "calcs": ["lastNotNull"] },
            }),
            Self::Table => json!({ "showHeader": true, "cellHeight": "sm" }),
            Self::TimeSeries => json!({
                "legend": { "displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"] },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
        }
    }
}

impl Panels {
    fn read() -> Result<Self> {
        serde_saphyr::from_str(PANELS).context("read deploy/grafana/panels.yaml")
    }
}

/// Every query of the dashboard.
pub(super) fn queries() -> Result<Vec<String>> {
    let variables = VARIABLES.iter().map(|(_, _, query)| (*query).to_owned());
    let panels = Panels::read()?.panels.into_iter();
    let panels = panels.flat_map(|panel| panel.queries);
    Ok(variables.chain(panels.map(|(query, _)| query)).collect())
}

/// The dashboard as Grafana imports it.
pub(super) fn json() -> Result<String> {
    let Panels { thresholds, panels } = Panels::read()?;
    let mut drawn = Vec::new();
    let (mut x, mut y, mut before): (_, _, Option<&Panel>) = (0, 0, None);
    for panel in &panels {
        let height = before.map_or(0, |panel| panel.kind.height());
        if before.is_none_or(|before| before.row != panel.row) {
            y += height;
            drawn.push(row_panel(&panel.row, drawn.len() + 1, y));
            (x, y) = (0, y + 1);
        } else if x + panel.width > COLUMNS {
            (x, y) = (0, y + height);
        }
        let steps = thresholds
            .get(&panel.thresholds)
            .with_context(|| format!("no thresholds are called {}", panel.thresholds))?;
        drawn.push(one(panel, steps, drawn.len() + 1, x, y));
        x += panel.width;
        before = Some(panel);
    }
    let dashboard = json!({
        "uid": "ctpressure",
        "title": "ctpressure: conntrack tables",
        "description": "Which table fills, who fills it, who suffers.",
        "tags": ["conntrack", "network"],
        "schemaVersion": 39,
        "version": 1,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": { "from": "now-1h", "to": "now" },
        "timezone": "",
        "templating": { "list": variables() },
        "panels": drawn,
    });
    Ok(serde_json::to_string_pretty(&dashboard)? + "\n")
}

fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn variables() -> Vec<Value> {
    let mut list = vec![json!({
        "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus",
    })];
    list.extend(VARIABLES.iter().map(|(name, label, query)| {
        json!({
            "name": name,
            "label": label,
            "type": "query",
            "datasource": source(),
            "query": {
                "query": format!("label_values({query}, {name})"),
                "refId": "variable",
            },
            "refresh": 2,
            "sort": 1,
            "includeAll": true,
            "allValue": ".*",
            "multi": true,
            "current": { "text": "All", "value": "$__all" },
        })
    }));
    list
}

fn row_panel(title: &str, id: usize, y: u32) -> Value {
    json!({
        "id": id, "type": "row", "title": title, "collapsed": false, "panels": [],
        "gridPos": { "h": 1, "w": COLUMNS, "x": 0, "y": y },
    })
}

fn one(panel: &Panel, steps: &[(String, Option<f64>)], id: usize, x: u32, y: u32) -> Value {
    let table = panel.kind == PanelKind::Table;
    let now = panel.kind != PanelKind::TimeSeries;
    let targets: Vec<Value> = ('A'..='Z')
        .zip(&panel.queries)
        .map(|(name, (query, legend))| {
            json!({
                "refId": name.to_string(),
                "datasource": source(),
                "expr": query,
                "legendFormat": legend,
                "instant": now,
                "range": !now,
                "format": if table { "table" } else { "time_series" },
            })
        })
        .collect();
    let steps = steps.iter();
    let steps: Vec<Value> = steps
        .map(|(color, value)| json!({ "color": color, "value": value }))
        .collect();
    let mut drawn = json!({
        "id": id,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": source(),
        "gridPos": { "h": panel.kind.height(), "w": panel.width, "x": x, "y": y },
        "targets": targets,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "thresholds": { "mode": "absolute", "steps": steps },
                "noValue": panel.none,
            },
            "overrides": [],
        },
        "options": panel.kind.options(),
    });
    if panel.kind == PanelKind::TimeSeries && panel.thresholds != "none" {
        drawn["fieldConfig"]["defaults"]["custom"] =
            json!({ "thresholdsStyle": { "mode": "line" } });
    }
    if table {
        drawn["transformations"] = json!([
            { "id": "organize", "options": { "excludeByName": { "Time": true } } },
        ]);
    }
    drawn
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
        for panel in Panels::read().unwrap().panels {
            assert!(!panel.description.is_empty() && !panel.unit.is_empty());
            assert!(!panel.queries.is_empty(), "{}", panel.title);
            for (query, legend) in &panel.queries {
                assert!(
                    panel.kind == PanelKind::Table || !legend.is_empty(),
                    "{query}"
                );
                // Rows below the first are about what was chosen.
                let chosen = query.contains("$node");
                assert_eq!(chosen, panel.row != "Cluster", "{query}");
            }
        }
    }
}
