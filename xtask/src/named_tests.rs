//! Which packages can have a test of a name, told from their sources: what has none of it need not be built to find that out.

use std::collections::BTreeSet;
use std::mem;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command;
use crate::files;

/// The packages of the workspace that may have a test with this in its name; never fewer.
pub(crate) fn packages(filter: &str) -> Result<BTreeSet<String>> {
    let metadata = command::metadata(&["--no-deps"])?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let manifest = |package: &Value| Some(PathBuf::from(package["manifest_path"].as_str()?));
    let roots: Vec<PathBuf> = packages.iter().filter_map(manifest).collect();
    let mut named = BTreeSet::new();
    for package in packages {
        let name = package["name"].as_str().context("a package has no name")?;
        let manifest = manifest(package).context("a package has no manifest")?;
        let root = manifest.parent().context("a manifest is in no folder")?;
        let within =
            |path: &Path| path != root && roots.iter().any(|one| one.parent() == Some(path));
        if may_be_in(root, root, word(filter), &within)? {
            named.insert(name.to_owned());
        }
    }
    Ok(named)
}

/// The longest part that is in one module's or one function's name.
fn word(filter: &str) -> &str {
    filter
        .split("::")
        .max_by_key(|part| part.len())
        .unwrap_or(filter)
}

/// Whether a source below a folder is called so, or declares what is called so; without folders of other packages.
fn may_be_in(
    root: &Path,
    folder: &Path,
    word: &str,
    other: &impl Fn(&Path) -> bool,
) -> Result<bool> {
    for path in files::list(folder)? {
        if path.is_dir() {
            if !other(&path) && !path.ends_with("target") && may_be_in(root, &path, word, other)? {
                return Ok(true);
            }
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = files::text(&path)?;
            let below = path.strip_prefix(root).unwrap_or(&path);
            if below.to_string_lossy().contains(word) || declares(&text, word) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether a function or a module is called so, or a macro may call one so.
fn declares(text: &str, word: &str) -> bool {
    let mut before = "";
    let mut words =
        text.split(|character: char| !(character.is_alphanumeric() || character == '_'));
    text.contains(word)
        && (text.contains("fn $")
            || words.any(|one| {
                let is_name = matches!(mem::replace(&mut before, one), "fn" | "mod");
                is_name && one.contains(word)
            }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_declared_is_a_name() {
        assert!(declares("fn the_table_is_full() {}", "table_is"));
        assert!(declares("mod table;", "table"));
        assert!(declares(
            "($name:ident) => { fn $name() {} }\nmade!(full_table);",
            "full"
        ));
        assert!(!declares("let table = 1; // fn", "table"));
        assert_eq!(word("limit::tests::a_raise"), "a_raise");
        assert_eq!(word("::"), "");
    }

    #[test]
    fn this_test_is_found_and_what_is_nowhere_is_not() {
        let found = packages("named_tests::tests::this_test_is_found").unwrap();
        assert!(found.contains("xtask"), "{found:?}");
        let nowhere = ["no", "thing", "is", "called", "so"].join("_");
        assert!(packages(&nowhere).unwrap().is_empty());
    }
}
