//! The folder that runtimes look for their configuration in.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::libc;

use super::replace::{Attributes, Take, remove, replace, sweep};
use super::{ConflistError, Entry, install, single, uninstall};

/// Containerd takes files up to this size.
const LIMIT: u64 = 2 << 20;

/// What was done with a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing: it was as it should be.
    Unchanged(PathBuf),
    /// Our entry was put in, put right, or taken out.
    Written(PathBuf),
    /// It was written under the second name, and the first is gone.
    Renamed(PathBuf, PathBuf),
}

/// The file that a runtime takes: the first by name, in the order of bytes, of those that end in one of its three suffixes.
/// One that is broken is taken as well, and the runtime fails.
pub fn primary(names: impl IntoIterator<Item = OsString>) -> Option<OsString> {
    let suffixes = ["conflist", "conf", "json"].map(OsStr::new);
    // As runtimes see it, a name may consist of a suffix.
    let suffix = |name: &OsString| name.as_encoded_bytes().rsplit(|byte| *byte == b'.').next().map(<[u8]>::to_vec);
    let dotted = |name: &OsString| name.as_encoded_bytes().contains(&b'.');
    names
        .into_iter()
        .filter(|name| {
            dotted(name) && suffix(name).is_some_and(|it| suffixes.iter().any(|s| s.as_encoded_bytes() == it))
        })
        .min()
}

/// Puts `entry` into the primary file of `folder`, and makes that a list if it is none.
pub fn install_in(folder: &Path, entry: &Entry, take: Take<'_>) -> Result<Outcome, ConflistError> {
    let name = primary(names(folder)?).ok_or_else(|| ConflistError::None(folder.to_owned()))?;
    let path = folder.join(&name);
    let done = if is_list(&path) { put_in(&path, entry, take) } else { make_list(&path, entry, take) };
    done.map_err(|error| error.at(path))
}

/// Takes our entry out of every list in `folder`, also of those that are not the primary one any more, and turns back those
/// that were made of something else. A file that fails does not keep it from the others; the first failure is told.
pub fn uninstall_from(folder: &Path, take: Take<'_>) -> Result<Vec<Outcome>, ConflistError> {
    let mut outcomes = Vec::new();
    let mut failure = None;
    let lists = names(folder)?.into_iter().map(|name| folder.join(name)).filter(|path| is_list(path));
    for path in lists {
        match take_out(&path, take) {
            Ok(outcome) => outcomes.push(outcome),
            Err(error) => failure = failure.or(Some(error.at(path))),
        }
    }
    if !outcomes.is_empty() {
        sweep(folder)?;
    }
    failure.map_or(Ok(outcomes), Err)
}

fn put_in(path: &Path, entry: &Entry, take: Take<'_>) -> Result<Outcome, ConflistError> {
    let current = Current::read(path)?;
    let Some(text) = install(&current.text, entry)? else {
        return Ok(Outcome::Unchanged(path.to_owned()));
    };
    replace(path, text.as_bytes(), current.attributes, take, || current.still(path))?;
    Ok(Outcome::Written(path.to_owned()))
}

/// The list first: until the original is gone it is, for the runtime, as before.
fn make_list(path: &Path, entry: &Entry, take: Take<'_>) -> Result<Outcome, ConflistError> {
    let current = Current::read(path)?;
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let file = single::list_name(name).ok_or(ConflistError::NotAFile)?;
    let list = path.with_file_name(&file);
    let text = single::convert(&current.text, name, entry)?;
    // Left by an earlier time: the original has come back, or the removal did not happen.
    let former = Current::read_if_there(&list)?;
    if former.is_some_and(|it| single::original(&it.text, &file).as_deref() != Some(name)) {
        return Err(ConflistError::Taken(list));
    }
    replace(&list, text.as_bytes(), current.attributes, take, || current.still(path))?;
    current.still(path)?;
    remove(path, take)?;
    Ok(Outcome::Renamed(path.to_owned(), list))
}

fn take_out(path: &Path, take: Take<'_>) -> Result<Outcome, ConflistError> {
    let current = match Current::read(path) {
        // Ours are small regular files with text in them.
        Err(ConflistError::NotAFile | ConflistError::TooLarge(_)) => return Ok(Outcome::Unchanged(path.to_owned())),
        other => other?,
    };
    let Some(text) = taken_out(&current.text)? else {
        return Ok(Outcome::Unchanged(path.to_owned()));
    };
    let file = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let Some((name, content)) = single::revert(&current.text, file) else {
        replace(path, text.as_bytes(), current.attributes, take, || current.still(path))?;
        return Ok(Outcome::Written(path.to_owned()));
    };
    let original = path.with_file_name(name);
    // What has come back meanwhile is newer than what we know.
    if !original.try_exists()? {
        replace(&original, content.as_bytes(), current.attributes, take, || current.still(path))?;
    }
    current.still(path)?;
    remove(path, take)?;
    Ok(Outcome::Renamed(path.to_owned(), original))
}

/// A file of others that is broken is none of our business, unless it speaks of us.
fn taken_out(text: &str) -> Result<Option<String>, ConflistError> {
    match uninstall(text) {
        Err(ConflistError::Malformed(_)) if !text.contains(crate::PLUGIN) => Ok(None),
        other => other,
    }
}

fn is_list(path: &Path) -> bool {
    path.extension().is_some_and(|it| it == "conflist")
}

/// The files, and what could be one. A folder that is not there is one without files.
fn names(folder: &Path) -> Result<Vec<OsString>, ConflistError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            names.push(entry.file_name());
        }
    }
    names.sort();
    Ok(names)
}

/// A file as it was read.
struct Current {
    text: String,
    attributes: Attributes,
}

impl Current {
    /// Of a regular file: a link would be replaced by a file, and what it points to may not be ours to see.
    fn read(path: &Path) -> Result<Self, ConflistError> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(ConflistError::NotAFile),
            other => other?,
        };
        let metadata = file.metadata()?;
        Ok(Self { text: content(&file, &metadata)?, attributes: Attributes::from(&metadata) })
    }

    fn read_if_there(path: &Path) -> Result<Option<Self>, ConflistError> {
        match Self::read(path) {
            Err(ConflistError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// Is it still what was read? Others write here too, and theirs must not be lost.
    fn still(&self, path: &Path) -> Result<(), ConflistError> {
        match Self::read_if_there(path)? {
            Some(now) if now.text == self.text => Ok(()),
            _ => Err(ConflistError::Changed),
        }
    }
}

fn content(file: &File, metadata: &Metadata) -> Result<String, ConflistError> {
    if !metadata.is_file() {
        return Err(ConflistError::NotAFile);
    }
    let mut text = String::new();
    file.take(LIMIT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LIMIT { Err(ConflistError::TooLarge(LIMIT)) } else { Ok(text) }
}

#[cfg(test)]
mod tests;
