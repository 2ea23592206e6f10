//! What every page has: one HTML file that needs nothing else, no script, no font, no picture from anywhere.
//!
//! A content security policy in it forbids every request. All text is escaped: names of pods and units
//! are somebody else's words.

use std::fmt::{self, Write as _};

const STYLE: &str = include_str!("html/style.css");

/// Text that is shown as it is.
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '&' => formatter.write_str("&amp;")?,
                '<' => formatter.write_str("&lt;")?,
                '>' => formatter.write_str("&gt;")?,
                '"' => formatter.write_str("&quot;")?,
                '\'' => formatter.write_str("&#39;")?,
                letter => formatter.write_char(letter)?,
            }
        }
        Ok(())
    }
}

/// The page up to where its own text begins. `style` is added to what all pages have.
pub fn begin(out: &mut String, title: &str, style: &str) {
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         img-src data:\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{}</title>\n<style>\n{STYLE}{style}</style>\n</head>\n<body>\n<main>\n",
        Escaped(title)
    );
}

/// The end of a page that was made from `source`.
pub fn end(out: &mut String, source: &str) {
    let _ = write!(
        out,
        "<footer>Made by ctpressure {} from {}. Times are UTC.</footer>\n</main>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION"),
        Escaped(source)
    );
}
