//! What is said of tables for which the limit is not raised.

use ctpressure_model::{
    pressure::as_f64,
    words::{clean, grouped},
};

use super::{Observation, Policy};
use crate::owners::as_argument;

/// So many of them are named.
const NAMED: usize = 3;

impl Policy {
    /// Says of which tables others have to take care, and which named ones are not there.
    pub(super) fn advise(&mut self, seen: &Observation) {
        let limit = seen.size.limit;
        let pressed =
            |entries: u64| limit > 0 && as_f64(entries) >= self.settings.raise_at * as_f64(limit);
        let others = seen
            .tables
            .iter()
            .filter(|table| !table.raises(&self.settings) && pressed(table.entries));
        let mut advice: Vec<String> = others
            .clone()
            .take(NAMED)
            .map(|table| {
                let (name, entries) = (clean(&table.name), grouped(table.entries));
                let [of, raise] = [&table.name, table.raised_as()]
                    .map(|name| as_argument(name, table.netns).into_owned());
                format!(
                    "table {name} holds {entries} of {} entries, and the limit is not raised for it: whoever can fill a table of a \
                     network namespace of his own would raise it for all. `ctpressure table --netns {of}` shows what fills it; \
                     `--raise-netns {raise}` lets it raise the limit, too",
                    grouped(limit)
                )
            })
            .collect();
        let more = others.count().saturating_sub(NAMED);
        if more > 0 {
            advice.push(format!(
                "so it is with {} more tables: `ctpressure top` shows them",
                grouped(more as u64)
            ));
        }
        for name in &self.settings.raise_netns {
            if !seen.tables.iter().any(|table| table.is_called(name)) {
                advice.push(format!(
                    "no table is called {} (--raise-netns): `ctpressure table --netns all` shows their names",
                    clean(name)
                ));
            }
        }
        self.advice.extend(advice);
    }
}
