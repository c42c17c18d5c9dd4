//! Every name, number, mark and table that stands on a node. Operators and the node proxy rely on them: they are written
//! here once and nowhere else.

use core::fmt;
use core::net::Ipv4Addr;
use core::ops::RangeInclusive;

/// Bits of an skb or connection mark, and the only bits that a write of this mark may touch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Mark {
    value: u32,
    mask: u32,
}

impl Mark {
    /// A mark of `value` under `mask`.
    ///
    /// # Panics
    /// On a value outside its mask; in a `const` that does not compile.
    #[must_use]
    pub const fn new(value: u32, mask: u32) -> Self {
        assert!(value & !mask == 0, "mark value has bits outside its mask");
        Self { value, mask }
    }

    /// The same mark, which takes the place of `other` where it is written.
    #[must_use]
    pub const fn in_place_of(self, other: Self) -> Self {
        // Without the check of `new`, which holds: programs have no way to panic.
        Self { value: self.value, mask: self.mask | other.mask }
    }

    /// The same mark where none of `other`'s bits is beside it.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        self.in_place_of(other)
    }

    /// The bits that are set.
    #[must_use]
    pub const fn value(self) -> u32 {
        self.value
    }

    /// The bits that are compared and written.
    #[must_use]
    pub const fn mask(self) -> u32 {
        self.mask
    }

    /// Whether `mark` carries this mark; bits outside the mask are others' and do not count.
    #[must_use]
    pub const fn matches(self, mark: u32) -> bool {
        mark & self.mask == self.value
    }

    /// `mark` with this mark written into it and every foreign bit kept.
    #[must_use]
    pub const fn apply(self, mark: u32) -> u32 {
        (mark & !self.mask) | self.value
    }
}

/// As iptables and `ip rule` print it: `0x100/0x100`.
impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}/{:#x}", self.value, self.mask)
    }
}

/// From a meshed pod: route to [`ISTIOOUT`].
pub const OUTBOUND: Mark = Mark::new(0x100, 0x100);
/// Do not intercept: main table.
pub const SKIP: Mark = Mark::new(0x200, 0x200);
/// As [`SKIP`], and remember it for the connection.
pub const CONN_SKIP: Mark = Mark::new(0x220, 0x220);
/// ztunnel speaking with a client's source address: remember it for the connection.
pub const PROXY: Mark = Mark::new(0x210, 0x210);
/// As a connection bears it, and who speaks has seat A. Any that was remembered before there were seats reads so.
pub const PROXY_A: Mark = Mark::new(0x210, 0x250);
/// The same for seat B.
pub const PROXY_B: Mark = Mark::new(0x250, 0x250);
/// Reply to such a connection: back to ztunnel's veth, whichever seat it has.
pub const PROXY_RETURN: Mark = Mark::new(0x40, 0x40);
/// To the one on seat A.
pub const PROXY_RETURN_A: Mark = Mark::new(0x40, 0x50);
/// To the one on seat B.
pub const PROXY_RETURN_B: Mark = Mark::new(0x50, 0x50);

/// All bits of packets' and connections' marks that are ours on a node.
pub const MARK_BITS: u32 = OUTBOUND.mask() | SKIP.mask() | CONN_SKIP.mask() | PROXY.mask() | PROXY_RETURN.mask();

/// In ztunnel's netns: set by TPROXY, routes the packet to a local socket.
pub const TPROXY: Mark = Mark::new(0x400, 0xfff);
/// In ztunnel's netns: set on TCP for others that arrives on `eth0`, routes it to a local socket.
pub const ORIGINAL_SOURCE: Mark = Mark::new(0x4d3, 0xfff);

/// A GENEVE virtual network identifier (24 bits, RFC 8926 section 3.4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Vni(u32);

impl Vni {
    /// A VNI, unless `value` needs more than 24 bits.
    #[must_use]
    pub const fn new(value: u32) -> Option<Self> {
        if value < 1 << 24 { Some(Self(value)) } else { None }
    }

