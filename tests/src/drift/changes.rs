//! Things that are made others instead of being taken away.

use std::collections::BTreeSet;

use super::{OURS, Removal, Way, rules};
use crate::backend::Backend;
use crate::snapshot::{Section, Snapshot};

/// An address that nobody has (RFC 5737).
const NOBODY: &str = "198.51.100.9";

/// Everything in `after` that was not in `before`, made another.
#[must_use]
pub fn changes(before: &Snapshot, after: &Snapshot, backend: Backend) -> Vec<Removal> {
    let new = |section: Section| {
        let old: BTreeSet<_> = before.section(section).lines().collect();
        after.section(section).lines().filter(move |line| !old.contains(line))
    };
    let mut all: Vec<Removal> = Vec::new();
    all.extend(new(Section::LINKS).filter_map(link).flatten());
    all.extend(new(Section::ROUTES).filter_map(route));
    all.extend(routing_tables(before.section(Section::ROUTES), after.section(Section::ROUTES)));
    all.extend(new(Section::SETS).filter_map(set).flatten());
    let save = Section::Command(backend.save());
    all.extend(jumps(before.section(save), after.section(save), backend));
    all.extend(chains(before.section(save), after.section(save), backend));
    all.extend(guards(before.section(Section::GUARD), after.section(Section::GUARD)));
    all
}

fn link(line: &str) -> Option<[Removal; 3]> {
    let name = line.split_whitespace().next()?.trim_end_matches(':');
    let words: Vec<_> = line.split_whitespace().collect();
    let after = |word: &str| words.iter().skip_while(|other| **other != word).nth(1);
    let id = after("geneve").filter(|word| **word == "id").and_then(|_| after("id"))?;
    let ways = [
        ("link down", format!("ip link set {name} down")),
        ("link's address changed", format!("ip link set {name} address 02:00:00:00:00:99")),
        ("link's remote changed", format!("ip link set dev {name} type geneve id {id} remote {NOBODY}")),
    ];
    Some(ways.map(|(kind, command)| Removal::by(Section::LINKS, kind, &command, command.clone())))
}

/// The next hop is lost, or there is one that nobody has.
fn route(line: &str) -> Option<Removal> {
    let words: Vec<_> = line.split_whitespace().collect();
    let after = |word: &str| words.iter().skip_while(|other| **other != word).nth(1);
    let (destination, device, table) = (words.first()?, after("dev")?, after("table")?);
    if line.contains("proto kernel") || *destination == "local" {
        return None;
    }
    let way = if words.contains(&"via") { "scope link".to_owned() } else { format!("via {NOBODY} onlink") };
    let command = format!("ip route replace {destination} {way} dev {device} table {table}");
    // The kernel prints the way ahead of the device, and takes it in any order.
    Some(Removal::by(Section::ROUTES, "route changed", &command, command.clone()))
}

/// All of a table by a device of ours; others' routes in it are by other devices.
fn routing_tables(before: &str, after: &str) -> Vec<Removal> {
    let place = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let after = |word: &str| words.iter().skip_while(|other| **other != word).nth(1).map(ToString::to_string);
        let table = after("table").filter(|table| table.parse::<u32>().is_ok_and(|number| number != 254))?;
        Some((table, after("dev")?))
    };
    let old: BTreeSet<_> = before.lines().filter_map(place).collect();
    let new: BTreeSet<_> = after.lines().filter_map(place).filter(|place| !old.contains(place)).collect();
    let commands = new.into_iter().map(|(table, device)| format!("ip route flush table {table} dev {device}"));
    commands.map(|command| Removal::by(Section::ROUTES, "table flushed", &command, command.clone())).collect()
}

/// Of an entry more, of none, and another set in its place.
fn set(line: &str) -> Option<[Removal; 3]> {
    let words: Vec<_> = line.split_whitespace().collect();
    let ["create", name, kind, ..] = words[..] else { return None };
    let ways =
        [("set entry added", format!("ipset add {name} {NOBODY}")), ("set emptied", format!("ipset flush {name}"))];
    let [added, emptied] = ways.map(|(kind, command)| Removal::by(Section::SETS, kind, &command, command.clone()));
    // What a snapshot does not say is left to the default.
    let options = words[3..].chunks(2).filter(|option| option.last() != Some(&"*")).flatten().copied();
    let create: Vec<_> = ["create", "other", kind].into_iter().chain(options).collect();
    let other = format!("{}\nswap {name} other\ndestroy other\n", create.join(" "));
    let swapped = Removal {
        what: format!("ipset swap {name} other"),
        kind: "set swapped",
        told: false,
        section: Section::SETS,
        way: Way::Run("ipset restore".to_owned(), other),
    };
    Some([added.untold(), emptied.untold(), swapped])
}

