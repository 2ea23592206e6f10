//! `/proc/net/stat/nf_conntrack`: a line of names, then one row of hexadecimal numbers for each
//! possible CPU.

use super::{SOURCES, STATS, StatsError, StatsReading};

/// Reads the text of `/proc/net/stat/nf_conntrack`.
///
/// # Errors
/// When the first line lacks `entries`, `drop` or `early_drop`, or a row does not fit it.
pub(crate) fn parse(text: &str) -> Result<StatsReading, StatsError> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    if let Some(missing) = ["entries", "drop", "early_drop"]
        .iter()
        .find(|name| !names.contains(name))
    {
        return Err(StatsError::Text(format!(
            "no column {missing} among {names:?}"
        )));
    }
    let mut reading = StatsReading::default();
    for line in lines {
        let mut row = [None; STATS];
        let mut values = line.split_whitespace();
        for name in &names {
            let value = values
                .next()
                .and_then(|value| u32::from_str_radix(value, 16).ok())
                .ok_or_else(|| {
                    StatsError::Text(format!("no number for {name} in the row {line:?}"))
                })?;
            if *name == "entries" {
                // Each row repeats the number of the whole table.
                reading.entries = Some(u64::from(value));
            } else if let Some(stat) = SOURCES.iter().position(|(_, column, _)| column == name) {
                row[stat] = Some(value);
            }
        }
        reading.rows.push(row);
    }
    if reading.rows.is_empty() {
        return Err(StatsError::Text("no row".into()));
    }
    Ok(reading)
}

/// The number of entries, from the beginning of the file: its first two lines are enough.
pub(crate) fn parse_entries(text: &str) -> Option<u64> {
    let mut lines = text.lines();
    let column = lines
        .next()?
        .split_whitespace()
        .position(|name| name == "entries")?;
    let value = lines.next()?.split_whitespace().nth(column)?;
    // Of a number that was cut off there are fewer digits.
    (value.len() >= 8)
        .then(|| u64::from_str_radix(value, 16).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::stats::{KernelStats, Stat};

    const V5_4: &str = "\
entries  searched found new invalid ignore delete delete_list insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart
000000c8  00000000 0000012c 00000000 00000001 00000007 00000000 00000000 00000002 00000003 00000110 00000080 00000004  00000005 00000006 00000007 00000008
000000c8  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000001 00000001 00000000  00000000 00000000 00000000 00000000
";
    const V5_10: &str = "\
entries  clashres found new invalid ignore delete delete_list insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart
0000000a  00000009 00000000 00000000 00000000 00000000 00000000 00000000 00000000 0000001e 0000001e 00000000 00000000  00000000 00000000 00000000 00000000
";
    const V5_15: &str = "\
entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart
00000000  00000002 00000000 00000000 00000000 00000000 00000000 ffffffff 00000000 00000000 00000000 00000000 00000000  00000000 00000000 00000000 00000000
00000000  00000000 00000000 00000000 00000000 00000000 00000000 00000001 00000000 00000000 00000000 00000000 00000000  00000000 00000000 00000000 00000000
";

    fn sums(text: &str) -> KernelStats {
        KernelStats::from(&parse(text).unwrap())
    }

    #[test]
    fn of_5_4() {
        let reading = parse(V5_4).unwrap();
        assert_eq!((reading.entries, reading.rows.len()), (Some(200), 2));
        let stats = KernelStats::from(&reading);
        let expected = KernelStats {
            found: 300,
            invalid: 1,
            insert: 2,
            insert_failed: 3,
            clash_resolve: None,
            drop: 273,
            early_drop: 129,
            icmp_error: 4,
            search_restart: 8,
            chain_too_long: None,
            expect_new: Some(5),
            expect_create: Some(6),
            expect_delete: Some(7),
        };
        assert_eq!(stats, expected);
    }

    #[test]
    fn of_5_10_and_5_15_the_same_columns_mean_other_things() {
        let (older, newer) = (sums(V5_10), sums(V5_15));
        assert_eq!((older.clash_resolve, older.chain_too_long), (Some(9), None));
        assert_eq!((older.drop, older.insert_failed), (30, 30));
        assert_eq!(newer.clash_resolve, Some(2));
        assert_eq!(newer.chain_too_long, Some(0x1_0000_0000), "sums don't wrap");
    }

    #[test]
    fn the_order_of_columns_does_not_matter() {
        let reading = parse("drop early_drop later entries\n1 2 3 4\n").unwrap();
        assert_eq!(reading.entries, Some(4));
        assert_eq!(reading.rows[0][Stat::Drop as usize], Some(1));
        assert_eq!(reading.rows[0][Stat::Found as usize], None);
    }

    #[test]
    fn what_is_no_such_file_is_an_error() {
        for wrong in [
            "",
            "entries drop\n1 2\n",
            "entries drop early_drop\n",
            "entries drop early_drop\n1 2\n",
            "entries drop early_drop\n1 x 2\n",
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn entries_from_the_beginning() {
        for (text, entries) in [(V5_4, 200), (V5_10, 10), (V5_15, 0)] {
            let second = text.find('\n').unwrap() + 1;
            assert_eq!(parse_entries(&text[..second + 8]), Some(entries));
            assert_eq!(parse_entries(&text[..second + 7]), None, "cut off");
            assert_eq!(parse_entries(&text[..second - 1]), None);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "[ -~\n]{0,300}") {
            drop(parse(&text));
            let _: Option<u64> = parse_entries(&text);
        }

        #[test]
        fn cut_text_is_an_error_or_whole_rows(at in 0..V5_4.len()) {
            if let Ok(reading) = parse(&V5_4[..at]) {
                prop_assert!(reading.rows.len() <= 2);
            }
        }
    }
}
