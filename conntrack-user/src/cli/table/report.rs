//! What a census says, as text and as JSON.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr};

use ctpressure_model::{
    protocol::protocol_name,
    verdict::Verdict,
    words::{grouped, share},
};
use serde::Serialize;

use super::targets::WalkedTable;
use crate::{
    census::{Labels, NAT_PORTS, PortSpace, Summary, SummaryRows, text},
    sys::netns::Inode,
    walk::CensusSource,
};

/// What a changed hash table means.
pub(super) const CHANGED: &str = "note: the kernel rebuilt the hash table meanwhile, so entries may be missing or counted\n      \
     twice; run it again for exact numbers";

/// Port spaces of a table that people see: those of which at least one port in a hundred is in use.
const PORT_SPACES: usize = 3;

/// A census and where it comes from.
#[derive(Debug)]
pub(super) struct CensusReport {
    /// Entries that each table may hold; 0: any number.
    pub(super) limit: u64,
    /// Buckets of the hash table that all share.
    pub(super) buckets: u64,
    pub(super) tables: Vec<WalkedTable>,
    /// Not everything was asked for.
    pub(super) filtered: bool,
    pub(super) summary: Summary,
    /// What tables are full of that a higher limit would only hold more of.
    pub(super) verdicts: BTreeMap<Inode, Vec<Verdict>>,
    /// Where the entries came from.
    pub(super) source: CensusSource,
    /// Tables that could not be read, and why.
    pub(super) problems: Vec<String>,
}

impl CensusReport {
    fn changed(&self) -> bool {
        self.tables.iter().any(|table| table.walk.changed)
    }

    fn unreadable(&self) -> u64 {
        self.tables.iter().map(|table| table.walk.unreadable).sum()
    }

    /// Entries that are counted and in no list, as far as that is more than what comes and goes during a listing.
    fn held(&self) -> u64 {
        self.tables.iter().map(held).sum()
    }

    /// Lines of at most 80 columns, but for sentences.
    pub(super) fn text(&self, labels: &Labels<'_>) -> String {
        let Summary {
            seen,
            totals,
            translated,
            ..
        } = self.summary;
        let mut out = String::new();
        for table in &self.tables {
            let held = held(table);
            let entries = table.walk.entries + held;
            let name = labels.netns(table.netns);
            let _ = if self.limit == 0 {
                writeln!(out, "table {name}: {} entries, no limit", grouped(entries))
            } else {
                writeln!(
                    out,
                    "table {name}: {} entries, {} of the limit of {}",
                    grouped(entries),
                    share(entries, self.limit),
                    grouped(self.limit)
                )
            };
            if held > 0 {
                let _ = writeln!(
                    out,
                    "  of these {} are listed; {} are held by packets that wait, in no list",
                    grouped(table.walk.entries),
                    grouped(held)
                );
                if let Some(unlisted) = table.unlisted {
                    let _ = writeln!(
                        out,
                        "  ({} wait to be confirmed, {} have left the table)",
                        grouped(unlisted.unconfirmed),
                        grouped(unlisted.dying)
                    );
                }
            }
            for (space, used) in table.ports.iter().take(PORT_SPACES) {
                if used.saturating_mul(100) >= NAT_PORTS {
                    let _ = writeln!(
                        out,
                        "  {} of {} NAT ports ({}) in use {space}",
                        grouped(*used),
                        grouped(NAT_PORTS),
                        share(*used, NAT_PORTS)
                    );
                }
            }
            for verdict in self.verdicts.get(&table.netns).into_iter().flatten() {
                let _ = writeln!(out, "  {}", verdict.advice());
            }
        }
        if self.filtered {
            let _ = writeln!(
                out,
                "asked for: {} of {} entries ({})",
                grouped(totals.entries),
                grouped(seen),
                share(totals.entries, seen)
            );
        } else if self.tables.len() > 1 {
            let all = seen + self.held();
            let _ = writeln!(out, "together: {} entries", grouped(all));
        }
        let _ = writeln!(
            out,
            "evictable: {} ({}); with NAT: {}",
            grouped(totals.evictable),
            share(totals.evictable, totals.entries),
            grouped(translated)
        );
        if totals.entries > 0 {
            out += &text::states(&self.summary);
            let held = if self.filtered { 0 } else { self.held() };
            for group in &self.summary.groups {
                out.push('\n');
                out += &text::group(group, totals, held, labels);
            }
        }
        if self.changed() {
            let _ = writeln!(out, "\n{CHANGED}");
        }
        if self.unreadable() > 0 {
            let _ = writeln!(
                out,
                "\nnote: {} entries could not be read and are not counted",
                grouped(self.unreadable())
            );
        }
        for problem in &self.problems {
            let _ = writeln!(out, "\nnote: {problem}");
        }
        out
    }

