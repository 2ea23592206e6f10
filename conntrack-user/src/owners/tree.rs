//! The control groups of one hierarchy. Only what changed is read again.
//!
//! kernfs keeps the number of folders in a folder in its link count. So if that has not changed,
//! and every folder that was there is still the same one, then no other one came: one `stat` for
//! each is enough.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::Key;
use super::cgroup_path::{self, CgroupPlace};

/// How deep is looked.
const DEEPEST: usize = 64;

#[derive(Debug)]
pub(super) struct CgroupNode {
    name: OsString,
    /// Inode number; in a hierarchy of version 2 the ID of the control group.
    pub(super) inode: u64,
    /// What its path says.
    pub(super) place: CgroupPlace,
    /// Whose it is by its path.
    pub(super) key: Option<Key>,
    /// When it was first seen.
    pub(super) born: Instant,
    children: Vec<CgroupNode>,
}

#[derive(Debug)]
pub(super) struct CgroupTree {
    /// Where it is mounted.
    path: PathBuf,
    /// Where the machine's own control groups begin.
    home: String,
    /// Whether inode numbers are IDs of control groups.
    pub(super) unified: bool,
    root: Option<CgroupNode>,
    count: usize,
    /// Some were left out.
    pub(super) cut: bool,
}

/// What a walk does.
struct TreeWalk<'a> {
    path: PathBuf,
    /// Length of the mount point's path.
    base: usize,
    home: &'a str,
    now: Instant,
    count: &'a mut usize,
    most: usize,
    changed: bool,
    cut: bool,
}

impl CgroupTree {
    /// `home`: see [`cgroup_path::home`].
    pub(super) fn new(path: PathBuf, home: &str, unified: bool) -> Self {
        Self {
            path,
            home: home.to_owned(),
            unified,
            root: None,
            count: 0,
            cut: false,
        }
    }

    /// Looks again, at `most` control groups at most; whether there are others than before.
    ///
    /// # Errors
    /// When the hierarchy itself can't be read. What vanishes meanwhile is no error.
    pub(super) fn refresh(&mut self, now: Instant, most: usize) -> io::Result<bool> {
        self.count = 0;
        let mut walk = TreeWalk {
            path: self.path.clone(),
            base: self.path.as_os_str().len(),
            home: &self.home,
            now,
            count: &mut self.count,
            most,
            changed: false,
            cut: false,
        };
        let root = self
            .root
            .get_or_insert_with(|| walk.node(OsString::new(), 0));
        walk.visit(root, 0)?;
        let changed = walk.changed;
        self.cut = walk.cut;
        Ok(changed)
    }

    /// Calls `each` with every control group and its folder, parents first. What `each` gives back
    /// is handed to the children.
    pub(super) fn walk<T: Clone>(
        &self,
        first: T,
        mut each: impl FnMut(&CgroupNode, &Path, &T) -> T,
    ) {
        if let Some(root) = &self.root {
            let mut path = self.path.clone();
            root.walk(&mut path, &first, &mut each);
        }
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl CgroupNode {
    fn walk<T: Clone>(
        &self,
        path: &mut PathBuf,
        above: &T,
        each: &mut impl FnMut(&Self, &Path, &T) -> T,
    ) {
        let own = each(self, path, above);
        for child in &self.children {
            path.push(&child.name);
            child.walk(path, &own, each);
            path.pop();
        }
    }
}

impl TreeWalk<'_> {
    fn node(&self, name: OsString, inode: u64) -> CgroupNode {
        let bytes = self.path.as_os_str().as_encoded_bytes();
        let relative = String::from_utf8_lossy(bytes.get(self.base..).unwrap_or_default());
        let place = CgroupPlace::of(cgroup_path::below(self.home, &relative));
        CgroupNode {
            name,
            inode,
            key: place.identity.key(),
            place,
            born: self.now,
            children: Vec::new(),
        }
    }

    /// Brings `node`, which is at `self.path`, and what is below it up to date.
    ///
    /// # Errors
    /// When it is gone, or is another one.
    fn visit(&mut self, node: &mut CgroupNode, depth: usize) -> io::Result<()> {
        let found = fs::symlink_metadata(&self.path)?;
        if depth == 0 {
            node.inode = found.ino();
        } else if node.inode != found.ino() {
            return Err(io::ErrorKind::NotFound.into());
        }
        *self.count += 1;
        if depth >= DEEPEST || *self.count > self.most {
            self.cut = true;
            self.changed |= !node.children.is_empty();
            node.children.clear();
            return Ok(());
        }
        let before = node.children.len();
        node.children.retain_mut(|child| {
            self.path.push(&child.name);
            let same = self.visit(child, depth + 1).is_ok();
            self.path.pop();
            same
        });
        self.changed |= before != node.children.len();
        // 2 and one for each folder; file systems that don't count have 1.
        let expected = u64::try_from(before).map_or(0, |children| children + 2);
        if before == node.children.len() && found.nlink() == expected {
            return Ok(());
        }
        self.read(node, depth)
    }

    /// Looks for children that are not known.
    fn read(&mut self, node: &mut CgroupNode, depth: usize) -> io::Result<()> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if depth == 0 => return Err(error),
            // It vanished meanwhile.
            Err(_) => return Ok(()),
        };
        let known: HashSet<OsString> = node
            .children
            .iter()
            .map(|child| child.name.clone())
            .collect();
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name();
            if known.contains(&name) {
                continue;
            }
            if *self.count >= self.most {
                self.cut = true;
                break;
            }
            self.path.push(&name);
            let mut child = self.node(name, 0);
            let found = fs::symlink_metadata(&self.path).map(|found| child.inode = found.ino());
            if found
                .and_then(|()| self.visit(&mut child, depth + 1))
                .is_ok()
            {
                node.children.push(child);
                self.changed = true;
            }
            self.path.pop();
        }
        Ok(())
    }
}
