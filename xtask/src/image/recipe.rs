//! What is in which image.

/// One of our programs in an image.
pub(super) struct Program {
    /// The package that it is of, and its name.
    pub(super) package: &'static str,
    /// Where it is in the image.
    pub(super) path: &'static str,
    pub(super) kind: Kind,
}

/// How a program is built.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// As it is released, with the image's libraries.
    Release,
    /// As it is released, and without libraries: it is copied to nodes, which have others or none.
    Static,
    /// As tests run it.
    Lab,
}

/// An image.
pub(super) struct Recipe {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) programs: &'static [Program],
    pub(super) entrypoint: &'static str,
    pub(super) arguments: &'static [&'static str],
}

/// The paths are those of `deploy/`.
pub(super) const AGENT: Recipe = Recipe {
    name: "redirect-agent",
    title: "The node agent of an ambient mesh, and its CNI plugin",
    programs: &[
        Program { package: "redirect-agent", path: "/usr/local/bin/redirect-agent", kind: Kind::Release },
        Program { package: "redirect-cni", path: "/opt/redirect/redirect-cni", kind: Kind::Static },
    ],
    entrypoint: "/usr/local/bin/redirect-agent",
    arguments: &["run"],
};

/// For tests only.
pub(super) const LAB: Recipe = Recipe {
    name: "redirect-lab",
    title: "The lab's programs: a stand-in for ztunnel, and servers and clients",
    programs: &[Program { package: "redirect-lab", path: "/usr/local/bin/redirect-lab", kind: Kind::Lab }],
    entrypoint: "/usr/local/bin/redirect-lab",
    arguments: &["proxy", "--log", "/run/proxy.log"],
};

/// What the agent runs, by [`crate::image::debian`]'s packages or a base's own; what deploy/ runs beside it; and what loads
/// them.
pub(super) const EXPECTED: &[&str] = &[
    "iptables-nft-restore",
    "iptables-nft-save",
    "iptables-legacy-restore",
    "iptables-legacy-save",
    "ipset",
    "nft",
    "sh",
    "test",
    "stat",
    "mount",
    "sleep",
];
