//! Which file of a crate needs which, and what is wrong with that.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::{self, Write as _},
    fs, io,
    path::Path,
};

use super::scan::{self, Scanned, scan};

/// The name of a crate's root: `lib.rs` or `main.rs`.
const ROOT: &str = "(root)";
/// How many re-exports are followed, one behind the other.
const FOLLOWED: usize = 16;

/// One file needs what another one has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Arrow {
    pub(crate) from: String,
    pub(crate) to: String,
    /// Where that is said first, and how.
    line: usize,
    path: String,
}

impl fmt::Display for Arrow {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            to,
            "{}:{}: {} is in {}",
            self.from, self.line, self.path, self.to
        )
    }
}

/// A file, by the path of its module; the root's is empty.
#[derive(Debug)]
struct File {
    name: String,
    scanned: Scanned,
}

/// What a name means that a `use` may have brought.
enum Bound {
    /// The module that has it.
    Here(Vec<String>),
    /// It is of another crate.
    Outside,
    /// No `use` brings it.
    Nowhere,
}

/// The files below `src/` of one crate.
#[derive(Debug)]
pub(crate) struct Crate {
    files: BTreeMap<Vec<String>, File>,
    arrows: BTreeSet<Arrow>,
}

impl Crate {
    /// Reads the files below this folder.
    pub(crate) fn read(source: &Path) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        read(source, &mut Vec::new(), &mut files)?;
        let tests: Vec<Vec<String>> = files
            .iter()
            .flat_map(|(module, file): (&Vec<String>, &File)| {
                let tests = file.scanned.test_modules.iter();
                tests.map(move |test| [module.as_slice(), std::slice::from_ref(test)].concat())
            })
            .collect();
        files.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
        let mut found = Self {
            files,
            arrows: BTreeSet::new(),
        };
        found.arrows = found.find();
        Ok(found)
    }

    /// Every arrow once, where it is first said.
    fn find(&self) -> BTreeSet<Arrow> {
        let mut arrows = BTreeMap::new();
        for (module, file) in &self.files {
            for path in file.scanned.paths.iter().filter(|path| !path.is_reexport) {
                let Some(target) = self.resolve(module, &path.segments, FOLLOWED) else {
                    continue;
                };
                let Some(to) = self.files.get(&target).filter(|_| target != *module) else {
                    continue;
                };
                let arrow = Arrow {
                    from: file.name.clone(),
                    to: to.name.clone(),
                    line: path.line,
                    path: path.segments.join("::"),
                };
                arrows
                    .entry((file.name.clone(), to.name.clone()))
                    .or_insert(arrow);
            }
        }
        arrows.into_values().collect()
    }

    /// The module whose file has what this path means when it stands in `module`; `None`: it is of another crate.
    fn resolve(&self, module: &[String], path: &[String], left: usize) -> Option<Vec<String>> {
        let (first, mut rest) = path.split_first()?;
        let mut at = match first.as_str() {
            "crate" => Vec::new(),
            "self" => module.to_vec(),
            "super" => {
                let mut at = module.to_vec();
                at.pop()?;
                while let Some(("super", more)) =
                    rest.split_first().map(|(word, more)| (word.as_str(), more))
                {
                    at.pop()?;
                    rest = more;
                }
                at
            }
            name => {
                let child = [module, &[name.to_owned()]].concat();
                if self.files.contains_key(&child) {
                    child
                } else {
                    let Bound::Here(target) = self.bound(module, name, left) else {
                        return None;
                    };
                    return self.inside(target, rest, left);
                }
            }
        };
        if !self.files.contains_key(&at) {
            // An inline module: its file is the one around it.
            at.pop();
        }
        self.inside(at, rest, left)
    }

    /// From a module on, along the rest of a path.
    fn inside(&self, mut at: Vec<String>, path: &[String], left: usize) -> Option<Vec<String>> {
        for (index, name) in path.iter().enumerate() {
            at.push(name.clone());
            if self.files.contains_key(&at) {
                continue;
            }
            at.pop();
            return match self.bound(&at, name, left) {
                Bound::Here(target) => {
                    self.inside(target, &path[index + 1..], left.checked_sub(1)?)
                }
                Bound::Outside => None,
                Bound::Nowhere => Some(at),
            };
        }
        Some(at)
    }

    /// What a `use` in this module calls `name`.
    fn bound(&self, module: &[String], name: &str, left: usize) -> Bound {
        let Some(left) = left.checked_sub(1) else {
            return Bound::Nowhere;
        };
        let paths = self.files.get(module).map(|file| &file.scanned.paths);
        let mut paths = paths.into_iter().flatten();
        let path = paths.find(|path: &&scan::Path| path.binds.as_deref() == Some(name));
        // `use name;` says nothing new.
        match path.filter(|path| path.segments.as_slice() != [name]) {
            None => Bound::Nowhere,
            Some(path) => self
                .resolve(module, &path.segments, left)
                .map_or(Bound::Outside, Bound::Here),
        }
    }

    /// The crate's rooms: what is declared in its root.
    pub(crate) fn rooms(&self) -> BTreeSet<&str> {
        self.files
            .keys()
            .filter_map(|module| module.first().map(String::as_str))
            .collect()
    }

    /// Arrows from one room to another.
    pub(crate) fn between_rooms(&self) -> impl Iterator<Item = (&str, &str, &Arrow)> {
        self.arrows.iter().filter_map(|arrow| {
            let (from, to) = (room(&arrow.from), room(&arrow.to));
            (from != to).then_some((from, to, arrow))
        })
    }

    /// Arrows to a room that is not below, by this order, the lowest first.
    pub(crate) fn upward(&self, order: &[&str]) -> Vec<String> {
        // The root is above all.
        let height = |room: &str| {
            order
                .iter()
                .position(|known| *known == room)
                .unwrap_or(order.len())
        };
        let upward = self
            .between_rooms()
            .filter(|(from, to, _)| height(from) <= height(to));
        upward
            .map(|(from, to, arrow)| format!("{arrow}: `{from}` is below `{to}`"))
            .collect()
    }

    /// Circles of files, each as short as it can be. An arrow between a file and one that is inside its module does not
    /// count: these are one module that was cut in pieces.
    pub(crate) fn circles(&self) -> Vec<String> {
        let counts = |arrow: &&Arrow| {
            !is_inside(&arrow.from, &arrow.to) && !is_inside(&arrow.to, &arrow.from)
        };
        circles(&self.arrows.iter().filter(counts).collect::<Vec<_>>())
    }

    /// Circles of rooms, also where no file is in a circle. The root is above all of them.
    pub(crate) fn room_circles(&self) -> Vec<String> {
        let rooms: Vec<Arrow> = self
            .between_rooms()
            .filter(|(from, to, _)| *from != ROOT && *to != ROOT)
            .map(|(from, to, arrow)| Arrow {
                from: from.to_owned(),
                to: to.to_owned(),
                line: arrow.line,
                path: format!("{arrow}, which"),
            })
            .collect();
        circles(&rooms.iter().collect::<Vec<_>>())
    }

    /// Everything, for a person.
    pub(crate) fn print(&self) -> String {
        let mut rooms: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (from, to, _) in self.between_rooms() {
            rooms.entry(from).or_default().insert(to);
        }
        let mut text = String::new();
        for (from, to) in rooms {
            let to: Vec<&str> = to.into_iter().collect();
            let _ = writeln!(text, "  {from} -> {}", to.join(" "));
        }
        for arrow in &self.arrows {
            let _ = writeln!(text, "    {} -> {}", arrow.from, arrow.to);
        }
        text
    }
}

