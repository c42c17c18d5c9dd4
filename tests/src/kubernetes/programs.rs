//! Where Kubernetes' programs are: `REDIRECT_KUBERNETES` names the folder.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};

const VARIABLE: &str = "REDIRECT_KUBERNETES";

pub(crate) fn find(name: &str) -> Result<PathBuf> {
    let folder = env::var_os(VARIABLE);
    let folder = folder.with_context(|| format!("{VARIABLE} is not set: `cargo xtask test kubernetes` sets it"))?;
    let program = PathBuf::from(folder).join(name);
    program.is_file().then_some(program).with_context(|| format!("{VARIABLE} has no {name}"))
}
