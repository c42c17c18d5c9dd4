//! The suites: test programs of the lab, each with the backends and topologies that it is to be run with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use anyhow::{Context, Result, ensure};

use crate::workspace::Workspace;
use crate::{programs, progress};

/// Where they are, below the workspace's root: a file or a folder each.
const FOLDER: &str = "tests/tests";
/// How the names of programs begin that make a node of a cluster of their guest.
pub(super) const WORKER: &str = "worker_";
/// How the names of programs begin that are run by themselves, because each takes minutes.
pub(super) const RESILIENCE: &str = "resilience_";

/// One run of a test program.
#[derive(Clone, Debug)]
pub(super) struct Suite {
    pub(super) name: String,
    pub(super) program: PathBuf,
    pub(super) setting: Setting,
}

/// What the environment tells a suite.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Setting {
    backend: &'static str,
    topology: &'static str,
    mode: &'static str,
    tc_attach: Option<&'static str>,
}

const NFT_PTP: Setting = Setting { backend: "nft", topology: "ptp", mode: IPTABLES, tc_attach: None };
const NFT_BRIDGE: Setting = Setting { topology: "bridge", ..NFT_PTP };
const LEGACY_PTP: Setting = Setting { backend: "legacy", ..NFT_PTP };
const LEGACY_BRIDGE: Setting = Setting { backend: "legacy", ..NFT_BRIDGE };
const EVERY: [Setting; 4] = [NFT_PTP, LEGACY_BRIDGE, NFT_BRIDGE, LEGACY_PTP];

/// From one kernel of the short form of [`RESILIENCE`] to the next: the oldest in use, and the first with TCX.
pub(super) const SHORT_STEP: usize = 2;
/// What each kernel of the matrix is there: the two of the short form have a backend and a topology each.
const RESILIENT: [Setting; 4] = [LEGACY_BRIDGE, NFT_BRIDGE, NFT_PTP, LEGACY_PTP];
/// What the first of the short form's two kernels runs, which takes as long as all the rest on the other. One of them is about what a
/// bridge does with a dead proxy's frames, and that kernel's node has one.
const ON_THE_FIRST: [&str; 4] = ["resilience_boot", "resilience_churn", "resilience_faults", "resilience_loss"];

const IPTABLES: &str = "iptables";
const EBPF: &str = "ebpf";
const TCX: &str = "tcx";
const CLSACT: &str = "clsact";
/// A mode, and how programs are attached.
type Way = (&'static str, Option<&'static str>);
/// The first place in the matrix with a kernel that has TCX (6.6 and later).
const TCX_SINCE: usize = 2;

/// Programs that are about programs in the kernel, and choose the mode themselves where they need another one.
const EBPF_ONLY: [&str; 7] =
    ["node_eviction", "node_fallback", "node_layout", "node_modes", "node_neighbours", "node_survives", "node_trace"];
/// Those of them that end in iptables mode, however programs would be attached.
const NEVER_ATTACHED: [&str; 1] = ["node_fallback"];
/// What is about how programs are attached.
const ATTACHING: [&str; 3] = ["node_modes", "node_neighbours", "node_survives"];
/// Connections of every kind: the one that shows most in the shortest time.
const TABLE: &str = "node_table";

/// A test program, before it is known how often it is run.
#[derive(Clone, Debug)]
pub(super) struct Program {
    name: String,
    path: PathBuf,
    /// Its place among all of them.
    number: usize,
}

/// How widely a program is to be run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Breadth {
    /// As on most nodes.
    Usual,
    /// As the kernel of the matrix at this place. Every kernel makes all connections in all settings; what costs minutes is
    /// done with one backend and topology each, and with all of them over the matrix.
    Matrix(usize),
    /// As [`Self::Matrix`], less what only repeats it; see [`Program::has_its_share`].
    Share(usize),
}

impl Program {
    /// Whether it needs a whole node, and so a kernel with GENEVE.
    pub(super) fn needs_node(&self) -> bool {
        self.name.starts_with("node_") || self.name == "cluster_node"
    }

