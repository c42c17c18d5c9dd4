//! The CNI plugin's program and its entry in a list, as others may find them.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use redirect_lab::agent::AgentOptions;
use redirect_lab::drift::Figures;
use redirect_lab::folders::{Folders, LIST};
use redirect_lab::harness::eventually;
use redirect_lab::lab::Lab;

const DEADLINE: Duration = Duration::from_mins(1);

/// The runtime's folders.
pub(crate) struct Plugin(Folders);

impl Plugin {
    pub(crate) fn new(lab: &Lab) -> Result<Self> {
        Ok(Self(Folders::new(lab)?))
    }

    /// Where it has been put.
    pub(crate) fn of(lab: &Lab) -> Self {
        Self(Folders::of(lab))
    }

    pub(crate) fn options(&self, options: AgentOptions) -> Result<AgentOptions> {
        self.0.options(options)
    }

    pub(crate) fn loses_its_entry(&self, figures: &mut Figures) -> Result<()> {
        figures.add(true, "CNI entry removed", put_back(&self.0.list(), |list| fs::write(list, LIST))?);
        let changed = put_back(&self.0.list(), |list| {
            let text = fs::read_to_string(list)?;
            fs::write(list, text.replace("cni.sock", "nobodys.sock"))
        });
        figures.add(true, "CNI entry changed", changed?);
        Ok(())
    }

    /// The runtime's folders are as they were.
    pub(crate) fn is_gone(&self) -> Result<()> {
        ensure!(fs::read(self.0.list())? == LIST.as_bytes(), "the list is not what it was");
        let left = self.0.files()?;
        ensure!(left == [self.0.list()], "there is more than the list: {left:?}");
        Ok(())
    }

    pub(crate) fn loses_its_program(&self, figures: &mut Figures) -> Result<()> {
        figures.add(true, "CNI program removed", put_back(&self.0.program(), |program| fs::remove_file(program))?);
        let changed =
            put_back(&self.0.program(), |program| OpenOptions::new().append(true).open(program)?.write_all(b"more"));
        figures.add(true, "CNI program changed", changed?);
        Ok(())
    }
}

/// What the agent has of its own: who removes it must not keep pods from starting, nor have two agents at work.
pub(crate) fn own_files_come_back(lab: &Lab, figures: &mut Figures) -> Result<()> {
    let folder = lab.agent_dir();
    for (kind, name) in
        [("socket removed", "cni.sock"), ("socket removed", "agent.sock"), ("lock removed", "agent.lock")]
    {
        let path = folder.join(name);
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        let broken = Instant::now();
        eventually(DEADLINE, || Ok(fs::symlink_metadata(&path).map(drop)?))?;
        println!("        {name}: {} ms", broken.elapsed().as_millis());
        figures.add(false, kind, broken.elapsed());
    }
    // It is heard again.
    lab.status()?;
    let record = folder.join("record.json");
    let taken = put_back(&record, |record| fs::remove_file(record))?;
    figures.add(false, "record removed", taken);
    Ok(())
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