    /// The number, in host byte order.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Source ports of what ztunnel opens in its clients' names, by its seat: `net.ipv4.ip_local_port_range` of its namespace
/// (Documentation/networking/ip-sysctl.rst), both ends included. A client's connection and the one onward go to the same address and port
/// from the same address, so the node tells them apart by this port only. Hence none that the kernel gives to clients unless it is told
/// otherwise (32768 to 60999), and none that the other seat has: two ztunnels know nothing of each other.
pub const PROXY_PORTS: [RangeInclusive<u16>; 2] = [4096..=18431, 18432..=32767];

/// Number of a routing table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TableId(pub u32);

/// Preference of a policy rule; lower is matched first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RulePriority(pub u32);

/// One GENEVE tunnel between the node and ztunnel: a link on either side, on one /30.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunnel {
    /// Link on the node.
    pub node_link: &'static str,
    /// Link in ztunnel's netns.
    pub proxy_link: &'static str,
    /// VNI of both ends.
    pub vni: Vni,
    /// Address of the node's end.
    pub node_addr: Ipv4Addr,
    /// Address of ztunnel's end.
    pub proxy_addr: Ipv4Addr,
    /// MAC address of the node's end. Both are fixed and locally administered, so that a tunnel to another ztunnel, or one
    /// made anew, is reached without waiting for a neighbour entry to expire.
    pub node_mac: [u8; 6],
    /// MAC address of ztunnel's end.
    pub proxy_mac: [u8; 6],
}

/// Prefix length of both ends' addresses.
pub const TUNNEL_PREFIX: u8 = 30;
/// UDP port of the tunnels (IANA: geneve), unless a foreign GENEVE device owns it.
pub const TUNNEL_PORT: u16 = 6081;

const fn vni(value: u32) -> Vni {
    match Vni::new(value) {
        Some(vni) => vni,
        None => panic!("VNI out of range"),
    }
}

/// Carries packets **to** meshed pods into ztunnel.
pub const ISTIOIN: Tunnel = Tunnel {
    node_link: "istioin",
    proxy_link: "pistioin",
    vni: vni(1000),
    node_addr: Ipv4Addr::new(192, 168, 126, 1),
    proxy_addr: Ipv4Addr::new(192, 168, 126, 2),
    node_mac: [0x02, 0x72, 0x64, 0x72, 0x01, 0x01],
    proxy_mac: [0x02, 0x72, 0x64, 0x72, 0x01, 0x02],
};

/// Carries packets **from** meshed pods into ztunnel.
pub const ISTIOOUT: Tunnel = Tunnel {
    node_link: "istioout",
    proxy_link: "pistioout",
    vni: vni(1001),
    node_addr: Ipv4Addr::new(192, 168, 127, 1),
    proxy_addr: Ipv4Addr::new(192, 168, 127, 2),
    node_mac: [0x02, 0x72, 0x64, 0x72, 0x02, 0x01],
    proxy_mac: [0x02, 0x72, 0x64, 0x72, 0x02, 0x02],
};

/// Both tunnels.
pub const TUNNELS: [Tunnel; 2] = [ISTIOIN, ISTIOOUT];

/// On the node: packets to meshed pods. In ztunnel's netns: everything is local.
pub const TABLE_INBOUND: TableId = TableId(100);
/// Outbound-marked packets, into [`ISTIOOUT`].
pub const TABLE_OUTBOUND: TableId = TableId(101);
/// Proxy-return packets, to ztunnel's veth.
pub const TABLE_PROXY: TableId = TableId(102);

/// Proxy-return packets to the ztunnel on seat A, to its veth, while another is beside it.
pub const TABLE_SEAT_A: TableId = TableId(103);
/// The same for seat B.
pub const TABLE_SEAT_B: TableId = TableId(104);

/// [`PROXY_RETURN_A`] without [`SKIP`] looks up [`TABLE_SEAT_A`].
pub const RULE_SEAT_A: RulePriority = RulePriority(97);
/// [`PROXY_RETURN_B`] without [`SKIP`] looks up [`TABLE_SEAT_B`].
pub const RULE_SEAT_B: RulePriority = RulePriority(98);
/// [`SKIP`] goes to the main table's rule.
pub const RULE_SKIP: RulePriority = RulePriority(100);
/// [`OUTBOUND`] looks up [`TABLE_OUTBOUND`].
pub const RULE_OUTBOUND: RulePriority = RulePriority(101);
/// [`PROXY_RETURN`] looks up [`TABLE_PROXY`].
pub const RULE_PROXY_RETURN: RulePriority = RulePriority(102);
/// Everything else looks up [`TABLE_INBOUND`].
pub const RULE_INBOUND: RulePriority = RulePriority(103);
/// The kernel's own rule for the main table (`include/uapi/linux/fib_rules.h` users: `fib_default_rules_init`).
pub const RULE_MAIN: RulePriority = RulePriority(32766);
/// In ztunnel's netns: [`TPROXY`] looks up [`TABLE_INBOUND`].
pub const RULE_TPROXY: RulePriority = RulePriority(20000);
/// In ztunnel's netns: [`ORIGINAL_SOURCE`] looks up [`TABLE_INBOUND`].
pub const RULE_ORIGINAL_SOURCE: RulePriority = RulePriority(20003);

