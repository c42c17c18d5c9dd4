//! Puts a guest's file system together: the tools from the cache, and over them what belongs to this kernel, this build and
//! this command.

use std::fs::{self, OpenOptions};
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Result};
use redirect_init::places;

use super::tree::Tree;
use super::{Guest, libraries, tools};
use crate::workspace::Workspace;

/// Writes the file system of `guest` to `path`.
pub(super) fn write(guest: &Guest, workspace: &Workspace, path: &Path) -> Result<()> {
    let tools = tools::get(workspace)?;
    let mut tree = Tree::default();
    add_kernel(&mut tree, guest)?;
    add_programs(&mut tree, guest)?;
    tree.text(places::COMMAND, format!("{}\n", guest.command));
    libraries::add(&mut tree, &tools.paths)?;
    fs::copy(&tools.archive, path).with_context(|| format!("copy {}", tools.archive.display()))?;
    let file = OpenOptions::new().append(true).open(path).with_context(|| format!("open {}", path.display()))?;
    tree.write(BufWriter::new(file))
}

fn add_kernel(tree: &mut Tree, guest: &Guest) -> Result<()> {
    let release = &guest.kernel.release;
    let (host, inside) =
        (guest.kernel.modules_root.join("lib/modules").join(release), format!("/usr/lib/modules/{release}"));
    for entry in fs::read_dir(&host).with_context(|| format!("list {}", host.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            tree.copy_as(&entry.path(), &format!("{inside}/{}", entry.file_name().to_string_lossy()))?;
        }
    }
    let order: Vec<String> = guest.kernel.load_order.iter().map(|path| format!("{inside}/{path}")).collect();
    for (path, inside) in guest.kernel.load_order.iter().zip(&order) {
        tree.copy_as(&host.join(path), inside)?;
    }
    tree.text(places::MODULES, order.join("\n"));
    Ok(())
}

fn add_programs(tree: &mut Tree, guest: &Guest) -> Result<()> {
    tree.copy_as(&guest.programs.init, "/init")?;
    for program in &guest.programs.tools {
        tree.copy_as(program, &below(places::PROGRAMS, program)?)?;
    }
    tree.copy_as(&guest.programs.bpf_object, places::BPF_OBJECT)?;
    tree.dir(places::COPY);
    for copy in &guest.copies {
        let source = copy.canonicalize().with_context(|| format!("find {}", copy.display()))?;
        copy_all(tree, &source, &below(places::COPY, copy)?)?;
    }
    Ok(())
}

fn copy_all(tree: &mut Tree, source: &Path, path: &str) -> Result<()> {
    if !source.is_dir() {
        return tree.copy_as(source, path);
    }
    tree.dir(path);
    for entry in fs::read_dir(source).with_context(|| format!("list {}", source.display()))? {
        let entry = entry?;
        // A link in a folder stays a link, and is not followed around in circles.
        let (source, path) = (entry.path(), format!("{path}/{}", entry.file_name().to_string_lossy()));
        if entry.file_type()?.is_dir() { copy_all(tree, &source, &path)? } else { tree.copy_as(&source, &path)? }
    }
    Ok(())
}

fn below(folder: &str, path: &Path) -> Result<String> {
    let name = path.file_name().with_context(|| format!("{} has no name", path.display()))?;
    Ok(format!("{folder}/{}", name.to_string_lossy()))
}
