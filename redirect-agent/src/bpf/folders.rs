//! The directory of the pins, and what in it is ours. An operator chooses it, and may choose one that others pin in as well: nothing goes but
//! what has a name of ours in a place of ours.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use redirect_common::maps::LAYOUT;

use crate::kernel::file;
use crate::resources::program;

/// Where links are pinned.
const LINKS: &str = "links";
/// Where the maps of a layout are pinned, below its own folder.
const MAPS: &str = "maps";
/// Before the number of a layout.
const VERSION: &str = "v";
/// Before the name of a layout that is being removed. A bpf file system takes no dots (`bpf_lookup`, kernel/bpf/inode.c).
const GONE: &str = "gone-";
/// Of the root of a bpf file system (`simple_fill_super`, fs/libfs.c).
const ROOT_INODE: u64 = 1;

/// Where pinned TCX links are, of every layout: a new agent swaps their programs.
pub(crate) fn links_dir(dir: &Path) -> PathBuf {
    dir.join(LINKS)
}

fn layout_dir(dir: &Path) -> PathBuf {
    dir.join(format!("{VERSION}{LAYOUT}"))
}

/// Where the maps of this layout are pinned.
pub(super) fn maps_dir(dir: &Path) -> PathBuf {
    layout_dir(dir).join(MAPS)
}

/// Where there are pins of this layout, and the folders above.
pub(crate) fn folders(dir: &Path) -> [PathBuf; 4] {
    [dir.to_owned(), links_dir(dir), layout_dir(dir), maps_dir(dir)]
}

/// The nearest directory that exists must be on a bpf file system, and `dir` not the whole of one: it is made root's alone.
pub(super) fn check(dir: &Path) -> anyhow::Result<()> {
    let existing = dir.ancestors().find(|path| path.exists()).context("no directory for pins")?;
    ensure!(
        is_bpf(existing)?,
        "{} is not on a bpf file system; mount one with `mount -t bpf bpf /sys/fs/bpf`",
        dir.display()
    );
    let is_root = fs::metadata(dir).is_ok_and(|metadata| metadata.ino() == ROOT_INODE);
    ensure!(
        !is_root,
        "{0} is a whole bpf file system, in which others pin as well; give --bpf-dir a directory in it, such as {0}/redirect",
        dir.display()
    );
    Ok(())
}

fn is_bpf(path: &Path) -> anyhow::Result<bool> {
    Ok(statfs(path).with_context(|| format!("look at {}", path.display()))?.filesystem_type() == BPF_FS_MAGIC)
}

/// Removes the pins of layouts other than this one. To be called when everything stands. An agent that is killed meanwhile leaves a layout
/// whole or under another name: one that comes back to it must not find half of its maps, with what they held long ago.
pub(crate) fn forget_other_layouts(dir: &Path) -> anyhow::Result<()> {
    let own = format!("{VERSION}{LAYOUT}");
    for name in names(dir)? {
        let Some(text) = name.to_str().filter(|text| is_layout(text) && *text != own) else { continue };
        let gone = if text.starts_with(GONE) {
            dir.join(text)
        } else {
            let gone = dir.join(format!("{GONE}{text}"));
            unpin(&layout(&gone)?.paths)?;
            let path = dir.join(text);
            file::rename(&path, &gone).with_context(|| format!("rename {}", path.display()))?;
            gone
        };
        unpin(&layout(&gone)?.paths)?;
    }
    Ok(())
}

/// All that is ours in `dir`, each before the directory that it is in: that goes too, if nothing else is in it.
pub(crate) fn pins(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    // Elsewhere nothing is pinned, and what has our names is not of our making.
    if dir.exists() && is_bpf(dir)? { Ok(all(dir)?.paths) } else { Ok(Vec::new()) }
}

/// Removes what [`pins`] has found.
pub(crate) fn unpin(paths: &[PathBuf]) -> anyhow::Result<()> {
    paths.iter().try_for_each(|path| {
        let is_directory = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
        let outcome = if is_directory { file::remove_directory(path) } else { file::remove(path) };
        outcome.with_context(|| format!("remove {}", path.display()))
    })
}

/// What is ours in a directory.
struct Ours {
    paths: Vec<PathBuf>,
    /// Nothing else is in it.
    is_all: bool,
}

