//! A file replaced as a whole: a reader finds the former content or the new one, also after a power cut.

use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

/// How files begin that are still being written; no runtime looks at them.
pub const PREFIX: &str = ".redirect-cni.";
const SUFFIX: &str = ".tmp";

/// Who a file belongs to, and who may do what with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl From<&fs::Metadata> for Attributes {
    fn from(metadata: &fs::Metadata) -> Self {
        Self { mode: metadata.mode() & 0o7777, uid: metadata.uid(), gid: metadata.gid() }
    }
}

/// Takes the one step of a change of this file that others see, by calling it: [`directly`], or with something before or
/// after it.
pub type Take<'a> = &'a dyn Fn(&Path, &mut dyn FnMut() -> io::Result<()>) -> io::Result<()>;

/// Takes the step and nothing else.
pub fn directly(_path: &Path, step: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
    step()
}

/// Removes a file.
pub fn remove(path: &Path, take: Take<'_>) -> io::Result<()> {
    take(path, &mut || fs::remove_file(path))?;
    sync_parent(path)
}

/// Gives `path` this content and these attributes. `still` is asked last, when nothing but the rename is left to do; what it
/// says is no is not done.
pub fn replace<E: From<io::Error>>(
    path: &Path,
    content: &[u8],
    attributes: Attributes,
    take: Take<'_>,
    still: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    let mut temporary = Temporary::beside(path)?;
    temporary.fill(content, attributes)?;
    still()?;
    take(path, &mut || fs::rename(&temporary.path, path))?;
    Ok(sync_parent(path)?)
}

/// Makes a change of `path`'s name last.
fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(parent(path))?.sync_all()
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes what was left half-written in `folder` by one who was killed.
pub fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A file under a name that no runtime looks at, removed when it is not wanted.
struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    /// The name is no other's: process numbers are the same in every container.
    fn beside(path: &Path) -> io::Result<Self> {
        let number = RandomState::new().build_hasher().finish();
        let path = parent(path).join(format!("{PREFIX}{number:016x}{SUFFIX}"));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { path, file })
    }

    /// The owner before the mode: a change of owner takes set-user bits away.
    fn fill(&mut self, content: &[u8], attributes: Attributes) -> io::Result<()> {
        self.file.write_all(content)?;
        let owned = Attributes::from(&self.file.metadata()?);
        if (owned.uid, owned.gid) != (attributes.uid, attributes.gid) {
            fchown(&self.file, Some(attributes.uid), Some(attributes.gid))?;
        }
        self.file.set_permissions(fs::Permissions::from_mode(attributes.mode))?;
        self.file.sync_all()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Renamed, unless something failed.
        drop(fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINE: Attributes = Attributes { mode: 0o640, uid: 0, gid: 0 };

    fn names(directory: &Path) -> Vec<String> {
        fs::read_dir(directory).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn content_and_attributes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        fs::write(&path, "old").unwrap();
        let attributes = Attributes { mode: 0o640, ..Attributes::from(&fs::metadata(&path).unwrap()) };
        replace(&path, b"new", attributes, &directly, || io::Result::Ok(())).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(Attributes::from(&fs::metadata(&path).unwrap()), attributes);
        assert_eq!(names(directory.path()), ["f"]);
    }

    #[test]
    fn a_late_no_leaves_the_former_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        fs::write(&path, "old").unwrap();
        let attributes = Attributes::from(&fs::metadata(&path).unwrap());
        let no = replace(&path, b"new", attributes, &directly, || Err(io::Error::other("no")));
        assert!(no.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(directory.path()), ["f"]);
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(replace(&directory.path().join("no/f"), b"", MINE, &directly, || io::Result::Ok(())).is_err());
    }
}
