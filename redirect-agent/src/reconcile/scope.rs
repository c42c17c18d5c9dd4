//! Which kinds a run looks at: what may have changed, by who told, and what must become another, by the plan.

use super::cause::Classes;
use crate::plan::Plan;
use crate::resources::chain::backend::Backend;
use crate::resources::ledger::Kind;

/// Which kinds a run looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Scope {
    looks: Kinds,
    /// Of these, what it looks at for no other reason than that nftables has told of it.
    told: Kinds,
}

/// Any number of kinds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Kinds(u16);

impl Kinds {
    fn that(are: impl Fn(Kind) -> bool) -> Self {
        Self(Kind::ALL.into_iter().filter(|kind| are(*kind)).fold(0, |all, kind| all | 1 << kind as u16))
    }

    const fn has(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u16 != 0
    }
}

impl Scope {
    pub(crate) const EVERYTHING: Self = Self { looks: Kinds(u16::MAX), told: Kinds(0) };

    pub(super) const fn covers(self, kind: Kind) -> bool {
        self.looks.has(kind)
    }

    /// Whether nothing but a notification of nftables' is why this kind is looked at.
    pub(super) const fn is_told_of(self, kind: Kind) -> bool {
        self.told.has(kind)
    }

    /// What has to be looked at because of `classes` when this plan comes after that one, which stands: what may have changed, and
    /// what must become another. Those of rtnetlink and bpf(2) are cheap, those that cost a process each are not.
    pub(crate) fn of(classes: Classes, backend: Backend, plan: &Plan, standing: &Plan) -> Self {
        if classes == Classes::ALL {
            return Self::EVERYTHING;
        }
        let routing = classes.any(Classes::ROUTING) || routing_differs(plan, standing);
        let told = |kind| match kind {
            Kind::Guard => classes.any(Classes::GUARD_TOLD | Classes::NFTABLES),
            Kind::Chain => {
                let told = backend == Backend::Nft && classes.any(Classes::CHAIN_TOLD | Classes::NFTABLES);
                told && !plan.chains.is_empty()
            }
            _ => false,
        };
        let looks = |kind| match kind {
            Kind::Link | Kind::Address | Kind::Neighbour | Kind::Sysctl | Kind::Route | Kind::Rule => routing,
            // They stand on links.
            Kind::Program => routing || classes.any(Classes::PROGRAMS) || plan.hooks != standing.hooks,
            // And who stands ahead of them; see `programs`.
            Kind::Qdisc => classes.any(Classes::AHEAD),
            Kind::Map | Kind::Pin => classes.any(Classes::PROGRAMS) || plan.maps != standing.maps,
            Kind::Set => plan.set.is_some() && classes.any(Classes::SET) || plan.set != standing.set,
            Kind::Guard => classes.any(Classes::GUARD) || plan.guards != standing.guards,
            Kind::Chain => classes.any(Classes::CHAIN) && !plan.chains.is_empty() || plan.chains != standing.chains,
        };
        Self {
            looks: Kinds::that(|kind| looks(kind) || told(kind)),
            told: Kinds::that(|kind| told(kind) && !looks(kind)),
        }
    }
}

fn routing_differs(plan: &Plan, standing: &Plan) -> bool {
    let routing = |plan: &Plan| {
        let Plan { links, addresses, neighbours, sysctls, routes, rules, .. } = plan.clone();
        (links, addresses, neighbours, sysctls, routes, rules)
    };
    routing(plan) != routing(standing)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::apply::ORDER;
    use super::super::cause::Cause;
    use super::*;
    use crate::datapaths::iptables;
    use crate::plan::PROXY_RULES;
    use crate::resources::guard;

    fn looks(classes: Classes, plan: &Plan, standing: &Plan) -> Vec<Kind> {
        let scope = Scope::of(classes, Backend::Nft, plan, standing);
        ORDER.into_iter().filter(|kind| scope.covers(*kind)).collect()
    }

    #[test]
    fn a_pod_that_comes_costs_no_look_at_the_rules() {
        let meshed = |ips: &[Ipv4Addr]| Plan { set: Some(ips.iter().copied().collect()), ..Plan::default() };
        let (none, one) = (meshed(&[]), meshed(&[Ipv4Addr::LOCALHOST]));
        let wanted = Cause::WANTED.node;
        let costly = |looked: Vec<Kind>| {
            let costly = [Kind::Set, Kind::Guard, Kind::Chain];
            looked.into_iter().filter(|kind| costly.contains(kind)).collect::<Vec<_>>()
        };
        assert_eq!(costly(looks(wanted, &one, &none)), [Kind::Set]);
        assert_eq!(costly(looks(wanted, &one, &one)), []);
        assert_eq!(looks(Classes::ALL, &one, &one), ORDER);
        let mut guarded = one.clone();
        guarded.guards.destination = Some(guard::Destination::default());
        assert_eq!(costly(looks(wanted, &guarded, &one)), [Kind::Guard]);
    }

    #[test]
    fn who_tells_decides_what_is_read() {
        let bare = Plan::default();
        let chained = Plan { chains: iptables::owned_at_proxy(), ..Plan::default() };
        assert_eq!(looks(Classes::NONE, &bare, &bare), []);
        assert_eq!(looks(Classes::PROGRAMS, &bare, &bare), [Kind::Map, Kind::Pin, Kind::Program]);
        assert_eq!(looks(Classes::NFTABLES, &bare, &bare), [Kind::Guard], "there are no chains");
        assert_eq!(looks(Classes::NFTABLES, &chained, &chained), [Kind::Guard, Kind::Chain]);
        assert_eq!(looks(Classes::CHAIN_TOLD, &chained, &chained), [Kind::Chain]);
        assert_eq!(looks(Classes::CHAIN, &chained, &chained), [Kind::Chain]);
        assert_eq!(looks(Classes::CHAIN, &bare, &bare), [], "there are no chains");
        assert_eq!(looks(Classes::NONE, &bare, &chained), [Kind::Chain], "they are to go");
        assert_eq!(looks(Classes::GUARD_TOLD, &bare, &bare), [Kind::Guard]);
        let legacy = Scope::of(Classes::NFTABLES, Backend::Legacy, &chained, &chained);
        assert!(!legacy.covers(Kind::Chain), "nftables knows nothing of them");
        let told = |classes, standing| Scope::of(classes, Backend::Nft, &chained, standing);
        let both = told(Classes::CHAIN_TOLD | Classes::GUARD_TOLD, &chained);
        assert!(both.is_told_of(Kind::Chain) && both.is_told_of(Kind::Guard) && !both.is_told_of(Kind::Rule));
        assert!(!told(Classes::CHAIN_TOLD | Classes::CHAIN, &chained).is_told_of(Kind::Chain), "it is due anyhow");
        assert!(!told(Classes::CHAIN_TOLD, &bare).is_told_of(Kind::Chain), "they are to come");
        assert!(!Scope::EVERYTHING.is_told_of(Kind::Guard));
        // A link that is made anew takes with it what hangs on it.
        let linked = Plan { addresses: Vec::new(), rules: PROXY_RULES.to_vec(), ..Plan::default() };
        let routing = looks(Classes::NONE, &linked, &bare);
        assert_eq!(routing, looks(Classes::ROUTING, &bare, &bare));
        assert!(routing.contains(&Kind::Program) && !routing.contains(&Kind::Guard), "{routing:?}");
    }
}
