//! Things that somebody else changes again and again: told of, and put back no more often than once a second. Waiting longer would
//! leave open what the thing closes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::apply::Place;
use super::cause::{Cause, Classes};
use crate::kernel::netns::NetnsId;
use crate::resources::ledger::{Kind, Made, Problem};

/// From this many repairs of a thing on, each within [`CALM`] of the one before, there is a fight; so it is with the CNI plugin
/// (`install::pass`).
const FIGHT: u32 = 3;
const CALM: Duration = Duration::from_mins(1);
/// How long a thing that is fought over is left alone after it was put back.
pub(super) const REST: Duration = Duration::from_secs(1);

/// What was put back lately.
#[derive(Default, Debug)]
pub(super) struct Fights(BTreeMap<(Place, Kind, String), Fight>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Fight {
    times: u32,
    last: Instant,
    /// In whose namespace, if that is still the one.
    netns: Option<NetnsId>,
}

impl Fights {
    /// A thing was put back. Whether that is worth a word: a fight has had its own.
    pub(super) fn add(&mut self, place: Place, made: &Made, now: Instant) -> bool {
        let key = (place, made.kind, made.object.clone());
        let new = Fight { times: 0, last: now, netns: made.netns };
        let fight = self.0.entry(key).or_insert(new);
        if fight.netns != made.netns || now.saturating_duration_since(fight.last) >= CALM {
            fight.times = 0;
        }
        fight.times += 1;
        (fight.last, fight.netns) = (now, made.netns);
        fight.times <= FIGHT
    }

    /// Forgets what has been left alone for long enough.
    pub(super) fn forget(&mut self, now: Instant) {
        self.0.retain(|_, fight| now.saturating_duration_since(fight.last) < CALM);
    }

    /// What there is to say of each fight. The same as long as it lasts: it is logged when it is new.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let problem = |((place, kind, object), _): (&(Place, Kind, String), &Fight)| {
            let message = format!(
                "another component keeps changing it in {}; it was put back {FIGHT} times or more, the last less than a minute ago",
                place.name()
            );
            Problem::new(format!("{} {object}", kind.name()), message)
        };
        self.0.iter().filter(|(_, fight)| fight.times >= FIGHT).map(problem).collect()
    }

    /// What is fought over, as a ledger knows it.
    pub(super) fn objects(&self) -> BTreeSet<(Option<NetnsId>, Kind, String)> {
        let fought = self.0.iter().filter(|(_, fight)| fight.times >= FIGHT);
        fought.map(|((_, kind, object), fight)| (fight.netns, *kind, object.clone())).collect()
    }

    /// Events that can wait, and how long: those that tell of what is fought over, soon after it was put back.
    pub(super) fn rest(&self, now: Instant) -> (Cause, Duration) {
        let resting = self.0.iter().filter(|(_, fight)| fight.times >= FIGHT);
        let resting = resting.map(|(key, fight)| (key, REST.saturating_sub(now.saturating_duration_since(fight.last))));
        let resting = resting.filter(|(_, left)| !left.is_zero());
        resting.fold((Cause::NOTHING, Duration::ZERO), |(cause, longest), ((place, kind, _), left)| {
            (cause | told(*place, *kind), longest.max(left))
        })
    }
}

/// Events that were put off. However many fights there are, one after the other, none waits for longer than [`REST`].
#[derive(Default, Debug)]
pub(super) struct Later {
    cause: Cause,
    since: Option<Instant>,
}

impl Later {
    /// Puts off one more.
    pub(super) fn put(&mut self, cause: Cause, now: Instant) {
        if cause != Cause::NOTHING {
            self.cause = self.cause | cause;
            self.since.get_or_insert(now);
        }
    }

    /// How long until they are due, if there are any; `rest` is what [`Fights::rest`] says.
    pub(super) fn wait(&self, now: Instant, rest: Duration) -> Option<Duration> {
        self.since.map(|since| rest.min(REST.saturating_sub(now.saturating_duration_since(since))))
    }

    /// Those that are due.
    pub(super) fn take(&mut self, now: Instant, rest: Duration) -> Cause {
        let due = self.wait(now, rest).is_some_and(|wait| wait.is_zero());
        if due { std::mem::take(self).cause } else { Cause::NOTHING }
    }
}

/// Events of what tells of a change of this kind.
fn told(place: Place, kind: Kind) -> Cause {
    let classes = match kind {
        Kind::Link | Kind::Address | Kind::Neighbour | Kind::Sysctl | Kind::Route | Kind::Rule => Classes::ROUTING,
        Kind::Map | Kind::Pin => Classes::ROUTING | Classes::PROGRAMS,
        Kind::Program | Kind::Qdisc => Classes::ROUTING | Classes::PROGRAMS | Classes::AHEAD,
        Kind::Guard => Classes::NFTABLES | Classes::GUARD_TOLD,
        Kind::Chain => Classes::NFTABLES | Classes::CHAIN_TOLD,
        Kind::Set => Classes::NONE,
    };
    match place {
        Place::Node => Cause::node(classes),
        Place::Proxy => Cause::proxy(classes),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn made(object: &str) -> Made {
        Made {
            at: Timestamp::UNIX_EPOCH,
            netns: None,
            kind: Kind::Rule,
            object: object.into(),
            found: Some("nothing".into()),
        }
    }

    #[test]
    fn the_same_thing_over_and_over_is_a_fight_and_calm_ends_it() {
        let mut fights = Fights::default();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        for (turn, object) in ["a", "b", "a", "c"].into_iter().enumerate() {
            fights.add(Place::Node, &made(object), at(turn as u64));
        }
        assert_eq!(fights.problems(), []);
        assert_eq!(fights.rest(at(3)), (Cause::NOTHING, Duration::ZERO));
        fights.add(Place::Node, &made("a"), at(4));
        let problems = fights.problems();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].object, "rule a");
        assert!(problems[0].message.contains("3 times"));
        fights.forget(at(63));
        assert_eq!(fights.problems().len(), 1);
        fights.forget(at(64));
        assert_eq!(fights.problems(), []);
    }

    #[test]
    fn what_comes_back_rarely_is_none() {
        let mut fights = Fights::default();
        let begun = Instant::now();
        for turn in 0..10 {
            fights.add(Place::Node, &made("a"), begun + CALM * turn);
        }
        assert_eq!(fights.problems(), []);
    }

    #[test]
    fn what_is_put_off_comes_though_fights_never_rest() {
        let (mut later, now) = (Later::default(), Instant::now());
        let cause = Cause::node(Classes::ROUTING);
        assert_eq!(later.wait(now, REST), None);
        later.put(cause, now);
        assert_eq!(later.take(now, REST / 2), Cause::NOTHING);
        later.put(cause, now + REST / 2);
        assert_eq!(later.wait(now + REST / 2, REST), Some(REST / 2));
        assert_eq!(later.take(now + REST, REST), cause);
        assert_eq!(later.take(now + REST, REST), Cause::NOTHING);
        later.put(cause, now);
        assert_eq!(later.take(now, Duration::ZERO), cause);
    }

    #[test]
    fn only_events_about_it_wait_and_only_for_a_second() {
        let mut fights = Fights::default();
        let now = Instant::now();
        for _ in 0..3 {
            fights.add(Place::Proxy, &made("a"), now);
        }
        let (cause, time) = fights.rest(now + Duration::from_millis(300));
        assert_eq!((cause, time), (Cause::proxy(Classes::ROUTING), Duration::from_millis(700)));
        assert_eq!(fights.rest(now + REST), (Cause::NOTHING, Duration::ZERO));
    }
}
