//! What is printed: text of 80 columns, or JSON.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use ctpressure_model::{
    cost::{MemoryRange, chance::chain_too_long},
    words::{self, bytes, chance, figure, grouped, share},
};
use serde::Serialize;

use super::{
    Facts, Finding, Severity, Unseen,
    facts::{BpfTables, Plugin, ProxyMode},
    findings::{self, lasting, limit},
};

/// Columns of the text.
const WIDTH: usize = 80;
/// Columns in front of what a finding says.
const INDENT: usize = 10;

/// Findings, and what they rest on.
///
/// As JSON: what is not known is null; fields are added, and none changes its meaning, within a version of
/// [`Report::format`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct DoctorReport {
    /// Version of this form: 1.
    pub format: u32,
    /// The worst of the findings; null: there are none.
    pub severity: Option<Severity>,
    pub findings: Vec<Finding>,
    pub node: DoctorNode,
    /// What was looked at.
    pub looked_at: Vec<&'static str>,
    /// What could not be looked at.
    pub could_not_look: Vec<Unseen>,
}

/// What is so, whether or not it is good.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct DoctorNode {
    pub kernel: Option<String>,
    /// CPUs that are online.
    pub cpus: Option<u64>,
    pub memory_bytes: Option<u64>,
    /// Whether conntrack is loaded; if not, there is no table, and all of the rest is null or empty.
    pub loaded: bool,
    /// Where the command lines of findings are to be run, and whose the limit is; null: here.
    pub standpoint: Option<&'static str>,
    /// Entries that each table may hold; 0: any number.
    pub limit: Option<u64>,
    /// What gives just this number; empty: nothing that can be known.
    pub limit_from: Vec<String>,
    /// Entries for each MiB of RAM, at the limit.
    pub entries_per_mib: Option<u64>,
    /// Buckets of the hash table that all share.
    pub buckets: Option<u64>,
    /// Nodes in a bucket (each entry has two) when the tables that may fill up are full.
    pub nodes_per_bucket_when_full: Option<f64>,
    /// The chance that a new connection is refused then for a long chain; 0 before 5.15.
    pub chain_too_long_chance_when_full: Option<f64>,
    /// Bytes of entries and buckets then, if no entry has an extension but those that must.
    pub full_table_bytes: Option<u64>,
    /// The same if each entry has an extension.
    pub full_table_bytes_most: Option<u64>,
    /// Bytes of entries and buckets now, without extensions.
    pub table_bytes: Option<u64>,
    /// The tables, the host's first.
    pub tables: Vec<TableLine>,
    /// kube-proxy's version and mode, as far as known; null: none is seen.
    pub kube_proxy: Option<String>,
    /// Where a network plugin keeps connections of pods, and how to look there; null: kube-proxy is here, or no such table.
    pub bpf_tables: Option<String>,
    /// The hooks that `ctpressure run` would take.
    pub hooks: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct TableLine {
    /// What it is called.
    pub netns: String,
    /// Inode number of its network namespace.
    pub inode: u32,
    pub entries: u64,
}

impl DoctorReport {
    /// What follows from the facts.
    pub(crate) fn new(facts: &Facts) -> Self {
        let findings = findings::all(facts);
        Self {
            format: 1,
            severity: findings.iter().map(|finding| finding.severity).max(),
            findings,
            node: DoctorNode::new(facts),
            looked_at: facts.looked.clone(),
            could_not_look: facts.unseen.clone(),
        }
    }

    /// Whether the exit status is to tell: something is lost or will be.
    pub(crate) fn is_bad(&self) -> bool {
        self.severity >= Some(Severity::Problem)
    }

