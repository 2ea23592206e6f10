//! `cargo xtask docs`: the documents as a site, by mdbook. A link that leads nowhere is an error.
//!
//! The documents stand where their subject is (`docs/`, `deploy/`, beside a crate), and `docs/SUMMARY.md` lists them. mdbook wants all
//! pages in one folder: they are put into one in the folders that they have here, so that one link is right in both places.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::cache::Cache;
use crate::setup::{self, SetupStep};
use crate::{command, files};

mod site;

const SUMMARY: &str = "docs/SUMMARY.md";
const BOOK: &str = "docs/book.toml";
/// Where mdbook looks for pages, as `docs/book.toml` has it.
const PAGES: &str = "pages";

/// What `cargo xtask docs` takes.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Folder of the site
    #[arg(long, value_name = "FOLDER", default_value = "target/docs")]
    output: PathBuf,
}

/// Runs the command: prints where the site begins.
pub(crate) fn run(arguments: &Arguments) -> Result<i32> {
    let cache = Cache::open()?;
    setup::ensure(&cache, &[SetupStep::Mdbook])?;
    let mdbook = cache.program("mdbook").context("mdbook is missing")?;
    let repository = command::repository();
    let site = repository.join(&arguments.output);
    let book = tempfile::tempdir().context("make a folder for the pages")?;
    gather(&repository, book.path())?;
    let mut build = Command::new(mdbook);
    build.env("RUST_LOG", "warn").arg("build");
    command::run(build.arg(book.path()).arg("--dest-dir").arg(&site))?;
    let broken = site::broken_links(&site)?;
    if !command::complain(&broken) {
        return Ok(1);
    }
    println!("{}", site.join("index.html").display());
    Ok(0)
}

/// Puts the pages, and all files that they link to, into the folder of a book.
fn gather(repository: &Path, book: &Path) -> Result<()> {
    files::copy(&repository.join(BOOK), &book.join("book.toml"))?;
    let summary = files::text(&repository.join(SUMMARY))?;
    let pages: BTreeSet<PathBuf> = links(&summary)
        .map(|link| seen_from(Path::new(SUMMARY), link))
        .collect();
    let mut others = BTreeSet::new();
    for page in &pages {
        let text = files::text(&repository.join(page))?;
        for link in links(&text) {
            let (file, _) = link.split_once('#').unwrap_or((link, ""));
            if file.is_empty() || link.contains("://") {
                continue;
            }
            let file = seen_from(page, file);
            ensure!(
                pages.contains(&file) || file.extension().is_some_and(|ending| ending != "md"),
                "{}: the link to {link} is to no page of {SUMMARY}",
                page.display()
            );
            others.insert(file);
        }
    }
    for file in pages.union(&others) {
        let to = book.join(PAGES).join(file);
        files::folder(to.parent().context("a file has a folder")?)?;
        files::copy(&repository.join(file), &to)?;
    }
    let folder = Path::new(SUMMARY).parent().context("it has a folder")?;
    let chapters = summary.replace("](", &format!("]({}/", folder.display()));
    files::write(&book.join(PAGES).join("SUMMARY.md"), flat(&chapters))
}

/// Targets of the links in a document.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let begins = text.split("](").skip(1);
    begins.filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// What a link of a document leads to, seen from the root of the repository.
fn seen_from(document: &Path, link: &str) -> PathBuf {
    let folder = document.parent().unwrap_or(Path::new(""));
    let mut path = PathBuf::new();
    for part in folder.join(link).components() {
        if part == Component::ParentDir {
            path.pop();
        } else {
            path.push(part);
        }
    }
    path
}

/// The list of chapters with each path seen from the root.
fn flat(chapters: &str) -> String {
    links(chapters).fold(chapters.to_owned(), |text, link| {
        let path = seen_from(Path::new(""), link);
        text.replace(&format!("]({link})"), &format!("]({})", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_chapters_is_seen_from_the_root() {
        assert_eq!(
            flat("- [A](docs/../README.md)\n- [B](docs/commands/top.md)"),
            "- [A](README.md)\n- [B](docs/commands/top.md)"
        );
    }

    #[test]
    fn the_pages_and_what_they_link_to_are_gathered() {
        let book = tempfile::tempdir().unwrap();
        gather(&command::repository(), book.path()).unwrap();
        for file in [
            "README.md",
            "docs/concepts.md",
            "docs/pictures/table.svg",
            "conntrack-user/journal/src/schema.sql",
        ] {
            assert!(book.path().join(PAGES).join(file).is_file(), "{file}");
        }
    }

    #[test]
    fn each_document_is_a_page() {
        let summary = files::text(&command::repository().join(SUMMARY)).unwrap();
        let pages: BTreeSet<PathBuf> = links(&summary)
            .map(|link| seen_from(Path::new(SUMMARY), link))
            .collect();
        let documents = ctpressure_tests::documents::DOCUMENTS.iter();
        let documents: BTreeSet<PathBuf> = documents.map(|(path, _)| PathBuf::from(path)).collect();
        assert_eq!(pages, documents);
    }
}
