use std::collections::BTreeSet;

use super::ahead::by_filter;
use super::diff::{HANDLE, Observed, Pin, Standing, Step, Wanted, way_ahead};
use super::observe::parse_pin;
use super::*;
use crate::kernel::tc::filter::{ALL_PROTOCOLS, Filter, FilterProgram};
use crate::kernel::tc::qdisc::Qdisc;

const PLACE: Place = Place { index: 5, direction: Direction::Ingress };
const NAME: &str = "redirect_from_pod";
const STANDS: Standing = Standing { id: 40, tag: 7 };

fn identity() -> Identity {
    Identity { id: 50, tag: 7, maps: BTreeSet::from([1, 2]) }
}

fn bpf(priority: u16, handle: u32, name: &str) -> Filter {
    let program = FilterProgram { name: name.into(), tag: STANDS.tag, id: STANDS.id, direct: true };
    Filter { chain: 0, priority, protocol: ALL_PROTOCOLS, kind: "bpf".into(), handle, program: Some(program) }
}

fn u32_filter(priority: u16) -> Filter {
    Filter { kind: "u32".into(), program: None, ..bpf(priority, 0x800, "") }
}

fn observed(filters: Vec<Filter>, pin: Option<Pin>) -> Observed {
    Observed {
        qdiscs: BTreeMap::from([(PLACE.index, Qdisc::Clsact)]),
        filters: BTreeMap::from([(PLACE, filters)]),
        pins: pin.map(|pin| (PLACE, pin)).into_iter().collect(),
        maps: BTreeMap::from([(STANDS.id, identity().maps)]),
    }
}

fn steps(observed: &Observed, kind: AttachKind) -> Vec<Step> {
    observed.steps(PLACE, Some(Wanted { name: NAME, identity: &identity(), kind }))
}

#[test]
fn nothing_is_written_when_the_same_program_stands() {
    assert_eq!(steps(&observed(vec![bpf(1, HANDLE, NAME)], None), AttachKind::Clsact), []);
    assert_eq!(steps(&observed(vec![], Some(Pin::Live(STANDS))), AttachKind::Tcx), []);
}

#[test]
fn another_program_is_swapped_in_place() {
    let mut filter = bpf(3, HANDLE, NAME);
    filter.program.as_mut().unwrap().tag = 8;
    let swap = Step::SwapFilter { name: NAME, priority: 3 };
    assert_eq!(steps(&observed(vec![filter], None), AttachKind::Clsact), [swap]);
    assert_eq!(steps(&observed(vec![bpf(3, HANDLE, "redirect_other")], None), AttachKind::Clsact), [swap]);
    let other = Pin::Live(Standing { id: 40, tag: 8 });
    assert_eq!(steps(&observed(vec![], Some(other)), AttachKind::Tcx), [Step::SwapLink { name: NAME }]);
}

#[test]
fn the_same_instructions_on_other_maps_are_another_program() {
    let mut other = observed(vec![], Some(Pin::Live(STANDS)));
    other.maps = BTreeMap::from([(STANDS.id, BTreeSet::from([1, 3]))]);
    assert_eq!(steps(&other, AttachKind::Tcx), [Step::SwapLink { name: NAME }]);
}

#[test]
fn a_change_of_kind_attaches_before_it_detaches() {
    let add = Step::AddLink { name: NAME };
    let delete = Step::DeleteFilter { priority: 1 };
    assert_eq!(steps(&observed(vec![bpf(1, HANDLE, NAME)], None), AttachKind::Tcx), [add, delete]);
    let mut bare = observed(vec![], Some(Pin::Unseen));
    bare.qdiscs.clear();
    let add = Step::AddFilter { name: NAME, priority: 1 };
    assert_eq!(steps(&bare, AttachKind::Clsact), [Step::AddQdisc, add, Step::Unlink]);
}

#[test]
fn a_link_without_its_device_makes_way_for_a_new_one() {
    let expected = [Step::Unlink, Step::AddLink { name: NAME }];
    assert_eq!(steps(&observed(vec![], Some(Pin::Dead)), AttachKind::Tcx), expected);
}

#[test]
fn what_may_be_at_work_stands() {
    assert!(observed(vec![bpf(1, HANDLE, NAME)], None).stands(PLACE));
    assert!(!observed(vec![bpf(1, 1, "theirs"), u32_filter(2)], None).stands(PLACE));
    for (pin, stands) in [(Pin::Live(STANDS), true), (Pin::Unseen, true), (Pin::Dead, false)] {
        assert_eq!(observed(vec![], Some(pin)).stands(PLACE), stands, "{pin:?}");
    }
}

