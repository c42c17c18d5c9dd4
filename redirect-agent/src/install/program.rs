//! The plugin's program in the CNI bin directory.
//!
//! Ours is what bears the plugin's name and its mark: no record can tell that, for the file outlives a boot and the agent's
//! next version, and a record does not.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use nix::libc;
use nix::unistd::{getegid, geteuid};
use redirect_cni::conflist::replace::{Attributes, remove, replace};
use redirect_cni::{MARK, PLUGIN};

use crate::kernel::file;

/// Many times what the plugin has.
const LIMIT: u64 = 64 << 20;

/// Where it stands in `bin`.
pub(super) fn path(bin: &Path) -> PathBuf {
    bin.join(PLUGIN)
}

/// Puts `source` into `bin`; whether something had to be written.
pub(super) fn put(source: &Path, bin: &Path) -> anyhow::Result<bool> {
    let wanted = read(source).with_context(|| format!("read the plugin {}", source.display()))?;
    let (wanted, _) = wanted.with_context(|| format!("there is no plugin {}", source.display()))?;
    ensure!(is_marked(&wanted), "{} is no {PLUGIN}", source.display());
    let path = path(bin);
    let attributes = Attributes { mode: 0o755, uid: geteuid().as_raw(), gid: getegid().as_raw() };
    match read(&path).with_context(|| format!("read {}", path.display()))? {
        Some((content, now)) if content == wanted && now == attributes => return Ok(false),
        Some((content, _)) if !is_marked(&content) => bail!("{} is there already and is another's", path.display()),
        _ => {}
    }
    // A program that runs keeps its file; the next one that is started is the new one.
    replace(&path, &wanted, attributes, &file::take, || std::io::Result::Ok(()))
        .with_context(|| format!("write {} (is the directory there, and mounted?)", path.display()))?;
    Ok(true)
}

/// Removes it if it is ours; whether something was removed.
pub(super) fn take(bin: &Path) -> anyhow::Result<bool> {
    let path = path(bin);
    let Some((content, _)) = read(&path).with_context(|| format!("read {}", path.display()))? else {
        return Ok(false);
    };
    if !is_marked(&content) {
        return Ok(false);
    }
    remove(&path, &file::take).with_context(|| format!("remove {}", path.display()))?;
    Ok(true)
}

fn is_marked(content: &[u8]) -> bool {
    content.windows(MARK.len()).any(|window| window == MARK.as_bytes())
}

/// A regular file's content, owner and mode; `None` where there is nothing.
fn read(path: &Path) -> anyhow::Result<Option<(Vec<u8>, Attributes)>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => bail!("it is a symbolic link"),
        other => other?,
    };
    let metadata = file.metadata()?;
    ensure!(metadata.is_file(), "it is no regular file");
    let mut content = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut content)?;
    ensure!(content.len() as u64 <= LIMIT, "it has more than {} MiB", LIMIT >> 20);
    Ok(Some((content, Attributes::from(&metadata))))
}
