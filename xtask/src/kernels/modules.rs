//! Which kernel modules a guest loads, and in which order. Nothing loads them later: what is not in the list is not there,
//! so a kernel that lacks one fails here, by name, and not in some test.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::{Result, bail};

/// One entry per line of need; `a|b` is `a`, or on kernels that do not have it `b`, which took it in.
#[rustfmt::skip]
const WANTED: &[&str] = &[
    // The guest's own channels to the host.
    "virtio_pci", "virtio_console", "virtio_net",
    // Containers' file systems.
    "overlay",
    // Links.
    "veth", "geneve", "vxlan", "bridge", "br_netfilter", "nft_meta_bridge", "dummy", "tun", "macvlan", "ipip",
    // tc.
    "sch_ingress", "cls_bpf", "cls_flower", "cls_matchall", "act_bpf", "act_gact", "act_mirred",
    // Sets.
    "ip_set", "ip_set_hash_ip", "ip_set_hash_net", "ip_set_hash_ipport", "xt_set",
    // iptables, legacy: tables.
    "ip_tables", "iptable_filter", "iptable_nat", "iptable_mangle", "iptable_raw",
    "ip6_tables", "ip6table_filter", "ip6table_nat", "ip6table_mangle", "ip6table_raw",
    // iptables, both backends: matches and targets.
    "nf_conntrack", "nf_conntrack_netlink", "nf_nat", "nfnetlink_log",
    "xt_addrtype", "xt_comment", "xt_connmark", "xt_conntrack", "xt_CT", "xt_limit", "xt_LOG", "xt_mac", "xt_mark",
    "xt_MASQUERADE", "xt_multiport", "xt_nat", "xt_NFLOG", "xt_physdev", "xt_REDIRECT", "xt_socket", "xt_state",
    "xt_statistic", "xt_tcpudp", "xt_TPROXY", "ipt_REJECT", "ipt_rpfilter", "nf_log_syslog|nf_log_ipv4",
    // nftables.
    "nf_tables", "nft_compat", "nft_chain_nat", "nft_counter|nf_tables", "nft_ct", "nft_fib_inet", "nft_hash", "nft_limit",
    "nft_log", "nft_masq", "nft_nat", "nft_numgen", "nft_redir", "nft_reject", "nft_reject_inet", "nft_reject_ipv4",
    "nft_socket", "nft_tproxy",
    // kube-proxy's ipvs mode.
    "ip_vs", "ip_vs_rr",
    // What `ss` asks.
    "inet_diag", "tcp_diag", "udp_diag", "unix_diag", "af_packet_diag",
];

/// Changes when the list does.
pub(super) fn fingerprint() -> u64 {
    let mut hasher = DefaultHasher::new();
    WANTED.hash(&mut hasher);
    hasher.finish()
}

/// Paths of the modules, each after what it needs. `dep` and `builtin` are the files `modules.dep` and `modules.builtin`.
pub(super) fn load_order(dep: &str, builtin: &str) -> Result<Vec<String>> {
    closure(WANTED, &parse_dep(dep), &builtin.lines().map(name).collect::<Vec<_>>())
}

struct Module<'a> {
    path: &'a str,
    /// In the order of `modules.dep`: what is needed by another comes after it.
    needs: Vec<&'a str>,
}

fn parse_dep(dep: &str) -> BTreeMap<String, Module<'_>> {
    let lines = dep.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(path, needs)| (name(path), Module { path, needs: needs.split_whitespace().collect() })).collect()
}

fn closure(wanted: &[&str], modules: &BTreeMap<String, Module<'_>>, builtin: &[String]) -> Result<Vec<String>> {
    let mut order: Vec<String> = Vec::new();
    let mut missing = Vec::new();
    let is_there = |module: &str| modules.contains_key(module) || builtin.iter().any(|name| name == module);
    for entry in wanted {
        let Some(chosen) = entry.split('|').find(|module| is_there(module)) else {
            missing.push(*entry);
            continue;
        };
        let Some(module) = modules.get(chosen) else { continue };
        for path in module.needs.iter().rev().chain([&module.path]) {
            if !order.iter().any(|known| known == path) {
                order.push((*path).to_owned());
            }
        }
    }
    if !missing.is_empty() {
        bail!("the kernel has no modules {}", missing.join(", "));
    }
    Ok(order)
}

/// `kernel/net/core/a-b.ko.xz` is the module `a_b`.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/a/one.ko.xz: kernel/b/two-x.ko.xz kernel/c/three.ko.xz\n\
        kernel/b/two-x.ko.xz: kernel/c/three.ko.xz\nkernel/c/three.ko.xz:\nkernel/d/four.ko.xz:\n";

    fn order(wanted: &[&str]) -> Result<Vec<String>> {
        closure(wanted, &parse_dep(DEP), &["inside".to_owned()])
    }

    #[test]
    fn needs_come_first_and_once() {
        let order = order(&["two_x", "one"]).unwrap();
        assert_eq!(order, ["kernel/c/three.ko.xz", "kernel/b/two-x.ko.xz", "kernel/a/one.ko.xz"]);
    }

    #[test]
    fn builtin_needs_no_loading() {
        assert!(order(&["inside"]).unwrap().is_empty());
    }

    #[test]
    fn alternatives_take_the_first_that_is_there() {
        assert_eq!(order(&["gone|four|one"]).unwrap(), ["kernel/d/four.ko.xz"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = order(&["one", "gone", "lost|away"]).unwrap_err().to_string();
        assert!(error.ends_with("gone, lost|away"), "{error}");
    }
}
