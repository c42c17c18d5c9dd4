//! A lock between processes: several people and several guests share one cache.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};

/// Held until it is dropped (the kernel lets go of it when the file is closed, also if we are killed).
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        file.lock().with_context(|| format!("lock {}", path.display()))?;
        Ok(Self { _file: file })
    }
}
