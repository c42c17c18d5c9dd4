//! The lab's machine goes down without a word and comes up again. What a kernel holds is gone: namespaces with their links, routes, rules and
//! sets, processes, BPF objects; and so is `/run`, which is in memory. What is on disk is there: lists and programs of plugins, leases of
//! addresses. The other node goes on, and so does what the API server knows.

use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::cni::Attachment;
use crate::daemons::server_role;
use crate::lab::Lab;
use crate::layout::{REMOTE, UPLINK};
use crate::node::{connect, ip_batch};
use crate::runtime::{Chain, Container};

/// How long a process may take to end when it is killed.
const END: Duration = Duration::from_secs(10);

impl Lab {
    /// Takes the node's machine down and up again. No pod has a sandbox after that, and of those that had one the runtime has told the
    /// plugins that they are gone.
    pub fn reboot(&mut self) -> Result<()> {
        self.power_off().context("going down")?;
        self.come_up().context("coming up")
    }

    fn power_off(&mut self) -> Result<()> {
        let elsewhere = server_role(REMOTE);
        let (stay, end): (Vec<_>, Vec<_>) =
            self.state.processes.drain(..).partition(|process| process.role == elsewhere);
        self.state.processes = stay;
        end.iter().try_for_each(|process| process.signal(Signal::KILL))?;
        for process in &end {
            ensure!(process.wait(END)?, "{} does not end", process.role);
        }
        // A namespace goes some time after the last that holds it, and the other end of the wire with it.
        ip_batch(&self.node(), &[&format!("link del {UPLINK}")])?;
        let here: Vec<_> = self.pods().iter().map(|pod| self.pod_netns(&pod.name)).chain([self.node()]).collect();
        here.iter().try_for_each(|netns| self.delete_netns(netns))?;
        for folder in [self.agent_dir(), self.bpf_dir()] {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", folder.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn come_up(&mut self) -> Result<()> {
        let node = self.node();
        self.create_netns(&node)?;
        connect(&node, &self.remote(), self.options())?;
        for name in self.pods().iter().map(|pod| pod.name.clone()).collect::<Vec<_>>() {
            self.with_network(|network| network.del(&self.container(&name), &self.pod_netns(&name)))?;
            self.pod_mut(&name)?.host_link = None;
        }
        self.save()?;
        self.install_services()
    }

    /// A pod is there again with the address that it had, and no plugin of a chain was asked: as a runtime may do that restores what it has
    /// on disk. What the agent sees of the pod stays as it is.
    pub fn restore_pod(&mut self, name: &str) -> Result<()> {
        let ip: Ipv4Addr = self.pod(name)?.ip()?;
        self.free_address_next(ip)?;
        let netns = self.make_sandbox(name)?;
        let attachment = self.with_network(|network| network.add(&self.container(name), &netns))?;
        ensure!(attachment.ip == ip, "{name} had {ip} and has {}", attachment.ip);
        self.run_pod(name, attachment)?;
        self.save()
    }

    /// A container for a pod that has none, in a namespace of its own.
    pub fn new_container(&mut self, name: &str) -> Result<Container> {
        let netns = self.make_sandbox(name)?;
        Ok(Container::of(self.pod(name)?, &self.container(name), netns))
    }

    /// A pod runs in the container that plugins gave this result for. What the agent sees of the pod stays as it is.
    pub fn run_in(&mut self, name: &str, result: &Value) -> Result<()> {
        self.run_pod(name, Attachment::of(&result.to_string())?)?;
        self.save()
    }

    /// Starts a pod that has no sandbox by a chain of plugins, which is told of its end if that fails.
    pub fn start_pod_by(&mut self, name: &str, chain: &Chain) -> Result<()> {
        let container = self.new_container(name)?;
        match chain.add(&container) {
            Ok(result) => self.run_in(name, &result),
            Err(error) => {
                chain.del(&container, None)?;
                self.delete_netns(&container.netns)?;
                Err(error)
            }
        }
    }
}
