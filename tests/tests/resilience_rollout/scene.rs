//! A ztunnel that comes, and connections meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;

use anyhow::{Result, bail, ensure};
use redirect_lab::judge::{Judge, Verdict};
use redirect_lab::lab::Lab;
use redirect_lab::layout::PROXY_NAMESPACE;
use redirect_lab::pod::Pod;
use redirect_lab::proxy;
use redirect_lab::status::Status;
use redirect_lab::tally::Tally;
use redirect_lab::traffic::{CLIENT_PORTS, Report, Traffic};

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

/// Both speak in the same clients' names, to the same servers: no port of the one is one of the other's, nor one that clients have. What
/// they have opened since they were programmed has such ports.
pub(crate) fn ports_differ(lab: &Lab, one: &str, other: &str) -> Result<()> {
    let (ports, others) = (ports_of(lab, one)?, ports_of(lab, other)?);
    let apart = |a: &RangeInclusive<u16>, b: &RangeInclusive<u16>| a.end() < b.start() || b.end() < a.start();
    let clients = CLIENT_PORTS.start..=CLIENT_PORTS.end - 1;
    ensure!(apart(&ports, &others), "{one} has {ports:?}, {other} has {others:?}");
    for (name, ports) in [(one, ports), (other, others)] {
        ensure!(apart(&ports, &clients), "{name} has {ports:?}, clients have {clients:?}");
        let records = proxy::read(&lab.proxy_log(name), 0)?.0;
        let stray = records.iter().filter_map(|record| record.onward_source).find(|from| !ports.contains(&from.port()));
        ensure!(stray.is_none(), "{name} has {ports:?}, and speaks from {stray:?}");
    }
    Ok(())
}

fn ports_of(lab: &Lab, name: &str) -> Result<RangeInclusive<u16>> {
    let text = lab.pod_netns(name).run(|| fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range"))??;
    let ends: Vec<u16> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [first, last] = ends[..] else { bail!("{name} has the ports {text:?}") };
    Ok(first..=last)
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
    let traffic = Traffic::judged_patiently(lab, &judge)?;
    let done = work(lab, &mut judge, &traffic);
    let report = traffic.stop()?;
    let verdict = judge.finish(lab)?;
    tally.add(what, 1, &report, &verdict);
    done?;
    Ok((report, verdict))
}
