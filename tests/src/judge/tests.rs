//! The ledger and the verdict, fed by hand: what is an escape, and when the judge does not know.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use super::Cookie;
use super::ledger::{Attempt, Ledger};
use super::spot::{Spot, Surroundings};
use super::verdict::{Sign, Verdict};
use super::wire::{self, Segment, Tunnel};
use crate::layout::{NODE, NODE_IP, REMOTE, REMOTE_SERVER};
use crate::proxy::{Direction, Record};

const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 244, 1, 5), 33_001);
const ONWARD: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 244, 1, 5), 40_001);

struct Scene {
    ledger: Ledger,
    cookie: Cookie,
    records: Vec<Record>,
}

impl Scene {
    /// A connection of the meshed pod `app-a` that came about as it must, but for whether it was seen.
    fn new(proxied: bool) -> Self {
        let veths = [("vethA", "app-a"), ("vethB", "app-b"), ("vethZ", "ztunnel")];
        let veths = veths.map(|(veth, pod)| (veth.to_owned(), pod.to_owned())).into();
        let mut ledger = Ledger::new(Surroundings { veths, proxies: ["ztunnel".to_owned()].into() });
        let attempt =
            Attempt { stream: "meshed to remote", from: "app-a".to_owned(), client: CLIENT, proxied, server: None };
        let cookie = ledger.register(attempt);
        ledger.came_about(cookie);
        let record = Record {
            direction: Direction::Outbound,
            listener: 15001,
            client: SocketAddr::V4(CLIENT),
            original_dst: SocketAddr::V4(REMOTE_SERVER),
            onward_source: Some(SocketAddr::V4(ONWARD)),
            error: None,
        };
        Self { ledger, cookie, records: vec![record] }
    }

    fn usual() -> Self {
        let mut scene = Self::new(true);
        scene.see("app-a", "eth0", CLIENT, true, false);
        scene.see(NODE, "vethA", CLIENT, true, false);
        scene.see(NODE, "istioout", CLIENT, false, false);
        scene.see(NODE, "vethZ", CLIENT, false, true);
        scene.see("ztunnel", "pistioout", CLIENT, false, false);
        scene.see(NODE, "vethZ", ONWARD, true, false);
        scene.see(NODE, "eth0", ONWARD, true, false);
        scene.see(REMOTE, "eth0", ONWARD, true, false);
        scene
    }

    fn see(&mut self, host: &str, link: &str, source: SocketAddrV4, cookie: bool, tunnelled: bool) {
        let text = self.cookie.to_string();
        let tunnel = Tunnel { source: NODE_IP, destination: Ipv4Addr::new(10, 244, 1, 3) };
        let segment = Segment {
            source,
            destination: REMOTE_SERVER,
            flags: if cookie { flags(0x18) } else { flags(0x02) },
            payload: if cookie { text.as_bytes() } else { b"" },
            tunnel: tunnelled.then_some(tunnel),
        };
        self.ledger.see(&Spot { host: host.to_owned(), link: link.to_owned() }, true, &segment);
    }

    fn verdict(&self) -> Verdict {
        Verdict::of(&self.ledger, 10, 0, &self.records)
    }

    fn signs(&self) -> Vec<Sign> {
        self.verdict().escapes.iter().map(|escape| escape.sign).collect()
    }
}

/// As a segment would have brought them.
fn flags(flags: u8) -> wire::Flags {
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend([0; 8 + 12]);
    packet.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
    wire::ipv4(&packet).unwrap().flags
}

#[test]
fn the_usual_way_is_no_escape() {
    Scene::usual().verdict().nothing_escaped().unwrap();
}

#[test]
fn a_first_segment_on_the_wire_or_at_the_server_is_one() {
    for (host, link) in [(NODE, "eth0"), (REMOTE, "eth0"), (NODE, "vethB"), ("app-b", "eth0"), (NODE, "link 9, gone")] {
        let mut scene = Scene::usual();
        scene.see(host, link, CLIENT, false, false);
        scene.see(host, link, CLIENT, false, false);
        let verdict = scene.verdict();
        let [escape] = &verdict.escapes[..] else { panic!("{:?}", verdict.escapes) };
        assert_eq!((escape.sign, escape.count, escape.first.flags.opens()), (Sign::Ends, 2, true));
        assert!(verdict.nothing_escaped().unwrap_err().to_string().contains("meshed to remote"));
        assert_eq!(verdict.escaped().get("meshed to remote"), Some(&1));
    }
}

#[test]
fn an_answer_by_the_wire_is_one() {
    let mut scene = Scene::usual();
    let answer = Segment { source: REMOTE_SERVER, destination: CLIENT, flags: flags(0x12), payload: b"", tunnel: None };
    scene.ledger.see(&Spot { host: NODE.to_owned(), link: "eth0".to_owned() }, false, &answer);
    assert_eq!(scene.signs(), [Sign::Ends]);
}

