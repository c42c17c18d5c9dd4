//! Whether the node and ztunnel's namespace are again what they were.

use anyhow::{Result, ensure};

use crate::demo::ZTUNNEL;
use crate::lab::Lab;
use crate::snapshot::Snapshot;

/// Both namespaces, as they were.
#[derive(Clone, Debug)]
pub struct Before([Snapshot; 2]);

impl Before {
    /// As they are now.
    pub fn of(lab: &Lab) -> Result<Self> {
        let places = [lab.node(), lab.pod_netns(ZTUNNEL)];
        Ok(Self([Snapshot::exact(&places[0])?, Snapshot::exact(&places[1])?]))
    }

    /// They are so again, to the letter.
    pub fn is_back(&self, lab: &Lab) -> Result<()> {
        let now = Self::of(lab)?;
        let changes: String = self.0.iter().zip(&now.0).filter_map(|(before, after)| before.diff(after)).collect();
        ensure!(changes.is_empty(), "{changes}");
        Ok(())
    }

    /// Runs `redirect-agent cleanup`, after which they must be so again.
    pub fn is_back_after_cleanup(&self, lab: &mut Lab) -> Result<()> {
        lab.cleanup_agent()?;
        ensure!(!lab.bpf_dir().exists(), "{} is still there", lab.bpf_dir().display());
        self.is_back(lab)
    }
}
