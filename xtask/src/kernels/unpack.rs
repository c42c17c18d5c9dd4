//! Turns a kernel's packages into what a guest needs: the image, and the modules of the list with all that they need.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::modules;
use crate::process;

/// Written last.
pub(super) const COMPLETE: &str = "complete";
pub(super) const IMAGE: &str = "vmlinuz";
pub(super) const RELEASE: &str = "release";
pub(super) const LOAD_ORDER: &str = "load-order";

/// Makes the folder `target` of the packages in the folder `packages`.
pub(super) fn unpack(packages: &Path, release: &str, target: &Path) -> Result<()> {
    if target.exists() {
        fs::remove_dir_all(target).context("remove what an interrupted run left")?;
    }
    let everything = target.join("everything");
    fs::create_dir_all(&everything)?;
    extract(packages, &everything)?;
    fs::copy(find_image(&everything, release)?, target.join(IMAGE)).context("copy the kernel image")?;
    let load_order = install_modules(&everything, release, target)?;
    fs::write(target.join(LOAD_ORDER), load_order.join("\n"))?;
    fs::write(target.join(RELEASE), release)?;
    fs::remove_dir_all(&everything)?;
    Ok(fs::write(target.join(COMPLETE), "")?)
}

fn extract(packages: &Path, target: &Path) -> Result<()> {
    for entry in fs::read_dir(packages).with_context(|| format!("list {}", packages.display()))? {
        let package = entry?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            process::quiet(Command::new("dpkg").arg("-x").arg(package).arg(target))?;
        }
    }
    // Older packages have /lib, newer ones /usr/lib; kmod's tools look below /lib.
    if !target.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", target.join("lib")).context("link lib to usr/lib")?;
    }
    Ok(())
}

fn find_image(root: &Path, release: &str) -> Result<PathBuf> {
    let places = [format!("boot/vmlinuz-{release}"), format!("lib/modules/{release}/vmlinuz")];
    let found = places.iter().map(|place| root.join(place)).find(|path| path.exists());
    found.with_context(|| format!("no kernel image at {}", places.join(" or ")))
}

/// Copies the modules that are needed, uncompressed, and returns the order to load them in.
fn install_modules(root: &Path, release: &str, target: &Path) -> Result<Vec<String>> {
    depmod(root, release)?;
    let from = root.join("lib/modules").join(release);
    let to = target.join("lib/modules").join(release);
    let read = |name: &str| fs::read_to_string(from.join(name)).with_context(|| format!("read {name} of {release}"));
    let order = modules::load_order(&read("modules.dep")?, &read("modules.builtin")?)?;
    for path in &order {
        install_module(&from.join(path), &to.join(path))?;
    }
    for name in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        fs::copy(from.join(name), to.join(name)).with_context(|| format!("copy {name}"))?;
    }
    depmod(target, release)?;
    Ok(order.iter().map(|path| uncompressed(path).to_owned()).collect())
}

fn install_module(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().context("a module is in a folder")?;
    fs::create_dir_all(folder)?;
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    match to.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => Ok(()),
        Some("xz") => process::quiet(Command::new("xz").arg("--decompress").arg(to)),
        _ => bail!("{} is compressed in a way that is not known here", from.display()),
    }
}

fn uncompressed(path: &str) -> &str {
    path.strip_suffix(".xz").unwrap_or(path)
}

fn depmod(root: &Path, release: &str) -> Result<()> {
    process::quiet(Command::new("depmod").arg("-b").arg(root).arg(release))
}
