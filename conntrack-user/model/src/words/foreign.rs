//! Words of others: names of pods, cgroups, processes and namespaces, what the kernel, an API server or another process
//! says. Anybody may choose them, so they must not move a terminal's cursor, turn the text around, hide in it, or fill the
//! screen. HTML is escaped where it is made, on top of this.

use std::borrow::Cow;

/// The longest name that is kept of something that anybody may name.
pub const NAME_BYTES: usize = 253;

/// Whether a letter does something other than to be seen: controls (also the end of a line), what turns the direction of
/// the text, what has no width, and the tags that no screen shows.
fn acts(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// The text with `\u{fffd}` for each letter that does something other than to be seen.
pub fn clean(text: &str) -> Cow<'_, str> {
    without(text, acts)
}

/// The same, but ends of lines stay.
pub fn clean_lines(text: &str) -> Cow<'_, str> {
    without(text, |letter| letter != '\n' && acts(letter))
}

fn without(text: &str, bad: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.contains(&bad) {
        Cow::Owned(text.replace(bad, "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// [`clean`], and not more than the first `bytes` of it.
pub fn clean_within(text: &str, bytes: usize) -> String {
    // What is cut off is not looked at: the text may be of any length. Cleaning makes it up to three times as long.
    let mut text = clean(&text[..text.floor_char_boundary(bytes)]).into_owned();
    text.truncate(text.floor_char_boundary(bytes));
    text
}

/// [`clean`], with its middle left out if it has more than `columns` letters: `aggre…-1`.
pub fn shorten(text: &str, columns: usize) -> String {
    let text = clean(text);
    let length = text.chars().count();
    if length <= columns {
        return text.into_owned();
    }
    let kept = columns.saturating_sub(1);
    let head = kept.div_ceil(2);
    let tail: String = text.chars().skip(length - (kept - head)).collect();
    text.chars().take(head).chain(['…']).collect::<String>() + &tail
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_acts_is_replaced() {
        for (text, cleaned) in [
            ("shop/cart-1", "shop/cart-1"),
            ("Grüße, 你好", "Grüße, 你好"),
            (
                "a\u{1b}[2Jb\u{9b}1m\r\n",
                "a\u{fffd}[2Jb\u{fffd}1m\u{fffd}\u{fffd}",
            ),
            ("\u{202e}abc\u{2066}", "\u{fffd}abc\u{fffd}"),
            ("a\u{200b}b\u{feff}\u{e0041}", "a\u{fffd}b\u{fffd}\u{fffd}"),
        ] {
            assert_eq!(clean(text), cleaned);
        }
        assert_eq!(clean_lines("a\nb\r"), "a\nb\u{fffd}");
        assert_eq!(shorten("a\u{7}b", 9), "a\u{fffd}b");
        assert_eq!(shorten("aggregator-1", 8), "aggr…r-1");
        assert_eq!(clean_within(&"ä".repeat(5000), 7), "äää");
    }

    proptest! {
        #[test]
        fn nothing_acts_and_nothing_is_too_long(text: String, most in 0_usize..40) {
            prop_assert!(!clean(&text).contains(acts));
            prop_assert_eq!(clean(&text).chars().count(), text.chars().count());
            let within = clean_within(&text, most);
            prop_assert!(within.len() <= most && !within.contains(acts));
            prop_assert!(clean(&text).starts_with(&within));
            let short = shorten(&text, most.max(1));
            prop_assert!(short.chars().count() <= most.max(1) && !short.contains(acts));
        }
    }
}
