//! What becomes of each namespace's pods while there is no ztunnel: what the agent is told of all, unless the namespace says otherwise.

use std::collections::{BTreeMap, BTreeSet};

use redirect_common::names::ANNOTATION_ON_PROXY_LOSS;

use crate::config::OnProxyLoss;
use crate::resources::ledger::Problem;
use crate::sources::Namespace;

/// What was chosen, for all and by namespaces.
pub(super) struct Choices<'a> {
    all: OnProxyLoss,
    /// As the annotation has it.
    own: BTreeMap<&'a str, &'a str>,
}

impl<'a> Choices<'a> {
    pub(super) fn new(all: OnProxyLoss, namespaces: impl Iterator<Item = &'a Namespace>) -> Self {
        let own =
            namespaces.filter_map(|namespace| Some((namespace.name.as_str(), namespace.on_proxy_loss.as_deref()?)));
        Self { all, own: own.collect() }
    }

    /// What becomes of the pods of a namespace. A word that says nothing gives nobody leave to pass.
    pub(super) fn of(&self, namespace: &str) -> OnProxyLoss {
        let own = self.own.get(namespace);
        own.map_or(self.all, |word| OnProxyLoss::named(word).unwrap_or(OnProxyLoss::Block))
    }

    /// Those of these namespaces whose word says nothing.
    pub(super) fn problems(&self, namespaces: &BTreeSet<&str>) -> Vec<Problem> {
        let wrong =
            self.own.iter().filter(|(name, word)| namespaces.contains(*name) && OnProxyLoss::named(word).is_none());
        let problem = |(name, word): (&&str, &&str)| {
            let message = format!(
                "annotation {ANNOTATION_ON_PROXY_LOSS}: {word:?} is neither block nor bypass; its pods are blocked"
            );
            Problem::new(format!("namespace {name}"), message)
        };
        wrong.map(problem).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_the_last_word_if_it_can_be_read() {
        let namespace = |name: &str, word: Option<&str>| Namespace {
            name: name.into(),
            is_ambient: true,
            on_proxy_loss: word.map(str::to_owned),
        };
        let namespaces = [
            namespace("quiet", None),
            namespace("open", Some("bypass")),
            namespace("shut", Some("block")),
            namespace("odd", Some("allow")),
        ];
        for all in [OnProxyLoss::Block, OnProxyLoss::Bypass] {
            let choices = Choices::new(all, namespaces.iter());
            let words = ["quiet", "unknown", "open", "shut", "odd"].map(|name| choices.of(name));
            assert_eq!(words[..2], [all, all]);
            assert_eq!(words[2..], [OnProxyLoss::Bypass, OnProxyLoss::Block, OnProxyLoss::Block]);
            let problems = choices.problems(&BTreeSet::from(["quiet", "open", "shut", "odd"]));
            assert_eq!(problems.iter().map(|problem| problem.object.as_str()).collect::<Vec<_>>(), ["namespace odd"]);
            assert!(choices.problems(&BTreeSet::from(["open"])).is_empty(), "no pod of this node is concerned");
        }
    }
}
