//! Sizes.

use super::number::{grouped, of_tenths};

/// Bytes in the greatest binary unit that leaves a number of at least 1; to the nearest, with one decimal below ten unless
/// it is 0: `512 bytes`, `1.5 MiB`, `64 MiB`, `23 GiB`.
pub fn bytes(bytes: u64) -> String {
    if bytes == 1 {
        return "1 byte".to_owned();
    }
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut one = 1_u128;
    for unit in ["KiB", "MiB", "GiB", "TiB"] {
        one *= 1024;
        let tenths = (u128::from(bytes) * 10 + one / 2) / one;
        let number = if tenths < 100 {
            of_tenths(saturated(tenths))
        } else {
            let number = saturated((u128::from(bytes) + one / 2) / one);
            // What is rounded up to 1024 is one of the next unit.
            if number >= 1024 && unit != "TiB" {
                continue;
            }
            grouped(number)
        };
        return format!("{number} {unit}");
    }
    // Not reached: everything fits the last unit.
    String::new()
}

fn saturated(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        for (size, words) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (999, "999 bytes"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (10_239, "10 KiB"),
            (1013 << 10, "1,013 KiB"),
            ((1 << 20) - 1, "1 MiB"),
            (69_206_016, "66 MiB"),
            (25_232_932_864, "24 GiB"),
            (3 << 39, "1.5 TiB"),
            (u64::MAX, "16,777,216 TiB"),
        ] {
            assert_eq!(bytes(size), words);
        }
    }

    fn read(words: &str) -> f64 {
        let (number, unit) = words.split_once(' ').unwrap();
        let power = ["byte", "KiB", "MiB", "GiB", "TiB"]
            .iter()
            .position(|one| unit.trim_end_matches('s') == *one)
            .unwrap();
        number.replace(',', "").parse::<f64>().unwrap() * 1024_f64.powi(power.try_into().unwrap())
    }

    proptest! {
        #[test]
        fn more_is_not_written_as_less(shift in 0_u32..64, one: u64, more: u64) {
            let (one, more) = (one >> shift, more >> shift);
            let (less, more) = (one.min(more), one.max(more));
            prop_assert!(read(&bytes(less)) <= read(&bytes(more)), "{less} {more}");
        }

        #[test]
        fn what_is_written_is_off_by_a_twentieth_at_most(shift in 0_u32..64, size: u64) {
            let size = size >> shift;
            #[expect(clippy::cast_precision_loss, reason = "it is compared coarsely")]
            let (size, read) = (size as f64, read(&bytes(size)));
            prop_assert!((read - size).abs() <= size * 0.05001, "{size} {read}");
            prop_assert_eq!(read == 0.0, size == 0.0);
        }
    }
}
