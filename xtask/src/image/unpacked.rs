//! The image as a node has it: its layers, unpacked into a folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Archive, clear};
use crate::workspace::Workspace;

/// A folder with an image's files, removed with the value.
pub(crate) struct Unpacked {
    folder: PathBuf,
    root: PathBuf,
}

impl Unpacked {
    /// Unpacks it.
    pub(crate) fn new(workspace: &Workspace, archive: &Archive) -> Result<Self> {
        let folder = workspace.cache("image")?.join("unpacked");
        clear(&folder)?;
        let (layout, root) = (folder.join("layout"), folder.join("image-root"));
        for path in [&layout, &root] {
            fs::create_dir(path).with_context(|| format!("create {}", path.display()))?;
        }
        archive.unpack(&layout, &root)?;
        Ok(Self { folder, root })
    }

    /// Its root.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}
