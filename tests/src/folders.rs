//! The runtime's folders, for plugins and their lists, as the agent is given them. On a real node they are on disk.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::agent::AgentOptions;
use crate::binaries;
use crate::lab::Lab;
use crate::runtime::PLUGIN;

/// What the list says before anybody adds to it.
pub const LIST: &str = "{\"cniVersion\": \"1.1.0\", \"name\": \"net\", \"plugins\": [{\"type\": \"ptp\"}]}\n";

/// A folder for programs and one for lists.
#[derive(Clone, Debug)]
pub struct Folders {
    bin: PathBuf,
    conf: PathBuf,
}

impl Folders {
    /// Those of the lab, made or not.
    #[must_use]
    pub fn of(lab: &Lab) -> Self {
        let folder = lab.dir().join("runtime");
        Self { bin: folder.join("bin"), conf: folder.join("net.d") }
    }

    /// Makes them in the lab's, with one list.
    pub fn new(lab: &Lab) -> Result<Self> {
        let folders = Self::of(lab);
        for folder in [&folders.bin, &folders.conf] {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        fs::write(folders.list(), LIST)?;
        Ok(folders)
    }

    /// The same for an agent that installs the plugin there.
    pub fn options(&self, options: AgentOptions) -> Result<AgentOptions> {
        let flag = |name: &str, path: &Path| format!("--cni-{name}={}", path.display());
        let plugin = binaries::find(PLUGIN)?;
        Ok(options.arg(&flag("plugin", &plugin)).arg(&flag("bin-dir", &self.bin)).arg(&flag("conf-dir", &self.conf)))
    }

    /// The list's file.
    #[must_use]
    pub fn list(&self) -> PathBuf {
        self.conf.join("10-net.conflist")
    }

    /// Where the agent puts the plugin's program.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.bin.join(PLUGIN)
    }

    /// Our entry in the list.
    pub fn entry(&self) -> Result<Value> {
        let list: Value = serde_json::from_str(&fs::read_to_string(self.list())?)?;
        let plugins = list["plugins"].as_array().context("a list has plugins")?;
        plugins.iter().find(|plugin| plugin["type"] == PLUGIN).cloned().context("our entry is not in the list")
    }

    /// What is in both: a line for each file, with its mode, and what lists say.
    pub fn describe(&self) -> Result<String> {
        let mut lines = Vec::new();
        for path in self.files()? {
            let about = fs::metadata(&path)?;
            let text = if path.starts_with(&self.conf) { fs::read_to_string(&path)? } else { String::new() };
            lines.push(format!("{} {:o} {} {text}\n", path.display(), about.permissions().mode(), about.len()));
        }
        lines.sort();
        Ok(lines.concat())
    }

    /// Everything in both.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.bin)?.chain(fs::read_dir(&self.conf)?);
        entries.map(|entry| Ok(entry?.path())).collect()
    }
}
