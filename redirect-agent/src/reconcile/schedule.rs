//! When the timer looks at what, without anyone having rung. The parts are looked at one by one, so that what rings meanwhile does not wait
//! for all of them; and a part that takes long, as rules do on a node with thousands of services, is looked at less often.

use std::time::{Duration, Instant};

use super::cause::{Cause, Classes};

/// The first is the first.
const PARTS: [Cause; 5] = [
    Cause::CHEAP,
    Cause::node(Classes::SET),
    Cause::node(Classes::GUARD),
    Cause::node(Classes::CHAIN),
    Cause::proxy(Classes::CHAIN),
];
/// A part gets at most one in so many parts of a processor's time.
const SHARE: u32 = 10;
/// And is looked at after this long at the latest, whatever it took: it may have waited for somebody's lock, which costs nothing.
const LATEST: Duration = Duration::from_secs(10);
const ALL: u8 = (1 << PARTS.len()) - 1;

/// When each part is due.
#[derive(Debug)]
pub(super) struct Schedule {
    resync: Duration,
    due: [Instant; PARTS.len()],
    /// What has been looked at in this round, a bit each.
    seen: u8,
}

/// A part that is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Part(usize);

impl Part {
    /// What that is.
    pub(super) const fn cause(self) -> Cause {
        PARTS[self.0]
    }
}

impl Schedule {
    /// Everything is due a `resync` from now.
    pub(super) fn new(resync: Duration, now: Instant) -> Self {
        Self { resync, due: [now + resync; PARTS.len()], seen: 0 }
    }

    /// The part that has been due for longest.
    pub(super) fn due(&self, now: Instant) -> Option<Part> {
        let due = (0..PARTS.len()).filter(|part| self.due[*part] <= now);
        due.min_by_key(|part| self.due[*part]).map(Part)
    }

    /// How long until a part is due.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.due.iter().map(|due| due.saturating_duration_since(now)).min().unwrap_or(self.resync)
    }

    /// Whether a look at this part ends a round: each has been looked at then, since the last one ended.
    pub(super) const fn ends_with(&self, Part(part): Part) -> bool {
        self.seen | 1 << part == ALL
    }

    /// The part has been looked at.
    pub(super) fn done(&mut self, part: Part, begun: Instant, now: Instant) {
        self.seen = if self.ends_with(part) { 0 } else { self.seen | 1 << part.0 };
        let rest = (now.saturating_duration_since(begun) * SHARE).min(LATEST);
        self.due[part.0] = now + self.resync.max(rest);
    }

    /// Everything has been looked at.
    pub(super) fn all_done(&mut self, now: Instant) {
        *self = Self::new(self.resync, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESYNC: Duration = Duration::from_secs(1);

    #[test]
    fn each_part_has_its_turn_and_then_the_round_is_over() {
        let begun = Instant::now();
        let mut schedule = Schedule::new(RESYNC, begun);
        assert_eq!((schedule.due(begun), schedule.wait(begun)), (None, RESYNC));
        let now = begun + RESYNC;
        let mut seen = Vec::new();
        while let Some(part) = schedule.due(now) {
            seen.push(part.cause());
            assert_eq!(schedule.ends_with(part), seen.len() == PARTS.len());
            schedule.done(part, now, now);
        }
        assert_eq!(seen, PARTS);
        assert_eq!(schedule.wait(now), RESYNC);
    }

    #[test]
    fn what_takes_long_is_looked_at_less_often_and_nothing_else_is() {
        let now = Instant::now();
        let mut schedule = Schedule::new(RESYNC, now);
        let slow = Part(3);
        schedule.done(slow, now, now + RESYNC);
        let long = now + RESYNC + RESYNC * SHARE;
        let mut looks = 0;
        for second in 2..=SHARE {
            let now = now + RESYNC * second;
            while let Some(part) = schedule.due(now) {
                assert!(part != slow || now >= long);
                looks += u32::from(part == Part(0));
                schedule.done(part, now, now);
            }
        }
        assert_eq!(looks, SHARE - 1);
        assert_eq!(schedule.due[slow.0], long);
    }

    #[test]
    fn what_was_held_up_is_not_left_alone_for_long() {
        let begun = Instant::now();
        let mut schedule = Schedule::new(RESYNC, begun);
        let now = begun + LATEST * 6;
        schedule.done(Part(3), begun, now);
        assert_eq!(schedule.due[3], now + LATEST);
        let mut rare = Schedule::new(LATEST * 9, begun);
        rare.done(Part(3), begun, now);
        assert_eq!(rare.due[3], now + LATEST * 9);
    }

    #[test]
    fn a_look_at_everything_begins_a_new_round() {
        let now = Instant::now();
        let mut schedule = Schedule::new(RESYNC, now);
        schedule.done(Part(0), now, now);
        schedule.all_done(now + RESYNC / 2);
        assert_eq!(schedule.wait(now + RESYNC / 2), RESYNC);
        assert_eq!(schedule.seen, 0);
    }
}
