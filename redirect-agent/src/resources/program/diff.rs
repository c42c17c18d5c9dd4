//! What has to be done at one place: pure, and in an order that never leaves it without a program.

use std::collections::{BTreeMap, BTreeSet};

use super::{AttachKind, Identity, NAME_PREFIX, Place};
use crate::kernel::tc::Direction;
use crate::kernel::tc::filter::{ALL_PROTOCOLS, Filter};
use crate::kernel::tc::qdisc::Qdisc;

/// The handle of our filters ("rd").
pub(super) const HANDLE: u32 = 0x7264;

/// What stands on the node's devices.
#[derive(Clone, Default, Debug)]
pub(super) struct Observed {
    pub(super) qdiscs: BTreeMap<u32, Qdisc>,
    /// Everybody's, in the order in which packets meet them.
    pub(super) filters: BTreeMap<Place, Vec<Filter>>,
    pub(super) pins: BTreeMap<Place, Pin>,
    /// The maps of standing programs whose instructions are those of loaded ones.
    pub(super) maps: BTreeMap<u32, BTreeSet<u32>>,
}

/// A pinned link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pin {
    /// Attaches this program to the device that the pin is named after.
    Live(Standing),
    /// The device is gone, or another has its index.
    Dead,
    /// Was not looked into.
    Unseen,
}

/// A program that is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Standing {
    pub(super) id: u32,
    pub(super) tag: u64,
}

/// A program that is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) name: &'static str,
    pub(super) identity: &'a Identity,
    pub(super) kind: AttachKind,
}

/// One write. Those at a place are taken in order, up to the first that fails: what stands goes last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    AddQdisc,
    AddFilter {
        name: &'static str,
        priority: u16,
    },
    SwapFilter {
        name: &'static str,
        priority: u16,
    },
    DeleteFilter {
        priority: u16,
    },
    AddLink {
        name: &'static str,
    },
    SwapLink {
        name: &'static str,
    },
    Unlink,
    /// Cannot be done, and why.
    Refuse {
        name: &'static str,
        why: &'static str,
    },
}

impl Observed {
    /// Programs of ours.
    pub(super) fn standing(&self) -> impl Iterator<Item = Standing> {
        let filters = self.filters.values().flatten().filter(|filter| is_ours(filter));
        let filters = filters.filter_map(|filter| filter.program.as_ref());
        let filters = filters.map(|program| Standing { id: program.id, tag: program.tag });
        filters.chain(self.pins.values().filter_map(|pin| match pin {
            Pin::Live(standing) => Some(*standing),
            Pin::Dead | Pin::Unseen => None,
        }))
    }

