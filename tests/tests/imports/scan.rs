//! From the text of one file to the paths in it. What is in comments, strings and test code does not count.

/// A path as it is written, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// `crate`, `super`, `self` or a name, and what follows.
    pub(crate) segments: Vec<String>,
    /// The name that a `use` gives it; `*` for all names; `None`: it stands in an expression or a type.
    pub(crate) binds: Option<String>,
    /// `pub use`: others are meant to find it here; the file itself does not need it.
    pub(crate) is_reexport: bool,
    pub(crate) line: usize,
}

/// What one file has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scanned {
    pub(crate) paths: Vec<Path>,
    /// Modules in files of their own that are compiled for tests only.
    pub(crate) test_modules: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    text: String,
    line: usize,
}

/// Reads a file's text.
pub(crate) fn scan(source: &str) -> Scanned {
    let mut scanned = Scanned::default();
    let tokens = without_tests(&tokens(source), &mut scanned.test_modules);
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let text = |index: usize| tokens.get(index).map_or("", |token| token.text.as_str());
        let before = if at == 0 { "" } else { text(at - 1) };
        if token.text == "use" && text(at + 1) != "<" {
            let end = (at..tokens.len()).find(|&index| text(index) == ";");
            let end = end.unwrap_or(tokens.len());
            let mut tree = tokens[at + 1..end].iter().map(|token| token.text.as_str());
            let mut uses = Vec::new();
            use_tree(&mut tree.by_ref().peekable(), &[], &mut uses);
            for (segments, binds) in uses {
                scanned.paths.push(Path {
                    segments,
                    binds: Some(binds),
                    is_reexport: matches!(before, "pub" | ")"),
                    line: token.line,
                });
            }
            at = end;
        } else if is_name(&token.text) && text(at + 1) == "::" && !matches!(before, "::" | ".") {
            let mut segments = vec![token.text.clone()];
            while text(at + 1) == "::" && is_name(text(at + 2)) {
                segments.push(text(at + 2).to_owned());
                at += 2;
            }
            scanned.paths.push(Path {
                segments,
                binds: None,
                is_reexport: false,
                line: token.line,
            });
        }
        at += 1;
    }
    scanned
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// The paths of `a::{b, c::{self, D as E}, f::*}`, each with the name that it gets.
fn use_tree<'a>(
    tokens: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>,
    prefix: &[String],
    uses: &mut Vec<(Vec<String>, String)>,
) {
    let mut path = prefix.to_vec();
    let mut name = None;
    while let Some(token) = tokens.next() {
        match token {
            "::" => {}
            "{" => {
                while tokens.peek().is_some_and(|token| *token != "}") {
                    use_tree(tokens, &path, uses);
                    tokens.next_if_eq(&",");
                }
                tokens.next();
                return;
            }
            "*" => name = Some("*".to_owned()),
            "as" => name = tokens.next().map(str::to_owned),
            "self" if path.len() == prefix.len() && !prefix.is_empty() => {}
            _ => path.push(token.to_owned()),
        }
        if matches!(tokens.peek(), None | Some(&"," | &"}")) {
            break;
        }
    }
    if path.len() > prefix.len() || (!path.is_empty() && tokens.peek().is_some()) {
        let name = name.or_else(|| path.last().cloned());
        uses.extend(name.map(|name| (path, name)));
    }
}

