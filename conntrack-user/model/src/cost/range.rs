//! What memory something takes, as far as that is known.

use serde::Serialize;

use crate::words::{bytes, share};

/// Bytes: at least, and at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(any(test, feature = "testing"), derive(schemars::JsonSchema))]
pub struct MemoryRange {
    /// If no entry has an extension but those that must.
    pub least: u64,
    /// If each entry has one.
    pub most: u64,
}

impl MemoryRange {
    /// What is more than the other; both are of the same entries or more.
    #[must_use]
    pub const fn beyond(&self, other: &Self) -> Self {
        Self {
            least: self.least.saturating_sub(other.least),
            most: self.most.saturating_sub(other.most),
        }
    }

    /// `66 to 98 MiB`
    pub fn in_words(&self) -> String {
        from_to(&bytes(self.least), &bytes(self.most))
    }

    /// `66 to 98 MiB (0.8 to 1.2 %)`; the share is that of the node's memory, and absent where that is not known.
    pub fn of_memory(&self, memory: Option<u64>) -> String {
        let of = |memory: u64| from_to(&share(self.least, memory), &share(self.most, memory));
        let of = memory.filter(|memory| *memory > 0).map(of);
        let share = of.map_or_else(String::new, |of| format!(" ({of})"));
        self.in_words() + &share
    }
}

/// Two numbers in words, of which the unit stands once if it is the same.
fn from_to(least: &str, most: &str) -> String {
    if least == most {
        return most.to_owned();
    }
    match (least.rsplit_once(' '), most.rsplit_once(' ')) {
        (Some((number, unit)), Some((_, same))) if unit == same => format!("{number} to {most}"),
        _ => format!("{least} to {most}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_in_words() {
        let words = |least, most| MemoryRange { least, most }.in_words();
        assert_eq!(words(64 << 20, 64 << 20), "64 MiB");
        assert_eq!(words(512 << 20, 3 << 29), "512 MiB to 1.5 GiB");
        let (small, large) = (
            MemoryRange { least: 2, most: 30 },
            MemoryRange { least: 5, most: 70 },
        );
        assert_eq!(large.beyond(&small), MemoryRange { least: 3, most: 40 });
    }
}
