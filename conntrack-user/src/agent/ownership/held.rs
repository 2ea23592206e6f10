//! Entries that the kernel counts and that are in no table: packets hold them. They have left it, or have not entered it yet.

/// How many there are, sample by sample.
#[derive(Debug, Default)]
pub(super) struct Held {
    before: u64,
    inserts: u64,
}

/// How many there are at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeldNow {
    /// In two samples, since the kernel's count and ours are of slightly different moments.
    pub(super) at_least: u64,
    pub(super) at_most: u64,
}

impl Held {
    /// Takes what the kernel `counted`, the entries that are in tables by our counts, and all `inserts` so far. `counted` is read first: what
    /// enters in between is missing in it.
    pub(super) fn add(&mut self, counted: u64, live: u64, inserts: u64) -> HeldNow {
        let now = counted.saturating_sub(live);
        let lately = inserts.saturating_sub(self.inserts);
        self.inserts = inserts;
        let at_least = now.min(self.before);
        self.before = now;
        HeldNow {
            at_least,
            at_most: now.saturating_add(lately),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_held_and_what_passes_is_not() {
        let mut held = Held::default();
        let mut add = |counted, live, inserts| {
            let now = held.add(counted, live, inserts);
            (now.at_least, now.at_most)
        };
        assert_eq!(add(1_000, 1_000, 1_000), (0, 1_000));
        // Read while they were flushed.
        assert_eq!(add(1_000, 10, 1_000), (0, 990));
        assert_eq!(add(990, 0, 1_000), (990, 990));
        assert_eq!(add(990, 3, 1_005), (987, 992));
        assert_eq!(add(10, 10, 1_005), (0, 0));
    }
}
