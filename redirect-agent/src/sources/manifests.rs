//! A folder of Kubernetes manifests, watched: a file added, changed or removed takes effect at once.
//!
//! A file that cannot be read keeps what it last said: a half-written manifest must not take pods out of the mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use futures_util::StreamExt as _;
use inotify::{Event, Inotify, WatchMask};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Health, Namespace, Pod, Snapshot, Source};
use crate::resources::ledger::Problem;

/// Larger than any sensible manifest of one node, small enough to hold.
const FILE_LIMIT: u64 = 16 << 20;
/// Files beyond this number are reported and left out.
const FILES_LIMIT: usize = 20_000;

/// How often all of the folder is looked at, whatever events say.
const LOOK: Duration = Duration::from_secs(5);

/// What one file said.
#[derive(Clone, Default, PartialEq, Debug)]
struct Manifest {
    namespaces: Vec<Arc<Namespace>>,
    pods: Vec<Arc<Pod>>,
    /// Documents that could not be used.
    problems: Vec<String>,
}

/// Reads `directory` and follows it, in one of `tasks`, until the receiver is dropped.
///
/// # Errors
/// The folder cannot be watched.
pub(crate) fn watch(directory: PathBuf, tasks: &mut JoinSet<()>) -> anyhow::Result<Source> {
    let inotify = Inotify::init().context("start inotify")?;
    let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVE | WatchMask::CREATE | WatchMask::DELETE | WatchMask::ONLYDIR;
    let hint = || format!("watch the folder of manifests {} (does it exist?)", directory.display());
    inotify.watches().add(&directory, mask).with_context(hint)?;
    let mut events = inotify.into_event_stream(vec![0; 16 << 10]).context("read from inotify")?;
    let (sender, snapshots) = watch::channel(None);
    let (well, health) = watch::channel(Health::default());
    tasks.spawn(async move {
        // What is wrong with the folder is in the snapshot, as of the moment when it was read.
        let _well = well;
        let mut folder = Folder::new(directory);
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = sender.closed() => return,
                // The first tick is at once. A folder that was removed and made anew has no watch: look, and watch what is
                // there now.
                _ = look.tick() => {
                    drop(events.watches().add(&folder.directory, mask));
                    folder.look();
                }
                event = events.next() => match event {
                    Some(Ok(Event { name: Some(name), .. })) => folder.look_at(&name),
                    // Some that did not fit were lost, or the folder itself has changed.
                    Some(Ok(_)) => folder.look(),
                    Some(Err(_)) | None => {
                        tracing::warn!("inotify failed; the folder of manifests is looked at every few seconds");
                        tokio::time::sleep(LOOK).await;
                        folder.look();
                    }
                },
            }
            let snapshot = Arc::new(folder.snapshot());
            sender.send_if_modified(|current| {
                let changed = current.as_deref() != Some(&*snapshot);
                if changed {
                    *current = Some(snapshot);
                }
                changed
            });
        }
    });
    Ok(Source { snapshots, health, annotations: None })
}

/// The folder, and what each of its files says. Looking at one file does not cost looking at all: there may be one for each pod.
struct Folder {
    directory: PathBuf,
    files: BTreeMap<OsString, Entry>,
    /// What is wrong with the folder itself.
    problem: Option<String>,
}

/// A file.
#[derive(Default)]
struct Entry {
    /// What it said when it could last be read.
    last: Option<Manifest>,
    /// Why it cannot be read now.
    error: Option<String>,
}

impl Folder {
    fn new(directory: PathBuf) -> Self {
        Self { directory, files: BTreeMap::new(), problem: None }
    }

    /// Looks at all files. Where the folder cannot be listed, those stay that were known.
    fn look(&mut self) {
        self.problem = None;
        let mut names = list(&self.directory).unwrap_or_else(|error| {
            self.problem = Some(format!("{error:#}"));
            self.files.keys().cloned().collect()
        });
        if names.len() > FILES_LIMIT {
            self.problem = Some(format!("has {} files; those beyond {FILES_LIMIT} are left out", names.len()));
            names = names.into_iter().take(FILES_LIMIT).collect();
        }
        self.files.retain(|name, _| names.contains(name));
        for name in names {
            self.read(name);
        }
    }

