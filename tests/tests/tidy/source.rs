//! Rules about source files: sizes, headings, and what pure crates may name.

use crate::{files, none, read};
use std::path::Path;
use syn::{spanned::Spanned, visit::Visit};

/// Lines of a file; reviewed when it is near.
const FILE_LINES: usize = 500;
/// Lines of a function, from its signature to its last brace.
const FUNCTION_LINES: usize = 70;

/// Files that are longer. This list only shrinks.
const LONG_FILES: &[&str] = &[];
/// Functions that are longer, as `file: function`. This list only shrinks.
const LONG_FUNCTIONS: &[&str] = &[];

/// Crates without I/O, clock or chance, below the root.
const PURE: &[&str] = &["protocol/src", "lento/core/src"];
/// What they may not name, as paths.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "std::env",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::collections::hash_map",
    "std::hash::RandomState",
    "tokio",
    "rand",
    "fuser",
    "nix",
    "libc",
];

#[test]
fn files_are_short() {
    let long = files(&[".rs"]).into_iter().filter_map(|path| {
        let lines = read(&path).lines().count();
        let excepted = LONG_FILES.iter().any(|other| path == Path::new(other));
        match (lines >= FILE_LINES, excepted) {
            (true, false) => Some(format!("{} has {lines} lines", path.display())),
            (false, true) => Some(format!("{} is short now: take it off LONG_FILES", path.display())),
            _ => None,
        }
    });
    none("files have fewer than 500 lines: divide them by what they are about", long.collect());
}

#[test]
fn functions_are_short() {
    let mut long = Vec::new();
    let mut excepted: Vec<&str> = LONG_FUNCTIONS.to_vec();
    for path in files(&[".rs"]) {
        let mut functions = Functions::default();
        functions.visit_file(&parse(&path));
        for (name, lines) in functions.0.into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES) {
            let place = format!("{}: {name}", path.display());
            match excepted.iter().position(|other| **other == place) {
                Some(at) => drop(excepted.remove(at)),
                None => long.push(format!("{place} has {lines} lines")),
            }
        }
    }
    long.extend(excepted.iter().map(|place| format!("{place} is short now: take it off LONG_FUNCTIONS")));
    none("functions have at most 70 lines: give the parts names", long);
}

#[test]
fn modules_say_what_they_are_for() {
    let silent = files(&[".rs"]).into_iter().filter(|path| !read(path).starts_with("//! "));
    none("the first line of a module is a `//!` line", silent.map(|path| path.display().to_string()).collect());
}

#[test]
fn pure_crates_name_nothing_impure() {
    let mut complaints = Vec::new();
    for path in files(&[".rs"]).into_iter().filter(|path| PURE.iter().any(|pure| path.starts_with(pure))) {
        let mut paths = Paths::default();
        paths.visit_file(&parse(&path));
        for named in paths.0 {
            if let Some(why) =
                IMPURE.iter().find(|impure| named == **impure || named.starts_with(&format!("{impure}::")))
            {
                complaints.push(format!("{} names {why}", path.display()));
            }
        }
    }
    none("pure crates know no I/O, clock, chance or order of hashes (design D14)", complaints);
}

#[test]
fn the_detector_of_impurity_sees_through_grouped_and_renamed_imports() {
    let source =
        "use std::{fs as f, collections::{BTreeMap, HashMap}}; fn now() { let _ = std::time::Instant::now(); }";
    let mut paths = Paths::default();
    paths.visit_file(&syn::parse_file(source).expect("it is Rust"));
    for expected in ["std::fs", "std::collections::HashMap", "std::time::Instant::now"] {
        assert!(paths.0.iter().any(|path| path == expected), "{expected} not in {:?}", paths.0);
    }
}

#[test]
fn no_line_ends_in_white_space() {
    let endings = [".rs", ".md", ".toml", ".sh", ".yml", ".service", "Makefile", ".ci/run"];
    let mut complaints = Vec::new();
    for path in files(&endings) {
        let text = read(&path);
        let bad = text.lines().enumerate().filter(|(_, line)| line.ends_with([' ', '\t', '\r']));
        complaints.extend(bad.map(|(number, _)| format!("{}:{}", path.display(), number + 1)));
        if !text.is_empty() && !text.ends_with('\n') {
            complaints.push(format!("{} does not end in a line feed", path.display()));
        }
    }
    none("white space at the end of lines", complaints);
}

fn parse(path: &Path) -> syn::File {
    syn::parse_file(&read(path)).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// Every function with its number of lines; documentation above it does not count.
#[derive(Default)]
struct Functions(Vec<(String, usize)>);

impl Functions {
    fn add(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let lines = block.span().end().line - signature.span().start().line + 1;
        self.0.push((signature.ident.to_string(), lines));
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.add(&item.sig, &item.block);
        syn::visit::visit_item_fn(self, item);
    }
    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add(&item.sig, &item.block);
        syn::visit::visit_impl_item_fn(self, item);
    }
    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.add(&item.sig, block);
        }
        syn::visit::visit_trait_item_fn(self, item);
    }
}

/// Every path that is imported or used.
#[derive(Default)]
struct Paths(Vec<String>);

impl Paths {
    fn import(&mut self, prefix: &str, tree: &syn::UseTree) {
        let join =
            |ident: &syn::Ident| if prefix.is_empty() { ident.to_string() } else { format!("{prefix}::{ident}") };
        match tree {
            syn::UseTree::Path(path) => self.import(&join(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.0.push(join(&name.ident)),
            syn::UseTree::Rename(rename) => self.0.push(join(&rename.ident)),
            syn::UseTree::Glob(_) => self.0.push(prefix.to_owned()),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(prefix, tree)),
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.import("", &item.tree);
    }
    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.0.push(path.segments.iter().map(|s| s.ident.to_string()).collect::<Vec<_>>().join("::"));
        syn::visit::visit_path(self, path);
    }
}
