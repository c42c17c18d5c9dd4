//! An image in one file: a tar of an OCI layout
//! (<https://github.com/opencontainers/image-spec/blob/main/image-layout.md>), as `ctr images import` and registries' clients take it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process;

/// An image that was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Archive {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    /// Of its manifest, and so of all that is in it.
    pub(crate) digest: String,
    /// Bytes of its files, unpacked.
    pub(crate) size: u64,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
}

impl Archive {
    /// Writes `layout` to `path`.
    pub(super) fn write(layout: &Path, path: &Path, name: &str, size: u64) -> Result<Self> {
        let mut tar = Command::new("tar");
        tar.args(["--create", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"]);
        tar.args(["--mode=u=rwX,go=rX", "--format=ustar"]).arg("--file").arg(path).arg("--directory").arg(layout);
        process::quiet(tar.args(["blobs", "index.json", "oci-layout"]))?;
        Ok(Self { path: path.to_owned(), name: name.to_owned(), digest: manifest(layout)?, size })
    }

    /// Unpacks all layers, one over the other, into `root`.
    pub(super) fn unpack(&self, layout: &Path, root: &Path) -> Result<()> {
        process::quiet(
            Command::new("tar").arg("--extract").arg("--file").arg(&self.path).arg("--directory").arg(layout),
        )?;
        let manifest: Manifest = read(&blob(layout, &manifest(layout)?)?)?;
        for layer in manifest.layers {
            // Packed or not: tar sees it.
            let mut tar = Command::new("tar");
            tar.args(["--extract", "--same-permissions", "--keep-directory-symlink", "--file"]);
            process::quiet(tar.arg(blob(layout, &layer.digest)?).arg("--directory").arg(root))?;
        }
        Ok(())
    }
}

/// The digest of the one image in a layout.
fn manifest(layout: &Path) -> Result<String> {
    let index: Index = read(&layout.join("index.json"))?;
    let [descriptor]: [Descriptor; 1] = index.manifests.try_into().ok().context("the layout holds not one image")?;
    Ok(descriptor.digest)
}

fn blob(layout: &Path, digest: &str) -> Result<PathBuf> {
    let (algorithm, hash) = digest.split_once(':').with_context(|| format!("{digest} is no digest"))?;
    Ok(layout.join("blobs").join(algorithm).join(hash))
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))
}