    /// Looks at a file that has come, changed or gone. Where files are left out, that may concern others too.
    fn look_at(&mut self, name: &OsStr) {
        // The files of a mounted ConfigMap lead through one link, `..data`, which is all that changes.
        let concerns_all = name.as_encoded_bytes().starts_with(b"..");
        if concerns_all || self.problem.is_some() || self.files.len() >= FILES_LIMIT {
            return self.look();
        }
        if !is_manifest(Path::new(name)) {
            return;
        }
        match fs::symlink_metadata(self.directory.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => drop(self.files.remove(name)),
            _ => self.read(name.to_owned()),
        }
    }

    fn read(&mut self, name: OsString) {
        let outcome = read_text(&self.directory.join(&name)).and_then(|text| parse(&text));
        let entry = self.files.entry(name).or_default();
        match outcome {
            Ok(manifest) => *entry = Entry { last: Some(manifest), error: None },
            Err(error) => {
                let kept = if entry.last.is_some() { "; what it said before stays in force" } else { "" };
                entry.error = Some(format!("cannot be read: {error:#}{kept}"));
            }
        }
    }

    /// What all of them say together.
    fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let folder = format!("folder {}", self.directory.display());
        snapshot.problems.extend(self.problem.iter().map(|problem| Problem::new(&folder, problem)));
        for (name, Entry { last, error }) in &self.files {
            let manifest = last.iter();
            snapshot.namespaces.extend(manifest.clone().flat_map(|manifest| manifest.namespaces.iter().cloned()));
            snapshot.pods.extend(manifest.clone().flat_map(|manifest| manifest.pods.iter().cloned()));
            let problems = error.iter().chain(manifest.flat_map(|manifest| &manifest.problems));
            let object = format!("file {}", name.to_string_lossy());
            snapshot.problems.extend(problems.map(|problem| Problem::new(&object, problem)));
        }
        snapshot
    }
}

/// The folder's manifests by name.
fn list(directory: &Path) -> anyhow::Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if is_manifest(Path::new(&name)) {
            names.insert(name);
        }
    }
    Ok(names)
}

/// Hidden files are somebody's temporary ones.
fn is_manifest(name: &Path) -> bool {
    let hidden = name.as_os_str().as_encoded_bytes().starts_with(b".");
    !hidden && name.extension().is_some_and(|ext| ext == "yaml" || ext == "yml" || ext == "json")
}

fn read_text(path: &Path) -> anyhow::Result<String> {
    // Without O_NONBLOCK a named pipe would keep us waiting for a writer.
    let file = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        bail!("is not a regular file");
    }
    let mut text = String::with_capacity(usize::try_from(metadata.len().min(FILE_LIMIT))? + 1);
    file.take(FILE_LIMIT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_LIMIT {
        bail!("is larger than {} MiB", FILE_LIMIT >> 20);
    }
    Ok(text)
}

/// What a document says it is.
#[derive(Deserialize)]
struct Head {
    kind: Option<String>,
}

/// What `kubectl get -o yaml` prints for several objects.
#[derive(Deserialize)]
struct List {
    items: Vec<Item>,
}

/// An object of a list.
#[derive(Deserialize)]
#[serde(tag = "kind")]
enum Item {
    Pod(Box<Pod>),
    Namespace(Namespace),
    #[serde(other)]
    Other,
}

impl Manifest {
    fn add(&mut self, list: List) {
        for item in list.items {
            match item {
                Item::Pod(pod) => self.pods.push(pod.into()),
                Item::Namespace(namespace) => self.namespaces.push(namespace.into()),
                Item::Other => self.problems.push("a list has objects that are not used here".to_owned()),
            }
        }
    }
}

/// Reads a file's documents. A document of another kind is reported by itself; one that cannot be read fails the file,
/// which then keeps what it said before: its pods must not leave the mesh by a typing error.
fn parse(text: &str) -> anyhow::Result<Manifest> {
    let mut manifest = Manifest::default();
    for (number, document) in documents(text).enumerate() {
        if document.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            continue;
        }
        let head: Head = serde_saphyr::from_str(document).with_context(|| format!("document {}", number + 1))?;
        let outcome = match head.kind.as_deref() {
            Some("Pod") => serde_saphyr::from_str(document).map(|pod: Pod| manifest.pods.push(pod.into())),
            Some("Namespace") => {
                serde_saphyr::from_str(document).map(|namespace: Namespace| manifest.namespaces.push(namespace.into()))
            }
            Some("List") => serde_saphyr::from_str(document).map(|list: List| manifest.add(list)),
            other => {
                let kind = other.unwrap_or("nothing");
                manifest.problems.push(format!("document {}: a {kind} is not used here", number + 1));
                continue;
            }
        };
        outcome.map_err(|error| anyhow!("document {}: {error}", number + 1))?;
    }
    Ok(manifest)
}

