//! The image from its root, by buildah. It stores its layers under the target directory and leaves the machine's own alone.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::archive::Archive;
use super::recipe::Recipe;
use super::{clear, root};
use crate::{process, progress};

/// What is to be built of what.
pub(super) struct Order<'a> {
    pub(super) folder: &'a Path,
    pub(super) root: &'a Path,
    pub(super) recipe: &'a Recipe,
    pub(super) base: Option<&'a str>,
    pub(super) name: &'a str,
    /// Of every file and of the image, in seconds since 1970.
    pub(super) date: u64,
}

/// Makes the image and writes it into one file, which is the same each time: layers by buildah, which takes the files in the
/// order of their names, and the archive around them by tar.
pub(super) fn commit(order: &Order<'_>) -> Result<Archive> {
    let storage = Storage::new(&order.folder.join("storage"))?;
    progress::say(format!("building the image {}", order.name));
    let container = storage.run(["from", "--pull", order.base.unwrap_or("scratch")])?;
    let container = container.trim();
    let root = order.root.to_string_lossy();
    storage.run(["copy", "--quiet", "--chown", "0:0", container, &root, "/"])?;
    let mounted = storage.run(["mount", container])?;
    root::verify(Path::new(mounted.trim()), order.recipe)?;
    let size = size(Path::new(mounted.trim()))?;
    storage.run(["umount", container])?;
    storage.run(configuration(order).iter().map(String::as_str).chain([container]))?;
    let layout = order.folder.join("layout");
    clear(&layout)?;
    let target = format!("oci:{}:{}", layout.display(), order.name);
    let date = order.date.to_string();
    storage.run(["commit", "--quiet", "--rm", "--format", "oci", "--timestamp", &date, container, &target])?;
    let archive = Archive::write(&layout, &order.folder.join(format!("{}.tar", order.recipe.name)), order.name, size)?;
    fs::remove_dir_all(&layout)?;
    Ok(archive)
}

fn configuration(order: &Order<'_>) -> Vec<String> {
    let Recipe { title, entrypoint, arguments, .. } = order.recipe;
    let mut words = vec!["config".to_owned()];
    let mut add = |option: &str, value: String| words.extend([option.to_owned(), value]);
    add("--entrypoint", format!("[\"{entrypoint}\"]"));
    add("--cmd", arguments.join(" "));
    add("--env", format!("PATH={}", root::PATH));
    add("--user", "0:0".to_owned());
    add("--workingdir", "/".to_owned());
    add("--label", format!("org.opencontainers.image.title={title}"));
    add("--label", format!("org.opencontainers.image.version={}", env!("CARGO_PKG_VERSION")));
    add("--label", format!("org.opencontainers.image.licenses={}", env!("CARGO_PKG_LICENSE")));
    words
}

/// Bytes in all files below `folder`.
fn size(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { size(&entry.path())? } else { metadata.len() };
    }
    Ok(sum)
}

/// Buildah's layers and containers, removed when the value goes.
pub(super) struct Storage(PathBuf);

impl Storage {
    /// An empty one. What an interrupted run has left is removed.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        clear(&folder.to_owned())?;
        Ok(Self(folder.to_owned()))
    }

    /// Runs buildah and returns what it wrote.
    pub(super) fn run(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<String> {
        let mut command = Command::new("buildah");
        command.args(["--storage-driver", "vfs", "--root"]).arg(self.0.join("root"));
        command.arg("--runroot").arg(self.0.join("run")).args(words);
        process::output(&mut command)
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        let _ = self.run(["umount", "--all"]);
        let _ = fs::remove_dir_all(&self.0);
    }
}
