//! Which of a run's writes put back what somebody else had changed. A write is a repair when its object stood as planned, and the
//! plan for it is still the same. Whether that run was about something else as well, or came after one that failed, does not matter.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use k8s_openapi::jiff::Timestamp;
use redirect_common::maps::name;
use redirect_common::names::{BRIDGE_TABLE, SET_PODS};
use serde::{Deserialize, Serialize};

use super::apply::Place;
use super::{Plans, Reconciler};
use crate::config::Mode;
use crate::kernel::netns::NetnsId;
use crate::plan::Plan;
use crate::resources::chain::backend::Backend;
use crate::resources::guard::Family;
use crate::resources::ledger::{Kind, Ledger, Made};
use crate::resources::route::Route;

/// How many are remembered one by one.
const LAST: usize = 32;

/// Something that was put back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Repair {
    pub(crate) at: Timestamp,
    /// `node` or `ztunnel`: whose namespace.
    pub(crate) place: String,
    pub(crate) kind: Kind,
    pub(crate) object: String,
    /// What was there in its place.
    pub(crate) found: Option<String>,
}

impl Repair {
    fn of(place: Place, made: &Made) -> Self {
        let Made { at, kind, object, found, .. } = made.clone();
        Self { at, place: place.label().into(), kind, object, found }
    }

    fn tell(&self) {
        let Self { place, kind, object, found, .. } = self;
        tracing::warn!(place, kind = kind.name(), object, found, "put back; somebody else had changed it");
    }
}

/// The last ones, oldest first.
#[derive(Default, Debug)]
pub(super) struct Last(VecDeque<Repair>);

impl Last {
    pub(super) fn add(&mut self, repair: Repair) {
        if self.0.len() == LAST {
            self.0.pop_front();
        }
        self.0.push_back(repair);
    }

    pub(super) fn list(&self) -> Vec<Repair> {
        self.0.iter().cloned().collect()
    }
}

/// What stands, by namespace, and by what means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stood {
    pub(super) plans: BTreeMap<NetnsId, Plan>,
    pub(super) backend: Backend,
    pub(super) mode: Mode,
}

impl Stood {
    /// The routes among it.
    pub(super) fn routes(&self) -> BTreeMap<NetnsId, BTreeSet<Route>> {
        self.plans.iter().map(|(netns, plan)| (*netns, plan.routes.clone())).collect()
    }

    /// Whether `made` put back what had stood, as `now` is what is to stand.
    pub(super) fn is_repair(&self, now: &Self, made: &Made) -> bool {
        let plans = made.netns.and_then(|netns| Some((self.plans.get(&netns)?, now.plans.get(&netns)?)));
        let same_means = (self.backend, self.mode) == (now.backend, now.mode);
        let Some((stood, plan)) = plans.filter(|_| same_means) else { return false };
        match (wanted(stood, made.kind, &made.object), wanted(plan, made.kind, &made.object)) {
            // What is no part of either was taken away: ours by its look, of somebody's making if nothing else was to go.
            (None, None) => all(stood, made.kind) == all(plan, made.kind),
            (stood, plan) => stood == plan,
        }
    }
}

impl Reconciler {
    /// Counts what this run has put back, and says so; what is put back again and again is a fight.
    pub(super) fn tell_repairs(&mut self, plans: &Plans, ledger: &Ledger) {
        let now = Instant::now();
        self.fights.forget(now);
        let proxy = self.programmed.as_ref().map(|programmed| (programmed.netns.id(), plans.proxy.clone()));
        let standing = Stood {
            plans: proxy.into_iter().chain([(self.node.id(), plans.node.clone())]).collect(),
            backend: self.backend,
            mode: self.mode,
        };
        let before = self.stood.as_ref();
        for (at, made) in ledger.made.iter().enumerate() {
            let place = if made.netns == Some(self.node.id()) { Place::Node } else { Place::Proxy };
            let again = ledger.made[..at].iter().any(|other| other.is_of(made));
            let is_repair = before.is_some_and(|stood| stood.is_repair(&standing, made));
            let worth_a_word = (is_repair || again) && self.fights.add(place, made, now);
            if is_repair {
                self.repairs.count(made.kind);
                let repair = Repair::of(place, made);
                if worth_a_word {
                    repair.tell();
                }
                self.last_repairs.add(repair);
            }
        }
        if ledger.problems.is_empty() {
            self.stood = Some(standing);
        }
    }
}

