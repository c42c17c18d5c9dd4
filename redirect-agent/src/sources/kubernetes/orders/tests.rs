use std::time::Duration;

use super::*;
use crate::config::OnProxyLoss;

fn seen(redirection: Option<&str>, version: &str) -> WatchedPod {
    let annotations = redirection.map(|value| json!({ ANNOTATION_REDIRECTION: value }));
    let metadata =
        json!({ "name": "a", "namespace": "mesh", "uid": "u", "resourceVersion": version, "annotations": annotations });
    serde_json::from_value(json!({ "metadata": metadata })).unwrap()
}

fn due(state: State, pod: WatchedPod) -> Option<bool> {
    let verdict = PodVerdict {
        namespace: "mesh".into(),
        name: "a".into(),
        uid: "u".into(),
        ips: Vec::new(),
        ended: false,
        state,
        reason: None,
        on_proxy_loss: OnProxyLoss::default(),
    };
    orders(&[verdict], &BTreeMap::from([("u".to_owned(), pod)])).first().map(|order| order.enable)
}

fn order(uid: &str, version: &str) -> Order {
    Order { namespace: "mesh".into(), name: "a".into(), uid: uid.into(), version: version.into(), enable: true }
}

#[test]
fn what_is_written_for_which_state() {
    let table = [
        (State::Meshed, None, Some(true)),
        (State::Meshed, Some("enabled"), None),
        (State::Meshed, Some("something"), Some(true)),
        (State::Meshed, Some("disabled"), None),
        (State::NotMeshed, None, None),
        (State::NotMeshed, Some("enabled"), Some(false)),
        (State::NotMeshed, Some("disabled"), None),
        (State::NotMeshed, Some("something"), None),
        (State::Refused, None, None),
        (State::Refused, Some("enabled"), Some(false)),
        (State::Bypassed, None, None),
        (State::Bypassed, Some("enabled"), Some(false)),
        (State::Pending, None, None),
        (State::Pending, Some("enabled"), None),
    ];
    for (state, written, wanted) in table {
        assert_eq!(due(state, seen(written, "1")), wanted, "{state:?} {written:?}");
    }
}

#[test]
fn pods_that_go_and_pods_that_are_not_known_are_left_alone() {
    let terminating = WatchedPod { is_terminating: true, ..seen(Some("enabled"), "1") };
    assert_eq!(due(State::NotMeshed, terminating.clone()), None);
    assert_eq!(due(State::Meshed, WatchedPod { redirection: None, ..terminating }), None);
    let pods = BTreeMap::from([("u".to_owned(), seen(None, "1"))]);
    let mut stranger: PodVerdict = serde_json::from_value(json!({ "namespace": "mesh", "name": "a", "uid": "another",
        "ips": [], "state": "meshed", "reason": null }))
    .unwrap();
    assert!(orders(std::slice::from_ref(&stranger), &pods).is_empty(), "another pod of the same name");
    stranger.uid = "u".into();
    assert_eq!(orders(&[stranger], &pods).len(), 1);
}

#[test]
fn a_patch_names_the_pod_it_was_decided_for() {
    let expected = json!({ "metadata": { "uid": "u", "resourceVersion": "7", "annotations": { ANNOTATION_REDIRECTION: "enabled" } } });
    assert_eq!(order("u", "7").patch(), expected);
    let removal = Order { enable: false, ..order("u", "7") }.patch();
    assert!(removal["metadata"]["annotations"][ANNOTATION_REDIRECTION].is_null());
    assert!(removal["metadata"]["annotations"].as_object().unwrap().contains_key(ANNOTATION_REDIRECTION));
}

#[test]
fn an_order_is_carried_out_once_until_the_pod_is_heard_of_again() {
    let (mut desk, now) = (Desk::default(), Instant::now());
    assert_eq!(desk.take(vec![order("u", "1")], 8, now).len(), 1);
    assert!(desk.take(vec![order("u", "1")], 8, now).is_empty(), "under way");
    assert!(desk.take(vec![order("u", "2")], 8, now).is_empty(), "still under way");
    desk.put(&order("u", "1"), Outcome::Done, now);
    assert!(desk.take(vec![order("u", "1")], 8, now).is_empty(), "its echo has not come");
    assert_eq!(desk.take(vec![order("u", "3")], 8, now).len(), 1, "a conflict: the newer version is tried");
}

#[test]
fn a_failure_waits_and_keeps_no_place_from_others() {
    let (mut desk, now) = (Desk::default(), Instant::now());
    for failures in 1..20 {
        let later = now + Duration::from_hours(failures);
        assert_eq!(desk.take(vec![order("u", "1")], 1, later).len(), 1);
        desk.put(&order("u", "1"), Outcome::Failed, later);
        let wait = desk.next_try().unwrap() - later;
        assert!(wait >= Duration::from_millis(200) && wait <= Duration::from_secs(15), "{wait:?}");
        assert!(desk.has_failures());
        assert_eq!(desk.take(vec![order("u", "1"), order("v", "1")], 1, later)[0].uid, "v");
        desk.put(&order("v", "1"), Outcome::Done, later);
    }
    assert!(desk.take(Vec::new(), 1, now).is_empty());
    assert!(!desk.has_failures(), "who is not asked for any more is forgotten");
    assert!(desk.0.is_empty());
}

#[test]
fn no_more_at_once_than_there_are_places() {
    let (mut desk, now) = (Desk::default(), Instant::now());
    let all: Vec<_> = (0..100).map(|number| order(&format!("u{number}"), "1")).collect();
    assert_eq!(desk.take(all.clone(), 8, now).len(), 8);
    assert_eq!(desk.take(all.clone(), 0, now).len(), 0);
    assert_eq!(desk.take(all, 8, now)[0].uid, "u8");
}
