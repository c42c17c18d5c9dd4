//! The file of the book: pods that wait for nobody any more must stay enrolled when the agent is started again, also before
//! their status has an address. It lives as long as the kernel, as the record does.
//!
//! Agents of other versions read the file too, and what one of them forgets is no longer meshed. So the file only grows, as the record does
//! (see there), and of another version's file everything is taken that can be made out.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::book::Book;
use crate::kernel::file;
use crate::record;

const FILE: &str = "attachments.json";
/// As the record has it. The first agents read no other.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Data<'a> {
    version: u32,
    boot: &'a str,
    attachments: &'a Book,
}

/// What an agent of any version wrote.
#[derive(Deserialize)]
struct Found {
    boot: String,
    attachments: Value,
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

    /// Writes the book, unless the file says the same.
    pub(crate) fn keep(&mut self, book: &Arc<Book>) -> anyhow::Result<()> {
        let same = Arc::ptr_eq(book, &self.written) || *book == self.written;
        // Somebody may have removed the file; where there never was one, nothing is to be said.
        if same && (*self.written == Book::default() || self.path.exists()) {
            return Ok(());
        }
        self.write(book).with_context(|| format!("write {}", self.path.display()))?;
        self.written = Arc::clone(book);
        Ok(())
    }

    fn write(&self, book: &Book) -> anyhow::Result<()> {
        let data = Data { version: VERSION, boot: &self.boot, attachments: book };
        Ok(file::replace(&self.path, &serde_json::to_vec(&data)?)?)
    }
}

fn read(path: &Path, boot: &str) -> anyhow::Result<Book> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Book::default()),
        other => other?,
    };
    let data: Found = serde_json::from_slice(&bytes)?;
    if data.boot != boot {
        return Ok(Book::default());
    }
    Book::deserialize(&data.attachments).or_else(|error| {
        let (known, left) = Book::salvage(&data.attachments);
        let error = format!("{error:#}");
        tracing::warn!(error, known = known.all().len(), left, file = %path.display(), "attachments of pods are of another version");
        Ok(known)
    })
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
    fn of_another_version_is_taken_what_can_be() {
        let directory = tempfile::tempdir().unwrap();
        let known = [attached("c1", "a", None, &["10.0.0.1"]), attached("c2", "b", None, &["10.0.0.2"])];
        let mut book = serde_json::to_value(book(&known)).unwrap();
        book["attached"][0]["more"] = 7.into();
        book["more"] = "x".into();
        let write = |book: &Value| {
            let file =
                serde_json::json!({"version": 2, "boot": record::boot_id().unwrap(), "more": [], "attachments": book});
            fs::write(directory.path().join(FILE), file.to_string()).unwrap();
            Store::open(directory.path()).unwrap().1
        };
        assert_eq!(write(&book).all(), known);
        book["attached"][0]["id"] = "another kind".into();
        assert_eq!(write(&book).all(), &known[1..]);
        book["gone"] = 7.into();
        assert_eq!(write(&book).all(), &known[1..]);
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