/// What is planned of the object that is booked under this name. The text is for comparison only.
fn wanted(plan: &Plan, kind: Kind, object: &str) -> Option<String> {
    let named = |name: String| (name == object).then_some(name);
    match kind {
        Kind::Link => plan.links.iter().find(|link| link.name == object).map(|link| format!("{link:?}")),
        Kind::Address => plan.addresses.iter().find_map(|address| named(address.to_string())),
        Kind::Neighbour => plan.neighbours.iter().find_map(|neighbour| named(neighbour.to_string())),
        Kind::Sysctl => plan.sysctls.iter().find(|(key, _)| key.to_string() == object).map(|(_, value)| value.clone()),
        Kind::Route => plan.routes.iter().find_map(|route| named(route.to_string())),
        Kind::Rule => plan.rules.iter().find_map(|rule| named(rule.to_string())),
        Kind::Set => plan.set.as_ref().filter(|_| object == SET_PODS).map(|set| format!("{set:?}")),
        Kind::Chain => {
            let chain = plan.chains.iter().find(|chain| format!("{} {}", chain.table, chain.name) == object);
            chain.map(|chain| format!("{chain:?}"))
        }
        Kind::Guard => guard(plan, object),
        Kind::Map => entry(plan, object),
        Kind::Pin => plan.maps.as_ref().map(|_| String::new()),
        Kind::Program => {
            let hook = plan.hooks.iter().map(|(hook, name)| format!("{name} on {hook}"));
            hook.into_iter().find(|hook| object.strip_prefix(hook.as_str()).is_some_and(|rest| rest.starts_with(" (")))
        }
        Kind::Qdisc => plan.hooks.keys().find_map(|hook| named(format!("clsact of {}", hook.device))),
    }
}

fn guard(plan: &Plan, object: &str) -> Option<String> {
    if object == format!("table {} {BRIDGE_TABLE}", Family::Bridge) {
        return plan.guards.bridge.as_ref().map(|guard| format!("{guard:?}"));
    }
    plan.guards.destination.as_ref().map(|guard| format!("{guard:?}"))
}

fn entry(plan: &Plan, object: &str) -> Option<String> {
    let maps = plan.maps.as_ref()?;
    if object == name::CONFIG {
        return Some(format!("{:?}", maps.config));
    }
    let (map, key) = object.split_once(" entry ")?;
    match map {
        name::PODS => maps.pods.get(&key.parse().ok()?).map(|pod| format!("{pod:?}")),
        name::NODE => maps.node.get(&key.parse().ok()?).map(ToString::to_string),
        name::PORTS => maps.ports.get(&key.strip_prefix("link ")?.parse().ok()?).map(|port| format!("{port:?}")),
        _ => None,
    }
}

/// All that is planned of a kind. The text is for comparison only.
fn all(plan: &Plan, kind: Kind) -> String {
    match kind {
        Kind::Link => format!("{:?}", plan.links),
        Kind::Address => format!("{:?}", plan.addresses),
        Kind::Neighbour => format!("{:?}", plan.neighbours),
        Kind::Sysctl => format!("{:?}", plan.sysctls),
        Kind::Route => format!("{:?}", plan.routes),
        Kind::Rule => format!("{:?}", plan.rules),
        Kind::Set => format!("{:?}", plan.set),
        Kind::Chain => format!("{:?}", plan.chains),
        Kind::Guard => format!("{:?}", plan.guards),
        Kind::Map | Kind::Pin => format!("{:?}", plan.maps),
        Kind::Program | Kind::Qdisc => format!("{:?}", plan.hooks),
    }
}

#[cfg(test)]
mod tests {
    use redirect_common::names::RULE_OUTBOUND;

    use super::*;
    use crate::plan::NODE_RULES;
    use crate::resources::program::{Direction, Hook};

    fn stood(netns: NetnsId, plan: Plan) -> Stood {
        Stood { plans: BTreeMap::from([(netns, plan)]), backend: Backend::Nft, mode: Mode::Ebpf }
    }

    fn plan(devices: &[&str]) -> Plan {
        let hook = |device: &&str| Hook { device: (*device).to_owned(), direction: Direction::Ingress };
        let hooks = devices.iter().map(|device| (hook(device), "redirect_from_pod")).collect();
        Plan { rules: NODE_RULES.to_vec(), hooks, ..Plan::default() }
    }

    #[test]
    fn what_stood_as_it_is_to_stand_is_a_repair() {
        let netns = NetnsId::current().unwrap();
        let made = |kind, object: &str| Made {
            at: Timestamp::UNIX_EPOCH,
            netns: Some(netns),
            kind,
            object: object.to_owned(),
            found: None,
        };
        let (before, now) = (stood(netns, plan(&["a"])), stood(netns, plan(&["a", "b"])));
        let is_repair = |kind, object: &str| before.is_repair(&now, &made(kind, object));
        let rule = NODE_RULES.iter().find(|rule| rule.priority == RULE_OUTBOUND).unwrap().to_string();
        assert!(is_repair(Kind::Rule, &rule), "the run had something else to do as well");
        assert!(is_repair(Kind::Rule, "101: from all lookup 7"), "of our looks, and not wanted by anyone");
        assert!(is_repair(Kind::Program, "redirect_from_pod on a ingress (tcx)"));
        assert!(!is_repair(Kind::Program, "redirect_from_pod on b ingress (tcx)"), "a pod came");
        assert!(!is_repair(Kind::Program, "on device 7 ingress (tcx)"), "it may be what the change left");
        assert!(is_repair(Kind::Qdisc, "clsact of a") && !is_repair(Kind::Qdisc, "clsact of b"));
        let elsewhere = Made { netns: None, ..made(Kind::Rule, &rule) };
        assert!(!before.is_repair(&now, &elsewhere));
        let other = Stood { backend: Backend::Legacy, ..now.clone() };
        assert!(!before.is_repair(&other, &made(Kind::Rule, &rule)), "it has to stand there for the first time");
    }
}
