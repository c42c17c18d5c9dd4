//! The licences of what is linked into our programs: one text that names every crate, and every licence text once with the
//! crates that came with it. `cargo deny` has checked which licences they may have.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::programs;
use super::recipe::Recipe;
use super::root::put;
use crate::workspace::Workspace;

/// How files are called that hold a licence or what must go with it.
const NAMES: [&str; 5] = ["license", "licence", "copying", "notice", "copyright"];
/// A text of the whole crate is not a licence.
const LIMIT: u64 = 256 << 10;
/// The programs in the kernel, which the agent has inside.
const EBPF: &str = "redirect-ebpf";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    repository: Option<String>,
    manifest_path: PathBuf,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// Nothing where it is linked; `build` and `dev` are not.
    kind: Option<String>,
}

/// Writes our own licences and the text about the others into `root`.
pub(super) fn add(workspace: &Workspace, recipe: &Recipe, root: &Path) -> Result<()> {
    let folder = root.join("usr/share/doc").join(recipe.name);
    for name in ["LICENSE-APACHE", "LICENSE-MIT"] {
        let text = fs::read(workspace.root().join(name)).with_context(|| format!("read {name}"))?;
        put(&folder.join(name), &text, 0o644)?;
    }
    let roots: Vec<&str> = recipe.programs.iter().map(|program| program.package).collect();
    let mut notices = Notices::default();
    notices.add(&programs::metadata(workspace, "Cargo.toml")?, &roots)?;
    if roots.contains(&"redirect-agent") {
        notices.add(&programs::metadata(workspace, &format!("{EBPF}/Cargo.toml"))?, &[EBPF])?;
    }
    put(&folder.join("THIRD-PARTY"), notices.text()?.as_bytes(), 0o644)
}

#[derive(Default)]
struct Notices {
    /// What a crate says of itself, by name and version.
    crates: BTreeMap<String, String>,
    /// Which crates came with a text.
    texts: BTreeMap<String, BTreeSet<String>>,
}

impl Notices {
    /// Adds all that the packages in `roots` are linked with.
    fn add(&mut self, metadata: &str, roots: &[&str]) -> Result<()> {
        let metadata: Metadata = serde_json::from_str(metadata).context("read the output of `cargo metadata`")?;
        let linked = linked(&metadata, roots);
        for package in metadata.packages.iter().filter(|package| linked.contains(package.id.as_str())) {
            let folder = package.manifest_path.parent().context("a manifest is in a folder")?;
            let title = format!("{} {}", package.name, package.version);
            let license = package.license.as_deref().with_context(|| format!("{title} names no licence"))?;
            let from = package.repository.as_deref().unwrap_or("no repository named");
            self.crates.insert(title.clone(), format!("{license}, {from}"));
            for text in texts(folder)? {
                self.texts.entry(text).or_default().insert(title.clone());
            }
        }
        Ok(())
    }

    fn text(&self) -> Result<String> {
        ensure!(!self.texts.is_empty(), "no crate has a licence's text");
        let mut all = String::from(
            "What the programs in this image are linked with, beside the Rust standard library (MIT OR Apache-2.0,\n\
             https://github.com/rust-lang/rust) and the GNU C library (see libc6's copyright):\n\n",
        );
        for (title, about) in &self.crates {
            writeln!(all, "{title}: {about}")?;
        }
        for (text, titles) in &self.texts {
            let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
            write!(all, "\n{}\n{}:\n\n{}\n", "=".repeat(80), titles.join(", "), text.trim_end())?;
        }
        Ok(all)
    }
}

/// The packages that are linked into those of these names.
fn linked<'a>(metadata: &'a Metadata, roots: &[&str]) -> BTreeSet<&'a str> {
    let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let roots = metadata.packages.iter().filter(|package| roots.contains(&package.name.as_str()));
    let mut pending: Vec<&str> = roots.map(|package| package.id.as_str()).collect();
    let mut found = BTreeSet::new();
    while let Some(id) = pending.pop() {
        if found.insert(id) {
            let dependencies = nodes.get(id).into_iter().flat_map(|node| &node.deps);
            let linked = dependencies.filter(|dependency| dependency.dep_kinds.iter().any(|it| it.kind.is_none()));
            pending.extend(linked.map(|dependency| dependency.pkg.as_str()));
        }
    }
    found
}

/// The licences' texts in a crate's folder, in the order of their names.
fn texts(folder: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_lowercase();
        let metadata = entry.path().metadata()?;
        if metadata.is_file() && metadata.len() <= LIMIT && NAMES.iter().any(|it| name.starts_with(it)) {
            files.push(entry.path());
        }
    }
    files.sort();
    let read = |path: &PathBuf| fs::read(path).with_context(|| format!("read {}", path.display()));
    files.iter().map(|path| Ok(String::from_utf8_lossy(&read(path)?).into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_builds_or_tests_is_not_linked() {
        let text = r#"{"packages":[{"id":"a","name":"a","version":"1","license":"MIT","repository":null,"manifest_path":"/a"},
            {"id":"b","name":"b","version":"1","license":"MIT","repository":null,"manifest_path":"/b"}],
            "resolve":{"nodes":[{"id":"a","deps":[{"pkg":"b","dep_kinds":[{"kind":"dev"},{"kind":null}]},
            {"pkg":"c","dep_kinds":[{"kind":"build"}]}]},{"id":"b","deps":[{"pkg":"a","dep_kinds":[{"kind":null}]}]},
            {"id":"c","deps":[]}]}}"#;
        let metadata = serde_json::from_str(text).unwrap();
        assert_eq!(linked(&metadata, &["a"]), BTreeSet::from(["a", "b"]));
    }
}
