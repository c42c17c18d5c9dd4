//! Others who use bits of marks that are ours. A rule of theirs that matches our bits acts on our packets; one that writes them takes
//! packets from their way to ztunnel or back.

use redirect_common::names::MARK_BITS;

use super::{Finding, Level};
use crate::resources::rule::ForeignMark;

const ALL_BITS: u32 = u32::MAX;

/// What is done with bits of a mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    Compared(u32),
    Written(u32),
}

/// Policy rules that are not ours, and look at marks.
pub(super) fn in_policy_rules(rules: &[ForeignMark]) -> Vec<Finding> {
    rules.iter().filter_map(|rule| finding(&format!("ip rule {rule}"), Use::Compared(rule.mask))).collect()
}

/// What a rule of iptables does with marks, as `iptables-save` prints it.
pub(super) fn in_rule(object: &str, rule: &str) -> Vec<Finding> {
    let mut findings: Vec<_> = uses(rule).into_iter().filter_map(|used| finding(object, used)).collect();
    findings.dedup();
    findings
}

fn finding(object: &str, used: Use) -> Option<Finding> {
    let (bits, verb) = match used {
        Use::Compared(mask) => (mask, "compares"),
        Use::Written(mask) => (mask, "writes"),
    };
    let ours = bits & MARK_BITS;
    if ours == 0 {
        return None;
    }
    // A rule that compares all bits is meant for packets with no other mark, and misses ours; it does not catch them.
    let level = if used == Use::Compared(ALL_BITS) { Level::Warning } else { Level::Problem };
    let message = format!("{verb} {ours:#x} of the mark, which is the mesh's (it uses {MARK_BITS:#x})");
    let remedy = "have whoever made it use other bits".to_owned();
    Some(Finding { level, object: object.to_owned(), message, remedy })
}

/// Options of `mark`, `connmark`, MARK and CONNMARK (iptables-extensions(8)).
fn uses(rule: &str) -> Vec<Use> {
    let words: Vec<&str> = rule.split_whitespace().collect();
    let after = |option: &str| words.iter().position(|word| *word == option).and_then(|place| words.get(place + 1));
    let number = |option: &str| after(option).and_then(|value| parse(value));
    let mut uses = Vec::new();
    for pair in words.windows(2) {
        let (Some(value), option) = (pair_of(pair[1]), pair[0]) else { continue };
        match option {
            "--mark" => uses.push(Use::Compared(value.1)),
            // It clears the bits of the mask and turns over those of the value.
            "--set-xmark" | "--set-mark" => uses.push(Use::Written(value.0 | value.1)),
            "--or-mark" | "--xor-mark" => uses.push(Use::Written(value.0)),
            "--and-mark" => uses.push(Use::Written(!value.0)),
            _ => {}
        }
    }
    for (option, mask) in [("--restore-mark", "--nfmask"), ("--save-mark", "--ctmask")] {
        if words.contains(&option) {
            uses.push(Use::Written(number(mask).unwrap_or(ALL_BITS)));
        }
    }
    uses
}

/// `value/mask`, or a value under all bits.
fn pair_of(text: &str) -> Option<(u32, u32)> {
    match text.split_once('/') {
        Some((value, mask)) => Some((parse(value)?, parse(mask)?)),
        None => Some((parse(text)?, ALL_BITS)),
    }
}

fn parse(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(rule: &str) -> Vec<Level> {
        in_rule(rule, rule).into_iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn those_of_the_usual_neighbours_are_no_matter() {
        for rule in [
            "KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
            "KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0",
            "KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
            "cali-PREROUTING -m mark --mark 0x40000/0xc0000 -j ACCEPT",
            "PREROUTING -i eni+ -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80",
            "PREROUTING -p tcp --dport 4096 -j ACCEPT",
        ] {
            assert_eq!(levels(rule), [], "{rule}");
        }
    }

    #[test]
    fn bits_of_ours_are_told_whoever_reads_or_writes_them() {
        for rule in [
            "CILIUM_PRE_mangle -m mark --mark 0x200/0xf00 -j ACCEPT",
            "X -j MARK --set-xmark 0x1/0xffffffff",
            "X -j MARK --set-xmark 0x100/0x0",
            "X -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
            "X -j CONNMARK --restore-mark",
        ] {
            assert_eq!(levels(rule), [Level::Problem], "{rule}");
        }
        assert_eq!(levels("X -m mark --mark 0x1 -j ACCEPT"), [Level::Warning]);
        let told = in_rule("X", "X -m mark --mark 0x200/0xf00 -j ACCEPT").remove(0).to_string();
        assert_eq!(
            told,
            "problem: X: compares 0x300 of the mark, which is the mesh's (it uses 0x370); \
            have whoever made it use other bits"
        );
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        for rule in
            ["X --mark", "X --mark 0xfffffffff", "X --set-xmark /", "X --mark 0x1/0x", "X -m comment --comment --mark"]
        {
            assert_eq!(levels(rule), [], "{rule}");
        }
    }
}
