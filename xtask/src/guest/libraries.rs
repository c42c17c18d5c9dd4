//! The shared libraries that programs need, by asking the dynamic loader (`ldd`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::tree::Tree;

/// Adds what the programs and libraries in `tree` need, except what is at a path of `present`.
pub(crate) fn add(tree: &mut Tree, present: &BTreeSet<String>) -> Result<()> {
    for library in needed(tree.sources())? {
        let path = library.to_string_lossy();
        if !present.contains(path.as_ref()) && !tree.contains(&path) {
            tree.copy_content(&library)?;
        }
    }
    Ok(())
}

fn needed<'a>(files: impl Iterator<Item = &'a Path>) -> Result<BTreeSet<PathBuf>> {
    // It fails when one of them is a script or linked statically, and lists the others' libraries all the same.
    let output =
        Command::new("ldd").args(files).env("LC_ALL", "C").stdin(Stdio::null()).output().context("start ldd")?;
    let paths = parse(&String::from_utf8_lossy(&output.stdout))?;
    paths.iter().map(|path| merged(Path::new(path))).collect()
}

/// `/lib/x` is `/usr/lib/x`; the last part can be a link, whose name is what programs ask for.
fn merged(path: &Path) -> Result<PathBuf> {
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    let found = folder.zip(path.file_name()).map(|(folder, name)| folder.join(name));
    found.with_context(|| format!("find {}", path.display()))
}

fn parse(listing: &str) -> Result<BTreeSet<String>> {
    let mut paths = BTreeSet::new();
    // Lines of libraries are indented: `libc.so.6 => /lib/libc.so.6 (0x7f…)` or `/lib64/ld-linux-x86-64.so.2 (0x7f…)`.
    for line in listing.lines().filter(|line| line.starts_with(char::is_whitespace)) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [name, "=>", "not", "found"] => bail!("no library {name}"),
            [_, "=>", path, ..] | [path, ..] if path.starts_with('/') => {
                paths.insert((*path).to_owned());
            }
            _ => {}
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_lines_are_read() {
        let listing = "/usr/bin/a:\n\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t\
            /lib64/ld.so.2 (0x3)\n/usr/bin/b:\n\tnot a dynamic executable\n";
        let paths: Vec<String> = parse(listing).unwrap().into_iter().collect();
        assert_eq!(paths, ["/lib/libc.so.6", "/lib64/ld.so.2"]);
    }

    #[test]
    fn a_missing_library_is_an_error() {
        assert!(parse("/usr/bin/a:\n\tliba.so => not found\n").is_err());
    }
}
