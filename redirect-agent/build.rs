//! Puts the BPF object into the agent, so that both are of one build.

use std::env;
use std::path::{Path, PathBuf};

const OBJECT: &str = "redirect-ebpf.o";

fn main() {
    println!("cargo::rerun-if-env-changed=REDIRECT_EBPF_OBJECT");
    match object() {
        Some(path) if path.exists() => {
            println!("cargo::rerun-if-changed={}", path.display());
            println!("cargo::rustc-env=REDIRECT_EBPF_OBJECT={}", path.display());
        }
        _ => println!("cargo::error=the BPF object is not built yet: run `cargo xtask build-ebpf`, then this again"),
    }
}

/// Where `cargo xtask build-ebpf` puts it: below the target directory, which is four levels above a build script's output
/// (`PROFILE/build/PACKAGE-HASH/out`), or five where a target is named.
fn object() -> Option<PathBuf> {
    if let Some(path) = env::var_os("REDIRECT_EBPF_OBJECT") {
        return Some(path.into());
    }
    let out = env::var_os("OUT_DIR")?;
    let candidates = Path::new(&out).ancestors().skip(4).take(2).map(|target| target.join("bpf").join(OBJECT));
    candidates.into_iter().find(|path| path.exists())
}
