//! Trees compared without the help of what is tested: every object, by content and every attribute that replicas share.

use anyhow::{Context, Result, bail};
use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    fmt, fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

/// InterMezzo's own directory in a store, and the prefix of its own attributes; no part of a tree.
const OWN_DIRECTORY: &str = ".intermezzo";
const OWN_XATTR: &str = "trusted.intermezzo";

/// What is compared of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Type, permission bits, owner and group.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Modification time, seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Size of a regular file.
    pub size: u64,
    /// Device number of a device.
    pub rdev: u64,
    /// BLAKE3 of a file's content, the target of a symbolic link.
    pub content: Vec<u8>,
    /// Extended attributes, ACLs among them.
    pub xattrs: BTreeMap<OsString, Vec<u8>>,
    /// The first path, in order, that names this same inode, if there is more than one.
    pub linked_to: Option<PathBuf>,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mode, owner: (uid, gid), mtime: (s, ns), size, rdev, content, xattrs, linked_to } = self;
        let short: String = content.iter().take(6).map(|b| format!("{b:02x}")).collect();
        write!(f, "mode {mode:o} owner {uid}:{gid} mtime {s}.{ns:09} size {size} rdev {rdev:x} content {short}")?;
        for (name, value) in xattrs {
            write!(f, " {}={}", name.to_string_lossy(), value.escape_ascii())?;
        }
        linked_to.iter().try_for_each(|path| write!(f, " linked to {}", path.display()))
    }
}

/// A tree: for each path below its root (the root itself is the empty path), the object there.
pub type Tree = BTreeMap<PathBuf, Object>;

/// Reads the tree at `root`. Other file systems in it are not entered.
pub fn read(root: &Path) -> Result<Tree> {
    let mut walk = Walk { root, device: fs::metadata(root)?.dev(), tree: Tree::new(), first: HashMap::new() };
    walk.visit(Path::new(""))?;
    Ok(walk.tree)
}

struct Walk<'a> {
    root: &'a Path,
    device: u64,
    tree: Tree,
    first: HashMap<u64, PathBuf>,
}

impl Walk<'_> {
    fn visit(&mut self, path: &Path) -> Result<()> {
        let full = if path.as_os_str().is_empty() { self.root.to_owned() } else { self.root.join(path) };
        let meta = fs::symlink_metadata(&full).with_context(|| format!("stat {full:?}"))?;
        let linked_to = if meta.nlink() > 1 && !meta.is_dir() {
            Some(self.first.entry(meta.ino()).or_insert_with(|| path.to_owned()).clone())
        } else {
            None
        };
        self.tree.insert(path.to_owned(), object(&full, &meta, linked_to)?);
        if meta.is_dir() && meta.dev() == self.device {
            let entries = fs::read_dir(&full).with_context(|| format!("list {full:?}"))?;
            let mut names = entries.map(|e| Ok(e?.file_name())).collect::<Result<Vec<_>>>()?;
            names.sort();
            for name in names {
                if !(path.as_os_str().is_empty() && name == OWN_DIRECTORY) {
                    self.visit(&path.join(name))?;
                }
            }
        }
        Ok(())
    }
}

fn object(full: &Path, meta: &fs::Metadata, linked_to: Option<PathBuf>) -> Result<Object> {
    let kind = meta.file_type();
    let content = if kind.is_file() {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(fs::File::open(full)?).with_context(|| format!("read {full:?}"))?;
        hasher.finalize().as_bytes().to_vec()
    } else if kind.is_symlink() {
        fs::read_link(full)?.as_os_str().as_bytes().to_vec()
    } else {
        Vec::new()
    };
    let mut xattrs = BTreeMap::new();
    for name in xattr::list(full).with_context(|| format!("list xattrs of {full:?}"))? {
        if !name.as_bytes().starts_with(OWN_XATTR.as_bytes()) {
            let value = xattr::get(full, &name)?.unwrap_or_default();
            xattrs.insert(name, value);
        }
    }
    Ok(Object {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        size: if kind.is_file() { meta.size() } else { 0 },
        rdev: if kind.is_block_device() || kind.is_char_device() { meta.rdev() } else { 0 },
        content,
        xattrs,
        linked_to,
    })
}

/// What differs, a line for each path.
pub fn differences(left: &Tree, right: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, object) in left {
        match right.get(path) {
            None => found.push(format!("{}: only on the left: {object}", path.display())),
            Some(other) if other != object => {
                found.push(format!("{}:\n      left  {object}\n      right {other}", path.display()));
            }
            Some(_) => {}
        }
    }
    let missing = right.iter().filter(|(path, _)| !left.contains_key(*path));
    found.extend(missing.map(|(path, object)| format!("{}: only on the right: {object}", path.display())));
    found
}

/// Checks that the trees at two places are equal.
///
/// # Errors
/// They are not; the first differences are told.
pub fn assert_equal(left: &Path, right: &Path) -> Result<usize> {
    let trees = (read(left)?, read(right)?);
    let found = differences(&trees.0, &trees.1);
    if found.is_empty() {
        return Ok(trees.0.len());
    }
    let shown: Vec<&str> = found.iter().take(20).map(String::as_str).collect();
    bail!("{left:?} and {right:?} differ in {} paths:\n    {}", found.len(), shown.join("\n    "))
}
