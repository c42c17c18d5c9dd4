//! A file tree of a guest, as a value: what is at which path, before any of it is written into an archive.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cpio::Archive;

/// What is at a path.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Entry {
    Dir,
    Symlink(String),
    /// The content of a file of the host.
    File(PathBuf),
    Text(String),
}

/// Paths are absolute and sorted, so that folders come before what is in them.
#[derive(Clone, Default, Debug)]
pub(crate) struct Tree {
    entries: BTreeMap<String, Entry>,
}

impl Tree {
    /// Adds a folder, and those that it is in.
    pub(crate) fn dir(&mut self, path: &str) {
        if path.is_empty() || path == "/" || self.entries.contains_key(path) {
            return;
        }
        self.parents(path);
        self.entries.insert(path.to_owned(), Entry::Dir);
    }

    /// Adds a symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        self.add(path, Entry::Symlink(target.to_owned()));
    }

    /// Adds a file with this text.
    pub(crate) fn text(&mut self, path: &str, text: impl Into<String>) {
        self.add(path, Entry::Text(text.into()));
    }

    /// Adds a file or a link of the host, at another path. What a link points at is not added.
    pub(crate) fn copy_as(&mut self, source: &Path, path: &str) -> Result<()> {
        let metadata = fs::symlink_metadata(source).with_context(|| format!("read {}", source.display()))?;
        if metadata.is_symlink() {
            let target = fs::read_link(source).with_context(|| format!("read {}", source.display()))?;
            self.symlink(path, &target.to_string_lossy());
        } else {
            self.add(path, Entry::File(source.to_owned()));
        }
        Ok(())
    }

    /// As [`Tree::copy_as`], at the same path as on the host.
    pub(crate) fn copy(&mut self, source: &Path) -> Result<()> {
        self.copy_as(source, &merged(source)?)
    }

    /// Adds what a path of the host leads to, at that path: no link, and its target is not needed.
    pub(crate) fn copy_content(&mut self, source: &Path) -> Result<()> {
        let content = source.canonicalize().with_context(|| format!("find {}", source.display()))?;
        self.add(&merged(source)?, Entry::File(content));
        Ok(())
    }

    /// Whether there is something at the path.
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    /// All paths.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The host's files that are in it.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &Path> {
        self.entries.values().filter_map(|entry| match entry {
            Entry::File(source) => Some(source.as_path()),
            _ => None,
        })
    }

    /// Writes all of it as one archive.
    pub(crate) fn write(&self, out: impl Write) -> Result<()> {
        let mut archive = Archive::new(out);
        for (path, entry) in &self.entries {
            write_entry(&mut archive, path, entry).with_context(|| format!("add {path} to an archive"))?;
        }
        archive.finish().context("end an archive")?;
        Ok(())
    }

    /// Writes all of it below a folder of the host.
    pub(crate) fn unpack(&self, folder: &Path) -> Result<()> {
        for (path, entry) in &self.entries {
            let place = folder.join(path.trim_start_matches('/'));
            let written = match entry {
                Entry::Dir => fs::create_dir_all(&place),
                Entry::Symlink(target) => symlink(target, &place),
                Entry::Text(text) => fs::write(&place, text),
                Entry::File(source) => fs::copy(source, &place).map(drop),
            };
            written.with_context(|| format!("write {}", place.display()))?;
        }
        Ok(())
    }

    fn add(&mut self, path: &str, entry: Entry) {
        self.parents(path);
        self.entries.insert(path.to_owned(), entry);
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.dir(parent);
        }
    }
}

fn write_entry(archive: &mut Archive<impl Write>, path: &str, entry: &Entry) -> Result<()> {
    match entry {
        Entry::Dir => archive.dir(path)?,
        Entry::Symlink(target) => archive.symlink(path, target)?,
        Entry::Text(text) => archive.file(path, false, text.as_bytes())?,
        Entry::File(source) => {
            let executable = fs::metadata(source)?.permissions().mode() & 0o111 != 0;
            archive.file(path, executable, &fs::read(source)?)?;
        }
    }
    Ok(())
}

/// The path with the links of a merged `/usr` followed, but not a link that it itself is.
fn merged(path: &Path) -> Result<String> {
    let folder = path.parent().context("a file is in a folder")?;
    let folder = folder.canonicalize().with_context(|| format!("find {}", folder.display()))?;
    let name = path.file_name().context("a file has a name")?;
    Ok(folder.join(name).to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_what_is_in_them() {
        let mut tree = Tree::default();
        tree.text("/a/b/c", "");
        tree.symlink("/a/x", "b");
        assert_eq!(tree.paths().collect::<Vec<_>>(), ["/a", "/a/b", "/a/b/c", "/a/x"]);
    }
}
