//! What a full table takes.

use ctpressure_model::{
    cost::BUCKET_BYTES,
    words::{bytes, grouped},
};

use crate::doctor::{Facts, Finding, Severity, thresholds};

pub(super) fn full_table(facts: &Facts) -> Option<Finding> {
    let full = facts.when_full()?;
    let memory = facts.memory?;
    let cost = facts.entry_cost();
    let severity = if full.bytes.most >= memory / 100 * thresholds::MEMORY_PROBLEM {
        Severity::Problem
    } else if full.bytes.most >= memory / 100 * thresholds::MEMORY_RISK {
        Severity::Risk
    } else {
        return None;
    };
    // A twentieth of RAM.
    let fits = (memory / 20 * facts.settings.limit? / full.bytes.most).max(1_024);
    Some(Finding {
        id: "full_table_memory",
        severity,
        title: "a full table would take a large part of RAM".to_owned(),
        evidence: format!(
            "{} entries when full at {} each, and {} of buckets: {} of {}",
            grouped(full.entries),
            cost.bytes(1, 0).in_words(),
            bytes(full.buckets * BUCKET_BYTES),
            full.bytes.of_memory(Some(memory)),
            bytes(memory),
        ),
        consequence: "the kernel can't reclaim it and charges it to nobody, so others are killed \
                      for want of memory; and each network namespace may hold as much"
            .to_owned(),
        fix: vec![super::remedy::set(fits)],
        advice: "That is a twentieth of RAM. If the table needs the entries, give the node more \
                 RAM instead."
            .to_owned(),
        cost: "the table is full earlier".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fine, made};
    use super::*;

    #[test]
    fn too_much_for_this_machine() {
        let finding = made(full_table, |facts| {
            facts.settings.limit = Some(4_000_000);
        });
        assert_eq!(finding.severity, Severity::Risk);
        assert_eq!(
            finding.evidence,
            "4,000,100 entries when full at 256 to 384 bytes each, and 2 MiB of buckets: 979 MiB to 1.4 GiB (12 to 18 %) of \
             7.7 GiB"
        );
        let finding = made(full_table, |facts| {
            facts.settings.limit = Some(9_000_000);
        });
        assert_eq!(finding.severity, Severity::Problem);
        fine(full_table, |facts| facts.settings.limit = Some(2_000_000));
        fine(full_table, |facts| facts.memory = None);
    }
}