impl Ours {
    /// What `look` finds of each that is in `dir`; `None` is somebody else's.
    fn within(dir: &Path, look: impl Fn(&str, &Path) -> anyhow::Result<Option<Self>>) -> anyhow::Result<Self> {
        let mut ours = Self { paths: Vec::new(), is_all: true };
        for name in names(dir)? {
            let found = name.to_str().map(|text| look(text, &dir.join(text))).transpose()?.flatten();
            ours.is_all &= found.as_ref().is_some_and(|found| found.is_all);
            ours.paths.extend(found.into_iter().flat_map(|found| found.paths));
        }
        let is_own = fs::symlink_metadata(dir).is_ok_and(|found| found.is_dir() && found.ino() != ROOT_INODE);
        ours.paths.extend((ours.is_all && is_own).then(|| dir.to_owned()));
        Ok(ours)
    }

    fn file(path: &Path) -> Option<Self> {
        let is_directory = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
        (!is_directory).then(|| Self { paths: vec![path.to_owned()], is_all: true })
    }
}

fn all(dir: &Path) -> anyhow::Result<Ours> {
    Ours::within(dir, |name, path| match name {
        LINKS => Ours::within(path, |name, path| Ok(Ours::file(path).filter(|_| program::is_pin(name)))).map(Some),
        name if is_layout(name) => layout(path).map(Some),
        _ => Ok(None),
    })
}

/// The maps of a layout: what they are called there, only its own agents know.
fn layout(dir: &Path) -> anyhow::Result<Ours> {
    Ours::within(dir, |name, path| match name {
        MAPS => Ours::within(path, |_, path| Ok(Ours::file(path))).map(Some),
        _ => Ok(None),
    })
}

/// `v` and a number, also on its way out.
fn is_layout(name: &str) -> bool {
    let number = name.strip_prefix(GONE).unwrap_or(name).strip_prefix(VERSION);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn names(dir: &Path) -> anyhow::Result<Vec<OsString>> {
    file::names(dir).with_context(|| format!("list {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn tree(dirs: &[&str], files: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in dirs {
            fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        for name in files {
            fs::write(directory.path().join(name), "").unwrap();
        }
        directory
    }

    fn left(dir: &Path) -> BTreeSet<String> {
        names(dir).unwrap().into_iter().map(|name| name.into_string().unwrap()).collect()
    }

    #[test]
    fn other_layouts_go_and_so_does_what_is_left_of_one() {
        let own = format!("v{LAYOUT}");
        let maps: Vec<_> =
            [own.as_str(), "v0", "v999", "gone-v999", "gone-v7"].iter().map(|name| format!("{name}/maps")).collect();
        let mut dirs: Vec<_> = maps.iter().map(String::as_str).collect();
        dirs.extend(["links", "velocity/maps", "gone-fishing"]);
        let directory = tree(&dirs, &["v0/maps/PODS", "gone-v7/maps/OF_THEN", "velocity/maps/m"]);
        forget_other_layouts(directory.path()).unwrap();
        forget_other_layouts(directory.path()).unwrap();
        let wanted = [own.as_str(), "links", "velocity", "gone-fishing"].map(str::to_owned);
        assert_eq!(left(directory.path()), BTreeSet::from(wanted));
    }

    #[test]
    fn all_pins_go_and_the_directory_with_them() {
        let directory = tree(&["links", "v3/maps", "gone-v2/maps"], &["links/5-ingress-next", "v3/maps/PODS"]);
        unpin(&all(directory.path()).unwrap().paths).unwrap();
        assert!(!directory.path().exists());
        assert!(all(directory.path()).unwrap().paths.is_empty());
    }

    #[test]
    fn of_what_others_pin_there_all_stays() {
        let others = ["links/cilium", "v3/theirs", "tc/globals/cilium_lxc", "v3/maps/theirs/m"];
        let dirs = ["links", "v3/maps/theirs", "tc/globals"];
        let directory = tree(&dirs, &[&others[..], &["links/5-ingress", "v3/maps/PODS"]].concat());
        unpin(&all(directory.path()).unwrap().paths).unwrap();
        assert!(all(directory.path()).unwrap().paths.is_empty(), "there is nothing more to do");
        for name in others {
            assert!(directory.path().join(name).exists(), "{name} is gone");
        }
        assert_eq!(left(&directory.path().join("links")).len() + left(&directory.path().join("v3/maps")).len(), 2);
    }

    #[test]
    fn what_is_no_bpf_file_system_has_no_pins() {
        let directory = tree(&["v3/maps"], &["v3/maps/PODS"]);
        assert!(pins(directory.path()).unwrap().is_empty());
    }
}
