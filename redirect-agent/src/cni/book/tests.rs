use super::*;

/// An attachment in container `container`.
pub(crate) fn attached(container: &str, name: &str, uid: Option<&str>, ips: &[&str]) -> Attached {
    Attached {
        id: AttachmentId { network: "net".into(), container: container.into(), ifname: "eth0".into() },
        pod: protocol::Pod { namespace: "mesh".into(), name: name.into(), uid: uid.map(str::to_owned) },
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        netns: NetnsId { dev: 4, ino: container.bytes().map(u64::from).sum() },
    }
}

pub(crate) fn book(all: &[Attached]) -> Book {
    Book { attached: all.to_vec(), ..Book::default() }
}

fn named<'a>(name: &'a str, uid: &'a str) -> Named<'a> {
    Named { namespace: "mesh", name, uid, runtime_uid: None }
}

fn addresses(book: &Book, pods: &[Named<'_>], pod: Named<'_>, status: &[&str]) -> Vec<String> {
    let mut ips = status.iter().map(|ip| ip.parse().unwrap()).collect();
    book.assign(pods).complete(pod, &mut ips);
    ips.iter().map(ToString::to_string).collect()
}

#[test]
fn a_pod_is_found_by_uid_and_else_the_newest_of_the_name() {
    let pods = [named("a", "u1"), named("a", "u2")];
    let by_uid = book(&[attached("c1", "a", Some("u1"), &["10.0.0.1"])]);
    assert_eq!(addresses(&by_uid, &pods, pods[0], &[]), ["10.0.0.1"]);
    assert!(addresses(&by_uid, &pods, pods[1], &[]).is_empty());
    let by_name = book(&[attached("c1", "a", None, &["10.0.0.1"])]);
    assert_eq!(addresses(&by_name, &pods, pods[1], &[]), ["10.0.0.1"]);
    assert!(addresses(&by_name, &pods, pods[0], &[]).is_empty());
    let stranger = book(&[attached("c1", "b", Some("u1"), &["10.0.0.1"])]);
    assert!(stranger.assign(&pods).owners.is_empty(), "a UID under another name");
}

/// Kubelet starts it before the API server has heard of it, and its mirror has another UID.
#[test]
fn a_static_pod_is_found_by_the_uid_that_the_runtime_knows() {
    let mirror = Named { runtime_uid: Some("hash"), ..named("a", "u1") };
    let mut known = book(&[attached("c1", "a", Some("hash"), &["10.0.0.1"])]);
    assert_eq!(addresses(&known, &[mirror], mirror, &[]), ["10.0.0.1"]);
    let owners = known.assign(&[mirror]).owners;
    known.settle(&owners, &BTreeSet::from(["u1"]), |_| false);
    assert_eq!(addresses(&known, &[mirror], mirror, &[]), ["10.0.0.1"], "written down by its own");
    assert!(addresses(&known, &[named("a", "u2")], named("a", "u2"), &[]).is_empty());
}

#[test]
fn addresses_of_status_and_attachments_are_added_up() {
    let (a, b) = (named("a", "u1"), named("b", "u2"));
    let one = book(&[attached("c1", "a", Some("u1"), &["10.0.0.1", "fd00::1"])]);
    assert_eq!(addresses(&one, &[a, b], a, &["10.0.0.9", "10.0.0.1"]), ["10.0.0.9", "10.0.0.1", "fd00::1"]);
    assert_eq!(addresses(&one, &[a, b], b, &["10.0.0.1"]), ["10.0.0.1"], "status alone is judged elsewhere");
}

/// `a` gets a new sandbox; its status still has the address that `b` was given meanwhile.
#[test]
fn an_address_that_was_given_to_another_since_is_not_the_pods_any_more() {
    let (a, b) = (named("a", "u1"), named("b", "u2"));
    let both = book(&[attached("c1", "b", Some("u2"), &["10.0.0.1"]), attached("c2", "a", Some("u1"), &["10.0.0.2"])]);
    assert_eq!(addresses(&both, &[a, b], a, &["10.0.0.1"]), ["10.0.0.2"]);
    let again = book(&[attached("c1", "a", Some("u1"), &["10.0.0.1"]), attached("c2", "b", Some("u2"), &["10.0.0.1"])]);
    assert_eq!(again.assign(&[a, b]).owner("10.0.0.1".parse().unwrap()), Some(b), "the newest has it");
    assert!(addresses(&again, &[a, b], a, &["10.0.0.1"]).is_empty(), "no DEL came for the other");
}

#[test]
fn whose_an_attachment_is_does_not_change_with_the_next_pod_of_the_name() {
    let mut known = book(&[attached("c1", "a", None, &["10.0.0.1"])]);
    let old = [named("a", "u1")];
    let owners = known.assign(&old).owners;
    known.settle(&owners, &BTreeSet::new(), |_| false);
    let later = [named("a", "u1"), named("a", "u2")];
    assert!(addresses(&known, &later, later[1], &[]).is_empty());
    let owners = known.assign(&later[1..]).owners;
    known.settle(&owners, &BTreeSet::new(), |_| false);
    assert!(known.all().is_empty(), "its pod is gone, and no DEL came");
}

#[test]
fn who_waits_for_a_pod_to_be_known_is_not_forgotten() {
    let mut known = book(&[attached("c1", "a", Some("u1"), &[]), attached("c2", "b", Some("u2"), &[])]);
    known.settle(&BTreeMap::new(), &BTreeSet::new(), |id| id.container == "c1");
    assert_eq!(known.all().len(), 1);
    let none = Valid { network: "net".into(), attachments: Vec::new() };
    known.keep_valid(&none, |_| true);
    assert_eq!(known.all().len(), 1);
    known.keep_valid(&Valid { network: "other".into(), attachments: Vec::new() }, |_| false);
    assert_eq!(known.all().len(), 1, "another network");
    known.keep_valid(&Valid { network: "net".into(), attachments: vec![("c1".into(), "eth0".into())] }, |_| false);
    assert_eq!(known.all().len(), 1, "it is valid");
    known.keep_valid(&none, |_| false);
    assert!(known.all().is_empty());
}

#[test]
fn a_new_sandbox_takes_the_place_of_the_old() {
    let new = attached("c2", "a", Some("u1"), &["10.0.0.2"]);
    let others = [attached("c3", "b", Some("u2"), &[]), attached("c4", "a", Some("u9"), &[])];
    let mut known = book(&[attached("c1", "a", Some("u1"), &["10.0.0.1"]), others[0].clone(), others[1].clone()]);
    assert_eq!(known.put(new.clone()).unwrap(), None);
    assert!(known.supersede(&new));
    assert!(!known.supersede(&new));
    assert_eq!(known.all(), [others[0].clone(), others[1].clone(), new.clone()]);
    assert_eq!(known.put(new.clone()).unwrap(), Some(new.clone()));
    assert_eq!(known.remove(&new.id), Some(new.clone()));
    assert_eq!(known.remove(&new.id), None);
}

/// Its status names the address until the pod is gone. The next pod may have it, and the same one in a new sandbox.
#[test]
fn what_was_taken_away_is_not_the_pods_and_the_next_ones() {
    let (a, b) = (named("a", "u1"), named("b", "u2"));
    let mut known = book(&[attached("c1", "a", Some("u1"), &["10.0.0.1"])]);
    known.detach(&attached("c1", "a", None, &[]).id);
    known.detach(&attached("c1", "a", None, &[]).id);
    assert!(addresses(&known, &[a, b], a, &["10.0.0.1"]).is_empty());
    assert_eq!(addresses(&known, &[a, b], b, &["10.0.0.1"]), ["10.0.0.1"], "another pod, with the address");
    let again = attached("c2", "a", Some("u1"), &["10.0.0.1"]);
    known.put(again.clone()).unwrap();
    assert_eq!(addresses(&known, &[a, b], a, &["10.0.0.1"]), ["10.0.0.1"]);
    assert!(known.supersede(&again));
    known.detach(&again.id);
    assert!(!known.is_settled(&BTreeMap::new(), &BTreeSet::from(["u2"]), |_| false));
    known.settle(&BTreeMap::new(), &BTreeSet::from(["u2"]), |_| false);
    assert_eq!(known, Book::default(), "the pod is gone");
    known.put(attached("c3", "a", None, &["10.0.0.1"])).unwrap();
    known.detach(&attached("c3", "a", None, &[]).id);
    assert_eq!(known, Book::default(), "it was of no pod that was known");
}

#[test]
fn a_namespaces_number_is_given_to_the_next() {
    let mut new = attached("c2", "b", Some("u2"), &["10.0.0.2"]);
    new.netns = attached("c1", "", None, &[]).netns;
    let mut known = book(&[attached("c1", "a", Some("u1"), &["10.0.0.1"]), new.clone()]);
    assert!(known.supersede(&new));
    assert_eq!(known.all(), [new]);
}

#[test]
fn nobody_makes_it_grow_without_bound() {
    let mut known = Book::default();
    for number in 0..LIMIT {
        known.put(attached(&number.to_string(), "a", None, &[])).unwrap();
    }
    assert!(known.put(attached("more", "a", None, &[])).is_err());
    assert!(known.put(attached("0", "a", None, &[])).is_ok(), "what is known has its place");
    let request = |name: String, ips: usize| {
        let Attached { id, pod, netns, .. } = attached("c", &name, Some(""), &[]);
        let ips = vec!["10.0.0.1".parse().unwrap(); ips];
        Attached::new(protocol::Attachment { id, pod, netns: String::new(), netns_id: netns, ips })
    };
    assert_eq!(request("a".into(), 1).unwrap().pod.uid, None, "an empty UID is none");
    assert!(request("a".repeat(300), 1).is_err());
    assert!(request("a".into(), 100).is_err());
    let mut known = Book::default();
    for number in 0..1000 {
        let ip = format!("10.0.{}.{}", number / 250, number % 250);
        known.put(attached("c", "a", Some("u"), &[&ip])).unwrap();
        known.detach(&attached("c", "a", None, &[]).id);
    }
    assert_eq!(known.gone["u"].len(), GONE);
}
