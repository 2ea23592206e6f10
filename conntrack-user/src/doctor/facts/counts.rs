//! The tables, and the kernel's statistics of them at two moments.

use std::{collections::BTreeMap, time::Duration};

use super::{Facts, Unseen};
use crate::{
    census::Charging,
    doctor::thresholds::TABLE_RISK,
    kernel::{
        Root,
        stats::KernelStats,
        tables::{HOST_NAME, TableReader, TablesSample},
    },
    owners::{TableOwners, table_names},
    sys::netns::Inode,
};

/// Tables besides the host's that are looked into at most.
const LOOKED_INTO: usize = 3;

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TableFacts {
    /// Inode number of its network namespace.
    pub netns: u32,
    /// `host`, whose it is, what its namespace is kept as, or the number in digits.
    pub name: String,
    pub entries: u64,
    /// What the kernel counted since the namespace was made.
    pub since_boot: Option<KernelStats>,
    /// What the kernel counted between the two readings.
    pub between: Option<KernelStats>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CountFacts {
    pub tables: Vec<TableFacts>,
    /// Seconds between the two readings.
    pub seconds: f64,
}

impl CountFacts {
    /// The network namespace of the table of this name.
    pub(crate) fn netns_of(&self, table: &str) -> Option<Inode> {
        let known = self.tables.iter().find(|known| known.name == table);
        known.map(|known| known.netns)
    }
}

pub(super) struct CountReader {
    root: Root,
    tables: TableReader,
    first: Option<TablesSample>,
}

impl CountReader {
    pub(super) fn new(root: &Root) -> Self {
        Self {
            root: root.clone(),
            tables: TableReader::new(root.clone()),
            first: None,
        }
    }

    pub(super) fn first(&mut self, facts: &mut Facts) {
        self.first = self.read(facts);
        if self.first.is_some() {
            facts.looked.push("tables and their statistics");
        }
    }

    /// Tables of others than the host that are nearly full, the fullest first, with their names.
    pub(super) fn nearly_full(&self, limit: Option<u64>) -> Vec<(Inode, String)> {
        let limit = limit.unwrap_or_default();
        let tables = self.first.iter().flat_map(|sample| &sample.tables);
        let mut full: Vec<_> = tables
            .filter(|table| {
                let near = table.entries.saturating_mul(100) >= limit * TABLE_RISK;
                limit > 0 && near && table.name != HOST_NAME
            })
            .collect();
        full.sort_by_key(|table| std::cmp::Reverse(table.entries));
        full.truncate(LOOKED_INTO);
        let (Some(sample), false) = (&self.first, full.is_empty()) else {
            return Vec::new();
        };
        let mut names = self.names(sample);
        full.iter()
            .filter_map(|table| Some((table.netns, names.remove(&table.netns)?)))
            .collect()
    }

    pub(super) fn second(&mut self, apart: Duration, facts: &mut Facts) {
        let Some(second) = self.read(facts) else {
            return;
        };
        let before = self.first.take();
        let mut names = self.names(&second);
        facts.counts.seconds = apart.as_secs_f64();
        facts.counts.tables = second
            .tables
            .into_iter()
            .map(|table| {
                let earlier = before
                    .iter()
                    .flat_map(|sample| &sample.tables)
                    .find(|earlier| earlier.netns == table.netns)
                    .and_then(|earlier| earlier.stats);
                TableFacts {
                    between: earlier
                        .zip(table.stats)
                        .map(|(before, after)| after.since(&before)),
                    netns: table.netns,
                    name: names.remove(&table.netns).unwrap_or(table.name),
                    entries: table.entries,
                    since_boot: table.stats,
                }
            })
            .collect();
    }

    /// What the tables are called.
    fn names(&self, sample: &TablesSample) -> BTreeMap<u32, String> {
        let tables = &sample.tables;
        let owners = if tables.iter().all(|table| table.name == HOST_NAME) {
            TableOwners::default()
        } else {
            Charging::look_around(&self.root).tables
        };
        let kept_as = tables
            .iter()
            .map(|table| (table.netns, table.name.as_str()));
        table_names(kept_as, &owners)
    }

    fn read(&mut self, facts: &mut Facts) -> Option<TablesSample> {
        match self.tables.read() {
            Ok(sample) => {
                for problem in &sample.problems {
                    let (because, help) = problem.parts();
                    facts.could_not(Unseen::SOME_TABLES, &because, help.to_owned());
                }
                Some(sample)
            }
            Err(error) => {
                facts.could_not(Unseen::TABLES, &error, "run as root");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn two_readings() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = Root::at(folder.path());
        let mut facts = Facts::default();
        CountReader::new(&root).first(&mut facts);
        assert_eq!((facts.unseen.len(), facts.looked.len()), (1, 0));

        let write = |path: &str, text: &str| {
            let path = root.proc(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, text).expect("a file");
        };
        let count = |drop: &str| {
            let text = format!("entries drop early_drop\n00000007 {drop} 00000000\n");
            write("net/stat/nf_conntrack", &text);
        };
        for (name, value) in [("max", "10"), ("buckets", "1024"), ("count", "7")] {
            write(&format!("sys/net/netfilter/nf_conntrack_{name}"), value);
        }
        for process in ["thread-self", "1"] {
            fs::create_dir_all(root.proc(process).join("ns")).expect("a folder");
            symlink("net:[5]", root.proc(process).join("ns/net")).expect("a link");
        }
        count("00000003");
        let mut facts = Facts::default();
        let mut reader = CountReader::new(&root);
        reader.first(&mut facts);
        count("0000000c");
        reader.second(Duration::from_secs(2), &mut facts);
        assert!((facts.counts.seconds - 2.0).abs() < f64::EPSILON);
        let host = &facts.counts.tables[0];
        assert_eq!(host.entries, 7);
        let drops = |stats: Option<KernelStats>| stats.map(|stats| stats.drop);
        assert_eq!(drops(host.since_boot), Some(12));
        assert_eq!(drops(host.between), Some(9));
    }

    #[test]
    fn numbers_that_went_back_are_none() {
        let stats = |drop, chain| KernelStats {
            drop,
            chain_too_long: chain,
            ..KernelStats::default()
        };
        let between = stats(7, Some(4)).since(&stats(5, Some(1)));
        assert_eq!((between.drop, between.chain_too_long), (2, Some(3)));
        let between = stats(1, None).since(&stats(5, None));
        assert_eq!((between.drop, between.chain_too_long), (0, None));
    }
}
