//! How likely the kernel is to fail where it looks at the hash table: exact formulas.
//!
//! Every entry is in the table twice, by its original and its reply tuple, at two places that its keyed
//! hash chooses. So the number of nodes in a bucket is binomial, and with thousands of buckets Poisson with
//! the mean `lambda`, which is [`super::chain`].

/// `MIN_CHAINLEN` of `nf_conntrack_core.c`.
const MIN_CHAINLEN: u32 = 50;
/// `MAX_CHAINLEN` of `nf_conntrack_core.c`: how many values the random part has.
const MAX_CHAINLEN: u32 = 30;
/// `NF_CT_EVICTION_RANGE`: buckets in which `early_drop` looks.
const EVICTION_RANGE: f64 = 8.0;

/// The chance that a new entry is refused, and its packet lost, because one of its two chains is too long
/// (`__nf_conntrack_confirm`, 5.15 and later).
///
/// The kernel draws `max` from 50 to 79, walks each of the two chains, and gives up when it is at a node and
/// has more than `max` nodes behind it: a chain of `max + 2` nodes or more. Both chains have the same
/// `max`, so the chance is the mean over `max` of `1 - P(X <= max + 1)^2`, X being Poisson.
pub fn chain_too_long(lambda: f64) -> f64 {
    if lambda.is_nan() || lambda <= 0.0 {
        return 0.0;
    }
    let least = MIN_CHAINLEN + 2;
    // P(X >= length), from the longest on: summed from the small ones they keep their precision. Beyond
    // `end` there is nothing that a double would show.
    let end = least + MAX_CHAINLEN + 1000 + to_u32(lambda * 2.0);
    let ln_lambda = lambda.ln();
    let mut ln_factorial = 0.0_f64;
    let terms: Vec<(u32, f64)> = (0..end)
        .map(|nodes| {
            if nodes > 0 {
                ln_factorial += f64::from(nodes).ln();
            }
            let term = (f64::from(nodes) * ln_lambda - lambda - ln_factorial).exp();
            (nodes, term)
        })
        .collect();
    let mut tail = 0.0;
    let mut sum = 0.0;
    for (nodes, term) in terms.into_iter().rev() {
        tail += term;
        if (least..least + MAX_CHAINLEN).contains(&nodes) {
            // One of two chains: 1 - (1 - tail)^2.
            sum += tail * (2.0 - tail);
        }
    }
    (sum / f64::from(MAX_CHAINLEN)).clamp(0.0, 1.0)
}

/// The chance that `early_drop` finds no entry at all in the eight buckets that it looks at, so that a
/// packet is lost although the table is full of entries that it might remove.
pub fn nothing_to_evict(lambda: f64) -> f64 {
    (-EVICTION_RANGE * lambda.max(0.0)).exp()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped before"
)]
fn to_u32(number: f64) -> u32 {
    number.clamp(0.0, 1e6) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::chain;

    /// xorshift64*: the same numbers on every machine.
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: u32) -> u32 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
            u32::try_from((high * u64::from(end)) >> 32).expect("below a u32")
        }
    }

    /// Fills a table of `buckets` to `lambda` nodes a bucket and then tries to insert as the kernel does.
    fn simulated(lambda: u32, tries: u32) -> f64 {
        let buckets = 4096_u32;
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut failed = 0_u32;
        let rounds = 16;
        for _ in 0..rounds {
            let mut nodes = vec![0_u32; buckets as usize];
            for _ in 0..lambda * buckets {
                nodes[random.below(buckets) as usize] += 1;
            }
            for _ in 0..tries / rounds {
                let max = MIN_CHAINLEN + random.below(MAX_CHAINLEN);
                let chains = [random.below(buckets), random.below(buckets)];
                failed += u32::from(chains.iter().any(|bucket| {
                    let mut walked = 0_u32;
                    (0..nodes[*bucket as usize]).any(|_| {
                        walked += 1;
                        walked - 1 > max
                    })
                }));
            }
        }
        f64::from(failed) / f64::from(tries)
    }

    #[test]
    fn the_formula_is_what_a_simulation_gives() {
        for lambda in [32, 40, 48, 64, 80] {
            let tries = 400_000;
            let expected = chain_too_long(lambda.into());
            let seen = simulated(lambda, tries);
            // Five standard deviations of the tries; chains of one round are shared by many tries.
            let deviation = (expected * (1.0 - expected) / f64::from(tries)).sqrt();
            let allowed = 5.0 * deviation + 0.03 * expected;
            assert!(
                (seen - expected).abs() <= allowed,
                "lambda {lambda}: {seen} instead of {expected}"
            );
        }
    }

    #[test]
    fn from_never_to_always() {
        assert!(chain_too_long(0.0).abs() < f64::EPSILON);
        assert!(chain_too_long(f64::NAN).abs() < f64::EPSILON);
        assert!(
            chain_too_long(2.0) < 1e-30,
            "the kernel's default is no risk"
        );
        assert!(chain_too_long(8.0) < 1e-20, "nor is kube-proxy's");
        let mut before = 0.0;
        for lambda in 1..300 {
            let chance = chain_too_long(lambda.into());
            assert!(chance >= before - 1e-12, "it rises with the chains");
            before = chance;
        }
        assert!(before > 0.999_999);
    }

    #[test]
    fn what_was_measured_of_evictions() {
        // Linux 6.18, limit 1,000, 262,144 buckets, all entries evictable: 5.9 % of evictions worked.
        let worked = 1.0 - nothing_to_evict(chain(1_000, 262_144));
        assert!((worked - 0.059).abs() < 0.001, "{worked}");
        assert!(nothing_to_evict(chain(262_144, 262_144)) < 1e-6);
    }
}
