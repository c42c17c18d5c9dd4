//! Every attempt to connect, written down before its first packet, and what was seen of it. Taps tell it of segments one by one; only
//! what is worth telling is kept.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use super::cookie::Cookie;
use super::spot::{Spot, Surroundings};
use super::wire::{Flags, Segment, Tunnel};
use crate::layout::{NODE_IP, NODE_SECOND_IP};
use crate::ports::CLIENT_PORTS;

/// An attempt to connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// What a reader calls connections like it.
    pub stream: &'static str,
    /// Where the client is: `node`, `remote` or a pod.
    pub from: String,
    /// The client's address, and a port that no other attempt from it has.
    pub client: SocketAddrV4,
    /// Whether it has to pass a proxy.
    pub proxied: bool,
    /// The meshed pod that it is for, and its address there, if it is for one: then the proxy's connection onward has no business at
    /// another place than between the two.
    pub server: Option<(String, SocketAddrV4)>,
}

/// A segment that was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sighting {
    /// After the judge began to watch.
    pub when: Duration,
    /// Where.
    pub spot: Spot,
    /// Whether the link sent it, and did not get it.
    pub sent: bool,
    /// Its ends.
    pub ends: [SocketAddrV4; 2],
    /// What it was for.
    pub flags: Flags,
    /// The tunnel that it was in.
    pub tunnel: Option<Tunnel>,
    /// Whether it, or one like it that was seen later at the same place, begins with a cookie.
    pub cookie: bool,
}

/// An attempt and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) attempt: Attempt,
    pub(super) cookie: Cookie,
    pub(super) came_about: bool,
    /// Whether its cookie was seen where the client is.
    pub(super) at_client: bool,
    /// Whether anything of it was seen at a proxy, under its own ends.
    pub(super) at_proxy: bool,
}

/// Sightings of one attempt at one spot: the first, when the last was, and how many.
#[derive(Clone, Debug)]
pub(super) struct Sightings {
    pub(super) first: Sighting,
    pub(super) last: Duration,
    pub(super) count: usize,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) since: Instant,
    pub(super) surroundings: Surroundings,
    pub(super) entries: Vec<Entry>,
    by_client: HashMap<SocketAddrV4, usize>,
    by_cookie: HashMap<Cookie, usize>,
    /// Meshed pods that connections are for.
    servers: HashMap<SocketAddrV4, String>,
    /// Under the client's own ends, where nothing of it may be.
    pub(super) escapes: BTreeMap<(usize, Spot, bool), Sightings>,
    /// Cookies under other ends than the client's. Whether a proxy has connected from there is on its record.
    pub(super) elsewhere: BTreeMap<(usize, [SocketAddrV4; 2]), Sightings>,
    /// Between a meshed server and this end, which no client has, away from server and proxies. Whether it is a proxy's connection onward
    /// is on its record.
    pub(super) strayed: BTreeMap<(SocketAddrV4, Spot), Sightings>,
    /// First segments from the node's own addresses and a client's port: the client's own, with its address translated.
    pub(super) disguised: BTreeMap<SocketAddrV4, Sightings>,
}

impl Ledger {
    pub(super) fn new(surroundings: Surroundings) -> Self {
        Self {
            since: Instant::now(),
            surroundings,
            entries: Vec::new(),
            by_client: HashMap::new(),
            by_cookie: HashMap::new(),
            servers: HashMap::new(),
            escapes: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            strayed: BTreeMap::new(),
            disguised: BTreeMap::new(),
        }
    }

    pub(super) fn register(&mut self, attempt: Attempt) -> Cookie {
        let (cookie, number) = (Cookie::fresh(), self.entries.len());
        self.by_client.insert(attempt.client, number);
        if let Some((pod, address)) = attempt.server.as_ref().filter(|_| attempt.proxied) {
            self.servers.insert(*address, pod.clone());
        }
        self.by_cookie.insert(cookie, number);
        self.entries.push(Entry { attempt, cookie, came_about: false, at_client: false, at_proxy: false });
        cookie
    }

    pub(super) fn came_about(&mut self, cookie: Cookie) {
        if let Some(entry) = self.by_cookie.get(&cookie).and_then(|number| self.entries.get_mut(*number)) {
            entry.came_about = true;
        }
    }

    /// Takes notice of a segment at a spot; `sent` by the link or received.
    pub(super) fn see(&mut self, spot: &Spot, sent: bool, segment: &Segment<'_>) {
        let ends = [segment.source, segment.destination];
        let cookie = Cookie::at_start_of(segment.payload);
        let sighting = |cookie: bool| Sighting {
            when: self.since.elapsed(),
            spot: spot.clone(),
            sent,
            ends,
            flags: segment.flags,
            tunnel: segment.tunnel,
            cookie,
        };
        let owner = ends.iter().find_map(|end| self.by_client.get(end).copied());
        if let Some(number) = owner {
            let entry = &mut self.entries[number];
            let (client, tunnelled) = (entry.attempt.from.as_str(), segment.tunnel.is_some());
            let own_cookie = cookie == Some(entry.cookie);
            entry.at_client |= own_cookie && self.surroundings.is_at(client, spot);
            entry.at_proxy |= self.surroundings.is_at_proxy(spot);
            // A ztunnel resets what it does not know, under the ends that it was sent: it says nothing of the client's, and opens nothing.
            let speaks = entry.attempt.proxied && !segment.is_bare_reset();
            if speaks && !self.surroundings.is_on_its_way(client, spot, tunnelled) {
                let sighting = sighting(own_cookie);
                note(self.escapes.entry((number, spot.clone(), tunnelled)), sighting);
            }
        }
        let named = cookie.and_then(|cookie| self.by_cookie.get(&cookie).copied());
        if let Some(number) = named.filter(|number| owner != Some(*number)) {
            note(self.elsewhere.entry((number, ends)), sighting(true));
        }
        let served = self.servers.get_key_value(&ends[0]).or_else(|| self.servers.get_key_value(&ends[1]));
        // A reset is none here either: a former ztunnel's connection onward may go on when the next one, which does not know it, is sent its segments.
        if let Some((server, pod)) = served.filter(|_| owner.is_none() && !segment.is_bare_reset()) {
            let other = if ends[0] == *server { ends[1] } else { ends[0] };
            if !self.surroundings.is_on_its_way(pod, spot, segment.tunnel.is_some()) {
                note(self.strayed.entry((other, spot.clone())), sighting(cookie.is_some()));
            }
        }
        if owner.is_none() && segment.flags.opens() && is_disguise(segment.source) {
            note(self.disguised.entry(segment.source), sighting(false));
        }
    }
}

fn note<K: Ord>(entry: std::collections::btree_map::Entry<'_, K, Sightings>, sighting: Sighting) {
    let (cookie, when) = (sighting.cookie, sighting.when);
    let seen = entry.or_insert(Sightings { first: sighting, last: when, count: 0 });
    seen.count += 1;
    seen.last = when;
    seen.first.cookie |= cookie;
}

/// Nobody connects from there without being registered: it is what masquerading makes of a client's address, keeping its port.
fn is_disguise(source: SocketAddrV4) -> bool {
    let node: [Ipv4Addr; 2] = [NODE_IP, NODE_SECOND_IP];
    node.contains(source.ip()) && CLIENT_PORTS.contains(&source.port())
}
