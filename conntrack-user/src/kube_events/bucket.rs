//! How many Events may be written: some at once, then one now and then.

use std::time::Duration;

/// A bucket of tokens; times are since any fixed one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    most: u32,
    /// One more token comes after this time.
    every: Duration,
    tokens: u32,
    /// When the last one came.
    filled: Duration,
}

impl Bucket {
    /// A full one.
    pub(super) const fn new(most: u32, every: Duration) -> Self {
        Self {
            most,
            every,
            tokens: most,
            filled: Duration::ZERO,
        }
    }

    /// Takes a token if there is one.
    pub(super) fn take(&mut self, at: Duration) -> bool {
        while self.tokens < self.most && at.saturating_sub(self.filled) >= self.every {
            self.tokens += 1;
            self.filled += self.every;
        }
        if self.tokens == self.most {
            self.filled = at;
        }
        let there = self.tokens > 0;
        self.tokens -= u32::from(there);
        there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_at_once_then_one_now_and_then() {
        let mut bucket = Bucket::new(3, Duration::from_secs(10));
        let taken = |bucket: &mut Bucket, from: u64, to: u64| {
            let seconds = from..to;
            let granted = seconds.filter(|at| bucket.take(Duration::from_secs(*at)));
            granted.count()
        };
        assert_eq!(taken(&mut bucket, 1000, 1005), 3);
        assert_eq!(taken(&mut bucket, 1005, 1100), 9);
        // What is saved up is never more than a bucket.
        assert_eq!(taken(&mut bucket, 9000, 9005), 3);
    }
}
