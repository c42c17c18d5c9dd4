//! What need not be looked at again: nftables tells the agent of the agent's own writes too, which have been read back by then, and each
//! look is a process or two. The kernel counts the transactions of each namespace; while the number stays, what was found right is right.
//! The timer's looks are not left out: counters change without a transaction.

use std::cell::RefCell;

use crate::kernel::nftables;
use crate::plan::Plan;
use crate::resources::Context;
use crate::resources::chain::Chain;
use crate::resources::chain::backend::Backend;
use crate::resources::guard::Guards;
use crate::resources::known::Known;
use crate::resources::ledger::Kind;

use super::apply::Task;

/// What of a namespace was found as planned.
#[derive(Default, Debug)]
pub(crate) struct Seen {
    at: RefCell<At>,
    /// What the kernel held of it then.
    pub(super) known: RefCell<Known>,
}

/// At which generation of nftables something was found as planned.
#[derive(Default, Debug)]
struct At {
    guards: Option<(u32, Guards)>,
    chains: Option<(u32, Vec<Chain>)>,
}

impl At {
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

/// What a pass knows of nftables before it looks at anything: what changes later counts as later.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    task: Task<'a>,
    /// `None` where nobody asks, or the kernel does not say.
    generation: Option<u32>,
}

impl<'a> Before<'a> {
    pub(super) fn ask(context: &Context<'_>, task: Task<'a>, kinds: &[Kind]) -> Self {
        let asks = task.seen.is_some() && kinds.iter().any(|kind| is_of_nftables(*kind, task.backend));
        let generation = asks.then(|| Ok(context.netns.run(nftables::generation)??)).transpose();
        let untold = |error: anyhow::Error| tracing::debug!("the generation of nftables cannot be read: {error:#}");
        Self { task, generation: generation.map_err(untold).ok().flatten() }
    }

    /// Whether a kind is only looked at because nftables has told of it, and nothing of nftables has changed since it was found as planned.
    pub(super) fn knows(self, kind: Kind) -> bool {
        let has =
            |generation| self.task.seen.is_some_and(|seen| seen.at.borrow().has(kind, generation, self.task.plan));
        self.task.scope.is_told_of(kind) && self.generation.is_some_and(has)
    }

    /// The kind has been looked at, and was as planned.
    pub(super) fn note(self, kind: Kind) {
        if let (Some(seen), Some(generation)) = (self.task.seen, self.generation)
            && is_of_nftables(kind, self.task.backend)
        {
            seen.at.borrow_mut().note(kind, generation, self.task.plan);
        }
    }
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
        let mut seen = At::default();
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