    /// Where something of ours stands.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        let filters = self.filters.iter().filter(|(_, filters)| filters.iter().any(is_ours));
        filters.map(|(place, _)| *place).chain(self.pins.keys().copied())
    }

    /// Whether a program of ours is, or may be, at work there.
    pub(super) fn stands(&self, place: Place) -> bool {
        self.ours(place).next().is_some() || self.pins.get(&place).is_some_and(|pin| *pin != Pin::Dead)
    }

    /// What brings `place` to what is `wanted` there.
    pub(super) fn steps(&self, place: Place, wanted: Option<Wanted<'_>>) -> Vec<Step> {
        let kind = wanted.map(|wanted| wanted.kind);
        let mut steps = match wanted {
            Some(wanted) if wanted.kind == AttachKind::Tcx => self.link_steps(place, wanted),
            Some(wanted) => self.filter_steps(place, wanted),
            None => Vec::new(),
        };
        let kept = usize::from(kind == Some(AttachKind::Clsact));
        steps.extend(self.ours(place).skip(kept).map(|filter| Step::DeleteFilter { priority: filter.priority }));
        if self.pins.contains_key(&place) && kind != Some(AttachKind::Tcx) {
            steps.push(Step::Unlink);
        }
        steps
    }

    fn link_steps(&self, place: Place, wanted: Wanted<'_>) -> Vec<Step> {
        let Wanted { name, identity, .. } = wanted;
        match self.pins.get(&place) {
            Some(Pin::Live(standing)) if self.is(*standing, identity) => Vec::new(),
            Some(Pin::Live(_)) => vec![Step::SwapLink { name }],
            Some(Pin::Dead | Pin::Unseen) => vec![Step::Unlink, Step::AddLink { name }],
            None => vec![Step::AddLink { name }],
        }
    }

    fn filter_steps(&self, place: Place, wanted: Wanted<'_>) -> Vec<Step> {
        let Wanted { name, identity, .. } = wanted;
        if let Some(filter) = self.ours(place).next() {
            let same = filter.program.as_ref().is_some_and(|program| {
                program.name == name
                    && program.direct
                    && self.is(Standing { id: program.id, tag: program.tag }, identity)
            });
            return if same { Vec::new() } else { vec![Step::SwapFilter { name, priority: filter.priority }] };
        }
        let Some(priority) = self.free_priority(place) else {
            return vec![Step::Refuse { name, why: "every priority is taken by others' filters" }];
        };
        let add = Step::AddFilter { name, priority };
        match self.qdiscs.get(&place.index) {
            Some(Qdisc::Ingress) if place.direction == Direction::Egress => {
                vec![Step::Refuse { name, why: "the device has an ingress qdisc of somebody's in the place of clsact" }]
            }
            Some(_) => vec![add],
            None => vec![Step::AddQdisc, add],
        }
    }

    fn ours(&self, place: Place) -> impl Iterator<Item = &Filter> {
        self.filters.get(&place).into_iter().flatten().filter(|filter| is_ours(filter))
    }

    /// The lowest priority that a filter of ours can join: one that nobody uses, or that has BPF filters for all protocols,
    /// of which a new one becomes the first.
    fn free_priority(&self, place: Place) -> Option<u16> {
        let filters = self.filters.get(&place).map(Vec::as_slice).unwrap_or_default();
        (1..=u16::MAX).find(|priority| can_join(filters, *priority))
    }

    fn is(&self, standing: Standing, identity: &Identity) -> bool {
        standing.id == identity.id
            || standing.tag == identity.tag && self.maps.get(&standing.id) == Some(&identity.maps)
    }
}

/// Whether a filter of ours could be ahead of all of others'.
pub(super) fn can_be_first(filters: &[Filter]) -> bool {
    let others = filters.iter().filter(|filter| filter.chain == 0 && !is_ours(filter));
    let first = others.map(|filter| filter.priority).min();
    first.is_none_or(|first| (1..=first).any(|priority| can_join(filters, priority)))
}

/// Whether a filter of ours could have this priority, wherever ours is now.
fn can_join(filters: &[Filter], priority: u16) -> bool {
    let mut others =
        filters.iter().filter(|filter| filter.chain == 0 && filter.priority == priority && !is_ours(filter));
    others.all(|filter| filter.kind == "bpf" && filter.protocol == ALL_PROTOCOLS && filter.handle != HANDLE)
}

/// The priorities by which our filter gets ahead of others', from the one that it has to the one that it is to have. Nothing where it is as far
/// ahead as it can be. A handle is there once a priority, so within its own it takes the way by another one.
pub(super) fn way_ahead(filters: &[Filter]) -> Vec<u16> {
    let real = || filters.iter().filter(|filter| filter.chain == 0 && filter.handle != 0);
    let Some(current) = real().find(|filter| is_ours(filter)).map(|filter| filter.priority) else { return Vec::new() };
    let last_ahead = real().take_while(|filter| !is_ours(filter)).last().map(|filter| filter.priority);
    let best = (1..=current).find(|priority| can_join(filters, *priority));
    match (last_ahead, best) {
        (Some(ahead), Some(best)) if best < current && best <= ahead => vec![current, best],
        (Some(ahead), Some(best)) if best == ahead => {
            let aside = (current..=u16::MAX).skip(1).find(|priority| can_join(filters, *priority));
            aside.map_or_else(Vec::new, |aside| vec![current, aside, best])
        }
        _ => Vec::new(),
    }
}

/// Whether the agent made the filter.
pub(super) fn is_ours(filter: &Filter) -> bool {
    let named = filter.program.as_ref().is_some_and(|program| program.name.starts_with(NAME_PREFIX));
    filter.chain == 0 && filter.handle == HANDLE && filter.protocol == ALL_PROTOCOLS && named
}