/// ztunnel's outbound listener.
pub const PORT_OUTBOUND: u16 = 15001;
/// ztunnel's inbound listener for plaintext.
pub const PORT_INBOUND_PLAINTEXT: u16 = 15006;
/// ztunnel's inbound listener for HBONE.
pub const PORT_INBOUND_HBONE: u16 = 15008;

/// Set (`hash:ip`) of the meshed pods' addresses, in iptables mode.
pub const SET_PODS: &str = "ztunnel-pods-ips";
/// Every chain of ours is named with this and the built-in chain that it hangs off.
pub const CHAIN_PREFIX: &str = "ztunnel-";
/// Name of our nftables tables: the one of family bridge makes a bridge hand meshed pods' TCP to the node's IP layer, the one
/// of family ip keeps destinations as pods chose them.
pub const BRIDGE_TABLE: &str = "ztunnel";
/// ztunnel's own interface, inside its netns.
pub const PROXY_ETH: &str = "eth0";

/// Label key by which a namespace or a pod joins ([`MODE_AMBIENT`]) or leaves ([`MODE_NONE`]) the mesh.
pub const LABEL_MODE: &str = "istio.io/dataplane-mode";
/// Value of [`LABEL_MODE`] that meshes.
pub const MODE_AMBIENT: &str = "ambient";
/// Value of [`LABEL_MODE`] that opts a pod out.
pub const MODE_NONE: &str = "none";
/// Annotation that opts a pod out (`disabled`) and by which the agent says that a pod is in (`enabled`).
pub const ANNOTATION_REDIRECTION: &str = "ambient.istio.io/redirection";
/// Value of [`ANNOTATION_REDIRECTION`] set by a user.
pub const REDIRECTION_DISABLED: &str = "disabled";
/// Value of [`ANNOTATION_REDIRECTION`] set by the agent.
pub const REDIRECTION_ENABLED: &str = "enabled";
/// Annotation of a namespace that says what becomes of its meshed pods while there is no ztunnel, whatever the agent is told of all.
pub const ANNOTATION_ON_PROXY_LOSS: &str = "ambient.redirect.dev/on-proxy-loss";
/// Annotation of a pod that has a sidecar.
pub const ANNOTATION_SIDECAR: &str = "sidecar.istio.io/status";
/// Label `app` of ztunnel's pods.
pub const PROXY_APP: &str = "ztunnel";
/// Namespace where ztunnel runs, unless configured.
pub const PROXY_NAMESPACE: &str = "istio-system";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_write_only_their_bits() {
        for mark in [OUTBOUND, SKIP, CONN_SKIP, PROXY, PROXY_A, PROXY_B, PROXY_RETURN, PROXY_RETURN_A, PROXY_RETURN_B] {
            let foreign = !mark.mask();
            assert_eq!(mark.apply(foreign) & foreign, foreign);
            assert!(mark.matches(mark.apply(0xffff_ffff)));
        }
    }

    #[test]
    fn nobody_else_has_the_ports_of_a_seat() {
        let [a, b] = PROXY_PORTS;
        let clients = 32_768..=60_999;
        assert!(a.end() < b.start() && b.end() < clients.start());
        // The kernel warns of a range whose ends are both even or both odd (`ipv4_local_port_range`, net/ipv4/sysctl_net_ipv4.c).
        for range in [a, b] {
            assert_ne!(range.start() % 2, range.end() % 2);
        }
    }

    #[test]
    fn both_remembered_marks_skip() {
        assert!(SKIP.matches(CONN_SKIP.value()));
        assert!(SKIP.matches(PROXY.value()));
        assert!(!SKIP.matches(PROXY_RETURN.value()));
        assert!(!SKIP.matches(OUTBOUND.value()));
    }

    #[test]
    fn a_seat_is_told_from_the_other_and_both_by_what_they_have_in_common() {
        for (one, other) in [(PROXY_A, PROXY_B), (PROXY_RETURN_A, PROXY_RETURN_B)] {
            assert!(!one.matches(other.value()) && !other.matches(one.value()));
            // Whatever was written before, the last word counts.
            assert!(one.matches(one.apply(other.value())) && other.matches(other.apply(one.value())));
        }
        assert!([PROXY_A, PROXY_B].iter().all(|mark| PROXY.matches(mark.value())));
        assert!([PROXY_RETURN_A, PROXY_RETURN_B].iter().all(|mark| PROXY_RETURN.matches(mark.value())));
        for mark in [PROXY_RETURN_A, PROXY_RETURN_B] {
            assert!(!SKIP.matches(mark.value()) && !OUTBOUND.matches(mark.value()));
        }
    }
}
