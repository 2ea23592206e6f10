//! Charts of block characters, for terminals.

/// Eighths of a character's height.
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Where the limit runs through an empty cell.
const LINE: char = '─';
/// A step of which nothing is known.
const GAP: char = '·';

/// Values as bars of `height` lines, highest line first; `top` is the value at the upper edge. Where
/// `line` (0: none) has a value that no bar reaches, it is drawn. Gaps (`known` is false) are dotted.
pub(super) fn bars(
    values: &[u64],
    line: &[u64],
    known: &[bool],
    top: u64,
    height: usize,
) -> Vec<String> {
    let top = u128::from(top.max(1));
    let eighths = |value: u64| {
        let all = 8 * height as u128;
        let scaled = u128::from(value) * all / top;
        // What is not nothing is seen.
        let seen = if value > 0 { scaled.max(1) } else { 0 };
        usize::try_from(seen.min(all)).unwrap_or(0)
    };
    (0..height)
        .rev()
        .map(|row| {
            values
                .iter()
                .enumerate()
                .map(|(at, value)| {
                    let filled = eighths(*value).saturating_sub(8 * row).min(8);
                    let line = line.get(at).copied().unwrap_or(0);
                    let at_line = line > 0 && eighths(line).saturating_sub(1) / 8 == row;
                    match (known.get(at), filled) {
                        (Some(false), _) if row == 0 => GAP,
                        (Some(false), _) => ' ',
                        (_, 0) if at_line => LINE,
                        (_, filled) => BLOCKS[filled],
                    }
                })
                .collect()
        })
        .collect()
}

/// Values in one line, by the largest.
pub(super) fn spark(values: &[u64], known: &[bool]) -> String {
    let top = values.iter().copied().max().unwrap_or(0);
    bars(values, &[], known, top, 1).concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_and_the_limit() {
        let known = [true, true, true, true, false];
        let drawn = bars(&[0, 1, 50, 100, 7], &[100, 100, 100, 50, 0], &known, 100, 2);
        assert_eq!(drawn, ["───█ ", " ▁██·"]);
        assert_eq!(spark(&[0, 4, 8], &[true; 3]), " ▄█");
        assert_eq!(spark(&[], &[]), "");
        assert_eq!(spark(&[0, 0], &[true, true]), "  ");
        assert_eq!(
            bars(&[u64::MAX], &[u64::MAX], &[true], u64::MAX, 3),
            ["█"; 3]
        );
        assert!(bars(&[1], &[], &[], 0, 0).is_empty());
    }
}
