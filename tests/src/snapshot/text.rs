//! Which part of a tool's output is state, and which part differs from one look to the next.

/// Without comments (they hold dates) and counters, and sorted where the kernel's order is by hash.
pub(super) fn stable(command: &str, text: &str) -> String {
    let mut lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).map(without_counters).collect();
    if command.starts_with("ipset") || command.contains(" neigh ") {
        lines.sort();
    }
    if command == "iptables-legacy-save" {
        lines = without_untouched_tables(&lines);
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

/// `:PREROUTING ACCEPT [12:3456]` without the numbers, and a bridge without its running timers, and up as soon as it works: that it is, its kernel
/// says some time after it got its first port (`linkwatch_fire_event`).
fn without_counters(line: &str) -> String {
    match line.rsplit_once(" [") {
        Some((chain, _)) if line.starts_with(':') => chain.to_owned(),
        _ if line.contains("_timer ") => without_timers(line),
        _ => line.trim_end().to_owned(),
    }
}

fn without_timers(line: &str) -> String {
    let mut words = line.split_whitespace();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if word.ends_with("_timer") {
            words.next();
        } else {
            let is_state = kept.last() == Some(&"state");
            kept.push(if is_state && word == "UNKNOWN" { "UP" } else { word });
        }
    }
    kept.join(" ")
}

/// A legacy table is made in a netns when it is first looked at and can never be removed again; one that holds nothing
/// but the built-in chains with their first policy does nothing, and is as good as none.
fn without_untouched_tables(lines: &[String]) -> Vec<String> {
    let tables = lines.split_inclusive(|line| line == "COMMIT");
    let touched = |table: &&[String]| {
        table.iter().any(|line| line.starts_with('-') || (line.starts_with(':') && !line.ends_with(" ACCEPT")))
    };
    tables.filter(touched).flatten().cloned().collect()
}

/// One line without indices, hardware addresses of tunnels, and hash seeds.
pub(super) fn shape(line: &str) -> String {
    let tunnel = line.contains(" geneve ");
    let mut words = line.split_whitespace().skip(usize::from(starts_with_index(line)));
    let mut shaped = Vec::new();
    while let Some(word) = words.next() {
        shaped.push(word.split_once("@if").map_or(word, |(name, _)| name).to_owned());
        if word == "initval" || (tunnel && word == "link/ether") {
            words.next();
            shaped.push("*".to_owned());
        }
    }
    shaped.join(" ")
}

/// `ip rule` also starts with a number and a colon; there it is the priority.
fn starts_with_index(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let number = words.next().and_then(|word| word.strip_suffix(':')).is_some_and(|word| word.parse::<u32>().is_ok());
    number && words.next() != Some("from")
}

/// Whether the name is in the line, and not only as part of another.
pub(super) fn mentions(line: &str, name: &str) -> bool {
    places(line, name).next().is_some()
}

/// The line with `other` wherever it has `word`.
pub(super) fn with_word(line: &str, word: &str, other: &str) -> String {
    let (mut changed, mut rest) = (String::new(), 0);
    for at in places(line, word) {
        changed += &line[rest..at];
        changed += other;
        rest = at + word.len();
    }
    changed + &line[rest..]
}

/// Where a word is.
fn places<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let goes_on = |c: char| c.is_ascii_alphanumeric() || c == '.';
    line.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| !line[..*at].ends_with(goes_on) && !line[at + word.len()..].starts_with(goes_on))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_whole() {
        assert!(mentions("7: veth12@if2: <UP>", "veth12") && mentions("conf/veth12/rp_filter = 0", "veth12"));
        assert!(!mentions("7: veth123@if2: <UP>", "veth12") && !mentions("", "veth12"));
        let line = "inet 10.244.1.2/24 brd 10.244.1.255 via 10.244.1.2";
        assert_eq!(with_word(line, "10.244.1.2", "OWN"), "inet OWN/24 brd 10.244.1.255 via OWN");
    }

    #[test]
    fn an_empty_legacy_table_is_no_table() {
        let text = "# Generated\n*mangle\n:PREROUTING ACCEPT [5:300]\nCOMMIT\n*nat\n:OUTPUT ACCEPT [0:0]\n:X - [0:0]\nCOMMIT\n";
        assert_eq!(stable("iptables-legacy-save", text), "*nat\n:OUTPUT ACCEPT\n:X -\nCOMMIT\n");
        assert!(stable("iptables-nft-save", text).starts_with("*mangle\n:PREROUTING ACCEPT\nCOMMIT\n"));
    }

    #[test]
    fn the_shape_of_a_tunnel_is_without_index_and_random_address() {
        let line = "7: istioin: <UP> mtu 1450 link/ether 0a:11:22:33:44:55 brd ff:ff geneve id 1000 remote 10.244.1.6";
        assert_eq!(shape(line), "istioin: <UP> mtu 1450 link/ether * brd ff:ff geneve id 1000 remote 10.244.1.6");
        assert_eq!(shape("2: eth0@if5: <UP>"), "eth0 <UP>");
        assert_eq!(
            shape("100:\tfrom all fwmark 0x200/0x200 goto 32766"),
            "100: from all fwmark 0x200/0x200 goto 32766"
        );
    }

    #[test]
    fn a_bridge_is_compared_without_its_timers() {
        let line = "3: cni0: <UP> bridge forward_delay 1500 hello_timer    0.00 gc_timer  295.21 vlan_filtering 0";
        assert_eq!(without_counters(line), "3: cni0: <UP> bridge forward_delay 1500 vlan_filtering 0");
        let line = "3: cni0: <UP> state UNKNOWN bridge gc_timer  295.21 state forwarding";
        assert_eq!(without_counters(line), "3: cni0: <UP> state UP bridge state forwarding");
    }
}
