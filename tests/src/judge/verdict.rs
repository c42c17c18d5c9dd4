//! What the judge says in the end: what escaped, and whether it has seen enough to say so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::ledger::{Attempt, Ledger, Sighting, Sightings};
use super::tap::LATE;
use crate::proxy::Record;

/// How many of what is alike a reader gets to see.
const SHOWN: usize = 5;

/// What became of all attempts.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// When the judge began to watch.
    pub since: Instant,
    /// Attempts that were registered.
    pub attempts: usize,
    /// Those that came about.
    pub came_about: usize,
    /// Segments and datagrams that the taps have read.
    pub packets: u64,
    /// Those that taps had no room for: any of them may have been an escape.
    pub drops: u64,
    /// What was where it must not be.
    pub escapes: Vec<Escape>,
    /// What came about and was not seen where it must have been: then the taps are blind, and know nothing of escapes either.
    pub unseen: Vec<String>,
}

/// Segments of one attempt at one spot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Escape {
    /// Whose; `None` where nothing says it.
    pub attempt: Option<Attempt>,
    /// By what it is known.
    pub sign: Sign,
    /// The first of them.
    pub first: Sighting,
    /// When the last was, after the judge began to watch.
    pub last: Duration,
    /// How many there were.
    pub count: usize,
}

/// By what a segment is known as an attempt's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Sign {
    /// The client's own address and port.
    Ends,
    /// The cookie, under ends that are neither the client's nor a proxy's on its behalf.
    Cookie,
    /// The proxy's own end of a connection onward to a meshed pod.
    Onward,
    /// A client's port under the node's address.
    Port,
}

impl Verdict {
    pub(super) fn of(ledger: &Ledger, packets: u64, drops: u64, records: &[Record]) -> Self {
        let came_about = || ledger.entries.iter().enumerate().filter(|(_, entry)| entry.came_about);
        let escaped: BTreeSet<usize> = ledger.escapes.keys().map(|(number, ..)| *number).collect();
        let unseen = came_about().filter_map(|(number, entry)| {
            // What escaped need not have been at a proxy.
            let at_proxy = entry.at_proxy || !entry.attempt.proxied || escaped.contains(&number);
            let what = match (entry.at_client, at_proxy) {
                (true, true) => return None,
                (false, _) => "its cookie was not seen where it began",
                (true, false) => "it was not seen at a proxy",
            };
            Some(format!("{}: {what}", entry.attempt))
        });
        Self {
            since: ledger.since,
            attempts: ledger.entries.len(),
            came_about: came_about().count(),
            packets,
            drops,
            escapes: escapes(ledger, records),
            unseen: unseen.collect(),
        }
    }

    /// Nothing escaped, and nothing could have without being seen.
    pub fn nothing_escaped(&self) -> Result<()> {
        self.is_sound()?;
        let shown = self.escapes.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join("\n");
        ensure!(self.escapes.is_empty(), "{} escapes:\n{shown}", self.escapes.len());
        Ok(())
    }

    /// Nothing escaped but what did so first between `begin` and `end`, and that no more once it was `over`; and nothing could have without
    /// being seen.
    pub fn nothing_escaped_but(&self, begin: Instant, end: Instant, over: Instant) -> Result<()> {
        self.is_sound()?;
        let [begin, end, over] = [begin, end, over].map(|moment| moment.duration_since(self.since));
        let (end, over) = (end + LATE, over + LATE);
        let wrong = |escape: &&Escape| !(begin..=end).contains(&escape.first.when) || escape.last > over;
        let wrong: Vec<_> = self.escapes.iter().filter(wrong).collect();
        let shown = wrong.iter().take(SHOWN).map(|escape| format!("{escape}, last at {:.2?}", escape.last));
        let shown = shown.collect::<Vec<_>>().join("\n");
        ensure!(
            wrong.is_empty(),
            "{} escapes that are not from {begin:.2?} to {end:.2?}, or go on after {over:.2?}:\n{shown}",
            wrong.len()
        );
        Ok(())
    }

