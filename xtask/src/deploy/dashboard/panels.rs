//! What is on the dashboard, row by row.

use serde_json::{Value, json};

/// A row of panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    Cluster,
    Node,
    Owner,
    Agent,
}

impl Row {
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::Node => "Node: $node",
            Self::Owner => "Owner: $owner",
            Self::Agent => "The agent",
        }
    }
}

/// How a panel looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One number.
    Number,
    /// A list, now.
    Table,
    /// Lines over time.
    Lines,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Number => "stat",
            Self::Table => "table",
            Self::Lines => "timeseries",
        }
    }

    pub(super) const fn height(self) -> u32 {
        match self {
            Self::Number => 4,
            Self::Table | Self::Lines => 8,
        }
    }

    pub(super) fn options(self) -> Value {
        match self {
            Self::Number => json!({
                "colorMode": "background",
                "graphMode": "none",
                "reduceOptions": { "calcs": ["lastNotNull"] },
            }),
            Self::Table => json!({ "showHeader": true, "cellHeight": "sm" }),
            Self::Lines => json!({
                "legend": { "displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"] },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
        }
    }
}

/// One panel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panel {
    pub(super) row: Row,
    pub(super) kind: Kind,
    pub(super) title: &'static str,
    pub(super) description: &'static str,
    /// Grafana's name of the unit.
    pub(super) unit: &'static str,
    /// Of 24 columns.
    pub(super) width: u32,
    /// Queries, each with its legend.
    pub(super) queries: &'static [(&'static str, &'static str)],
    /// From which value on which colour; below the first green, unless that is for everything.
    pub(super) thresholds: &'static [(f64, &'static str)],
    /// Shown where there is no value.
    pub(super) none: &'static str,
}

const RATIO: &[(f64, &str)] = &[(0.5, "yellow"), (0.75, "orange"), (0.95, "red")];
const ANY: &[(f64, &str)] = &[(0.001, "red")];
/// Little time is worse.
const TIME: &[(f64, &str)] = &[
    (f64::NEG_INFINITY, "red"),
    (300.0, "orange"),
    (1800.0, "green"),
];

const BASE: Panel = Panel {
    row: Row::Cluster,
    kind: Kind::Lines,
    title: "",
    description: "",
    unit: "short",
    width: 12,
    queries: &[],
    thresholds: &[],
    none: "none",
};

