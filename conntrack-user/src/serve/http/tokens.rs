//! Bearer tokens (RFC 6750).

use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, HeaderValue},
};
use subtle::{Choice, ConstantTimeEq as _};

/// Characters that a token has at least: fewer could be guessed.
const LEAST: usize = 16;
/// Tokens at a time: an old and a new one while they are changed, for each of those who ask.
const MOST: usize = 16;

/// The tokens that are taken.
pub(super) struct Tokens(Vec<String>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} tokens", self.0.len())
    }
}

impl Tokens {
    /// Reads a file: one token a line.
    ///
    /// # Errors
    /// What is wrong with it, without a word of what it says.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim);
        let tokens: Vec<_> = lines
            .filter(|line| !line.is_empty())
            .map(ToOwned::to_owned)
            .collect();
        if tokens.is_empty() {
            return Err("it has no token".to_owned());
        }
        if tokens.len() > MOST {
            return Err(format!("it has more than {MOST} tokens"));
        }
        for (number, token) in (1..).zip(&tokens) {
            if token.len() < LEAST {
                return Err(format!("token {number} is shorter than {LEAST} characters"));
            }
            if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(format!(
                    "token {number} has characters that a header can't have"
                ));
            }
        }
        Ok(Self(tokens))
    }

    /// Whether a request has one of them. How long that takes says nothing of what they are, but for their length.
    pub(super) fn allow(&self, headers: &HeaderMap) -> bool {
        let Some(offered) = headers.get(AUTHORIZATION).and_then(bearer) else {
            return false;
        };
        let mut found = Choice::from(0);
        for token in &self.0 {
            found |= token.as_bytes().ct_eq(offered);
        }
        found.into()
    }
}

/// What stands behind `Bearer`.
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "0123456789abcdef";
    const NEW: &str = "fedcba9876543210+/=";

    fn allows(tokens: &Tokens, value: &[u8]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(
            AUTHORIZATION,
            HeaderValue::from_bytes(value).expect("a value"),
        );
        tokens.allow(&headers)
    }

    #[test]
    fn any_of_them_and_nothing_else() {
        let tokens = Tokens::read(&format!("{OLD}\n\n  {NEW} \n")).expect("two");
        for value in [
            format!("Bearer {OLD}"),
            format!("bearer  {NEW}"),
            format!("BEARER {NEW} "),
        ] {
            assert!(allows(&tokens, value.as_bytes()), "{value}");
        }
        for value in [
            "",
            "Bearer",
            "Bearer ",
            OLD,
            "Basic 0123456789abcdef",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer \u{fc}\u{fc}\u{fc}\u{fc}",
        ] {
            assert!(!allows(&tokens, value.as_bytes()), "{value}");
        }
        assert!(!tokens.allow(&HeaderMap::new()));
        assert_eq!(format!("{tokens:?}"), "2 tokens", "a log has none of them");
    }

    #[test]
    fn what_is_wrong_is_said_without_a_token() {
        for (text, word) in [
            (String::new(), "no token"),
            ("\n \n".to_owned(), "no token"),
            ("short".to_owned(), "shorter than 16"),
            ("0123456789 abcdef".to_owned(), "header"),
            (format!("{OLD}\n").repeat(17), "more than 16"),
        ] {
            let error = Tokens::read(&text).expect_err("it is wrong");
            assert!(error.contains(word), "{error}");
            assert!(!error.contains("short\n") && !error.contains(OLD));
        }
    }
}