    /// Whether it needs Kubernetes' servers, which are built for those who ask for them.
    pub(super) fn needs_kubernetes(&self) -> bool {
        self.name.starts_with("cluster_")
    }

    /// Whether it makes a node of a cluster of the guest that it runs in.
    pub(super) fn is_for_worker(&self) -> bool {
        self.name.starts_with(WORKER)
    }

    /// Whether it breaks things for minutes.
    pub(super) fn is_for_resilience(&self) -> bool {
        self.name.starts_with(RESILIENCE)
    }

    /// Whether its name contains the text.
    pub(super) fn is_like(&self, text: &str) -> bool {
        self.name.contains(text)
    }

    fn settings(&self, breadth: Breadth, mode: Option<&str>) -> Vec<Setting> {
        if self.is_for_worker() {
            let both = [NFT_BRIDGE, Setting { mode: EBPF, ..NFT_PTP }];
            return both.into_iter().filter(|setting| mode.is_none_or(|mode| mode == setting.mode)).collect();
        }
        if self.is_for_resilience() {
            let wanted = |setting: &Setting| mode.is_none_or(|mode| mode == setting.mode);
            return self.resilient(breadth).into_iter().filter(wanted).collect();
        }
        if !self.needs_node() {
            return if self.name.starts_with("netns_") { vec![NFT_PTP, LEGACY_PTP] } else { vec![NFT_PTP] };
        }
        let wanted = |(known, _): &(&'static str, _)| mode.is_none_or(|mode| mode == *known);
        let ways = self.ways(breadth).into_iter().filter(wanted);
        let nodes = self.nodes(breadth);
        ways.flat_map(|(mode, tc_attach)| {
            nodes.iter().map(move |node| Setting { mode, tc_attach, ..*node }).collect::<Vec<_>>()
        })
        .collect()
    }

    /// One node of each mode, with programs attached in the best way that the kernel has. The short form has each program on one of two
    /// kernels ([`ON_THE_FIRST`]) in one mode: all together take minutes, and each kernel has both modes.
    fn resilient(&self, breadth: Breadth) -> Vec<Setting> {
        let (node, tc_attach) = match breadth {
            Breadth::Usual => (NFT_PTP, None),
            Breadth::Matrix(place) | Breadth::Share(place) => {
                (RESILIENT[place % RESILIENT.len()], Some(if place < TCX_SINCE { CLSACT } else { TCX }))
            }
        };
        let both = [node, Setting { mode: EBPF, tc_attach, ..node }];
        match breadth {
            Breadth::Share(place) if (place == 0) != ON_THE_FIRST.contains(&self.name.as_str()) => Vec::new(),
            Breadth::Share(_) => vec![both[self.number / 2 % both.len()]],
            _ => both.to_vec(),
        }
    }

    /// Backends and topologies.
    fn nodes(&self, breadth: Breadth) -> Vec<Setting> {
        match breadth {
            Breadth::Matrix(_) if self.name == TABLE => EVERY.to_vec(),
            // Both backends and both topologies: the two of each half have neither in common.
            Breadth::Share(place) if self.name == TABLE => EVERY[place % 2 * 2..][..2].to_vec(),
            Breadth::Matrix(place) | Breadth::Share(place) => vec![EVERY[place % EVERY.len()]],
            Breadth::Usual => vec![NFT_PTP],
        }
    }

    /// Modes, and how programs are attached.
    fn ways(&self, breadth: Breadth) -> Vec<Way> {
        let is_one_of = |names: &[&str]| names.contains(&self.name.as_str());
        let mut ways = Vec::new();
        if !is_one_of(&EBPF_ONLY) {
            ways.push((IPTABLES, None));
        }
        match breadth {
            _ if is_one_of(&NEVER_ATTACHED) => ways.push((EBPF, None)),
            Breadth::Usual => ways.push((EBPF, None)),
            Breadth::Matrix(place) | Breadth::Share(place) => {
                ways.push((EBPF, Some(CLSACT)));
                ways.extend((place >= TCX_SINCE).then_some((EBPF, Some(TCX))));
            }
        }
        if let Breadth::Share(place) = breadth {
            ways.retain(|way| self.has_its_share(place, *way));
        }
        ways
    }

    /// The table is run everywhere. What is about attaching is run by TCX on one of the kernels that have it, and by clsact on the other one
    /// and on one of those that have nothing else. Of the rest each is run in ebpf mode on one kernel (by TCX on the first that has it, else by
    /// clsact) and in iptables mode on another. Which, differs between neighbours in the list, so every kernel has its part of each mode,
    /// and all together take a quarter of the time.
    fn has_its_share(&self, place: usize, (mode, tc_attach): Way) -> bool {
        let is_one_of = |names: &[&str]| names.contains(&self.name.as_str());
        if self.name == TABLE {
            return true;
        }
        if is_one_of(&ATTACHING) {
            let turn = self.number % 2;
            let (by_tcx, by_clsact) = (TCX_SINCE + turn, [TCX_SINCE + 1 - turn, turn]);
            return if tc_attach == Some(TCX) { place == by_tcx } else { by_clsact.contains(&place) };
        }
        let turn = (place + self.number) % 4;
        match mode {
            IPTABLES => turn == 1,
            _ if is_one_of(&NEVER_ATTACHED) => turn.is_multiple_of(2),
            _ => turn == 3 && tc_attach == Some(if place == TCX_SINCE { TCX } else { CLSACT }),
        }
    }
}

/// The suites of some programs, in one mode or in those that are usual.
pub(super) fn suites<'a>(
    programs: impl IntoIterator<Item = &'a Program>,
    breadth: Breadth,
    mode: Option<&str>,
) -> Vec<Suite> {
    let suites = programs.into_iter().flat_map(|program| {
        let (name, path) = (&program.name, &program.path);
        let settings = program.settings(breadth, mode).into_iter();
        settings.map(move |setting| Suite { name: name.clone(), program: path.clone(), setting })
    });
    suites.collect()
}