    /// Lines of at most 80 columns, the worst finding first; each begins with its severity in words.
    pub(crate) fn text(&self, colour: bool) -> String {
        let mut out = self.node.text();
        for finding in &self.findings {
            out.push('\n');
            write_finding(&mut out, finding, colour);
        }
        out.push('\n');
        let summary = match self.findings.len() {
            0 if self.node.loaded => "no finding".to_owned(),
            0 => "no finding: conntrack is not loaded, so there is no table".to_owned(),
            1 => "1 finding".to_owned(),
            many => format!("{many} findings"),
        };
        let _ = writeln!(out, "{summary}");
        wrapped(&mut out, "looked at ", &self.looked_at.join(", "));
        for unseen in &self.could_not_look {
            let Unseen {
                what,
                because,
                help,
            } = unseen;
            let help = if help.is_empty() {
                String::new()
            } else {
                format!(" (help: {help})")
            };
            let text = format!("{what}: {because}{help}");
            wrapped(&mut out, "not seen  ", &text);
        }
        if self.could_not_look.is_empty() {
            let _ = writeln!(out, "not seen  nothing: all of it could be looked at");
        }
        out
    }
}

impl DoctorNode {
    fn new(facts: &Facts) -> Self {
        let settings = &facts.settings;
        let full = facts.when_full();
        let chain = full.map(|full| full.chain);
        Self {
            kernel: facts.release.as_ref().map(|release| release.text.clone()),
            cpus: facts.cpus,
            memory_bytes: facts.memory,
            loaded: facts.loaded,
            standpoint: lasting::standpoint(facts.place),
            limit: settings.limit,
            limit_from: limit::origins(facts)
                .iter()
                .map(ToString::to_string)
                .collect(),
            entries_per_mib: limit::per_mib(facts),
            buckets: settings.buckets,
            nodes_per_bucket_when_full: chain,
            chain_too_long_chance_when_full: chain.zip(facts.at_least(5, 15)).map(
                |(chain, limited)| {
                    if limited { chain_too_long(chain) } else { 0.0 }
                },
            ),
            full_table_bytes: full.map(|full| full.bytes.least),
            full_table_bytes_most: full.map(|full| full.bytes.most),
            table_bytes: facts
                .slab
                .zip(settings.buckets)
                .map(|(slab, buckets)| slab.bytes_now(buckets)),
            tables: facts
                .counts
                .tables
                .iter()
                .map(|table| TableLine {
                    netns: table.name.clone(),
                    inode: table.netns,
                    entries: table.entries,
                })
                .collect(),
            kube_proxy: kube_proxy(facts),
            bpf_tables: bpf_tables(facts),
            hooks: facts
                .hooks
                .as_ref()
                .map_or_else(Vec::new, |outlook| outlook.hooks.clone()),
        }
    }

    fn text(&self) -> String {
        let unknown = || "?".to_owned();
        let mut out = String::new();
        let _ = writeln!(
            out,
            "node      Linux {}, {} CPUs, {} of RAM",
            self.kernel.as_deref().unwrap_or("?"),
            self.cpus.map_or_else(unknown, grouped),
            self.memory_bytes.map_or_else(unknown, bytes)
        );
        if let Some(standpoint) = self.standpoint {
            wrapped(&mut out, "here      ", standpoint);
        }
        let Some(limit) = self.limit else {
            return out;
        };
        let from = if limit == 0 {
            "no limit".to_owned()
        } else if self.limit_from.is_empty() {
            "nothing permanent sets it".to_owned()
        } else {
            self.limit_from.join("; also ")
        };
        let each = self.entries_per_mib.map_or_else(String::new, |entries| {
            format!("; {} for each MiB of RAM", grouped(entries))
        });
        let text = format!("{} entries: {from}{each}", grouped(limit));
        wrapped(&mut out, "limit     ", &text);
        if let (Some(lambda), Some(chain)) = (
            self.nodes_per_bucket_when_full,
            self.chain_too_long_chance_when_full,
        ) {
            let full = self.full_table_bytes.zip(self.full_table_bytes_most);
            let takes = full.map_or_else(String::new, |(least, most)| {
                let bytes = MemoryRange { least, most };
                format!("; full tables take {}", bytes.of_memory(self.memory_bytes))
            });
            let text = format!(
                "{} buckets, {} entries per chain; an insert hits the chain limit {}{takes}",
                self.buckets.map_or_else(unknown, grouped),
                figure(lambda),
                chance(chain),
            );
            wrapped(&mut out, "when full ", &text);
        }
        let host = self.tables.iter().find(|table| table.netns == "host");
        let others: Vec<_> = self
            .tables
            .iter()
            .filter(|table| table.netns != "host")
            .collect();
        let mut tables: Vec<String> = Vec::new();
        let line = |table: &TableLine| {
            let part = if limit > 0 {
                format!(" ({})", share(table.entries, limit))
            } else {
                String::new()
            };
            format!("{} {} entries{part}", table.netns, grouped(table.entries))
        };
        tables.extend(host.map(line));
        let empty = others.iter().filter(|table| table.entries == 0).count();
        if let Some(fullest) = others.iter().max_by_key(|table| table.entries) {
            tables.push(match (others.len(), empty) {
                (1, _) => line(fullest),
                (many, 0) => format!("{many} others, the fullest {}", line(fullest)),
                (many, empty) if many == empty => format!("{many} others, all of them empty"),
                (many, empty) => {
                    format!(
                        "{many} others, {empty} of them empty, the fullest {}",
                        line(fullest)
                    )
                }
            });
        }
        if !tables.is_empty() {
            wrapped(&mut out, "tables    ", &tables.join("; "));
        }
        if let Some(proxy) = &self.kube_proxy {
            wrapped(&mut out, "proxy     ", proxy);
        }
        if let Some(tables) = &self.bpf_tables {
            wrapped(&mut out, "bpf       ", tables);
        }
        out
    }
}

