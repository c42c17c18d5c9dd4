//! The CNI plugin's program and its entry in a list, as others may find them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use redirect_lab::agent::AgentOptions;
use redirect_lab::binaries;
use redirect_lab::drift::Figures;
use redirect_lab::harness::eventually;
use redirect_lab::lab::Lab;
use redirect_lab::runtime::PLUGIN;

const LIST: &str = "{\"cniVersion\": \"1.1.0\", \"name\": \"net\", \"plugins\": [{\"type\": \"ptp\"}]}\n";
const DEADLINE: Duration = Duration::from_mins(1);

/// The runtime's folders.
pub(crate) struct Plugin {
    bin: PathBuf,
    conf: PathBuf,
}

impl Plugin {
    pub(crate) fn new(lab: &Lab) -> Result<Self> {
        let folder = lab.dir().join("runtime");
        let plugin = Self { bin: folder.join("bin"), conf: folder.join("net.d") };
        fs::create_dir_all(&plugin.bin)?;
        fs::create_dir_all(&plugin.conf)?;
        fs::write(plugin.list(), LIST)?;
        Ok(plugin)
    }

    pub(crate) fn options(&self, options: AgentOptions) -> Result<AgentOptions> {
        let plugin = binaries::find(PLUGIN)?;
        Ok(options
            .arg(&format!("--cni-plugin={}", plugin.display()))
            .arg(&format!("--cni-bin-dir={}", self.bin.display()))
            .arg(&format!("--cni-conf-dir={}", self.conf.display())))
    }

    fn list(&self) -> PathBuf {
        self.conf.join("10-net.conflist")
    }

    pub(crate) fn loses_its_entry(&self, figures: &mut Figures) -> Result<()> {
        figures.add(true, "CNI entry removed", put_back(&self.list(), |list| fs::write(list, LIST))?);
        Ok(())
    }

    pub(crate) fn loses_its_program(&self, figures: &mut Figures) -> Result<()> {
        figures.add(true, "CNI program removed", put_back(&self.bin.join(PLUGIN), |program| fs::remove_file(program))?);
        Ok(())
    }
}

/// How long until the file is what it was; first it has to be there at all.
fn put_back(path: &Path, break_it: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<Duration> {
    let good = eventually(DEADLINE, || {
        let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        ensure!(text != LIST.as_bytes(), "the plugin is not installed yet");
        Ok(text)
    })?;
    break_it(path)?;
    let broken = Instant::now();
    eventually(DEADLINE, || {
        ensure!(fs::read(path).is_ok_and(|text| text == good), "{} is not what it was", path.display());
        Ok(())
    })?;
    println!("        {} ms", broken.elapsed().as_millis());
    Ok(broken.elapsed())
}
