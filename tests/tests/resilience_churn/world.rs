//! Pods that nobody plumbs: what is said of them, in which order, and who of them is meshed in the end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use redirect_lab::bpf::random::Random;
use redirect_lab::layout::MESH_NAMESPACE;
use redirect_lab::manifests::Manifests;
use redirect_lab::pod::Pod;

const MODE: &str = "istio.io/dataplane-mode";
/// Names, of which each is at most one pod's at a time.
const NAMES: usize = 60;
/// Fewer than names, so that addresses are claimed by several.
const ADDRESSES: usize = 40;
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 1);

/// What is said of a pod. Of one name it comes in order, as from the API server; of several in any.
#[derive(Clone, Debug)]
enum News {
    Is(Pod),
    Gone(Pod),
}

#[derive(Debug)]
pub(crate) struct World {
    random: Random,
    /// By name.
    pods: BTreeMap<String, Pod>,
    /// What has not been said yet, by name.
    untold: BTreeMap<String, VecDeque<News>>,
    /// Pods so far: the next one is younger than all of them.
    made: u64,
    tally: BTreeMap<&'static str, usize>,
}

impl World {
    pub(crate) const fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            pods: BTreeMap::new(),
            untold: BTreeMap::new(),
            made: 0,
            tally: BTreeMap::new(),
        }
    }

    /// One thing happens to one pod.
    pub(crate) fn change(&mut self) -> Result<()> {
        let name = format!("churn-{}", self.random.below(NAMES));
        let address = self.address()?;
        let Some(mut pod) = self.pods.get(&name).cloned() else { return self.come(&name, address) };
        let what = match self.random.below(10) {
            0..4 => {
                return {
                    self.go(&name);
                    Ok(())
                };
            }
            4..7 => turn(&mut pod),
            7..9 => {
                pod.ips = vec![address];
                "has another address"
            }
            _ => {
                "Succeeded".clone_into(&mut pod.phase);
                "ends"
            }
        };
        self.say(what, News::Is(pod.clone()));
        self.pods.insert(name, pod);
        Ok(())
    }

    pub(crate) fn all_go(&mut self) {
        let names: Vec<_> = self.pods.keys().cloned().collect();
        for name in names {
            self.go(&name);
        }
    }

    /// Something of what has happened is told; half of it is not yet.
    pub(crate) fn tell_some(&mut self, manifests: &Manifests) -> Result<()> {
        if self.random.below(2) == 0 { self.tell(manifests) } else { Ok(()) }
    }

    pub(crate) fn tell_all(&mut self, manifests: &Manifests) -> Result<()> {
        while !self.untold.is_empty() {
            self.tell(manifests)?;
        }
        Ok(())
    }

    /// Of who claims an address the youngest that has not ended has it, meshed or not.
    pub(crate) fn meshed(&self) -> BTreeSet<Ipv4Addr> {
        let mut owners: BTreeMap<Ipv4Addr, &Pod> = BTreeMap::new();
        for pod in self.pods.values().filter(|pod| pod.phase != "Succeeded") {
            for ip in pod.ips.iter().filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None }) {
                let owner = owners.entry(ip).or_insert(pod);
                if (owner.created, &owner.uid) < (pod.created, &pod.uid) {
                    *owner = pod;
                }
            }
        }
        owners.into_iter().filter(|(_, pod)| !pod.labels.contains_key(MODE)).map(|(ip, _)| ip).collect()
    }

    /// What has happened, and how often.
    pub(crate) fn tally(&self) -> String {
        format!("{} pods; {:?}", self.made, self.tally)
    }

    fn come(&mut self, name: &str, address: IpAddr) -> Result<()> {
        let mut pod = Pod::app(MESH_NAMESPACE, name)?;
        self.made += 1;
        pod.created += self.made;
        pod.ips = vec![address];
        self.say("comes", News::Is(pod.clone()));
        self.pods.insert(name.to_owned(), pod);
        Ok(())
    }

    fn go(&mut self, name: &str) {
        if let Some(pod) = self.pods.remove(name) {
            self.say("goes", News::Gone(pod));
        }
    }

    fn say(&mut self, what: &'static str, news: News) {
        let (News::Is(pod) | News::Gone(pod)) = &news;
        self.untold.entry(pod.name.clone()).or_default().push_back(news);
        *self.tally.entry(what).or_default() += 1;
    }

    /// The next news of anyone.
    fn tell(&mut self, manifests: &Manifests) -> Result<()> {
        let place = self.random.below(self.untold.len());
        let Some(name) = self.untold.keys().nth(place).cloned() else { return Ok(()) };
        let news = self.untold.get_mut(&name).and_then(VecDeque::pop_front);
        if self.untold.get(&name).is_none_or(VecDeque::is_empty) {
            self.untold.remove(&name);
        }
        match news {
            Some(News::Is(pod)) => manifests.put_pod(&pod),
            Some(News::Gone(pod)) => manifests.remove_pod(&pod),
            None => Ok(()),
        }
    }

    fn address(&mut self) -> Result<IpAddr> {
        let offset = u32::try_from(self.random.below(ADDRESSES))?;
        Ok(FIRST.to_bits().checked_add(offset).map(Ipv4Addr::from_bits).context("no such address")?.into())
    }
}

/// Into the mesh or out of it.
fn turn(pod: &mut Pod) -> &'static str {
    if pod.labels.remove(MODE).is_some() {
        return "joins";
    }
    pod.labels.insert(MODE.to_owned(), "none".to_owned());
    "leaves"
}