/// All of them, in their order.
pub(super) const PANELS: &[Panel] = &[
    Panel {
        kind: Kind::Number,
        title: "First table full in",
        description: "The least time until any table of the cluster is full, at its present slope.",
        unit: "s",
        width: 6,
        queries: &[("min(ctpressure_table_seconds_to_full)", "time")],
        thresholds: TIME,
        none: "none fills",
        ..BASE
    },
    Panel {
        kind: Kind::Number,
        title: "Fullest table",
        description: "Entries of the fullest table of the cluster against its limit.",
        unit: "percentunit",
        width: 6,
        queries: &[("max(node_netns:ctpressure_table:ratio)", "occupancy")],
        thresholds: RATIO,
        ..BASE
    },
    Panel {
        kind: Kind::Number,
        title: "Packets dropped, last 5 min",
        description: "Packets lost because of conntrack, for whatever reason.",
        width: 6,
        queries: &[(
            "sum(node_owner_reason:ctpressure_drops:increase5m)",
            "packets",
        )],
        thresholds: ANY,
        ..BASE
    },
    Panel {
        kind: Kind::Number,
        title: "Nodes with an agent",
        description: "Nodes whose agent answers.",
        width: 6,
        queries: &[("sum(up{job=\"ctpressure\"})", "nodes")],
        ..BASE
    },
    Panel {
        kind: Kind::Table,
        title: "Tables that fill, soonest first",
        description: "Tables that have a forecast: seconds until they are full.",
        unit: "s",
        width: 8,
        queries: &[(
            "sort(bottomk(20, min by (node, netns) (ctpressure_table_seconds_to_full)))",
            "",
        )],
        thresholds: TIME,
        ..BASE
    },
    Panel {
        kind: Kind::Table,
        title: "Who holds most",
        description: "Pods and units of the whole cluster by their entries.",
        width: 8,
        queries: &[(
            "sort_desc(topk(20, sum by (owner, node) (node_owner:ctpressure_entries:sum)))",
            "",
        )],
        ..BASE
    },
    Panel {
        kind: Kind::Table,
        title: "Who loses packets",
        description: "Owners whose packets were dropped in the last five minutes.",
        width: 8,
        queries: &[(
            "sort_desc(topk(20, sum by (owner, node, reason) (node_owner_reason:ctpressure_drops:increase5m) > 0))",
            "",
        )],
        thresholds: ANY,
        ..BASE
    },
    Panel {
        title: "Occupancy by node",
        description: "The fullest table of each node against its limit.",
        unit: "percentunit",
        queries: &[(
            "max by (node) (node_netns:ctpressure_table:ratio)",
            "{{node}}",
        )],
        thresholds: RATIO,
        ..BASE
    },
    Panel {
        title: "Packets dropped by node",
        description: "Packets lost because of conntrack.",
        unit: "pps",
        queries: &[(
            "sum by (node) (rate(ctpressure_drops_total[$__rate_interval]))",
            "{{node}}",
        )],
        ..BASE
    },
    Panel {
        title: "Entries by Kubernetes namespace",
        description: "Which team's pods fill the tables.",
        queries: &[(
            "topk(10, namespace:ctpressure_entries:sum)",
            "{{namespace}}",
        )],
        ..BASE
    },
    Panel {
        title: "New connections by Kubernetes namespace",
        description: "Inserts a second.",
        unit: "cps",
        queries: &[(
            "topk(10, namespace:ctpressure_inserts:rate5m)",
            "{{namespace}}",
        )],
        ..BASE
    },
    Panel {
        row: Row::Node,
        title: "Tables and limit",
        description: "Entries of each network namespace's table against the one limit.",
        queries: &[
            (
                "ctpressure_table_entries{node=~\"$node\"}",
                "{{node}} {{netns}}",
            ),
            ("ctpressure_table_limit{node=~\"$node\"}", "{{node}} limit"),
        ],
        ..BASE
    },
    Panel {
        row: Row::Node,
        title: "Time until full",
        description: "Absent while a table does not fill.",
        unit: "s",
        queries: &[(
            "ctpressure_table_seconds_to_full{node=~\"$node\"}",
            "{{node}} {{netns}}",
        )],
        thresholds: TIME,
        ..BASE
    },
    Panel {
        row: Row::Node,
        title: "Inserts and deletes",
        description: "Entries that come and go, over all owners.",
        unit: "cps",
        queries: &[
            (
                "sum by (node) (rate(ctpressure_inserts_total{node=~\"$node\"}[$__rate_interval]))",
                "{{node}} inserts",
            ),
            (
                "sum by (node) (rate(ctpressure_deletes_total{node=~\"$node\"}[$__rate_interval]))",
                "{{node}} deletes",
            ),
        ],
        ..BASE
    },
    Panel {
        row: Row::Node,
        title: "Drops by reason, and the kernel's own counts",
        description: "What the probes saw against what the kernel counted (drop, early_drop).",
        unit: "pps",
        queries: &[
            (
                "sum by (node, reason) (rate(ctpressure_drops_total{node=~\"$node\"}[$__rate_interval]))",
                "{{node}} {{reason}}",
            ),
            (
                "sum by (node, stat) (rate(ctpressure_kernel_stat_total{node=~\"$node\",stat=~\"drop|early_drop\"}[$__rate_interval]))",
                "{{node}} kernel: {{stat}}",
            ),
        ],
        ..BASE
    },
    Panel {
        row: Row::Node,
        title: "Kernel memory of the tables",
        description: "Entries of all namespaces and hash buckets, without extensions.",
        unit: "bytes",
        queries: &[("ctpressure_table_bytes{node=~\"$node\"}", "{{node}}")],
        ..BASE
    },
    Panel {
        row: Row::Node,
        title: "Entries for each bucket",
        description: "Long chains cost time, and very long ones packets.",
        queries: &[(
            "sum by (node) (ctpressure_table_entries{node=~\"$node\"}) / on (node) ctpressure_table_buckets{node=~\"$node\"}",
            "{{node}}",
        )],
        thresholds: &[(4.0, "orange"), (8.0, "red")],
        ..BASE
    },
    Panel {
        row: Row::Owner,
        title: "Entries",
        description: "What each owner holds.",
        queries: &[(
            "topk(10, node_owner:ctpressure_entries:sum{node=~\"$node\",owner=~\"$owner\"})",
            "{{owner}} ({{node}})",
        )],
        ..BASE
    },
    Panel {
        row: Row::Owner,
        title: "New connections",
        description: "Inserts a second, by owner.",
        unit: "cps",
        queries: &[(
            "topk(10, node_owner:ctpressure_inserts:rate5m{node=~\"$node\",owner=~\"$owner\"})",
            "{{owner}} ({{node}})",
        )],
        ..BASE
    },
    Panel {
        row: Row::Owner,
        title: "Packets lost, 5 min",
        description: "By owner and reason.",
        queries: &[(
            "topk(10, node_owner_reason:ctpressure_drops:increase5m{node=~\"$node\",owner=~\"$owner\"} > 0)",
            "{{owner}} {{reason}} ({{node}})",
        )],
        ..BASE
    },
    Panel {
        row: Row::Owner,
        title: "Live connections evicted, 5 min",
        description: "victim: whose they were; cause: whose new connections needed room.",
        queries: &[(
            "topk(10, node_owner_role:ctpressure_evictions:increase5m{node=~\"$node\",owner=~\"$owner\"} > 0)",
            "{{owner}} {{role}} ({{node}})",
        )],
        ..BASE
    },
    Panel {
        row: Row::Agent,
        title: "What was not seen",
        description: "Events lost, by kind.",
        unit: "cps",
        queries: &[(
            "sum by (node, kind) (rate(ctpressure_events_lost_total{node=~\"$node\"}[$__rate_interval])) > 0",
            "{{node}} {{kind}}",
        )],
        ..BASE
    },
    Panel {
        row: Row::Agent,
        title: "Memory and CPU",
        description: "Of the agent's process; CPU in cores.",
        queries: &[
            (
                "process_resident_memory_bytes{job=\"ctpressure\",node=~\"$node\"} / 1048576",
                "{{node}} MiB",
            ),
            (
                "rate(process_cpu_seconds_total{job=\"ctpressure\",node=~\"$node\"}[$__rate_interval])",
                "{{node}} cores",
            ),
        ],
        ..BASE
    },
];
