//! What may have changed, by place and by who tells of it: a run reads what it has to read and nothing else.

use std::ops::BitOr;

/// Kinds of things that one teller tells of, or that are read together. Any number of them.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Classes(u16);

impl Classes {
    pub(crate) const NONE: Self = Self(0);
    /// Links, addresses, routes, rules, interface settings, neighbours, and the programs on links: rtnetlink.
    pub(crate) const ROUTING: Self = Self(1);
    /// Programs, where they are pinned, and what is in their maps: rtnetlink for tc, inotify for pins.
    pub(crate) const PROGRAMS: Self = Self(1 << 1);
    /// Whatever nftables holds, if it is not clear what of it: the guards, and chains where iptables is a front of nftables.
    pub(crate) const NFTABLES: Self = Self(1 << 2);
    /// These three whoever tells of them.
    pub(crate) const SET: Self = Self(1 << 3);
    pub(crate) const GUARD: Self = Self(1 << 4);
    pub(crate) const CHAIN: Self = Self(1 << 5);
    /// Others' programs ahead of ours: rtnetlink, where they are filters.
    pub(crate) const AHEAD: Self = Self(1 << 6);
    /// Chains of ours, and those that lead into them, as nftables tells of them.
    pub(crate) const CHAIN_TOLD: Self = Self(1 << 7);
    /// The guards, as nftables tells of them.
    pub(crate) const GUARD_TOLD: Self = Self(1 << 8);
    pub(crate) const ALL: Self = Self((1 << 9) - 1);

    /// Whether any of `others` is among these.
    pub(crate) const fn any(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// Whether all of `others` are among these.
    pub(crate) const fn includes(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    const fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

impl BitOr for Classes {
    type Output = Self;

    fn bitor(self, others: Self) -> Self {
        self.with(others)
    }
}

/// What may have changed, in the node's namespace and in ztunnel's.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Cause {
    pub(crate) node: Classes,
    pub(crate) proxy: Classes,
}

impl Cause {
    /// Nothing that is known of.
    pub(crate) const NOTHING: Self = Self { node: Classes::NONE, proxy: Classes::NONE };
    /// What is wanted may be another; what stands is looked at as far as it costs no process. What must become another is looked
    /// at in any case.
    pub(crate) const WANTED: Self = Self { node: CHEAP, proxy: CHEAP };
    /// Anything.
    pub(crate) const ANYTHING: Self = Self { node: Classes::ALL, proxy: Classes::ALL };

    /// As [`Self::WANTED`], and what may explain what is wrong.
    pub(crate) const CHEAP: Self = Self { node: CHEAP.with(Classes::AHEAD), proxy: CHEAP };

    /// Something in the node's namespace.
    pub(crate) const fn node(node: Classes) -> Self {
        Self { node, ..Self::NOTHING }
    }

    /// Something in ztunnel's namespace.
    pub(crate) const fn proxy(proxy: Classes) -> Self {
        Self { proxy, ..Self::NOTHING }
    }

    /// Whether all of `other` is among this.
    pub(crate) const fn includes(self, other: Self) -> bool {
        self.node.includes(other.node) && self.proxy.includes(other.proxy)
    }
}

const CHEAP: Classes = Classes::ROUTING.with(Classes::PROGRAMS);

impl BitOr for Cause {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self { node: self.node | other.node, proxy: self.proxy | other.proxy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_add_up() {
        let both = Cause::node(Classes::ROUTING) | Cause::proxy(Classes::NFTABLES);
        assert!(Cause::ANYTHING.includes(both) && !both.includes(Cause::ANYTHING));
        assert!(both.node.any(Classes::ALL) && !both.node.any(Classes::NFTABLES));
        assert!(both.includes(Cause::NOTHING) && !Cause::NOTHING.includes(both));
        assert_eq!(both | Cause::NOTHING, both);
    }
}