impl Setting {
    /// How the agent marks packets.
    pub(super) fn mode(self) -> &'static str {
        self.mode
    }

    /// As environment variables.
    pub(super) fn variables(self) -> Vec<(&'static str, &'static str)> {
        let Self { backend, topology, mode, tc_attach } = self;
        let mut all = vec![("REDIRECT_BACKEND", backend), ("REDIRECT_TOPOLOGY", topology), ("REDIRECT_MODE", mode)];
        all.extend(tc_attach.map(|attach| ("REDIRECT_TC_ATTACH", attach)));
        all
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setting { backend, topology, mode, tc_attach } = self.setting;
        let attach = tc_attach.map(|attach| format!(" by {attach}")).unwrap_or_default();
        write!(f, "{} ({backend}, {topology}, {mode}{attach})", self.name)
    }
}

/// Builds the test programs whose names begin like this.
pub(super) fn build(workspace: &Workspace, begin: &str) -> Result<Vec<Program>> {
    progress::say("building the tests");
    let names = names(&workspace.root().join(FOLDER), begin)?;
    let mut command = programs::cargo(workspace, "test");
    // By name: `--tests` would build the unit tests of the libraries and the programs too.
    command.arg("--no-run").args(names.iter().flat_map(|name| ["--test", name]));
    let built: BTreeMap<_, _> =
        programs::artifacts(&mut command)?.into_iter().map(|artifact| (artifact.name, artifact.executable)).collect();
    let program = |(number, name): (usize, &String)| {
        let path = built.get(name).with_context(|| format!("{name} is not built as a test"))?.clone();
        Ok(Program { name: name.clone(), path, number })
    };
    names.iter().enumerate().map(program).collect()
}