/// Splits at YAML's document separator, which stands at the beginning of a line (YAML 1.2, section 9.1.4).
fn documents(text: &str) -> impl Iterator<Item = &str> {
    let starts = text.match_indices("\n---").map(|(at, _)| at + 1).filter(|at| {
        let rest = &text[at + 3..];
        rest.is_empty() || rest.starts_with(['\n', '\r', ' ', '\t'])
    });
    let mut bounds: Vec<_> = std::iter::once(0).chain(starts).collect();
    bounds.push(text.len());
    bounds.windows(2).map(|pair| text[pair[0]..pair[1]].trim_start_matches("---")).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    const TWO: &str = "---\n# a comment\n---\nkind: Namespace\nmetadata: {name: mesh}\n---\nkind: Pod\nmetadata: {name: a, \
        namespace: mesh}\nspec: {containers: []}\nstatus: {podIP: 10.0.0.1}\n";

    #[test]
    fn several_documents() {
        let manifest = parse(TWO).unwrap();
        assert_eq!((manifest.namespaces.len(), manifest.pods.len()), (1, 1));
        assert_eq!(manifest.pods[0].ips, Ok(vec!["10.0.0.1".parse().unwrap()]));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        assert!(parse("kind: Pod\n  bad: [indent").is_err());
        assert!(parse("kind: Pod\nmetadata: 5\n").unwrap_err().to_string().contains("document 1"));
        let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}}\n- {kind: Service}\n";
        let manifest = parse(list).unwrap();
        assert_eq!((manifest.pods.len(), manifest.problems.len()), (1, 1));
        assert_eq!(parse("kind: Service\n").unwrap().problems, ["document 1: a Service is not used here"]);
        assert_eq!(parse("").unwrap(), Manifest::default());
    }

    #[test]
    fn a_broken_file_keeps_what_it_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pods.yaml");
        let mut folder = Folder::new(directory.path().to_owned());
        fs::write(&path, TWO).unwrap();
        fs::write(directory.path().join(".hidden.yaml"), "{").unwrap();
        folder.look();
        assert_eq!(folder.snapshot().pods.len(), 1);
        fs::write(&path, "kind: [").unwrap();
        folder.look();
        let snapshot = folder.snapshot();
        assert_eq!((snapshot.pods.len(), snapshot.problems.len()), (1, 1));
        assert_eq!(snapshot.problems[0].object, "file pods.yaml");
        fs::remove_file(&path).unwrap();
        folder.look();
        assert_eq!(folder.snapshot(), Snapshot::default());
    }

    #[test]
    fn an_event_is_about_one_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut folder = Folder::new(directory.path().to_owned());
        let names = ["a.yaml", "b.yaml", ".c.yaml", "d.txt"];
        for name in names {
            fs::write(directory.path().join(name), TWO).unwrap();
            folder.look_at(OsStr::new(name));
        }
        assert_eq!(folder.snapshot().pods.len(), 2);
        fs::write(directory.path().join("a.yaml"), "kind: [").unwrap();
        fs::write(directory.path().join("b.yaml"), "").unwrap();
        folder.look_at(OsStr::new("b.yaml"));
        assert_eq!(
            (folder.snapshot().pods.len(), folder.snapshot().problems.len()),
            (1, 0),
            "a has not been looked at"
        );
        fs::remove_file(directory.path().join("b.yaml")).unwrap();
        folder.look_at(OsStr::new("b.yaml"));
        folder.look_at(OsStr::new("a.yaml"));
        assert_eq!(folder.snapshot().problems[0].object, "file a.yaml");
        fs::write(directory.path().join("a.yaml"), "").unwrap();
        folder.look_at(OsStr::new("..data"));
        assert_eq!(folder.snapshot(), Snapshot::default());
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = String::from("kind: Pod\na0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let items = vec![format!("*a{}", level - 1); 9].join(", ");
            let _ = writeln!(text, "a{level}: &a{level} [{items}]");
        }
        assert!(parse(&text).is_err());
    }
}
