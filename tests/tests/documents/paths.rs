//! What in a document is a path of this repository, and whether it leads somewhere.
//!
//! A word of code (in back quotes, or in an indented line) is such a path when
//!
//! * it has a `/`, and its first part is in the root of the repository or beside the document; or
//! * it has the ending of a source ([`SOURCES`]).
//!
//! It has to be there, seen from the root or from the document's folder; a source's name without a `/` anywhere in the repository. A `*`
//! stands for any part of a name. A part that is a placeholder (`NAME`, `<name>`) stands for what the reader puts there: only what is before it
//! has to be there.
//!
//! Not such paths: what begins with `/`, `~`, `-` or a placeholder (of a node, a person, an option), what has a scheme (`https://`), and what
//! cargo makes (`target/`).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Endings that nothing has but files of a repository.
const SOURCES: &[&str] = &[
    "css", "md", "prom", "rs", "sh", "sql", "svg", "toml", "yaml",
];

/// What paths are held against.
pub(crate) struct Repository {
    pub(crate) root: PathBuf,
    /// The name of each file in it, wherever that is.
    pub(crate) names: BTreeSet<String>,
}

impl Repository {
    /// Whether a word of a document leads somewhere; `None`: it is no path of this repository.
    pub(crate) fn path(&self, document: &str, word: &str) -> Option<Result<(), String>> {
        let word = word.trim_start_matches(['(', '"', '\'']);
        let word = word.trim_end_matches([')', '"', '\'', ',', ';', ':', '.']);
        let parts: Vec<&str> = word.split('/').collect();
        let (first, last) = (parts.first()?, parts.last()?);
        if first.is_empty()
            || first.starts_with(['~', '-'])
            || is_placeholder(first)
            || *first == "target"
            || word.contains("://")
        {
            return None;
        }
        let source = last
            .rsplit_once('.')
            .is_some_and(|(name, ending)| !name.is_empty() && SOURCES.contains(&ending));
        let is_there = if parts.len() == 1 {
            source.then(|| self.names.iter().any(|name| fits(first, name)))
        } else {
            let folders = [self.root.clone(), self.folder(document)];
            let begins = folders.iter().any(|folder| leads(folder, &[first]));
            (begins || source).then(|| folders.iter().any(|folder| leads(folder, &parts)))
        };
        is_there.map(|there| there.then_some(()).ok_or(format!("`{word}` is not there")))
    }

    /// Whether a link of a document leads somewhere; one to another site is believed.
    pub(crate) fn link(&self, document: &str, target: &str) -> Result<(), String> {
        if target.contains("://") {
            return Ok(());
        }
        let (file, heading) = target.split_once('#').unwrap_or((target, ""));
        let path = if file.is_empty() {
            self.root.join(document)
        } else {
            self.folder(document).join(file)
        };
        let is_there = if heading.is_empty() {
            path.exists()
        } else {
            fs::read_to_string(&path).is_ok_and(|text| anchors(&text).any(|found| found == heading))
        };
        is_there
            .then_some(())
            .ok_or(format!("the link to {target} leads nowhere"))
    }

    fn folder(&self, document: &str) -> PathBuf {
        let document = self.root.join(document);
        document.parent().expect("a folder").to_owned()
    }
}

/// Targets of the links in a document.
pub(crate) fn links(text: &str) -> impl Iterator<Item = &str> {
    let begins = text.split("](").skip(1);
    begins.filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// What the headings of a document are called in links.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept = words
            .chars()
            .filter(|sign| sign.is_alphanumeric() || " -_".contains(*sign));
        kept.map(|sign| if sign == ' ' { '-' } else { sign })
            .collect()
    })
}

fn is_placeholder(part: &str) -> bool {
    part.contains('<') || (part.len() > 1 && part.chars().all(|sign| sign.is_ascii_uppercase()))
}

/// Whether these parts, one in the other, are in a folder.
fn leads(folder: &Path, parts: &[&str]) -> bool {
    let Some((first, rest)) = parts.split_first() else {
        return true;
    };
    if is_placeholder(first) {
        return folder.is_dir();
    }
    if first.contains('*') {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        return names.any(|name| fits(first, &name) && leads(&folder.join(&name), rest));
    }
    // After a slash at the end there is nothing.
    let next = folder.join(first);
    next.exists() && leads(&next, rest)
}

/// Whether a name is what a pattern with `*` says.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == name;
    };
    name.strip_prefix(start).is_some_and(|tail| {
        let mut ends = tail.char_indices().map(|(at, _)| at).chain([tail.len()]);
        ends.any(|at| fits(rest, &tail[at..]))
    })
}