/// All that begin so, in order. What cargo does not know by that name is an error of its own: no test that nobody runs.
fn names(folder: &Path, begin: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(begin) && (path.is_dir() || path.extension().is_some_and(|extension| extension == "rs")) {
            names.push(name);
        }
    }
    ensure!(!names.is_empty(), "{} has no tests {begin}*", folder.display());
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels;

    fn settings(name: &str, breadth: Breadth, mode: &str) -> Vec<Setting> {
        program(name, 0).settings(breadth, Some(mode))
    }

    fn program(name: &str, number: usize) -> Program {
        Program { name: name.to_owned(), path: PathBuf::new(), number }
    }

    #[test]
    fn every_kernel_makes_the_table_in_every_setting() {
        for place in 0..4 {
            assert_eq!(settings("node_table", Breadth::Matrix(place), IPTABLES), EVERY);
            let attaches = if place < TCX_SINCE { 1 } else { 2 };
            assert_eq!(settings("node_table", Breadth::Matrix(place), EBPF).len(), 4 * attaches);
        }
        assert_eq!(settings("node_table", Breadth::Usual, IPTABLES), [NFT_PTP]);
    }

    #[test]
    fn the_matrix_covers_every_setting() {
        for mode in [IPTABLES, EBPF] {
            let covered = |place| settings("node_pods", Breadth::Matrix(place), mode);
            let covered: Vec<Setting> = (0..4).flat_map(covered).collect();
            let is_covered = |node: Setting| {
                covered.iter().any(|other| (node.backend, node.topology) == (other.backend, other.topology))
            };
            assert!(EVERY.into_iter().all(is_covered), "{covered:?}");
        }
    }

    #[test]
    fn both_ways_to_attach_are_covered_where_both_are() {
        assert_eq!(kernels::MATRIX[TCX_SINCE].name, "6.12");
        let attached = |place| {
            let all = settings("node_pods", Breadth::Matrix(place), EBPF);
            all.into_iter().map(|setting| setting.tc_attach).collect::<Vec<_>>()
        };
        assert_eq!(attached(TCX_SINCE - 1), [Some("clsact")]);
        assert_eq!(attached(TCX_SINCE), [Some("clsact"), Some("tcx")]);
    }

    #[test]
    fn what_is_shared_is_whole_over_the_matrix() {
        let attached = |name: &str, number, place| {
            let all = program(name, number).settings(Breadth::Share(place), Some(EBPF));
            all.into_iter().map(|setting| setting.tc_attach).collect::<Vec<_>>()
        };
        for number in 0..8 {
            let rules = |place| program("node_pods", number).settings(Breadth::Share(place), Some(IPTABLES)).len();
            let runs = |place| attached("node_pods", number, place).len();
            let places: Vec<usize> = (0..4).filter(|place| rules(*place) + runs(*place) > 0).collect();
            assert_eq!((0..4).map(runs).sum::<usize>(), 1);
            assert_eq!((0..4).map(rules).sum::<usize>(), 1);
            assert_eq!(places.len(), 2, "no kernel has both modes of one");
            assert_eq!((0..4).map(|place| attached("node_fallback", number, place).len()).sum::<usize>(), 2);
        }
        assert_eq!(attached("node_pods", 1, TCX_SINCE), [Some("tcx")]);
        assert_eq!(attached("node_pods", 0, TCX_SINCE + 1), [Some("clsact")]);
    }

    #[test]
    fn what_is_about_attaching_is_shared_by_both_ways() {
        for (name, number) in ATTACHING.into_iter().flat_map(|name| [(name, 0), (name, 1)]) {
            let ways = |place| program(name, number).settings(Breadth::Share(place), None);
            let ways: Vec<_> =
                (0..4).flat_map(|place| ways(place).into_iter().map(move |way| (place, way.tc_attach))).collect();
            let by = |attach| ways.iter().filter(move |(_, way)| *way == Some(attach)).map(|(place, _)| *place);
            assert_eq!(by(TCX).count(), 1, "{name}");
            assert_eq!(by(CLSACT).filter(|place| *place < TCX_SINCE).count(), 1, "{name}");
            assert_eq!(by(CLSACT).filter(|place| *place >= TCX_SINCE).count(), 1, "{name}");
            assert!(by(CLSACT).all(|place| by(TCX).all(|other| place != other)), "{name}");
        }
    }

    #[test]
    fn every_kernel_makes_the_table_in_every_way_with_each_backend_and_topology() {
        for place in 0..4 {
            let whole = settings(TABLE, Breadth::Matrix(place), EBPF);
            let share = settings(TABLE, Breadth::Share(place), EBPF);
            assert_eq!(share.len() * 2, whole.len());
            for wanted in ["nft", "legacy", "ptp", "bridge"] {
                assert!(share.iter().any(|setting| [setting.backend, setting.topology].contains(&wanted)));
            }
        }
    }

    #[test]
    fn what_is_about_programs_is_not_run_without_them() {
        for name in EBPF_ONLY {
            assert!(settings(name, Breadth::Matrix(3), IPTABLES).is_empty(), "{name}");
        }
        assert_eq!(settings("node_fallback", Breadth::Matrix(3), EBPF).len(), 1);
        assert_eq!(settings("node_survives", Breadth::Matrix(3), EBPF).len(), 2);
    }

    #[test]
    fn a_node_of_a_cluster_is_run_in_either_mode_with_either_topology() {
        let worker = |mode| settings("worker_mesh", Breadth::Usual, mode);
        assert_eq!(worker(IPTABLES), [NFT_BRIDGE]);
        assert_eq!(worker(EBPF), [Setting { mode: EBPF, ..NFT_PTP }]);
    }

    #[test]
    fn what_breaks_things_is_run_in_both_modes_with_both_backends() {
        let settings = |place| program("resilience_judge", 0).settings(Breadth::Matrix(place), None);
        assert_eq!(settings(0), [LEGACY_BRIDGE, Setting { mode: EBPF, tc_attach: Some(CLSACT), ..LEGACY_BRIDGE }]);
        assert_eq!(settings(TCX_SINCE), [NFT_PTP, Setting { mode: EBPF, tc_attach: Some(TCX), ..NFT_PTP }]);
        let ebpf = program("resilience_judge", 0).settings(Breadth::Matrix(0), Some(EBPF));
        assert_eq!(ebpf, settings(0)[1..]);
    }

    #[test]
    fn the_short_form_has_each_once_and_both_modes_on_both_kernels() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(FOLDER);
        let names: Vec<String> = names(&folder, RESILIENCE).expect("the tests' folder");
        assert!(ON_THE_FIRST.iter().all(|first| names.iter().any(|name| name == first)), "{names:?}");
        let programs: Vec<_> = names.iter().enumerate().map(|(number, name)| program(name, number)).collect();
        let runs = |place| suites(&programs, Breadth::Share(place), None);
        let (first, second) = (runs(0), runs(SHORT_STEP));
        for run in [&first, &second] {
            assert!([IPTABLES, EBPF].iter().all(|mode| run.iter().any(|suite| suite.setting.mode == *mode)), "{run:?}");
        }
        let mut of_both: Vec<_> = first.iter().chain(&second).map(|suite| &suite.name).collect();
        of_both.sort();
        assert_eq!(of_both, names.iter().collect::<Vec<_>>());
    }

    #[test]
    fn what_needs_kubernetes_is_known_by_its_name() {
        let needs = |name: &str| program(name, 0).needs_kubernetes();
        assert!(needs("cluster_control_plane") && !needs("node_table") && !needs("netns_corpus"));
        assert_eq!(settings("cluster_control_plane", Breadth::Usual, EBPF), [NFT_PTP]);
    }

    #[test]
    fn rules_are_checked_with_both_backends() {
        for mode in [IPTABLES, EBPF] {
            assert_eq!(settings("netns_corpus", Breadth::Usual, mode), [NFT_PTP, LEGACY_PTP]);
        }
        assert_eq!(settings("ebpf_loads", Breadth::Matrix(0), EBPF), [NFT_PTP]);
    }
}
