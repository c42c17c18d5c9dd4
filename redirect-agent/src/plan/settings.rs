//! Which interface settings the datapath needs, and why.

use std::collections::BTreeMap;
use std::net::IpAddr;

use redirect_common::names::TUNNELS;

use super::Inputs;
use crate::proxy::Seated;
use crate::resources::sysctl::Setting;

const RP_FILTER: &str = "rp_filter";
const ACCEPT_LOCAL: &str = "accept_local";
const PORTS: &str = "ip_local_port_range";

/// The node's. Packets arrive with sources whose route leads elsewhere: a meshed pod's IP is routed into `istioin`, and
/// ztunnel speaks with its clients' addresses, the node's own among them (hence `accept_local`).
pub(super) fn node(inputs: &Inputs<'_>) -> BTreeMap<Setting, String> {
    let rp_filter = rp_filter(inputs.all_rp_filter.node);
    let mut settings = BTreeMap::new();
    let proxies = inputs.proxies().map(|seated| seated.proxy.host.device());
    for device in TUNNELS.iter().map(|tunnel| tunnel.node_link).chain(proxies) {
        settings.insert(Setting::new(device, RP_FILTER), rp_filter.clone());
        settings.insert(Setting::new(device, ACCEPT_LOCAL), "1".to_owned());
    }
    for pod in inputs.members() {
        if let Some(device) = inputs.facts.device_of(IpAddr::V4(pod)) {
            settings.insert(Setting::new(&device.name, RP_FILTER), rp_filter.clone());
        }
    }
    settings
}

/// Those of ztunnel's namespace: what comes out of the tunnels has sources that are routed over its own interface, and what it opens
/// has ports of its seat.
pub(super) fn proxy(inputs: &Inputs<'_>, ztunnel: Seated<'_>) -> BTreeMap<Setting, String> {
    let devices = TUNNELS.iter().map(|tunnel| tunnel.proxy_link).chain([ztunnel.proxy.interface.as_str()]);
    let checks = devices.map(|device| (Setting::new(device, RP_FILTER), rp_filter(inputs.all_rp_filter.proxy)));
    let ports = ztunnel.seat.ports();
    let ports = (Setting::of_netns(PORTS), format!("{} {}", ports.start(), ports.end()));
    checks.chain([ports]).collect()
}

/// The kernel uses the larger of an interface's value and `all`'s (`IN_DEV_RPFILTER`, include/linux/inetdevice.h). Where
/// `all` is not 0, 2 makes the interface's check a loose one, which our packets pass, and leaves every other interface's
/// check as strict as it was; writing `all` would not.
fn rp_filter(all: u8) -> String {
    if all == 0 { "0".to_owned() } else { "2".to_owned() }
}
