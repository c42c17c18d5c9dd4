use std::fs::File;

use crate::proxy::HostSide;
use crate::resources::sysctl::Setting;

use super::*;

fn saved(original: &str, set: &str) -> Saved {
    Saved { setting: Setting::new("veth1", "rp_filter"), index: 4, original: original.into(), set: set.into() }
}

#[test]
fn survives_a_restart_and_keeps_the_first_value() {
    let directory = tempfile::tempdir().unwrap();
    let netns = NetnsId::current().unwrap();
    let mut record = Record::open(directory.path(), netns).unwrap();
    record.save_sysctls(netns, &[saved("1", "0")]).unwrap();
    record.save_sysctls(netns, &[saved("2", "0")]).unwrap();
    let mut record = Record::open(directory.path(), netns).unwrap();
    assert_eq!(record.saved_sysctls(netns), [saved("1", "0")]);
    record.forget_sysctls(netns, &[saved("1", "0")]).unwrap();
    assert!(Record::open(directory.path(), netns).unwrap().saved_sysctls(netns).is_empty());
    let elsewhere = NetnsId::of(&File::open("/proc/self/ns/mnt").unwrap()).unwrap();
    assert!(Record::open(directory.path(), elsewhere).is_err());
}

fn proxy(name: &str, netns: NetnsId) -> Proxy {
    let host = HostSide { veth: format!("veth-{name}"), bridge: None };
    let (name, ip) = (name.to_owned(), "10.244.2.3".parse().unwrap());
    Proxy { uid: name.clone(), namespace: "istio-system".into(), name, ip, netns, interface: "eth0".into(), host }
}

#[test]
fn proxies_follow_each_other_on_two_seats() {
    let directory = tempfile::tempdir().unwrap();
    let own = |kind: &str| NetnsId::of(&File::open(format!("/proc/self/ns/{kind}")).unwrap()).unwrap();
    let [one, two, three] =
        [("one", own("net")), ("two", own("mnt")), ("three", own("ipc"))].map(|(name, netns)| proxy(name, netns));
    let node = own("net");
    let mut record = Record::open(directory.path(), node).unwrap();
    assert_eq!(record.seat_of(one.netns), Seat::A);
    record.set_proxy(&one, None).unwrap();
    assert_eq!((record.seat(), record.draining()), (Seat::A, None));
    assert_eq!([&one, &two].map(|proxy| record.seat_of(proxy.netns)), Seat::ALL);
    record.follow(&two, None, Some(7)).unwrap();
    assert_eq!([&one, &two].map(|proxy| record.seat_of(proxy.netns)), Seat::ALL);
    let record_of = |proxy: &Proxy, until| Some(Draining { proxy: proxy.clone(), until, awaits_turn: true });
    assert_eq!((record.seat(), record.draining().cloned()), (Seat::B, record_of(&one, 7)));
    assert!(record.retired().is_empty());
    // Back to the former.
    record.follow(&one, None, Some(8)).unwrap();
    assert_eq!((record.seat(), record.draining().cloned()), (Seat::A, record_of(&two, 8)));
    assert!(record.retired().is_empty());
    // A third one needs the seat.
    record.follow(&three, None, Some(9)).unwrap();
    assert_eq!((record.seat(), record.draining().cloned()), (Seat::B, record_of(&one, 9)));
    assert_eq!(record.retired(), [two.netns]);
    record.end_drain().unwrap();
    assert_eq!(Record::open(directory.path(), node).unwrap().retired(), [two.netns, one.netns]);
    // One that has nothing to drain.
    record.follow(&two, None, None).unwrap();
    assert_eq!((record.seat(), record.draining()), (Seat::A, None));
    assert_eq!(record.retired(), [one.netns, three.netns]);
}

#[test]
fn a_drain_has_its_time_from_when_the_node_has_turned() {
    let directory = tempfile::tempdir().unwrap();
    let own = |kind: &str| NetnsId::of(&File::open(format!("/proc/self/ns/{kind}")).unwrap()).unwrap();
    let mut record = Record::open(directory.path(), own("net")).unwrap();
    record.set_proxy(&proxy("one", own("net")), None).unwrap();
    record.follow(&proxy("two", own("mnt")), None, Some(7)).unwrap();
    assert!(!record.draining().unwrap().is_over(u64::MAX), "the node may still turn to it");
    record.has_turned(9).unwrap();
    let kept = Record::open(directory.path(), own("net")).unwrap();
    assert_eq!([8, 9].map(|now| kept.draining().unwrap().is_over(now)), [false, true]);
    // As an agent has written it that knew only of the time.
    let mut text = serde_json::to_value(kept.draining()).unwrap();
    text.as_object_mut().unwrap().remove("awaits_turn");
    let former: Draining = serde_json::from_value(text).unwrap();
    assert_eq!(Some(&former), kept.draining());
}

#[test]
fn what_cannot_be_read_is_put_aside_until_an_agent_comes_that_can() {
    let directory = tempfile::tempdir().unwrap();
    let netns = NetnsId::current().unwrap();
    let mut record = Record::open(directory.path(), netns).unwrap();
    record.save_sysctls(netns, &[saved("1", "0")]).unwrap();
    let path = directory.path().join(FILE);
    let known = fs::read_to_string(&path).unwrap();
    for broken in [known.replacen("\"version\": 1", "\"version\": 9", 1), "{".to_owned()] {
        fs::write(&path, &broken).unwrap();
        let mut record = Record::open(directory.path(), netns).unwrap();
        assert!(record.saved_sysctls(netns).is_empty() && record.note().is_some(), "{broken}");
        record.save_sysctls(netns, &[saved("0", "2")]).unwrap();
    }
    // The other agent comes back: to it, its own version is not strange.
    let aside = directory.path().join(UNREAD);
    assert!(fs::read_to_string(&aside).unwrap().contains("\"version\": 9"), "the first one stays");
    fs::write(&aside, known).unwrap();
    let record = Record::open(directory.path(), netns).unwrap();
    assert_eq!(record.saved_sysctls(netns), [saved("1", "2")]);
    assert!(record.note().is_none());
    let record = Record::open(directory.path(), netns).unwrap();
    assert_eq!(record.saved_sysctls(netns), [saved("1", "2")]);
}