    pub(super) fn document(&self, labels: &Labels<'_>) -> CensusDocument {
        let tables = self.tables.iter().map(|table| TableRow {
            netns: table.netns,
            netns_name: labels.netns(table.netns),
            entries: table.walk.entries,
            count_before: table.walk.counts[0],
            count_after: table.walk.counts[1],
            held: table.walk.unlisted(),
            unconfirmed: table.unlisted.map(|unlisted| unlisted.unconfirmed),
            dying: table.unlisted.map(|unlisted| unlisted.dying),
            clashes: table.walk.hash.map(|hash| hash.clashes),
            expired: table.walk.hash.map(|hash| hash.expired),
            verdicts: self.verdicts.get(&table.netns).cloned(),
            nat_ports: table.ports.iter().map(PortsRow::of).collect(),
            interrupted: table.walk.changed,
            unreadable: table.walk.unreadable,
        });
        CensusDocument {
            summary: self.summary.rows(labels),
            limit: self.limit,
            buckets: self.buckets,
            tables: tables.collect(),
            interrupted: self.changed(),
            unreadable: self.unreadable(),
            source: self.source.clone(),
            problems: self.problems.clone(),
        }
    }
}

/// A census as `-o json` prints it.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(in crate::cli) struct CensusDocument {
    #[serde(flatten)]
    summary: SummaryRows,
    /// Entries that each table may hold; 0: any number.
    limit: u64,
    /// Buckets of the hash table that all share.
    buckets: u64,
    tables: Vec<TableRow>,
    /// The kernel rebuilt the hash table meanwhile.
    interrupted: bool,
    /// Entries that could not be read.
    unreadable: u64,
    /// Where the entries came from.
    source: CensusSource,
    /// Tables that could not be read, and why.
    problems: Vec<String>,
}

/// One table.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct TableRow {
    /// Inode number of the network namespace.
    netns: Inode,
    netns_name: String,
    /// Those that are listed.
    entries: u64,
    /// What the kernel counted before.
    count_before: u64,
    /// And after.
    count_after: u64,
    /// Counted and not listed, as packets hold them.
    held: Option<u64>,
    /// Of those: entries that are not confirmed yet; null: none is held, or the kernel does not say (5.19 and later).
    unconfirmed: Option<u64>,
    /// Of those: entries that have left the table; null as above.
    dying: Option<u64>,
    /// Losers of a clash, in the hash in one direction only; null: not read there.
    clashes: Option<u64>,
    /// Entries whose time is over; null: not read there.
    expired: Option<u64>,
    /// What it is full of that a higher limit would only hold more of; null: nothing of that sort.
    verdicts: Option<Vec<Verdict>>,
    /// Ports that source NAT has in use towards one destination: the ten such spaces with the most.
    nat_ports: Vec<PortsRow>,
    /// The kernel rebuilt the hash table meanwhile.
    interrupted: bool,
    /// Entries that could not be read.
    unreadable: u64,
}

/// Ports of one address towards one destination.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct PortsRow {
    /// The address that connections seem to come from.
    source: IpAddr,
    destination: IpAddr,
    port: u16,
    protocol: String,
    /// Ports in use, at least.
    used: u64,
    /// Ports that NAT chooses from, unless a rule names others.
    of: u64,
}

impl PortsRow {
    fn of((space, used): &(PortSpace, u64)) -> Self {
        Self {
            source: space.address,
            destination: space.destination,
            port: space.port,
            protocol: protocol_name(space.protocol).into_owned(),
            used: *used,
            of: NAT_PORTS,
        }
    }
}

/// What is at least one in a hundred of the table.
fn held(table: &WalkedTable) -> u64 {
    let held = table.walk.unlisted().unwrap_or(0);
    let all = table.walk.entries.saturating_add(held);
    if held.saturating_mul(100) >= all {
        held
    } else {
        0
    }
}