fn kube_proxy(facts: &Facts) -> Option<String> {
    let mode = facts
        .rules
        .mode
        .map(|mode: ProxyMode| format!("{mode} mode"));
    match (&facts.proxy, mode) {
        (None, None) => None,
        (None, Some(mode)) => Some(format!(
            "rules of kube-proxy in {mode}, but no process of that name"
        )),
        (Some(proxy), mode) => Some(format!(
            "{}, {}",
            proxy.words(),
            mode.unwrap_or_else(|| "no rules of it seen".to_owned())
        )),
    }
}

/// Without kube-proxy the kernel's table may be calm while those of a network plugin are full.
fn bpf_tables(facts: &Facts) -> Option<String> {
    let BpfTables { plugin, maps } = facts.bpf_tables.as_ref()?;
    if facts.proxy.is_some() || facts.rules.mode.is_some() {
        return None;
    }
    let (whose, how) = match plugin {
        Plugin::Cilium => (
            "Cilium's",
            "`cilium-dbg bpf ct list global` in the cilium pod of this node, metric cilium_bpf_map_pressure",
        ),
        Plugin::Calico => (
            "Calico's",
            "`calico-node -bpf conntrack dump` in the calico-node pod of this node",
        ),
    };
    Some(format!(
        "no kube-proxy: connections of pods are in {whose} own tables ({}), and may not be in the kernel's at all, which this is \
         about. Look there: {how}",
        maps.join(", ")
    ))
}

fn write_finding(out: &mut String, finding: &Finding, colour: bool) {
    let Finding {
        id,
        severity,
        title,
        evidence,
        consequence,
        fix,
        advice,
        cost,
    } = finding;
    let style = if colour {
        let shade = match severity {
            Severity::Critical => AnsiColor::Red,
            Severity::Problem => AnsiColor::Yellow,
            Severity::Risk => AnsiColor::Cyan,
        };
        Style::new().bold().fg_color(Some(shade.into()))
    } else {
        Style::new()
    };
    let mut head = String::new();
    wrapped(&mut head, &format!("{severity:<10}"), title);
    let (word, rest) = head.split_at(INDENT);
    let _ = write!(
        out,
        "{}{}{}{rest}",
        style.render(),
        word.to_uppercase(),
        style.render_reset()
    );
    let mut part = |name: &str, text: &str| {
        if !text.is_empty() {
            wrapped(out, &format!("  {name:<8}"), text);
        }
    };
    part("seen", evidence);
    part("means", consequence);
    for (number, command) in fix.iter().enumerate() {
        part(if number == 0 { "fix" } else { "" }, command);
    }
    part(if fix.is_empty() { "fix" } else { "" }, advice);
    part("cost", cost);
    part("id", id);
}

/// Writes words into lines, see [`words::wrap`].
fn wrapped(out: &mut String, first: &str, text: &str) {
    words::wrap(out, first, text, INDENT, WIDTH);
}

#[cfg(test)]
mod tests;