/// Reads the files of a folder, which is this module's.
fn read(
    folder: &Path,
    module: &mut Vec<String>,
    files: &mut BTreeMap<Vec<String>, File>,
) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // Programs beside the library are crates of their own, above it.
        if path.is_dir() && !(module.is_empty() && name == "bin") {
            module.push(name);
            read(&path, module, files)?;
            module.pop();
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let is_root = module.is_empty() && matches!(name.as_str(), "lib" | "main");
            let mut module = module.clone();
            if !is_root && name != "mod" {
                module.push(name);
            }
            let scanned = scan(&fs::read_to_string(&path)?);
            let name = if is_root {
                ROOT.to_owned()
            } else {
                let part = module.join("/");
                if path.ends_with("mod.rs") {
                    format!("{part}/mod.rs")
                } else {
                    format!("{part}.rs")
                }
            };
            match files.get_mut(&module) {
                // A library and a program of one crate.
                Some(File { scanned: both, .. }) => {
                    both.paths.extend(scanned.paths);
                    both.test_modules.extend(scanned.test_modules);
                }
                None => drop(files.insert(module, File { name, scanned })),
            }
        }
    }
    Ok(())
}

/// The room of a file.
fn room(file: &str) -> &str {
    let end = file.find(['/', '.']).unwrap_or(file.len());
    &file[..end]
}

/// Whether the file belongs to a module inside the other file's.
fn is_inside(file: &str, outer: &str) -> bool {
    let folder = outer
        .strip_suffix("/mod.rs")
        .or_else(|| outer.strip_suffix(".rs"));
    outer == ROOT
        || folder.is_some_and(|folder| {
            file.strip_prefix(folder)
                .is_some_and(|rest| rest.starts_with('/'))
        })
}

/// For each arrow the shortest way back, every circle once.
fn circles(arrows: &[&Arrow]) -> Vec<String> {
    let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for arrow in arrows {
        next.entry(&arrow.from).or_default().push(&arrow.to);
    }
    let mut found = BTreeMap::new();
    for arrow in arrows {
        let Some(way) = way(&next, &arrow.to, &arrow.from) else {
            continue;
        };
        let mut files: Vec<&str> = way.clone();
        files.sort_unstable();
        found
            .entry(files)
            .or_insert_with(|| format!("{arrow}, and back: {}", way.join(" -> ")));
    }
    found.into_values().collect()
}

/// The shortest way.
fn way<'a>(
    next: &BTreeMap<&'a str, Vec<&'a str>>,
    from: &'a str,
    to: &str,
) -> Option<Vec<&'a str>> {
    let mut before: BTreeMap<&str, &str> = BTreeMap::new();
    let mut waiting = VecDeque::from([from]);
    while let Some(at) = waiting.pop_front() {
        if at == to {
            let mut way = vec![at];
            while let Some(earlier) = way
                .last()
                .filter(|last| **last != from)
                .and_then(|last| before.get(last))
            {
                way.push(earlier);
            }
            way.reverse();
            return Some(way);
        }
        for more in next.get(at).into_iter().flatten() {
            if *more != from && !before.contains_key(more) {
                before.insert(more, at);
                waiting.push_back(more);
            }
        }
    }
    None
}
