//! The corpus against the law, and against itself.

use std::collections::{BTreeMap, BTreeSet};

use redirect_common::names::TUNNEL_PORT;
use redirect_common::packet::{Packet, TCP, UDP, Unparsed};
use redirect_common::policy::{Row, decide};

use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn parse(step: &Step, packet: &[u8]) -> Result<Packet, Unparsed> {
    match step.place {
        Place::Output => Packet::from_ip(packet),
        _ => Packet::from_ethernet(step.frame(MAC, MAC, packet).as_slice()),
    }
}

/// The rows that the law gives for the fragments of a step, each by itself.
fn fragment_rows(step: &Step, oracle: &Oracle) -> Vec<Result<Row, Unparsed>> {
    let judge = |bytes: Vec<u8>| {
        let packet = parse(step, &bytes)?;
        let told = packet.ports.is_some() || !matches!(packet.protocol, TCP | UDP);
        let view = oracle.view(step.key().filter(|_| told));
        Ok(decide(step.place.hook(), &packet, &view).row)
    };
    step.packets(1).into_iter().map(judge).collect()
}

fn check(conversation: &Conversation, oracle: &mut Oracle) -> Vec<String> {
    let mut wrong = Vec::new();
    for step in &conversation.steps {
        let name = format!("{} / {}", conversation.name, step.name);
        let key = step.key();
        if step.anew {
            oracle.forget(key);
        }
        if !step.cuts.is_empty() {
            let rows = fragment_rows(step, oracle);
            if rows != step.fragments.iter().map(|&row| Ok(row)).collect::<Vec<_>>() {
                wrong.push(format!("{name}: fragments meet {rows:?}, not {:?}", step.fragments));
            }
        }
        let verdict =
            parse(step, &step.datagram.bytes(1)).map(|packet| decide(step.place.hook(), &packet, &oracle.view(key)));
        let row = verdict.map(|verdict| verdict.row);
        if row != step.law {
            wrong.push(format!("{name}: meets {row:?}, not {:?}", step.law));
        }
        if let Ok(verdict) = verdict {
            oracle.remember(key, &verdict);
        }
    }
    wrong
}

#[test]
fn the_law_gives_the_expected_rows() {
    for port in [TUNNEL_PORT, 16081] {
        let mut oracle = Oracle::new(port);
        let wrong: Vec<_> =
            conversations(port).iter().flat_map(|conversation| check(conversation, &mut oracle)).collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

#[test]
fn names_are_unique() {
    let mut names = BTreeSet::new();
    for conversation in conversations(TUNNEL_PORT) {
        let mut steps = BTreeSet::new();
        for step in &conversation.steps {
            assert!(steps.insert(step.name.clone()), "twice in {}: {}", conversation.name, step.name);
        }
        assert!(names.insert(conversation.name.clone()), "twice: {}", conversation.name);
    }
}

#[test]
fn it_is_large() {
    let packets: usize = conversations(TUNNEL_PORT).iter().map(|conversation| conversation.steps.len()).sum();
    println!("{packets} named packets");
    assert!(packets >= 2000, "{packets}");
}

/// Otherwise what one remembers would change what another meets.
#[test]
fn conversations_share_no_connection() {
    let mut owners: BTreeMap<Key, String> = BTreeMap::new();
    for conversation in conversations(TUNNEL_PORT) {
        for key in conversation.steps.iter().filter_map(Step::key) {
            let owner = owners.entry(key).or_insert_with(|| conversation.name.clone());
            assert_eq!(*owner, conversation.name, "{key:?}");
        }
    }
}

/// Every row in every place where it can be met, by packets that the rules see too.
#[test]
fn it_covers_the_law() {
    let mut met = BTreeSet::new();
    let steps: Vec<_> = conversations(TUNNEL_PORT).into_iter().flat_map(|conversation| conversation.steps).collect();
    for step in &steps {
        met.extend(step.rules_row().map(|row| (step.place, row)));
    }
    let expected: BTreeSet<_> = Place::ALL
        .into_iter()
        .flat_map(|place| {
            let rows: &[Row] = match place {
                Place::TunnelIn | Place::TunnelOut => &[Row::FromTunnel],
                Place::Proxy | Place::ProxyB => &[Row::TunnelItself, Row::KnownSkip, Row::ProxyAsClient, Row::ProxyOwn],
                Place::Pod | Place::Uplink => {
                    &[Row::TunnelItself, Row::KnownSkip, Row::KnownProxy, Row::Udp, Row::Outbound, Row::Rest]
                }
                Place::Output => &[
                    Row::TunnelItself,
                    Row::KnownSkip,
                    Row::KnownProxy,
                    Row::Udp,
                    Row::NodeProbe,
                    Row::Outbound,
                    Row::Rest,
                ],
            };
            rows.iter().map(move |&row| (place, row))
        })
        .collect();
    assert_eq!(expected.difference(&met).collect::<Vec<_>>(), Vec::<&(Place, Row)>::new());
    let seen = steps.iter().filter(|step| step.rules_row().is_some()).count();
    assert!(seen >= 2000, "the rules see only {seen} packets of {}", steps.len());
}

#[test]
fn fragments_say_what_they_expect() {
    for conversation in conversations(TUNNEL_PORT) {
        for step in conversation.steps.iter().filter(|step| !step.cuts.is_empty()) {
            assert_eq!(step.fragments.len(), step.cuts.len() + 1, "{} / {}", conversation.name, step.name);
            assert!(step.cuts.iter().all(|cut| cut % 8 == 0 && *cut < step.datagram.payload.len()), "{}", step.name);
        }
    }
}