#[test]
fn a_filter_joins_bpf_filters_and_passes_by_others() {
    let priority = |filters| match steps(&observed(filters, None), AttachKind::Clsact)[..] {
        [Step::AddFilter { priority, .. }] => priority,
        ref other => panic!("{other:?}"),
    };
    assert_eq!(priority(vec![]), 1);
    assert_eq!(priority(vec![bpf(1, 1, "theirs")]), 1);
    assert_eq!(priority(vec![bpf(1, HANDLE, "theirs")]), 2);
    assert_eq!(priority(vec![u32_filter(1), Filter { protocol: 0x800, ..bpf(2, 1, "theirs") }]), 3);
    assert_eq!(priority(vec![Filter { chain: 4, ..u32_filter(1) }]), 1);
}

#[test]
fn the_way_out_is_not_mistaken_for_the_way_in() {
    let out = Place { direction: Direction::Egress, ..PLACE };
    let mut observed = observed(vec![], None);
    observed.qdiscs.insert(PLACE.index, Qdisc::Ingress);
    let wanted = Wanted { name: NAME, identity: &identity(), kind: AttachKind::Clsact };
    assert!(matches!(observed.steps(out, Some(wanted))[..], [Step::Refuse { .. }]));
    assert!(matches!(observed.steps(PLACE, Some(wanted))[..], [Step::AddFilter { .. }]));
}

#[test]
fn only_ours_is_removed() {
    let filters =
        vec![bpf(1, HANDLE, "theirs"), bpf(1, 1, NAME), Filter { chain: 1, ..bpf(1, HANDLE, NAME) }, u32_filter(2)];
    let theirs = observed(filters, None);
    assert_eq!(theirs.places().count(), 0);
    assert_eq!(theirs.steps(PLACE, None), []);
    let ours = observed(vec![bpf(4, HANDLE, NAME)], Some(Pin::Unseen));
    assert_eq!(ours.steps(PLACE, None), [Step::DeleteFilter { priority: 4 }, Step::Unlink]);
}

#[test]
fn one_of_two_filters_is_enough() {
    let two = observed(vec![bpf(1, HANDLE, NAME), bpf(2, HANDLE, NAME)], None);
    assert_eq!(steps(&two, AttachKind::Clsact), [Step::DeleteFilter { priority: 2 }]);
}

#[test]
fn what_stands_ahead_is_named() {
    let filters = [bpf(1, 0, ""), bpf(1, 1, "theirs"), u32_filter(2), bpf(3, HANDLE, NAME), u32_filter(4)];
    assert_eq!(by_filter(&filters), ["bpf filter theirs of priority 1", "u32 filter of priority 2"]);
}

#[test]
fn a_filter_gets_ahead_of_others_as_far_as_it_can() {
    let ours = |priority| bpf(priority, HANDLE, NAME);
    let theirs = |priority| bpf(priority, 1, "theirs");
    // Of one priority the one that came last is the first, and a handle is there once.
    assert_eq!(way_ahead(&[theirs(1), ours(1)]), [1, 2, 1]);
    assert_eq!(way_ahead(&[theirs(1), ours(1), bpf(2, HANDLE, "theirs")]), [1, 3, 1]);
    assert_eq!(way_ahead(&[theirs(1), ours(4)]), [4, 1]);
    assert_eq!(way_ahead(&[bpf(1, 0, ""), theirs(1), bpf(3, 0, ""), ours(3)]), [3, 1]);
    // Those that it cannot get ahead of do not keep it behind others.
    assert_eq!(way_ahead(&[u32_filter(1), theirs(2), ours(2)]), [2, 3, 2]);
    assert_eq!(way_ahead(&[u32_filter(1), theirs(3), ours(4)]), [4, 2]);
    for there_already in [vec![ours(1), theirs(1)], vec![u32_filter(1), ours(2)], vec![theirs(1)], vec![]] {
        assert!(way_ahead(&there_already).is_empty(), "{there_already:?}");
    }
}

#[test]
fn pins_are_read_by_the_names_they_are_given() {
    assert_eq!(parse_pin("5-ingress"), Some(PLACE));
    for name in ["5", "5-in", "5-ingress-next", "x-ingress", "05-ingress", "+5-ingress", "-1-egress"] {
        assert_eq!(parse_pin(name), None, "{name}");
    }
    assert!(["5-ingress", "7-egress-next"].into_iter().all(is_pin));
    assert!(!["next", "-next", "cilium-next", "5-ingress-next-next"].into_iter().any(is_pin));
}
