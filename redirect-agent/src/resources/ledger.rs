//! Counts every write to the kernel and keeps every failure: what `status` shows and what tests compare.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use k8s_openapi::jiff::Timestamp;
use redirect_common::names::TableId;
use serde::{Deserialize, Serialize};

use super::blocked::Reading;
use super::program::Obstacle;
use super::route::Route;
use crate::kernel::netns::NetnsId;

/// A kind of thing on a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Link,
    Address,
    Neighbour,
    Sysctl,
    Route,
    Rule,
    Set,
    Chain,
    Guard,
    Map,
    Pin,
    Program,
    Qdisc,
}

impl Kind {
    /// Every kind, in the order in which `status` lists them.
    pub(crate) const ALL: [Self; 13] = [
        Self::Link,
        Self::Address,
        Self::Neighbour,
        Self::Sysctl,
        Self::Route,
        Self::Rule,
        Self::Set,
        Self::Chain,
        Self::Guard,
        Self::Map,
        Self::Pin,
        Self::Program,
        Self::Qdisc,
    ];

    /// As `status` names it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Address => "address",
            Self::Neighbour => "neighbour",
            Self::Sysctl => "sysctl",
            Self::Route => "route",
            Self::Rule => "rule",
            Self::Set => "set",
            Self::Chain => "chain",
            Self::Guard => "guard",
            Self::Map => "map",
            Self::Pin => "pin",
            Self::Program => "program",
            Self::Qdisc => "qdisc",
        }
    }
}

/// Something that is wrong, and with what.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct Problem {
    /// The object: `pod default/x`, `link istioin`, `file pods.yaml`.
    pub(crate) object: String,
    /// What is wrong with it and what helps.
    pub(crate) message: String,
}

impl Problem {
    /// A problem of `object`.
    pub(crate) fn new(object: impl Display, message: impl Display) -> Self {
        Self { object: object.to_string(), message: message.to_string() }
    }
}

/// What is found where something is missing.
pub(crate) const NOTHING: &str = "nothing";

/// Writes by kind.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Writes(BTreeMap<Kind, u64>);

impl Writes {
    /// All together.
    pub(crate) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Of one kind.
    pub(crate) fn of(&self, kind: Kind) -> u64 {
        self.0.get(&kind).copied().unwrap_or_default()
    }

    /// One more.
    pub(crate) fn count(&mut self, kind: Kind) {
        *self.0.entry(kind).or_default() += 1;
    }

    /// Adds `other`'s counts to these.
    pub(crate) fn add(&mut self, other: &Self) {
        for (kind, count) in &other.0 {
            *self.0.entry(*kind).or_default() += count;
        }
    }
}

/// `{"total": 3, "link": 1, …}`, every kind named.
impl Serialize for Writes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let total = std::iter::once(("total", self.total()));
        serializer.collect_map(total.chain(Kind::ALL.into_iter().map(|kind| (kind.name(), self.of(kind)))))
    }
}

/// Kinds that this build does not know, and the total, are left out.
impl<'de> Deserialize<'de> for Writes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let counts = BTreeMap::<String, u64>::deserialize(deserializer)?;
        let kinds = Kind::ALL.into_iter().filter_map(|kind| Some((kind, *counts.get(kind.name())?)));
        Ok(Self(kinds.filter(|(_, count)| *count > 0).collect()))
    }
}

/// A write that was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Made {
    pub(crate) at: Timestamp,
    /// Where; what is nowhere in particular has none.
    pub(crate) netns: Option<NetnsId>,
    pub(crate) kind: Kind,
    pub(crate) object: String,
    /// What was there in its place.
    pub(crate) found: Option<String>,
}

impl Made {
    /// Whether both are of the same thing.
    pub(crate) fn is_of(&self, other: &Self) -> bool {
        (self.netns, self.kind, &self.object) == (other.netns, other.kind, &other.object)
    }
}

/// What one run wrote and where it failed.
#[derive(Default, Debug)]
pub(crate) struct Ledger {
    /// The namespace that is worked on.
    pub(crate) netns: Option<NetnsId>,
    pub(crate) made: Vec<Made>,
    /// What others keep changing, which the log has said: it is put back without a word.
    pub(crate) fought_over: BTreeSet<(Option<NetnsId>, Kind, String)>,
    /// Routes that stood, by namespace: they were ours, whatever is found in their place.
    pub(crate) stood_routes: BTreeMap<NetnsId, BTreeSet<Route>>,
    pub(crate) writes: Writes,
    pub(crate) problems: Vec<Problem>,
    /// What others have in the place of our programs; each is a problem as well.
    pub(crate) obstacles: Vec<Obstacle>,
    /// Tables in which another's route has the place of one of ours.
    pub(crate) occupied: BTreeSet<(NetnsId, TableId)>,
    /// What is not wrong by itself, and may explain what is: `None` where nobody looked.
    pub(crate) notes: Option<Vec<Problem>>,
    /// What counters of dropped packets said that were looked at.
    pub(crate) blocked: Vec<Reading>,
}

impl Ledger {
    /// Routes that stood in this namespace.
    pub(crate) fn stood_routes(&self, netns: NetnsId) -> &BTreeSet<Route> {
        static NONE: BTreeSet<Route> = BTreeSet::new();
        self.stood_routes.get(&netns).unwrap_or(&NONE)
    }

    /// Books the outcome of one write: `what` was done to `object`. Whether it succeeded.
    pub(crate) fn book(&mut self, kind: Kind, object: &str, what: &str, outcome: anyhow::Result<()>) -> bool {
        self.settle(kind, object, None, what, outcome)
    }

    /// The same, where this was `found` in the place of what is wanted.
    pub(crate) fn mend(
        &mut self,
        kind: Kind,
        object: &str,
        found: impl Into<String>,
        what: &str,
        outcome: anyhow::Result<()>,
    ) -> bool {
        self.settle(kind, object, Some(found.into()), what, outcome)
    }

    fn settle(
        &mut self,
        kind: Kind,
        object: &str,
        found: Option<String>,
        what: &str,
        outcome: anyhow::Result<()>,
    ) -> bool {
        match outcome {
            Ok(()) => {
                self.writes.count(kind);
                let (at, object) = (Timestamp::now(), object.to_owned());
                if !self.fought_over.contains(&(self.netns, kind, object.clone())) {
                    tracing::info!(kind = kind.name(), object, found, "{what}");
                }
                self.made.push(Made { at, netns: self.netns, kind, object, found });
                true
            }
            Err(error) => {
                self.problem(format!("{} {object}", kind.name()), format!("cannot be {what}: {error:#}"));
                false
            }
        }
    }

    /// Notes a failure.
    pub(crate) fn problem(&mut self, object: impl Display, message: impl Display) {
        self.problems.push(Problem::new(object, message));
    }
}
