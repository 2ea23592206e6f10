//! The Grafana dashboard, made from the table of panels in [`panels`].

use serde_json::{Value, json};

mod panels;

use panels::{Kind, PANELS, Panel, Row};

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

/// Every query of the dashboard.
pub(super) fn queries() -> impl Iterator<Item = &'static str> {
    let variables = VARIABLES.iter().map(|(_, _, query)| *query);
    let panels = PANELS.iter().flat_map(|panel| panel.queries);
    variables.chain(panels.map(|(query, _)| *query))
}

/// The dashboard as Grafana imports it.
pub(super) fn json() -> String {
    let mut panels = Vec::new();
    let (mut x, mut y, mut row) = (0, 0, None);
    for (index, panel) in PANELS.iter().enumerate() {
        if row != Some(panel.row) {
            if row.is_some() {
                y += height(index - 1);
            }
            panels.push(row_panel(panel.row, panels.len() + 1, y));
            (x, y, row) = (0, y + 1, Some(panel.row));
        } else if x + panel.width > COLUMNS {
            (x, y) = (0, y + height(index - 1));
        }
        panels.push(one(panel, panels.len() + 1, x, y));
        x += panel.width;
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
        "panels": panels,
    });
    let mut text = serde_json::to_string_pretty(&dashboard).unwrap_or_default();
    text.push('\n');
    text
}

fn height(panel: usize) -> u32 {
    PANELS.get(panel).map_or(0, |panel| panel.kind.height())
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

fn row_panel(row: Row, id: usize, y: u32) -> Value {
    json!({
        "id": id, "type": "row", "title": row.title(), "collapsed": false, "panels": [],
        "gridPos": { "h": 1, "w": COLUMNS, "x": 0, "y": y },
    })
}

fn one(panel: &Panel, id: usize, x: u32, y: u32) -> Value {
    let table = panel.kind == Kind::Table;
    let now = panel.kind != Kind::Lines;
    let targets: Vec<Value> = ('A'..='Z')
        .zip(panel.queries)
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
    let mut steps = vec![json!({ "color": "green", "value": null })];
    if panel
        .thresholds
        .first()
        .is_some_and(|(value, _)| value.is_infinite())
    {
        steps.clear();
    }
    steps.extend(panel.thresholds.iter().map(|(value, color)| {
        let value = value.is_finite().then_some(*value);
        json!({ "color": color, "value": value })
    }));
    let mut drawn = json!({
        "id": id,
        "type": panel.kind.name(),
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
    if panel.kind == Kind::Lines && !panel.thresholds.is_empty() {
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
        let dashboard: Value = serde_json::from_str(&json()).unwrap();
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
        for panel in PANELS {
            assert!(!panel.description.is_empty() && !panel.unit.is_empty());
            assert!(!panel.queries.is_empty(), "{}", panel.title);
            for (query, legend) in panel.queries {
                assert!(panel.kind == Kind::Table || !legend.is_empty(), "{query}");
                // Rows below the first are about what was chosen.
                let chosen = query.contains("$node");
                assert_eq!(chosen, panel.row != Row::Cluster, "{query}");
            }
        }
    }
}
