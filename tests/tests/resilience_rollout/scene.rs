//! A ztunnel that comes, and connections meanwhile.

use std::collections::BTreeMap;

use anyhow::Result;
use redirect_lab::judge::{Judge, Verdict};
use redirect_lab::lab::Lab;
use redirect_lab::layout::PROXY_NAMESPACE;
use redirect_lab::pod::Pod;
use redirect_lab::proxy;
use redirect_lab::status::Status;
use redirect_lab::tally::Tally;
use redirect_lab::traffic::{Report, Traffic};

/// Makes a ztunnel, shows it to the judge, and says that it is Ready only then: before, nothing is sent to it.
pub(crate) fn come(lab: &mut Lab, judge: &mut Judge, name: &str) -> Result<()> {
    let mut pod = Pod::proxy(PROXY_NAMESPACE, name)?;
    pod.ready = false;
    lab.add_pod(pod)?;
    judge.follow(lab)?;
    lab.change_pod(name, |pod| pod.ready = true)
}

/// Whether new connections go to `current`, and `former` drains, or nobody does.
pub(crate) fn follows(status: &Status, current: &str, former: Option<&str>) -> bool {
    status.proxied_by(current) && status.draining.as_ref().map(|draining| draining.name.as_str()) == former
}

/// How many connections a proxy has seen.
pub(crate) fn seen_by(lab: &Lab, name: &str) -> Result<usize> {
    Ok(proxy::read(&lab.proxy_log(name), 0)?.0.len())
}

/// How many of the long connections each proxy has.
pub(crate) fn by_proxy(standing: &[(&'static str, Option<String>)]) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for proxy in standing.iter().filter_map(|(_, proxy)| proxy.clone()) {
        *all.entry(proxy).or_default() += 1;
    }
    all
}

/// Connections of every kind go on while `work`, which is `what`, is done, and a judge watches.
pub(crate) fn judged(
    tally: &mut Tally,
    what: &str,
    lab: &mut Lab,
    work: impl FnOnce(&mut Lab, &mut Judge, &Traffic) -> Result<()>,
) -> Result<(Report, Verdict)> {
    let mut judge = Judge::watch(lab)?;
    let traffic = Traffic::judged(lab, &judge)?;
    let done = work(lab, &mut judge, &traffic);
    let report = traffic.stop()?;
    let verdict = judge.finish(lab)?;
    tally.add(what, 1, &report, &verdict);
    done?;
    Ok((report, verdict))
}
