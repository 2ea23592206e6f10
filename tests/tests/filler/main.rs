//! A doc comment of a public item tells what its name does not: units, shape, source. One of three words or fewer tells
//! nothing; an item that needs no more is not public.

use std::{fs, io, path::Path};

/// More words than filler has.
const ENOUGH: usize = 4;

/// The doc comments of public items that are filler, each with its line.
fn filler(source: &str) -> Vec<(usize, String)> {
    let (mut found, mut said, mut attributes) = (Vec::new(), String::new(), String::new());
    // The indent of the type around: its contents are public (variants, their fields), or hidden.
    let (mut public, mut hidden) = (None, None);
    for (number, line) in (1..).zip(source.lines()) {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let in_attribute = !attributes.is_empty() && !attributes.ends_with(']');
        if in_attribute || code.starts_with("#[") {
            attributes += code;
            continue;
        }
        if let Some(words) = code.strip_prefix("///") {
            said = format!("{said} {}", words.trim());
            continue;
        }
        for around in [&mut public, &mut hidden] {
            around.take_if(|around| !code.is_empty() && indent <= *around);
        }
        let is_public = hidden.is_none() && (public.is_some() || code.starts_with("pub "));
        if is_public && !said.is_empty() && said.split_whitespace().count() < ENOUGH {
            found.push((number, said.trim().to_owned()));
        }
        let visible = code.strip_prefix("pub ");
        let item = visible.unwrap_or_else(|| code.split_once(") ").map_or(code, |(_, item)| item));
        let word = item.split(' ').next().unwrap_or_default();
        // What clap takes for help is not documentation.
        let is_help = attributes.contains("ValueEnum") || attributes.contains("Args");
        match word {
            "enum" | "trait" if visible.is_some() && !is_help => public = Some(indent),
            "enum" | "trait" | "struct" if visible.is_none() || is_help => hidden = Some(indent),
            _ => {}
        }
        said.clear();
        attributes.clear();
    }
    found
}

/// What is filler in the files below a folder, without those that are only tests.
fn below(folder: &Path, found: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default();
        if name == "tests" || name == "target" {
            continue;
        }
        if path.is_dir() {
            below(&path, found)?;
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let shown = path.display();
            let filler = filler(&fs::read_to_string(&path)?);
            found.extend(
                filler
                    .iter()
                    .map(|(line, said)| format!("{shown}:{line}: {said}")),
            );
        }
    }
    Ok(())
}

#[test]
fn public_items_have_documentation_that_helps() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    for member in ["conntrack-ebpf", "conntrack-user", "xtask"] {
        below(&repository.join(member), &mut found).expect("the sources");
    }
    assert!(
        found.is_empty(),
        "{} say nothing:\n{}",
        found.len(),
        found.join("\n")
    );
}

#[test]
fn what_is_filler_and_what_is_not() {
    let source = "\
/// What came of it.
pub enum Outcome {
    /// Done.
    #[error(
        \"a\"
    )]
    Done,
    /// Failed, with the kernel's own reason.
    Failed {
        /// Why.
        why: String,
    },
}

/// Who.
pub(crate) struct Inner {
    /// Name.
    name: String,
}

/// In bytes, as the slab has them.
pub struct Outer {
    /// The
    /// size.
    pub size: u64,
}

#[derive(ValueEnum)]
pub enum Mode {
    /// Nothing
    Off,
}
";
    let found = filler(source);
    let said: Vec<_> = found
        .iter()
        .map(|(line, said)| (*line, said.as_str()))
        .collect();
    assert_eq!(said, [(7, "Done."), (11, "Why."), (25, "The size.")]);
}