/// Leaves out every item behind `#[cfg(test)]`; notes those that are modules in files of their own.
fn without_tests(tokens: &[Token], test_modules: &mut Vec<String>) -> Vec<Token> {
    let mut kept = Vec::with_capacity(tokens.len());
    let mut at = 0;
    let begins = |at: usize, words: &[&str]| {
        words.iter().enumerate().all(|(index, word)| {
            tokens
                .get(at + index)
                .is_some_and(|token| token.text == *word)
        })
    };
    while at < tokens.len() {
        if !begins(at, &["#", "[", "cfg", "(", "test", ")", "]"])
            && !begins(at, &["#", "[", "cfg", "(", "all", "(", "test", ","])
        {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let mut depth = 0_usize;
        while let Some(token) = tokens.get(at) {
            if token.text == "mod" && depth == 0 && begins(at + 2, &[";"]) {
                test_modules.push(tokens[at + 1].text.clone());
            }
            match token.text.as_str() {
                "{" | "[" | "(" => depth += 1,
                "}" | "]" | ")" => depth = depth.saturating_sub(1),
                _ => {}
            }
            at += 1;
            if depth == 0 && matches!(token.text.as_str(), "}" | ";") {
                break;
            }
        }
    }
    kept
}

/// Names, `::`, and every other sign for itself; without comments, strings, numbers and lifetimes.
fn tokens(source: &str) -> Vec<Token> {
    let text: Vec<char> = source.chars().collect();
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    let char_at = |at: usize| text.get(at).copied().unwrap_or('\0');
    while at < text.len() {
        let begin = at;
        let first = text[at];
        let mut token = None;
        if first == '/' && char_at(at + 1) == '/' {
            while at < text.len() && text[at] != '\n' {
                at += 1;
            }
        } else if first == '/' && char_at(at + 1) == '*' {
            at = comment_end(&text, at);
        } else if let Some(end) = string_end(&text, at) {
            at = end;
        } else if first == '\'' {
            at = quote_end(&text, at);
        } else if first.is_alphanumeric() || first == '_' {
            while char_at(at).is_alphanumeric() || char_at(at) == '_' {
                at += 1;
            }
            token = Some(text[begin..at].iter().collect::<String>());
        } else if first == ':' && char_at(at + 1) == ':' {
            at += 2;
            token = Some("::".to_owned());
        } else {
            at += 1;
            token = (!first.is_whitespace()).then(|| first.to_string());
        }
        found.extend(token.map(|text| Token { text, line }));
        line += text[begin..at].iter().filter(|&&sign| sign == '\n').count();
    }
    found
}

/// Behind a comment of this kind, which may have others in it.
fn comment_end(text: &[char], begin: usize) -> usize {
    let (mut at, mut depth) = (begin, 0_usize);
    while at < text.len() {
        match (text[at], text.get(at + 1)) {
            ('/', Some('*')) => (at, depth) = (at + 2, depth + 1),
            ('*', Some('/')) => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Behind the string that begins here, raw or not; `None`: none does.
fn string_end(text: &[char], begin: usize) -> Option<usize> {
    let mut at = begin;
    while matches!(text.get(at), Some('b' | 'c')) && at == begin {
        at += 1;
    }
    let raw = text.get(at) == Some(&'r');
    at += usize::from(raw);
    let hashes = text[at..]
        .iter()
        .take_while(|&&sign| raw && sign == '#')
        .count();
    at += hashes;
    if text.get(at) != Some(&'"') {
        return None;
    }
    at += 1;
    while at < text.len() {
        match text[at] {
            '\\' if !raw => at += 2,
            '"' if text[at + 1..]
                .iter()
                .take(hashes)
                .filter(|&&sign| sign == '#')
                .count()
                == hashes =>
            {
                return Some(at + 1 + hashes);
            }
            _ => at += 1,
        }
    }
    Some(text.len())
}

/// Behind a character or a lifetime.
fn quote_end(text: &[char], begin: usize) -> usize {
    match (text.get(begin + 1), text.get(begin + 2)) {
        (Some('\\'), _) => {
            let end = text[begin + 3..].iter().position(|&sign| sign == '\'');
            end.map_or(text.len(), |end| begin + 3 + end + 1)
        }
        (Some(_), Some('\'')) => begin + 3,
        _ => begin + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(source: &str) -> Vec<String> {
        let scanned = scan(source);
        let paths = scanned.paths.iter();
        paths
            .map(|path| {
                let name = path
                    .binds
                    .as_ref()
                    .map_or_else(String::new, |name| format!(" as {name}"));
                let kind = if path.is_reexport { "pub " } else { "" };
                format!("{kind}{}{name}", path.segments.join("::"))
            })
            .collect()
    }

    #[test]
    fn trees_of_uses() {
        let source = "use crate::{a, b::{self, C as D, e::*},};\npub(crate) use super::f::G;\nuse self::h;\nuse {i::J, k};";
        assert_eq!(
            paths(source),
            [
                "crate::a as a",
                "crate::b as b",
                "crate::b::C as D",
                "crate::b::e as *",
                "pub super::f::G as G",
                "self::h as h",
                "i::J as J",
                "k as k",
            ]
        );
    }

    #[test]
    fn paths_in_expressions_and_types() {
        let source = "fn f(x: &'a crate::b::C) -> impl Fn() + use<'a> { super::super::d::<u8>(); x.y::<E>(); 'l: loop { self::g('\\'', '\"') } }";
        assert_eq!(paths(source), ["crate::b::C", "super::super::d", "self::g"]);
    }

    #[test]
    fn what_is_only_said_does_not_count() {
        let source = "// crate::a\n/* crate::b /* crate::c */ crate::d */ /// [`crate::e`]\nconst X: &str = \"crate::f \\\" crate::g\";\nconst Y: &[u8] = br#\"crate::h \" crate::i\"#;\nuse crate::j;";
        assert_eq!(paths(source), ["crate::j as j"]);
        assert_eq!(scan(source).paths[0].line, 5);
    }

    #[test]
    fn test_code_does_not_count() {
        let source = "#[cfg(test)]\nuse crate::a;\n#[cfg(test)]\nmod tests { fn f() { crate::b::c() } }\n#[cfg(test)]\npub(crate) mod made_up;\nuse crate::d;\n#[cfg(all(test, unix))]\nfn g() { crate::e() }\nuse crate::f;";
        assert_eq!(paths(source), ["crate::d as d", "crate::f as f"]);
        assert_eq!(scan(source).test_modules, ["made_up"]);
    }
}
