//! Words in lines.

use std::fmt::Write as _;

use super::clean;

/// Writes words into lines of at most `width` columns: the first begins with `first`, the others are moved in by `indent`. A word that is longer
/// than a line is not broken: it may be a command. What would move the cursor is replaced ([`clean`]).
pub fn wrap(out: &mut String, first: &str, text: &str, indent: usize, width: usize) {
    let mut line = first.to_owned();
    let mut empty = true;
    for word in text.split_whitespace() {
        let word = clean(word);
        let needs = line.chars().count() + usize::from(!empty) + word.chars().count();
        if !empty && needs > width {
            let _ = writeln!(out, "{}", line.trim_end());
            line = " ".repeat(indent);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line += &word;
        empty = false;
    }
    let _ = writeln!(out, "{}", line.trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_filled_words_are_whole_and_controls_are_shown() {
        let mut out = String::new();
        wrap(
            &mut out,
            "fix   ",
            "sysctl -w net.netfilter.nf_conntrack_max=262144 on\nall\u{1b}[2J nodes",
            6,
            20,
        );
        let expected = "fix   sysctl -w\n      net.netfilter.nf_conntrack_max=262144\n      on all\u{fffd}[2J\n      nodes\n";
        assert_eq!(out, expected);
        out.clear();
        wrap(&mut out, "note", "", 2, 20);
        assert_eq!(out, "note\n");
    }
}