#[test]
fn a_bare_reset_is_none() {
    let mut scene = Scene::usual();
    let spot = Spot { host: NODE.to_owned(), link: "eth0".to_owned() };
    let reset =
        |payload| Segment { source: CLIENT, destination: REMOTE_SERVER, flags: flags(0x04), payload, tunnel: None };
    scene.ledger.see(&spot, true, &reset(b""));
    assert_eq!(scene.signs(), []);
    scene.ledger.see(&spot, true, &reset(b"why"));
    assert_eq!(scene.signs(), [Sign::Ends]);
}

#[test]
fn a_tunnel_to_another_place_is_one() {
    let mut scene = Scene::usual();
    scene.see(NODE, "eth0", CLIENT, false, true);
    scene.see(NODE, "vethA", CLIENT, false, true);
    assert_eq!(scene.signs(), [Sign::Ends, Sign::Ends]);
}

#[test]
fn a_cookie_under_ends_that_no_proxy_has_is_one() {
    let mut scene = Scene::usual();
    scene.records[0].client = SocketAddr::V4(SocketAddrV4::new(*CLIENT.ip(), 33_002));
    assert_eq!(scene.signs(), [Sign::Cookie], "the proxy connected from there for someone else");
    let mut scene = Scene::usual();
    scene.see(NODE, "eth0", SocketAddrV4::new(NODE_IP, 1024), true, false);
    assert_eq!(scene.signs(), [Sign::Cookie]);
}

/// The proxy connects onward to a meshed pod under its client's address, and the pod answers past it.
#[test]
fn an_answer_to_the_proxy_that_passes_it_by_is_one() {
    let server = SocketAddrV4::new(Ipv4Addr::new(10, 244, 1, 6), 80);
    let client = SocketAddrV4::new(*REMOTE_SERVER.ip(), 33_001);
    let end = SocketAddrV4::new(*client.ip(), 40_001);
    let mut scene = Scene::usual();
    scene.ledger.register(Attempt {
        stream: "remote to meshed",
        from: REMOTE.to_owned(),
        client,
        proxied: true,
        server: Some(("app-b".to_owned(), server)),
    });
    let answer = Segment { source: server, destination: end, flags: flags(0x12), payload: b"", tunnel: None };
    let mut see = |link: &str| scene.ledger.see(&Spot { host: NODE.to_owned(), link: link.to_owned() }, true, &answer);
    see("vethB");
    see("vethZ");
    see("eth0");
    assert!(scene.signs().is_empty(), "somebody else's, who is not judged");
    let record =
        Record { client: SocketAddr::V4(client), onward_source: Some(SocketAddr::V4(end)), ..scene.records[0].clone() };
    scene.records.push(record);
    let reset = Segment { flags: flags(0x04), ..answer };
    scene.ledger.see(&Spot { host: REMOTE.to_owned(), link: "eth0".to_owned() }, false, &reset);
    let verdict = scene.verdict();
    let [escape] = &verdict.escapes[..] else { panic!("{:?}", verdict.escapes) };
    assert_eq!((escape.sign, escape.first.spot.link.as_str()), (Sign::Onward, "eth0"));
    assert_eq!(escape.attempt.as_ref().map(|attempt| attempt.stream), Some("remote to meshed"));
}

#[test]
fn a_first_segment_under_the_nodes_address_is_one() {
    let mut scene = Scene::usual();
    scene.see(NODE, "eth0", SocketAddrV4::new(NODE_IP, CLIENT.port()), false, false);
    assert_eq!(scene.signs(), [Sign::Port]);
    let mut scene = Scene::usual();
    scene.see(NODE, "eth0", SocketAddrV4::new(NODE_IP, 61_001), false, false);
    assert!(scene.signs().is_empty(), "the node's own");
}

#[test]
fn what_need_not_pass_a_proxy_may_be_anywhere() {
    let mut scene = Scene::new(false);
    scene.see("app-a", "eth0", CLIENT, true, false);
    scene.see(NODE, "eth0", CLIENT, true, false);
    scene.verdict().nothing_escaped().unwrap();
}

#[test]
fn a_judge_who_has_not_seen_enough_says_so() {
    let blind = Scene::new(true);
    assert!(blind.verdict().nothing_escaped().unwrap_err().to_string().contains("not seen"));
    let mut half = Scene::new(true);
    half.see("app-a", "eth0", CLIENT, true, false);
    assert!(half.verdict().nothing_escaped().unwrap_err().to_string().contains("at a proxy"));
    let usual = Scene::usual();
    let full = Verdict::of(&usual.ledger, 10, 1, &usual.records);
    assert!(full.nothing_escaped().unwrap_err().to_string().contains("no room for 1"));
    let idle = Verdict::of(&Ledger::new(Surroundings::default()), 10, 0, &[]);
    assert!(idle.nothing_escaped().unwrap_err().to_string().contains("nothing is shown"));
}
