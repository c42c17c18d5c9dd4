//! Filters that drop what has a source address that is not routed to where it comes from. ztunnel sends with the addresses of its clients.

use super::{Finding, Level};

/// Chains of Calico begin so.
const CALICO: &str = "cali-";

/// A rule of iptables that asks the reverse path, as `iptables-save` prints it (`rpfilter` of iptables-extensions(8)).
pub(super) fn in_rule(object: &str, rule: &str) -> Option<Finding> {
    let mut words = rule.split_whitespace();
    let chain = words.next()?;
    let drops = rule.contains(" -j DROP") && rule.contains(" --invert");
    if !(words.any(|word| word == "rpfilter") && drops) {
        return None;
    }
    let remedy = if chain.starts_with(CALICO) {
        "set workloadSourceSpoofing to Any in Felix's configuration, and annotate ztunnel's pods with \
         cni.projectcalico.org/allowedSourcePrefixes"
    } else {
        "leave out ztunnel's veth and the links istioin and istioout"
    };
    Some(Finding {
        level: Level::Warning,
        object: object.to_owned(),
        message: "drops packets whose source is routed elsewhere, and ztunnel sends with its clients' addresses"
            .to_owned(),
        remedy: remedy.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_made_it_says_what_helps() {
        let calico = "cali-PREROUTING -m comment --comment \"cali:x\" -m mark --mark 0x40000/0x40000 \
            -m rpfilter --validmark --invert -j DROP";
        assert!(in_rule("x", calico).unwrap().remedy.contains("workloadSourceSpoofing"));
        assert!(in_rule("x", "PREROUTING -m rpfilter --invert -j DROP").unwrap().remedy.contains("istioin"));
        assert_eq!(in_rule("x", "PREROUTING -m rpfilter -j ACCEPT"), None);
        assert_eq!(in_rule("x", "PREROUTING -s 10.0.0.1/32 -j DROP"), None);
        assert_eq!(in_rule("x", ""), None);
    }
}