/// Jumps of ours behind those of others that are in the same chain.
fn jumps(before: &str, after: &str, backend: Backend) -> Vec<Removal> {
    let old: BTreeSet<_> = rules(before).into_iter().collect();
    let all = rules(after);
    let chain = |line: &str| line.strip_prefix("-A ")?.split_whitespace().next().map(str::to_owned);
    let is_jump = |line: &str| chain(line).is_some_and(|chain| !chain.starts_with(OURS));
    let last = |table: &str, line: &str| {
        let same = |(other, rule): &&(String, String)| other == table && chain(rule) == chain(line);
        all.iter().rfind(same).is_some_and(|(_, last)| last == line)
    };
    let ours = all
        .iter()
        .filter(|(table, line)| is_jump(line) && !last(table, line) && !old.contains(&(table.clone(), line.clone())));
    let moved = |(table, line): &(String, String)| {
        let rule = line.trim_start_matches("-A ");
        Removal {
            what: format!("{table} rule {rule}, put last"),
            kind: "jump moved",
            told: backend == Backend::Nft,
            section: Section::Command(backend.save()),
            way: Way::Run(
                format!("{} --wait 10 --noflush", backend.restore()),
                format!("*{table}\n-D {rule}\n-A {rule}\nCOMMIT\n"),
            ),
        }
    };
    ours.map(moved).collect()
}

/// A rule ahead of ours in a chain of ours, and a chain of ours without any.
fn chains(before: &str, after: &str, backend: Backend) -> Vec<Removal> {
    let old: BTreeSet<_> = rules(before).into_iter().collect();
    let new = rules(after).into_iter().filter(|rule| !old.contains(rule));
    let ours = new.filter_map(|(table, line)| {
        let chain = line.strip_prefix(':')?.strip_suffix(" -")?.to_owned();
        chain.starts_with(OURS).then_some((table, chain))
    });
    let ways = ours.flat_map(|(table, chain)| {
        let iptables = format!("{} --wait 10 -t {table}", backend.iptables());
        [
            ("rule of a chain added", format!("{iptables} -I {chain} 1 -j RETURN")),
            ("chain emptied", format!("{iptables} -F {chain}")),
        ]
    });
    let section = Section::Command(backend.save());
    let told = |removal: Removal| if backend == Backend::Nft { removal } else { removal.untold() };
    ways.map(|(kind, command)| told(Removal::by(section, kind, &command, command.clone()))).collect()
}

/// A rule of somebody's in a chain of a table of ours.
fn guards(before: &str, after: &str) -> Vec<Removal> {
    let chain = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["chain", name, "{"] => Some(name.to_owned()),
        _ => None,
    };
    let names = after.lines().filter_map(chain).filter(|_| before.is_empty());
    let command = |name: String| format!("nft insert rule ip ztunnel {name} counter");
    names.map(command).map(|command| Removal::by(Section::GUARD, "nft rule added", &command, command.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(removal: Removal) -> String {
        match removal.way {
            Way::Run(command, _) => command,
            Way::Write(..) | Way::Swap(_) | Way::Replace(_) => String::new(),
        }
    }

    #[test]
    fn links_get_another_remote() {
        let line = "istioin: <BROADCAST,UP> mtu 1450 link/ether 02:72 geneve id 1000 remote 10.244.1.4 ttl auto";
        let commands = link(line).unwrap().map(command);
        assert_eq!(commands[2], "ip link set dev istioin type geneve id 1000 remote 198.51.100.9");
        assert_eq!(link("veth1: <UP> mtu 1500 veth"), None);
    }

    #[test]
    fn tables_of_ours_are_flushed_and_jumps_go_behind_others() {
        let before = "198.51.100.0/25 via 172.18.0.1 dev eth0 table 101\n";
        let after = format!("{before}default via 192.168.127.2 dev istioout table 101\ndefault dev eth0 table 254\n");
        let flushed: Vec<_> = routing_tables(before, &after).into_iter().map(command).collect();
        assert_eq!(flushed, ["ip route flush table 101 dev istioout"]);
        let before = "*mangle\n-A PREROUTING -j OTHER\nCOMMIT\n";
        let after = "*mangle\n-A PREROUTING -j ztunnel-X\n-A PREROUTING -j OTHER\n-A OUTPUT -j ztunnel-Y\nCOMMIT\n";
        let moved: Vec<_> = jumps(before, after, Backend::Nft).into_iter().map(|removal| removal.what).collect();
        assert_eq!(moved, ["mangle rule PREROUTING -j ztunnel-X, put last"]);
    }

    #[test]
    fn a_set_gives_its_name_to_another() {
        let [.., swapped] = set("create pods hash:ip family inet hashsize * maxelem 65536").unwrap();
        let input = "create other hash:ip family inet maxelem 65536\nswap pods other\ndestroy other\n";
        assert_eq!(swapped.way, Way::Run("ipset restore".to_owned(), input.to_owned()));
    }

    #[test]
    fn routes_keep_their_device() {
        let changed = |line| route(line).map(command);
        assert_eq!(
            changed("default via 192.168.127.2 dev istioout table 101").unwrap(),
            "ip route replace default scope link dev istioout table 101"
        );
        assert_eq!(
            changed("10.244.1.4 dev vethz table 100 scope link src 172.18.0.2").unwrap(),
            "ip route replace 10.244.1.4 via 198.51.100.9 onlink dev vethz table 100"
        );
        assert_eq!(changed("local default dev lo table 100 scope host"), None);
    }
}
