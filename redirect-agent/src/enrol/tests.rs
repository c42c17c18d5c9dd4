use std::sync::Arc;

use redirect_common::names::ANNOTATION_ON_PROXY_LOSS;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::cni::book::tests::{attached, book};

fn namespace(name: &str, labels: &Value) -> Value {
    json!({ "metadata": { "name": name, "labels": labels } })
}

fn pod(namespace: &str, name: &str, ip: &str) -> Value {
    json!({
        "metadata": { "namespace": namespace, "name": name, "uid": format!("uid-{name}"),
            "creationTimestamp": "2024-01-01T00:00:00Z", "labels": {}, "annotations": {} },
        "spec": { "nodeName": "n1", "hostNetwork": false, "containers": [] },
        "status": { "phase": "Running", "podIP": ip, "hostIP": "172.18.0.2",
            "conditions": [{ "type": "Ready", "status": "True" }] }
    })
}

fn with(mut pod: Value, path: &str, value: Value) -> Value {
    *pod.pointer_mut(path).unwrap() = value;
    pod
}

fn read<T: DeserializeOwned>(value: &Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value.clone()).unwrap())
}

fn cluster(pods: &[Value]) -> Cluster {
    cluster_with(pods, &Book::default())
}

fn cluster_with(pods: &[Value], attachments: &Book) -> Cluster {
    cluster_after(pods, attachments, &Known::new())
}

fn cluster_after(pods: &[Value], attachments: &Book, known: &Known) -> Cluster {
    cluster_in(false, pods, attachments, known, &BTreeSet::new())
}

fn cluster_in(
    has_all_namespaces: bool,
    pods: &[Value],
    attachments: &Book,
    known: &Known,
    leaving: &BTreeSet<AttachmentId>,
) -> Cluster {
    let namespaces = [
        namespace("mesh", &json!({ LABEL_MODE: MODE_AMBIENT })),
        namespace("default", &json!({})),
        namespace("istio-system", &json!({ LABEL_MODE: MODE_AMBIENT })),
    ];
    let snapshot = Snapshot {
        namespaces: namespaces.iter().map(read).collect(),
        has_all_namespaces,
        pods: pods.iter().map(read).collect(),
        ..Snapshot::default()
    };
    let node_addresses = BTreeSet::from(["172.18.0.2".parse().unwrap()]);
    let proxy_namespace = "istio-system";
    let rules = Rules {
        node_name: "n1",
        proxy_namespace,
        on_proxy_loss: OnProxyLoss::Block,
        node_addresses: &node_addresses,
        attachments,
        known,
        leaving,
    };
    decide(&snapshot, &rules)
}

fn state(value: Value) -> (State, String) {
    let cluster = cluster(&[value]);
    let verdict = &cluster.pods[0];
    assert_eq!(cluster.meshed.is_empty(), verdict.state != State::Meshed);
    (verdict.state, verdict.reason.clone().unwrap_or_default())
}

#[test]
fn labels_and_annotations() {
    let app = || pod("mesh", "app", "10.0.0.1");
    let plain = || pod("default", "app", "10.0.0.1");
    assert_eq!(state(app()).0, State::Meshed);
    assert_eq!(state(plain()).0, State::NotMeshed);
    assert_eq!(state(with(plain(), "/metadata/labels", json!({ LABEL_MODE: MODE_AMBIENT }))).0, State::Meshed);
    assert_eq!(state(with(app(), "/metadata/labels", json!({ LABEL_MODE: "none" }))).0, State::NotMeshed);
    for annotation in [json!({ ANNOTATION_REDIRECTION: "disabled" }), json!({ ANNOTATION_SIDECAR: "{}" })] {
        assert_eq!(state(with(app(), "/metadata/annotations", annotation)).0, State::NotMeshed);
    }
    let enabled = json!({ ANNOTATION_REDIRECTION: "enabled" });
    assert_eq!(state(with(app(), "/metadata/annotations", enabled)).0, State::Meshed);
}

#[test]
fn a_namespace_that_has_not_been_heard_of() {
    let state = |is_kubernetes, pod: Value| {
        cluster_in(is_kubernetes, &[pod], &Book::default(), &Known::new(), &BTreeSet::new()).pods[0].state
    };
    let app = || pod("new", "app", "10.0.0.1");
    assert_eq!(state(true, app()), State::Pending);
    assert_eq!(state(false, app()), State::NotMeshed);
    assert_eq!(state(true, pod("default", "app", "10.0.0.1")), State::NotMeshed);
    // What it says itself needs no namespace.
    assert_eq!(state(true, with(app(), "/metadata/labels", json!({ LABEL_MODE: MODE_AMBIENT }))), State::Meshed);
    assert_eq!(state(true, with(app(), "/metadata/labels", json!({ LABEL_MODE: "none" }))), State::NotMeshed);
    assert_eq!(state(true, with(app(), "/spec/hostNetwork", json!(true))), State::NotMeshed);
}

