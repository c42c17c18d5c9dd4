//! Whether what the plugin said of a pod's network namespace holds.

use std::fs::{File, OpenOptions};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::Context as _;
use nix::libc;
use redirect_cni::netns::{self as plugin, NetnsError};
use redirect_cni::protocol::{Answer, Attachment, NetnsId};

use crate::kernel::links;
use crate::kernel::netns::Netns;
use crate::resources::address;

/// Looks at the namespace, and into it; the error is the answer. Enters the namespace with the calling thread for a moment.
pub(super) fn inspect(attachment: &Attachment) -> Result<(), Answer> {
    let Attachment { id, netns, netns_id, ips, .. } = attachment;
    let file = open(netns, *netns_id)?;
    let there =
        addresses(file, &id.ifname).map_err(|error| Answer::RetryLater(format!("look into {netns}: {error:#}")))?;
    let Some(there) = there else {
        return Err(Answer::Refused(format!("there is no interface {} in {netns}", id.ifname)));
    };
    match ips.iter().find(|ip| !there.contains(ip)) {
        Some(ip) => Err(Answer::Refused(format!("{ip} is not an address of {} in {netns}", id.ifname))),
        None => Ok(()),
    }
}

/// Opens what is at the path, if it is the namespace that the plugin saw there and not the node's.
fn open(path: &str, told: NetnsId) -> Result<File, Answer> {
    let found = plugin::check(path).map_err(|error| match error {
        NetnsError::Open(..) => {
            Answer::RetryLater(format!("{error} (does the agent see the node's network namespaces at their paths?)"))
        }
        NetnsError::NotAbsolute(_) | NetnsError::NotANamespace(_) | NetnsError::Hosts(_) => {
            Answer::Refused(error.to_string())
        }
    })?;
    // Without O_NONBLOCK, what has taken its place since could hold us up.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| Answer::RetryLater(format!("open {path}: {error}")))?;
    let opened = identity(&file).map_err(|error| Answer::RetryLater(format!("look at {path}: {error:#}")))?;
    if (found, opened) == (told, told) {
        Ok(file)
    } else {
        Err(Answer::Refused(format!("{path} is another network namespace than the plugin saw")))
    }
}

fn identity(file: &File) -> std::io::Result<NetnsId> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = file.metadata()?;
    Ok(NetnsId { dev: metadata.dev(), ino: metadata.ino() })
}

/// Those of the interface; `None` if there is no such.
fn addresses(file: File, interface: &str) -> anyhow::Result<Option<Vec<IpAddr>>> {
    let mut netns = Netns::open(file).context("enter it")?;
    let links = links::dump(netns.netlink())?;
    let Some(link) = links.into_iter().find(|link| link.name == interface) else { return Ok(None) };
    let all = address::observe(netns.netlink())?;
    Ok(Some(all.into_iter().filter(|address| address.index == link.index).map(|address| address.ip).collect()))
}

#[cfg(test)]
mod tests {
    use redirect_cni::protocol::{AttachmentId, Pod};

    use super::*;

    fn attachment(path: &str, id: NetnsId) -> Attachment {
        Attachment {
            id: AttachmentId { network: "net".into(), container: "c1".into(), ifname: "eth0".into() },
            pod: Pod { namespace: "mesh".into(), name: "a".into(), uid: None },
            netns: path.into(),
            netns_id: id,
            ips: vec!["10.0.0.1".parse().unwrap()],
        }
    }

    fn refused(path: &str, id: NetnsId) -> bool {
        matches!(inspect(&attachment(path, id)), Err(Answer::Refused(_)))
    }

    #[test]
    fn what_is_no_pods_namespace_is_refused_before_it_is_opened() {
        let none = NetnsId { dev: 0, ino: 0 };
        let own = identity(&File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
        assert!(refused("/proc/thread-self/ns/net", own), "the node's");
        assert!(refused("/proc/self/ns/mnt", none));
        assert!(refused("/dev/null", none));
        assert!(refused("relative", none));
        assert!(refused("", none));
        let gone = inspect(&attachment("/run/netns/no-such-namespace", none));
        assert!(matches!(gone, Err(Answer::RetryLater(_))), "{gone:?}");
    }
}
