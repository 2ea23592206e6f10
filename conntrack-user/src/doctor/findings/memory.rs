//! What a full table takes.

use crate::doctor::{
    Facts, Finding, Severity,
    finding::{bytes, grouped, per_cent},
    thresholds,
};
use crate::kernel::slab::BUCKET_BYTES;

/// `kmalloc-128`: the least that an entry takes for its first extension (`nf_ct_ext_add`).
pub const EXTENSION_BYTES: u64 = 128;

/// Whether each entry has an extension, by switches and listeners: accounting, time stamps, events.
pub fn has_extension(facts: &Facts) -> bool {
    let settings = &facts.settings;
    settings.is_on("acct")
        || settings.is_on("timestamp")
        || match settings.get("events") {
            Some(0) | None => false,
            Some(1) => true,
            // Only while somebody listens.
            Some(_) => !facts.listeners.is_empty(),
        }
}

/// Bytes that `entries` take without buckets: their slabs, and extensions where each has one. Where the
/// kernel does not tell the size of an entry it is the one that all kernels of that age have had.
pub fn full_bytes(facts: &Facts, entries: u64) -> u64 {
    let slabs = facts.slab.map_or_else(
        || {
            let each = if facts.at_least(6, 1) == Some(false) {
                340
            } else {
                256
            };
            entries.saturating_mul(each)
        },
        |slab| slab.bytes_of(entries),
    );
    let extensions = if has_extension(facts) {
        entries.saturating_mul(EXTENSION_BYTES)
    } else {
        0
    };
    slabs.saturating_add(extensions)
}

pub(super) fn full_table(facts: &Facts) -> Option<Finding> {
    let limit = facts.settings.limit.filter(|limit| *limit > 0)?;
    let memory = facts.memory?;
    let hash = facts.settings.buckets.unwrap_or_default() * BUCKET_BYTES;
    let full = full_bytes(facts, limit).saturating_add(hash);
    let severity = if full >= memory / 100 * thresholds::MEMORY_PROBLEM {
        Severity::Problem
    } else if full >= memory / 100 * thresholds::MEMORY_RISK {
        Severity::Risk
    } else {
        return None;
    };
    // A twentieth of RAM.
    let each = full / limit.max(1);
    let fits = (memory / 20 / each.max(1)).max(1_024);
    Some(Finding {
        id: "full_table_memory",
        severity,
        title: "a full table would take a large part of RAM".to_owned(),
        evidence: format!(
            "a limit of {} entries at {each} bytes each{}, and {} of buckets: {} of {} ({})",
            grouped(limit),
            if has_extension(facts) {
                " (with extensions)"
            } else {
                ""
            },
            bytes(hash),
            bytes(full),
            bytes(memory),
            per_cent(full, memory)
        ),
        consequence: "the kernel can't reclaim it and charges it to nobody, so others are killed \
                      for want of memory; and each network namespace may hold as much"
            .to_owned(),
        fix: vec![super::limit::set(fits)],
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
    use crate::doctor::facts::{Listener, Release, example::healthy};

    #[test]
    fn bytes_of_a_full_table() {
        let mut facts = healthy();
        assert_eq!(full_bytes(&facts, 262_144), 64 << 20);
        facts.listeners.push(Listener {
            netns: "host".to_owned(),
            process: None,
        });
        assert_eq!(full_bytes(&facts, 262_144), 96 << 20);
        facts.settings.values.insert("events", 0);
        assert_eq!(full_bytes(&facts, 262_144), 64 << 20);
        facts.settings.values.insert("acct", 1);
        assert_eq!(full_bytes(&facts, 262_144), 96 << 20);
        facts.slab = None;
        assert_eq!(full_bytes(&facts, 1_000), 1_000 * (256 + 128));
        facts.release = Release::parse("5.15.0");
        assert_eq!(full_bytes(&facts, 1_000), 1_000 * (340 + 128));
    }

    #[test]
    fn too_much_for_this_machine() {
        let finding = made(full_table, |facts| {
            facts.settings.limit = Some(4_000_000);
        });
        assert_eq!(finding.severity, Severity::Risk);
        let finding = made(full_table, |facts| {
            facts.settings.limit = Some(9_000_000);
        });
        assert_eq!(finding.severity, Severity::Problem);
        assert!(finding.evidence.contains("256 bytes each"), "{finding:?}");
        fine(full_table, |facts| facts.settings.limit = Some(2_000_000));
        fine(full_table, |facts| facts.memory = None);
    }
}
