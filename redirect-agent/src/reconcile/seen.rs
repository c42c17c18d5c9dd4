//! What need not be looked at again: nftables tells the agent of the agent's own writes too, which have been read back by then, and each
//! look is a process or two. The kernel counts the transactions of each namespace; while the number stays, what was found right is right.
//! The timer's looks are not left out: counters change without a transaction.

use crate::kernel::nftables;
use crate::plan::Plan;
use crate::resources::Context;
use crate::resources::chain::Chain;
use crate::resources::chain::backend::Backend;
use crate::resources::guard::Guards;
use crate::resources::ledger::Kind;

use super::apply::Task;

/// What of a namespace was found as planned, and at which generation of nftables.
#[derive(Default, Debug)]
pub(crate) struct Seen {
    guards: Option<(u32, Guards)>,
    chains: Option<(u32, Vec<Chain>)>,
}

impl Seen {
    fn has(&self, kind: Kind, generation: u32, plan: &Plan) -> bool {
        match kind {
            Kind::Guard => self.guards.as_ref().is_some_and(|(at, guards)| *at == generation && *guards == plan.guards),
            Kind::Chain => self.chains.as_ref().is_some_and(|(at, chains)| *at == generation && *chains == plan.chains),
            _ => false,
        }
    }

    fn note(&mut self, kind: Kind, generation: u32, plan: &Plan) {
        match kind {
            Kind::Guard => self.guards = Some((generation, plan.guards.clone())),
            Kind::Chain => self.chains = Some((generation, plan.chains.clone())),
            _ => {}
        }
    }
}

/// Has `look` bring a kind to the plan, unless that is only because nftables has told of it, and nothing of nftables has changed since it
/// was found as planned.
pub(super) fn unless_seen(
    context: &mut Context<'_>,
    task: Task<'_>,
    kind: Kind,
    look: impl FnOnce(&mut Context<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Some(seen) = task.seen.filter(|_| is_of_nftables(kind, task.backend)) else { return look(context) };
    // Before the look: what changes during it counts as later.
    let generation = match context.netns.run(nftables::generation)? {
        Ok(generation) => generation,
        Err(error) => {
            tracing::debug!(%error, "the generation of nftables cannot be read");
            return look(context);
        }
    };
    if task.scope.is_told_of(kind) && seen.borrow().has(kind, generation, task.plan) {
        return Ok(());
    }
    let before = (context.ledger.writes.of(kind), context.ledger.problems.len());
    look(context)?;
    if before == (context.ledger.writes.of(kind), context.ledger.problems.len()) {
        seen.borrow_mut().note(kind, generation, task.plan);
    }
    Ok(())
}

fn is_of_nftables(kind: Kind, backend: Backend) -> bool {
    kind == Kind::Guard || kind == Kind::Chain && backend == Backend::Nft
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapaths::iptables;
    use crate::resources::guard;

    #[test]
    fn what_was_found_holds_for_its_plan_and_its_generation_only() {
        let plan = Plan { chains: iptables::owned_at_proxy(), ..Plan::default() };
        let mut seen = Seen::default();
        assert!(!seen.has(Kind::Chain, 7, &plan) && !seen.has(Kind::Guard, 7, &plan));
        seen.note(Kind::Chain, 7, &plan);
        assert!(seen.has(Kind::Chain, 7, &plan) && !seen.has(Kind::Guard, 7, &plan));
        assert!(!seen.has(Kind::Chain, 8, &plan) && !seen.has(Kind::Chain, 7, &Plan::default()));
        seen.note(Kind::Guard, 8, &plan);
        let mut other = plan.clone();
        other.guards.destination = Some(guard::Destination::default());
        assert!(seen.has(Kind::Guard, 8, &plan) && !seen.has(Kind::Guard, 8, &other));
        assert!(!seen.has(Kind::Set, 8, &plan));
    }

    #[test]
    fn legacy_iptables_counts_nothing() {
        assert!(is_of_nftables(Kind::Chain, Backend::Nft) && is_of_nftables(Kind::Guard, Backend::Legacy));
        assert!(!is_of_nftables(Kind::Chain, Backend::Legacy) && !is_of_nftables(Kind::Set, Backend::Nft));
    }
}