#[test]
fn a_pod_that_outlives_its_namespace_stays_in_the_mesh() {
    let known = Known::from([("uid-app".to_owned(), vec!["10.0.0.1".parse().unwrap()])]);
    let cluster = |pod: Value| cluster_in(true, &[pod], &Book::default(), &known, &BTreeSet::new());
    let after = cluster(pod("gone", "app", "10.0.0.1"));
    assert_eq!((after.pods[0].state, after.meshed.len()), (State::Meshed, 1));
    assert!(after.pods[0].reason.as_ref().unwrap().contains("its namespace gone is gone"));
    assert_eq!(after.known(), known, "the next run knows it too");
    assert_eq!(cluster(pod("gone", "other", "10.0.0.1")).pods[0].state, State::Pending);
    assert_eq!(cluster(pod("default", "app", "10.0.0.1")).pods[0].state, State::NotMeshed, "its namespace says so");
    let disabled = json!({ ANNOTATION_REDIRECTION: REDIRECTION_DISABLED });
    let disabled = with(pod("gone", "app", "10.0.0.1"), "/metadata/annotations", disabled);
    assert_eq!(cluster(disabled).pods[0].state, State::NotMeshed);
}

#[test]
fn a_pod_that_is_gone_but_for_its_sandbox() {
    let left = attached("c1", "app", Some("uid-app"), &["10.0.0.1", "10.0.0.2"]);
    let (id, all) = (left.id.clone(), book(&[left]));
    let after = |pods: &[Value], leaving: &BTreeSet<AttachmentId>| {
        let cluster = cluster_in(false, pods, &all, &Known::new(), leaving);
        let states = cluster.pods.iter().map(|pod| (pod.name.clone(), pod.state)).collect::<BTreeMap<_, _>>();
        (states, cluster.meshed.iter().map(ToString::to_string).collect::<Vec<_>>(), cluster.attached.len())
    };
    let leaving = BTreeSet::from([id]);
    let app = ("app".to_owned(), State::Meshed);
    assert_eq!(after(&[], &leaving), (BTreeMap::from([app.clone()]), vec!["10.0.0.1".into(), "10.0.0.2".into()], 1));
    assert_eq!(after(&[], &BTreeSet::new()), (BTreeMap::new(), Vec::new(), 0));
    // What another has by now is the other's.
    let heir = pod("default", "heir", "10.0.0.1");
    let states = BTreeMap::from([app, ("heir".to_owned(), State::NotMeshed)]);
    assert_eq!(after(&[heir], &leaving), (states, vec!["10.0.0.2".into()], 1));
}

#[test]
fn pods_that_are_never_meshed() {
    let app = || pod("mesh", "app", "10.0.0.1");
    let spec = json!({ "nodeName": "n1", "hostNetwork": true, "containers": [] });
    assert_eq!(state(with(app(), "/spec", spec)).0, State::NotMeshed);
    for phase in ["Succeeded", "Failed"] {
        assert_eq!(state(with(app(), "/status/phase", json!(phase))).0, State::NotMeshed);
    }
    let ztunnel = with(pod("istio-system", "zt", "10.0.0.9"), "/metadata/labels", json!({ "app": "ztunnel" }));
    assert_eq!(state(ztunnel).0, State::NotMeshed);
    assert!(cluster(&[with(app(), "/spec/nodeName", json!("n2"))]).pods.is_empty());
}

#[test]
fn addresses_that_cannot_be_meshed() {
    let with_ip = |ip: &str| state(pod("mesh", "app", ip));
    assert_eq!(with_ip("").0, State::Pending);
    for bad in ["172.18.0.2", "127.0.0.1", "0.0.0.0", "224.0.0.1", "10.0.0", "fd00::1"] {
        let (state, reason) = with_ip(bad);
        assert_eq!(state, State::Refused, "{bad}");
        assert!(!reason.is_empty());
    }
}

