//! The links of a site that was built: each leads to a file of it, and where it names a place on a page, that is there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::files;

/// The links that lead nowhere, each with its page.
pub(super) fn broken_links(site: &Path) -> Result<Vec<String>> {
    let mut pages = BTreeMap::new();
    for path in files::below(site)? {
        if path.extension().is_some_and(|ending| ending == "html") {
            let text = files::text(&path)?;
            pages.insert(path, text);
        }
    }
    ensure!(!pages.is_empty(), "{} has no pages", site.display());
    let places: BTreeMap<&PathBuf, BTreeSet<&str>> = pages
        .iter()
        .map(|(path, text)| (path, values(text, "id").into_iter().collect()))
        .collect();
    let mut broken = Vec::new();
    for (path, text) in &pages {
        for link in ["href", "src"]
            .into_iter()
            .flat_map(|name| values(text, name))
        {
            if !leads(path, link, &places).context("look at a link")? {
                let page = path.strip_prefix(site).unwrap_or(path);
                broken.push(format!("{}: {link} leads nowhere", page.display()));
            }
        }
    }
    Ok(broken)
}

/// The values of an attribute in a page.
fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    let begin = format!(" {attribute}=\"");
    let pieces = page.split(&begin).skip(1);
    pieces
        .filter_map(|rest| rest.split_once('"').map(|(value, _)| value))
        .collect()
}

/// Whether a link of a page leads somewhere; one to another site is believed.
fn leads(page: &Path, link: &str, places: &BTreeMap<&PathBuf, BTreeSet<&str>>) -> Result<bool> {
    if link.contains("://") || link.starts_with("data:") {
        return Ok(true);
    }
    let (file, place) = link.split_once('#').unwrap_or((link, ""));
    let target = if file.is_empty() {
        page.to_owned()
    } else {
        page.parent().context("a page has a folder")?.join(file)
    };
    let Ok(target) = target.canonicalize() else {
        return Ok(false);
    };
    let named = places.iter().find(|(path, _)| ***path == *target);
    Ok(place.is_empty() || named.is_some_and(|(_, places)| places.contains(place)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_a_page_or_a_place_that_is_not_there_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let site = folder.path().canonicalize().unwrap();
        files::folder(&site.join("a")).unwrap();
        let page = "<h1 id=\"top\">A</h1><a href=\"#top\"></a><a href=\"../index.html\"></a>\
                    <a href=\"#no\"></a><img src=\"no.svg\"><a href=\"https://example.org/\"></a>";
        files::write(&site.join("a/a.html"), page).unwrap();
        let index = "<a href=\"a/a.html#top\"></a><a href=\"a/a.html#no\"></a>";
        files::write(&site.join("index.html"), index).unwrap();
        assert_eq!(
            broken_links(&site).unwrap(),
            [
                "a/a.html: #no leads nowhere",
                "a/a.html: no.svg leads nowhere",
                "index.html: a/a.html#no leads nowhere"
            ]
        );
    }
}
