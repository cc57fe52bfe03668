//! Rules about crates: who may know whom, and under which licences all that is linked comes.

use crate::{none, root};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    sync::LazyLock,
};

/// Each crate of the workspace, and the others that it may depend on (tests included).
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("intermezzo-protocol", &[]),
    ("intermezzo-modlog", &["intermezzo-protocol"]),
    ("presto", &["intermezzo-protocol", "intermezzo-modlog"]),
    ("lento-core", &["intermezzo-protocol"]),
    ("lento-store", &["intermezzo-protocol", "intermezzo-modlog"]),
    ("lento-transfer", &["intermezzo-protocol", "intermezzo-modlog", "lento-store"]),
    ("lento-net", &["intermezzo-protocol"]),
    ("lento-cli", &["intermezzo-protocol"]),
    (
        "lento",
        &[
            "intermezzo-protocol",
            "intermezzo-modlog",
            "lento-core",
            "lento-store",
            "lento-transfer",
            "lento-net",
            "lento-cli",
        ],
    ),
    ("intermezzo-tests", &["intermezzo-protocol", "intermezzo-modlog"]),
];

/// What these crates may not link, however indirectly: design §3, "depends on no async runtime, no TLS, no SQL".
const NEVER: &[(&str, &[&str])] = &[
    ("intermezzo-protocol", &["tokio", "rustls", "rusqlite", "fuser", "nix", "libc", "rand"]),
    ("intermezzo-modlog", &["tokio", "rustls", "rusqlite", "fuser"]),
    ("presto", &["tokio", "rustls", "rusqlite", "libsqlite3-sys", "ring"]),
    ("lento-core", &["tokio", "rustls", "rusqlite", "fuser", "nix", "libc", "rand"]),
];

/// Licences that allow what MIT OR Apache-2.0 allows. This replaces cargo-deny: it needs nothing that is not here.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

struct Package {
    name: String,
    version: String,
    licence: Option<String>,
    ours: bool,
}

/// The packages and who depends on whom, as cargo resolved them for Linux.
struct Graph {
    packages: BTreeMap<String, Package>,
    /// Linked into the crate itself, not only into its tests or build script.
    normal: BTreeMap<String, Vec<String>>,
    all: BTreeMap<String, Vec<String>>,
}

static GRAPH: LazyLock<Graph> = LazyLock::new(graph);

fn graph() -> Graph {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version=1", "--locked", "--filter-platform=x86_64-unknown-linux-gnu"]);
    let output = command.current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let json: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ours: BTreeSet<String> = list(&json["workspace_members"]).iter().map(text).collect();
    let mut graph = Graph { packages: BTreeMap::new(), normal: BTreeMap::new(), all: BTreeMap::new() };
    for package in list(&json["packages"]) {
        let id = text(&package["id"]);
        let described = Package {
            name: text(&package["name"]),
            version: text(&package["version"]),
            licence: package["license"].as_str().map(str::to_owned),
            ours: ours.contains(&id),
        };
        graph.packages.insert(id, described);
    }
    for node in list(&json["resolve"]["nodes"]) {
        let (mut normal, mut all) = (Vec::new(), Vec::new());
        for dependency in list(&node["deps"]) {
            let id = text(&dependency["pkg"]);
            if list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()) {
                normal.push(id.clone());
            }
            all.push(id);
        }
        let id = text(&node["id"]);
        graph.normal.insert(id.clone(), normal);
        graph.all.insert(id, all);
    }
    graph
}

impl Graph {
    fn id(&self, name: &str) -> &str {
        let found = self.packages.iter().find(|(_, package)| package.ours && package.name == name);
        found.unwrap_or_else(|| panic!("{name} is not in the workspace: bring this test up to date")).0
    }

    /// The names of all that is linked into the crate `id`.
    fn linked(&self, id: &str) -> BTreeSet<&str> {
        let (mut seen, mut todo) = (BTreeSet::new(), vec![id]);
        while let Some(id) = todo.pop() {
            for next in self.normal.get(id).into_iter().flatten().filter(|next| seen.insert(next.as_str())) {
                todo.push(next);
            }
        }
        seen.into_iter().map(|id| self.packages[id].name.as_str()).collect()
    }
}

#[test]
fn crates_know_only_those_below_them() {
    let graph = &*GRAPH;
    let mut complaints = Vec::new();
    for package in graph.packages.values().filter(|package| package.ours) {
        if !MAY_KNOW.iter().any(|(name, _)| *name == package.name) {
            complaints.push(format!("{} is new: say whom it may know", package.name));
        }
    }
    for (name, known) in MAY_KNOW {
        let ours = graph.all[graph.id(name)].iter().map(|id| &graph.packages[id]).filter(|package| package.ours);
        let strangers = ours.filter(|package| !known.contains(&package.name.as_str()));
        complaints.extend(strangers.map(|package| format!("{name} depends on {}", package.name)));
    }
    none("dependencies go one way (design §3)", complaints);
}

#[test]
fn nothing_heavy_is_linked_into_the_light_crates() {
    let mut complaints = Vec::new();
    for (name, never) in NEVER {
        let linked = GRAPH.linked(GRAPH.id(name));
        complaints.extend(never.iter().filter(|n| linked.contains(**n)).map(|n| format!("{name} links {n}")));
    }
    none("these crates stay light and pure", complaints);
}

#[test]
fn all_licences_are_permissive() {
    let bad = GRAPH.packages.values().filter(|package| !package.licence.as_deref().is_some_and(permissive));
    let shown = |p: &Package| format!("{} {}: {}", p.name, p.version, p.licence.as_deref().unwrap_or("none"));
    none("licences that are not on the list", bad.map(shown).collect());
}

/// Whether an SPDX expression can be satisfied with [`LICENCES`] alone. `AND` binds closer than `OR`; `/` is an old `OR`.
fn permissive(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let answer = any_of(&mut words);
    answer && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>) -> bool {
    let mut answer = all_of(words);
    while words.next_if_eq(&"OR").is_some() {
        answer |= all_of(words);
    }
    answer
}

fn all_of(words: &mut Words<'_>) -> bool {
    let mut answer = one(words);
    while words.next_if_eq(&"AND").is_some() {
        answer &= one(words);
    }
    answer
}

fn one(words: &mut Words<'_>) -> bool {
    match words.next() {
        Some("(") => any_of(words) && words.next() == Some(")"),
        Some(name) => match words.next_if_eq(&"WITH").and_then(|_| words.next()) {
            Some(exception) => LICENCES.contains(&format!("{name} WITH {exception}").as_str()),
            None => LICENCES.contains(&name),
        },
        None => false,
    }
}

#[test]
fn licence_expressions_are_read_as_spdx_says() {
    assert!(permissive("MIT OR GPL-3.0"));
    assert!(permissive("(MIT OR GPL-3.0) AND Unicode-3.0"));
    assert!(permissive("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT"));
    assert!(permissive("MIT/Apache-2.0"));
    assert!(!permissive("MIT AND GPL-3.0"));
    assert!(!permissive("MIT OR GPL-3.0 extra"));
    assert!(!permissive("GPL-2.0 WITH LLVM-exception"));
    assert!(!permissive(""));
}