#[test]
fn a_status_that_names_no_address_any_more() {
    let known = cluster(&[pod("mesh", "app", "10.0.0.1")]).known();
    let after = |pods: &[Value], attachments: &Book| {
        let cluster = cluster_after(pods, attachments, &known);
        (cluster.pods[0].state, cluster.meshed.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let empty = pod("mesh", "app", "");
    let none = Book::default();
    assert_eq!(after(std::slice::from_ref(&empty), &none), (State::Meshed, vec!["10.0.0.1".into()]));
    // What anybody says is more than what was known.
    assert_eq!(after(&[pod("mesh", "app", "10.0.0.2")], &none), (State::Meshed, vec!["10.0.0.2".into()]));
    let older = with(pod("default", "other", "10.0.0.1"), "/metadata/creationTimestamp", json!("2023-01-01T00:00:00Z"));
    assert_eq!(after(&[older, empty.clone()], &none).1, Vec::<String>::new());
    // Another pod of the name, and one that has ended, never had it.
    assert_eq!(after(&[with(empty.clone(), "/metadata/uid", json!("another"))], &none).0, State::Pending);
    assert_eq!(after(&[with(empty, "/status/phase", json!("Failed"))], &none).0, State::NotMeshed);
}

#[test]
fn every_address_of_a_pod() {
    let ips =
        json!({ "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "10.0.0.2" }, { "ip": "fd00::1" }] });
    let cluster = cluster(&[with(pod("mesh", "app", ""), "/status", ips)]);
    assert_eq!(cluster.meshed.len(), 2);
    assert_eq!(cluster.pods[0].ips.len(), 3);
}

#[test]
fn the_newer_of_two_pods_has_the_address() {
    let old = pod("mesh", "old", "10.0.0.1");
    let new = with(pod("mesh", "new", "10.0.0.1"), "/metadata/creationTimestamp", json!("2024-01-02T00:00:00Z"));
    let both = cluster(&[new.clone(), old.clone()]);
    assert_eq!(both.pods.iter().map(|pod| pod.state).collect::<Vec<_>>(), [State::Meshed, State::Refused]);
    assert_eq!(both.problems[0].object, "pod mesh/old");
    let ended = cluster(&[with(new, "/status/phase", json!("Succeeded")), old]);
    assert_eq!(ended.pods.iter().map(|pod| pod.state).collect::<Vec<_>>(), [State::NotMeshed, State::Meshed]);
}

#[test]
fn ztunnels_address_and_the_tunnels_belong_to_nobody_else() {
    let labels = json!({ "app": "ztunnel" });
    let ztunnel = with(pod("istio-system", "zt", "10.0.0.9"), "/metadata/labels", labels);
    let newer = with(pod("mesh", "app", "10.0.0.9"), "/metadata/creationTimestamp", json!("2025-01-01T00:00:00Z"));
    let both = cluster(&[ztunnel, newer]);
    assert!(both.meshed.is_empty() && both.proxy.is_some());
    assert_eq!(both.problems[0].object, "pod mesh/app");
    assert_eq!(state(pod("mesh", "app", "192.168.126.2")).0, State::Refused);
}

#[test]
fn ztunnel_is_the_newest_ready_one_of_its_namespace() {
    let zt = |namespace, name, ip| with(pod(namespace, name, ip), "/metadata/labels", json!({ "app": "ztunnel" }));
    let old = zt("istio-system", "old", "10.0.0.3");
    let new = with(zt("istio-system", "new", "10.0.0.4"), "/metadata/creationTimestamp", json!("2024-01-02T00:00:00Z"));
    let unready = with(new.clone(), "/status/conditions/0/status", json!("False"));
    let name = |pods: &[Value]| cluster(pods).proxy.map(|proxy| proxy.name);
    assert_eq!(name(&[old.clone(), new.clone()]).as_deref(), Some("new"));
    assert_eq!(name(&[old.clone(), unready.clone()]).as_deref(), Some("old"));
    let mut ending = new.clone();
    ending["metadata"]["deletionTimestamp"] = json!("2024-01-03T00:00:00Z");
    assert_eq!(name(&[old.clone(), ending.clone()]).as_deref(), Some("old"));
    assert_eq!(name(&[ending]).as_deref(), Some("new"));
    assert_eq!(cluster(&[unready]).proxy_reason.as_deref(), Some("pod istio-system/new is not Ready"));
    let impostor = cluster(&[zt("default", "evil", "10.0.0.5")]);
    assert_eq!(impostor.proxy, None);
    assert_eq!(impostor.problems[0].object, "pod default/evil");
    assert_eq!(cluster(&[old]).host_ip, Some("172.18.0.2".parse().unwrap()));
}

#[test]
fn a_pod_has_its_attached_address_before_its_status_says_so() {
    let app = pod("mesh", "app", "");
    for uid in [Some("uid-app"), None] {
        let known =
            cluster_with(std::slice::from_ref(&app), &book(&[attached("c1", "app", uid, &["10.0.0.1", "fd00::1"])]));
        assert_eq!(known.pods[0].state, State::Meshed);
        assert_eq!(known.meshed, BTreeSet::from([Ipv4Addr::new(10, 0, 0, 1)]));
        assert_eq!(known.attached.values().collect::<Vec<_>>(), ["uid-app"]);
    }
    let stranger = cluster_with(std::slice::from_ref(&app), &book(&[attached("c1", "app", Some("u2"), &["10.0.0.1"])]));
    assert_eq!((stranger.pods[0].state, stranger.attached.len()), (State::Pending, 0));
    let ended = with(app, "/status/phase", json!("Succeeded"));
    let ended = cluster_with(&[ended], &book(&[attached("c1", "app", None, &["10.0.0.1"])]));
    assert_eq!((ended.meshed.len(), ended.attached.len()), (0, 0), "another pod of the name starts");
}

#[test]
fn an_attached_address_is_checked_as_any_other() {
    let of = |ips: &[&str]| cluster_with(&[pod("mesh", "app", "")], &book(&[attached("c1", "app", None, ips)]));
    for bad in ["172.18.0.2", "127.0.0.1", "192.168.126.2", "fd00::1"] {
        assert_eq!(of(&[bad]).pods[0].state, State::Refused, "{bad}");
        assert!(of(&[bad]).meshed.is_empty());
    }
    let labels = json!({ "app": "ztunnel" });
    let ztunnel = with(pod("istio-system", "zt", "10.0.0.9"), "/metadata/labels", labels);
    let thief = book(&[attached("c1", "app", None, &["10.0.0.9"])]);
    assert!(cluster_with(&[ztunnel, pod("mesh", "app", "")], &thief).meshed.is_empty());
}

/// Of two pods whose statuses have one address, the one that it was attached to has it, and the last of two such.
#[test]
fn an_attached_address_wins_over_what_statuses_claim() {
    let older = pod("mesh", "older", "10.0.0.1");
    let newer = with(pod("mesh", "newer", "10.0.0.1"), "/metadata/creationTimestamp", json!("2024-01-02T00:00:00Z"));
    let states = |known: &[_]| {
        let cluster = cluster_with(&[older.clone(), newer.clone()], &book(known));
        cluster.pods.iter().map(|pod| (pod.name.clone(), pod.state)).collect::<BTreeMap<_, _>>()
    };
    let to_older = attached("c1", "older", None, &["10.0.0.1"]);
    assert_eq!(states(&[])["newer"], State::Meshed);
    assert_eq!(states(std::slice::from_ref(&to_older))["older"], State::Meshed);
    assert_eq!(states(std::slice::from_ref(&to_older))["newer"], State::Refused);
    let to_newer = attached("c2", "newer", None, &["10.0.0.1"]);
    assert_eq!(states(&[to_newer.clone(), to_older.clone()])["older"], State::Meshed);
    let elsewhere = attached("c3", "older", None, &["10.0.0.2"]);
    let both = states(&[to_older, to_newer, elsewhere]);
    assert_eq!(
        (both["newer"], both["older"]),
        (State::Meshed, State::Meshed),
        "its former address is not held against it"
    );
}

#[test]
fn who_may_pass_without_a_ztunnel_is_said_by_namespaces_and_by_whole_pods() {
    let mut app = pod("mesh", "app", "10.0.0.1");
    app["status"]["podIPs"] = json!([{ "ip": "10.0.0.1" }, { "ip": "10.0.0.2" }]);
    let decided = |word: Option<&str>, on_proxy_loss| {
        let mut mesh = namespace("mesh", &json!({ LABEL_MODE: MODE_AMBIENT }));
        if let Some(word) = word {
            mesh["metadata"]["annotations"] = json!({ ANNOTATION_ON_PROXY_LOSS: word });
        }
        let plain = pod("default", "plain", "10.0.0.3");
        let (namespaces, pods) = (vec![read(&mesh)], [&app, &plain].map(read).to_vec());
        let (node_addresses, attachments, known) = (BTreeSet::new(), Book::default(), Known::new());
        let rules = Rules {
            node_name: "n1",
            proxy_namespace: "istio-system",
            on_proxy_loss,
            node_addresses: &node_addresses,
            attachments: &attachments,
            known: &known,
            leaving: &BTreeSet::new(),
        };
        decide(&Snapshot { namespaces, pods, ..Snapshot::default() }, &rules)
    };
    let [block, bypass] = [OnProxyLoss::Block, OnProxyLoss::Bypass];
    for (word, all, passes) in [
        (None, block, false),
        (None, bypass, true),
        (Some("bypass"), block, true),
        (Some("block"), bypass, false),
        (Some("maybe"), bypass, false),
    ] {
        let cluster = decided(word, all);
        assert_eq!(cluster.meshed.len(), 2);
        assert_eq!(cluster.may_bypass, if passes { cluster.meshed.clone() } else { BTreeSet::new() }, "{word:?}");
        assert_eq!(cluster.problems.len(), usize::from(word == Some("maybe")), "{:?}", cluster.problems);
    }
}
