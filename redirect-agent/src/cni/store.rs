//! The file of the book: pods that wait for nobody any more must stay enrolled when the agent is started again, also before
//! their status has an address. It lives as long as the kernel, as the record does.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::book::Book;
use crate::kernel::file;
use crate::record;

const FILE: &str = "attachments.json";
/// Raised when the file's meaning changes.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Data {
    version: u32,
    boot: String,
    attachments: Book,
}

/// The file, and what it says.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    boot: String,
    written: Arc<Book>,
}

impl Store {
    /// Opens the file in `directory`. What cannot be read is given up with a warning: statuses and the plugin say it again.
    pub(crate) fn open(directory: &Path) -> anyhow::Result<(Self, Book)> {
        let path = directory.join(FILE);
        let boot = record::boot_id()?;
        let known = read(&path, &boot).unwrap_or_else(|error| {
            tracing::warn!(error = format!("{error:#}"), file = %path.display(), "attachments of pods are forgotten");
            Book::default()
        });
        Ok((Self { path, boot, written: Arc::new(known.clone()) }, known))
    }

    /// Writes the book, unless it says the same.
    pub(crate) fn keep(&mut self, book: &Arc<Book>) -> anyhow::Result<()> {
        if Arc::ptr_eq(book, &self.written) || *book == self.written {
            return Ok(());
        }
        self.write(book).with_context(|| format!("write {}", self.path.display()))?;
        self.written = Arc::clone(book);
        Ok(())
    }

    fn write(&self, book: &Book) -> anyhow::Result<()> {
        let data = Data { version: VERSION, boot: self.boot.clone(), attachments: book.clone() };
        Ok(file::replace(&self.path, &serde_json::to_vec(&data)?)?)
    }
}

fn read(path: &Path, boot: &str) -> anyhow::Result<Book> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Book::default()),
        other => other?,
    };
    let data: Data = serde_json::from_slice(&bytes)?;
    if data.boot != boot {
        return Ok(Book::default());
    }
    anyhow::ensure!(data.version == VERSION, "has version {}, this agent reads {VERSION}", data.version);
    Ok(data.attachments)
}

/// Nothing is enrolled any more.
pub(crate) fn remove(directory: &Path) -> anyhow::Result<()> {
    file::remove(&directory.join(FILE)).with_context(|| format!("remove {FILE}"))
}

#[cfg(test)]
mod tests {
    use super::super::book::tests::{attached, book};
    use super::*;

    #[test]
    fn it_survives_a_restart_and_no_boot() {
        let directory = tempfile::tempdir().unwrap();
        let known = book(&[attached("c1", "a", None, &["10.0.0.1", "fd00::1"])]);
        let (mut store, empty) = Store::open(directory.path()).unwrap();
        assert_eq!(empty, Book::default());
        store.keep(&Arc::new(known.clone())).unwrap();
        assert_eq!(Store::open(directory.path()).unwrap().1, known);
        assert_eq!(read(&directory.path().join(FILE), "another boot").unwrap(), Book::default());
        remove(directory.path()).unwrap();
        remove(directory.path()).unwrap();
        assert_eq!(Store::open(directory.path()).unwrap().1, Book::default());
    }

    #[test]
    fn what_cannot_be_read_is_given_up_and_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        for broken in ["", "{", r#"{"version":1}"#] {
            fs::write(directory.path().join(FILE), broken).unwrap();
            assert_eq!(Store::open(directory.path()).unwrap().1, Book::default(), "{broken}");
        }
        let known = Arc::new(book(&[attached("c1", "a", None, &[])]));
        Store::open(directory.path()).unwrap().0.keep(&known).unwrap();
        assert_eq!(Store::open(directory.path()).unwrap().1, *known);
    }

    #[test]
    fn what_could_not_be_written_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("state");
        fs::create_dir(&inner).unwrap();
        let (mut store, _) = Store::open(&inner).unwrap();
        let known = Arc::new(book(&[attached("c1", "a", None, &[])]));
        fs::remove_dir(&inner).unwrap();
        assert!(store.keep(&known).is_err());
        fs::create_dir(&inner).unwrap();
        store.keep(&known).unwrap();
        assert_eq!(Store::open(&inner).unwrap().1, *known);
    }
}
