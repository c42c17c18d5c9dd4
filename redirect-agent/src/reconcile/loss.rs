//! Whether ztunnel is away, so that pods pass that are to pass without one.
//!
//! It goes by what the source has said, once that is complete: a source that falls silent, an agent that starts, and a datapath that does not
//! stand leave it as it is. It is on record, so that the next agent has every pod stay what it is.

use super::{Programmed, Reconciler};
use crate::enrol::Cluster;
use crate::resources::ledger::Ledger;

impl Reconciler {
    /// Takes notice of it when none is Ready, before the node is planned.
    pub(super) fn look_for_loss(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        self.note_loss(is_away(self.record.proxy_is_away(), cluster.proxy.is_some(), false))
    }

    /// Ends it when all of the way to one stands that is Ready, on the node as well: who was bypassed is to be redirected then. Whether it has
    /// ended by that.
    pub(super) fn loss_ends(
        &mut self,
        cluster: &Cluster,
        candidate: Option<&Programmed>,
        ledger: &Ledger,
    ) -> anyhow::Result<bool> {
        let wanted = cluster.proxy.as_ref().map(|pod| &pod.uid);
        let stands = ledger.problems.is_empty() && candidate.is_some_and(|known| Some(&known.proxy.uid) == wanted);
        let before = self.record.proxy_is_away();
        self.note_loss(is_away(before, wanted.is_some(), stands))?;
        Ok(before && !self.record.proxy_is_away())
    }

    fn note_loss(&mut self, away: bool) -> anyhow::Result<()> {
        let before = self.record.proxy_is_away();
        self.record.set_proxy_is_away(away)?;
        if before != away {
            tracing::info!(away, on_proxy_loss = ?self.config.on_proxy_loss, "whether ztunnel is away has changed");
        }
        Ok(())
    }
}

/// One that is Ready and cannot be programmed yet is no loss; but it is no end of one either.
fn is_away(before: bool, is_known: bool, stands: bool) -> bool {
    !is_known || before && !stands
}

#[cfg(test)]
mod tests {
    use super::is_away;

    #[test]
    fn only_that_none_is_ready_begins_it_and_only_one_that_stands_ends_it() {
        for stands in [false, true] {
            assert!(!is_away(false, true, stands), "a datapath that does not stand");
            assert!([false, true].iter().all(|before| is_away(*before, false, stands)));
        }
        assert!(is_away(true, true, false) && !is_away(true, true, true));
    }
}
