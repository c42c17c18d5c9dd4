//! What a machine has before it becomes a node: a root that can be exchanged, file systems, and its way to the host.

use std::fs;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};

use crate::command::Cmd;
use crate::layout::{AROUND_GUEST, GUEST_IP, NODE_NAME, UPLINK, WIRE_PREFIX};

/// A second look at the root file system.
const ROOT: &str = "/root-of-node";
/// Where kubelet and containerd keep what is large. A file system that they can ask for its size: the root of a guest is none.
const STATE: [&str; 2] = ["/var/lib/kubelet", "/var/lib/containerd"];

pub(super) fn prepare() -> Result<()> {
    exchange_root()?;
    for folder in STATE {
        fs::create_dir_all(folder).with_context(|| format!("make {folder}"))?;
        let options = Some("mode=711,size=75%");
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), options)
            .with_context(|| format!("mount {folder}"))?;
    }
    // As systemd makes them: mounts of the node come to those containers that want them.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED, None::<&str>)
        .context("share mounts")?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("forward")?;
    fs::write("/etc/hosts", format!("127.0.0.1 localhost\n{GUEST_IP} {NODE_NAME}\n")).context("write /etc/hosts")?;
    fs::write("/etc/resolv.conf", "").context("write /etc/resolv.conf")?;
    for line in [
        format!("ip link set {UPLINK} up"),
        format!("ip address add {GUEST_IP}/{WIRE_PREFIX} dev {UPLINK}"),
        format!("ip route add default via {AROUND_GUEST}"),
    ] {
        Cmd::line(&line).run()?;
    }
    Ok(())
}

/// Makes another mount of the root file system the root, for this process and those that it starts. The one that the kernel
/// unpacks its initramfs into has nothing below itself, and `pivot_root(2)`, by which containers get their root, refuses it.
fn exchange_root() -> Result<()> {
    fs::create_dir_all(ROOT).context("make a folder")?;
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some("/"), ROOT, None::<&str>, bind, None::<&str>).context("bind the root")?;
    chdir(ROOT).context("enter the other root")?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).context("move the root")?;
    chroot(".").context("change the root")?;
    chdir("/").context("enter the root")
}
