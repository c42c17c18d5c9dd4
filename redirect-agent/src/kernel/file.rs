//! Changes of files: settings below `/proc/sys`, pins, and what the agent keeps of its own.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use super::fault::{self, Way};

/// How files begin and end that are still being written.
const PREFIX: &str = ".redirect-agent.";
const SUFFIX: &str = ".tmp";
/// What the agent keeps is root's alone.
pub(crate) const PRIVATE: u32 = 0o700;

/// Which file it is, whatever its name; of two that are there at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// Of an open file.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        Ok(Self::from(&file.metadata()?))
    }

    /// Of what has this name, if anything has.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().map(|metadata| Self::from(&metadata))
    }
}

impl From<&Metadata> for FileId {
    fn from(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Writes to a file that stands for something in the kernel.
pub(crate) fn write(path: &Path, value: &str) -> io::Result<()> {
    point("write", path, || fs::write(path, value))
}

/// Gives `path` this content as a whole: a reader finds the former or the new one.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(PREFIX).suffix(SUFFIX).tempfile_in(directory)?;
    file.write_all(content)?;
    point("replace", path, || file.persist(path).map(drop).map_err(io::Error::from))
}

/// Gives a file or directory another name. A file that has that name already makes way; a directory must not be there.
pub(crate) fn rename(path: &Path, to: &Path) -> io::Result<()> {
    point("rename", path, || fs::rename(path, to))
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return Ok(());
    }
    point("remove", path, || unless_missing(fs::remove_file(path)))
}

/// The names of what is in a directory; nothing is in one that is not there.
pub(crate) fn names(directory: &Path) -> io::Result<Vec<OsString>> {
    match fs::read_dir(directory) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.file_name())).collect(),
    }
}

/// Removes a directory that is empty, if it is there.
pub(crate) fn remove_directory(path: &Path) -> io::Result<()> {
    point("remove", path, || unless_missing(fs::remove_dir(path)))
}

/// Makes a directory, and those above it, for root alone.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_directory(parent)?;
    }
    point("make", path, || match DirBuilder::new().mode(PRIVATE).create(path) {
        // Somebody was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    })
}

/// Makes a directory root's alone, if it is not.
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.permissions().mode() & 0o7777 == PRIVATE {
        return Ok(());
    }
    point("change", path, || fs::set_permissions(path, Permissions::from_mode(PRIVATE)))
}

/// Takes the last step of a change of a file that is the runtime's as well (`redirect_cni::conflist::replace`).
pub(crate) fn take(path: &Path, step: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
    point("change", path, step)
}

/// Removes what an agent that was killed has left half-written in `directory`, which is the agent's own. To be called by who
/// holds the lock: nobody else writes there then.
pub(crate) fn sweep(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
            unless_missing(fs::remove_file(entry.path()))?;
        }
    }
    Ok(())
}

fn unless_missing(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn point(what: &str, path: &Path, write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    fault::write(Way::File, || format!("{what} {}", path.display()), write)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_nothing_else_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        replace(&path, b"old and long").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(replace(&directory.path().join("no/f"), b"").is_err());
        fs::create_dir(directory.path().join("d")).unwrap();
        assert!(replace(&directory.path().join("d"), b"").is_err());
        assert_eq!(names(directory.path()), ["d", "f"]);
    }

    #[test]
    fn what_was_left_half_written_goes_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        for name in [".redirect-agent.aB3x9Q.tmp", "record.json", ".redirect-agent.note", "x.tmp"] {
            fs::write(directory.path().join(name), "{").unwrap();
        }
        sweep(directory.path()).unwrap();
        assert_eq!(names(directory.path()), [".redirect-agent.note", "record.json", "x.tmp"]);
    }

    #[test]
    fn what_is_not_there_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        remove(&path).unwrap();
        remove_directory(&path).unwrap();
        make_directory(&path).unwrap();
        make_directory(&path).unwrap();
        assert!(remove(&path).is_err(), "it is a directory");
        fs::write(path.join("f"), "").unwrap();
        assert!(remove_directory(&path).is_err(), "there is something in it");
        remove(&path.join("f")).unwrap();
        remove_directory(&path).unwrap();
        assert_eq!(names(directory.path()), ["a"]);
    }
}