    /// The taps have seen everything that there was to see.
    pub fn is_sound(&self) -> Result<()> {
        ensure!(self.drops == 0, "taps had no room for {} packets of {}", self.drops, self.drops + self.packets);
        ensure!(self.came_about > 0, "not one of {} attempts came about: nothing is shown", self.attempts);
        let shown = self.unseen.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
        ensure!(self.unseen.is_empty(), "{} of {} were not seen: {shown}", self.unseen.len(), self.came_about);
        Ok(())
    }

    /// Attempts that escaped, by stream.
    #[must_use]
    pub fn escaped(&self) -> BTreeMap<&'static str, usize> {
        let attempts: BTreeSet<_> = self
            .escapes
            .iter()
            .filter_map(|escape| escape.attempt.as_ref())
            .map(|attempt| (attempt.stream, attempt.client))
            .collect();
        let mut streams = BTreeMap::new();
        for (stream, _) in attempts {
            *streams.entry(stream).or_default() += 1;
        }
        streams
    }
}

/// For a log.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attempts, came_about, packets, drops, escapes, .. } = self;
        let escapes = escapes.len();
        write!(
            f,
            "{escapes} escapes in {attempts} attempts, of which {came_about} came about; {packets} packets, {drops} dropped"
        )
    }
}

fn escapes(ledger: &Ledger, records: &[Record]) -> Vec<Escape> {
    let escape = |number: Option<usize>, sign, seen: &Sightings| Escape {
        attempt: number.map(|number| ledger.entries[number].attempt.clone()),
        sign,
        first: seen.first.clone(),
        last: seen.last,
        count: seen.count,
    };
    let mut all: Vec<Escape> =
        ledger.escapes.iter().map(|((number, ..), seen)| escape(Some(*number), Sign::Ends, seen)).collect();
    let onward: BTreeSet<(SocketAddr, SocketAddr)> =
        records.iter().filter_map(|record| Some((record.client, record.onward_source?))).collect();
    let is_onward = |client: SocketAddrV4, ends: &[SocketAddrV4; 2]| {
        ends.iter().any(|end| onward.contains(&(SocketAddr::V4(client), SocketAddr::V4(*end))))
    };
    let strange = ledger.elsewhere.iter().filter(|((number, ends), _)| {
        let attempt = &ledger.entries[*number].attempt;
        attempt.proxied && !is_onward(attempt.client, ends)
    });
    all.extend(strange.map(|((number, _), seen)| escape(Some(*number), Sign::Cookie, seen)));
    let by_onward: BTreeMap<SocketAddr, SocketAddr> =
        records.iter().filter_map(|record| Some((record.onward_source?, record.client))).collect();
    let number =
        |client: &SocketAddr| ledger.entries.iter().rposition(|entry| SocketAddr::V4(entry.attempt.client) == *client);
    let strayed =
        ledger.strayed.iter().filter_map(|((end, _), seen)| Some((by_onward.get(&SocketAddr::V4(*end))?, seen)));
    all.extend(strayed.map(|(client, seen)| escape(number(client), Sign::Onward, seen)));
    all.extend(ledger.disguised.values().map(|seen| escape(None, Sign::Port, seen)));
    all.sort_by_key(|escape| escape.first.when);
    all
}

/// As an operator would say it.
impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (from {}, {})", self.stream, self.from, self.client)
    }
}

/// What, where and when.
impl fmt::Display for Escape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.attempt {
            Some(attempt) => write!(f, "{attempt}: ")?,
            None => write!(f, "somebody's: ")?,
        }
        let Sighting { when, spot, sent, ends: [source, destination], flags, tunnel, cookie } = &self.first;
        let way = if *sent { "out" } else { "in" };
        write!(f, "{} x {source} > {destination} [{flags}] {way} on {spot}, first at {when:.2?}", self.count)?;
        if *cookie {
            write!(f, ", with its cookie")?;
        }
        match tunnel {
            Some(tunnel) => write!(f, ", in a tunnel {} > {}", tunnel.source, tunnel.destination),
            None => Ok(()),
        }
    }
}
