//! A network of its own: a namespace for each machine, cables to one switch, packet filters.
//!
//! Nothing of it touches the host's own network: the switch is a bridge inside a
//! namespace too. Nodes talk through `eth0`; operators of ours enter a namespace
//! and use its loopback, so that no fault cuts an observer off from its node.

use std::{
    fs::{self, File},
    io::Write,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd,
    path::Path,
    process::{self, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// What the names of our namespaces start with; the id of the process that made them follows.
const PREFIX: &str = "mesh-test-";
/// Where `ip netns` keeps names.
const NAMES: &str = "/run/netns";
/// The filter table of all faults in a namespace.
const TABLE: &str = "inet mesh_faults";

/// A switch and the machines that are plugged into it.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    machines: Vec<Namespace>,
}

/// One machine's network. Clones mean the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    name: String,
    ip: Ipv4Addr,
}

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Every packet.
    All,
    /// UDP alone.
    Udp,
}

impl Lab {
    /// A network with so many machines, 10.77.0.1 and following. Needs
    /// [`Need::Namespaces`](super::Need), and [`Need::Nftables`](super::Need) for faults.
    ///
    /// # Errors
    ///
    /// A command failed; its words are in the error.
    pub fn new(machines: u8) -> Result<Self> {
        static LABS: AtomicU32 = AtomicU32::new(1);
        remove_abandoned();
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let mut lab = Self { prefix: format!("{PREFIX}{}-{number}", process::id()), machines: Vec::new() };
        let switch = lab.switch();
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "br0", "up"])?;
        for number in 1..=machines {
            lab.plug_in(number)?;
        }
        Ok(lab)
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.prefix)
    }

    fn plug_in(&mut self, number: u8) -> Result<()> {
        let (switch, name) = (self.switch(), format!("{}-{number}", self.prefix));
        let machine = Namespace { name: name.clone(), ip: Ipv4Addr::new(10, 77, 0, number) };
        ip(&["netns", "add", &name])?;
        let address = format!("{}/24", machine.ip);
        self.machines.push(machine);
        let port = format!("port{number}");
        ip(&["-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
        ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"])?;
        ip(&["-n", &name, "address", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])
    }

    /// The machines, in order.
    pub fn machines(&self) -> &[Namespace] {
        &self.machines
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let names = self.machines.iter().map(|machine| machine.name.clone()).chain([self.switch()]);
        for name in names {
            // One that was never made can't be deleted, which is as well.
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

impl Namespace {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address in the lab.
    pub fn ip(&self) -> IpAddr {
        self.ip.into()
    }

    /// A program that will run in it.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Moves the calling thread into it, for good.
    ///
    /// # Errors
    ///
    /// It is gone, or the right to enter is missing.
    pub fn enter(&self) -> Result<()> {
        let path = Path::new(NAMES).join(&self.name);
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter {}", path.display()))
    }

    /// Drops what comes in and goes out over `eth0`.
    ///
    /// # Errors
    ///
    /// `nft` refused.
    pub fn cut(&self, port: Port) -> Result<()> {
        self.filter(&[format!("iifname eth0 {}", port.rule())], &[format!("oifname eth0 {}", port.rule())])
    }

    /// Drops what goes to these and what comes from them.
    ///
    /// # Errors
    ///
    /// `nft` refused.
    pub fn cut_from(&self, others: &[&Namespace]) -> Result<()> {
        let addresses = addresses(others);
        self.filter(&[format!("ip saddr {addresses}")], &[format!("ip daddr {addresses}")])
    }

    /// Drops what comes from these, and goes on sending to them.
    ///
    /// # Errors
    ///
    /// `nft` refused.
    pub fn stop_hearing(&self, others: &[&Namespace]) -> Result<()> {
        self.filter(&[format!("ip saddr {}", addresses(others))], &[])
    }

    /// Takes all faults back, and checks that each of them had an effect.
    ///
    /// # Errors
    ///
    /// `nft` refused, or a rule never dropped a packet: the story would prove nothing.
    pub fn heal(&self) -> Result<()> {
        let rules = self.nft(&format!("list table {TABLE}\n"))?;
        self.nft(&format!("delete table {TABLE}\n"))?;
        let idle = rules.lines().find(|line| line.contains("counter packets 0 "));
        ensure!(idle.is_none(), "{}: no packet met the rule {}", self.name, idle.unwrap_or_default().trim());
        Ok(())
    }

    /// Replaces the rules by ones that drop what they describe.
    fn filter(&self, input: &[String], output: &[String]) -> Result<()> {
        // A table must be there to be deleted; to add one that is there changes nothing.
        let mut script = format!("add table {TABLE}\ndelete table {TABLE}\nadd table {TABLE}\n");
        for (chain, rules) in [("input", input), ("output", output)] {
            script += &format!("add chain {TABLE} {chain} {{ type filter hook {chain} priority 0; }}\n");
            for rule in rules {
                script += &format!("add rule {TABLE} {chain} {rule} counter drop\n");
            }
        }
        self.nft(&script).map(drop)
    }

    /// Runs a script in one transaction; what it printed.
    fn nft(&self, script: &str) -> Result<String> {
        let mut nft = self.command(Path::new("nft"));
        nft.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = nft.spawn().context("cannot start nft")?;
        let mut stdin = child.stdin.take().context("nft has no standard input")?;
        stdin.write_all(script.as_bytes()).context("cannot write to nft")?;
        drop(stdin);
        let done = child.wait_with_output().context("cannot wait for nft")?;
        let said = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "nft refused this:\n{script}it said: {}", said.trim());
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }
}

impl Port {
    fn rule(self) -> &'static str {
        match self {
            Self::All => "",
            Self::Udp => "meta l4proto udp",
        }
    }
}

fn addresses(machines: &[&Namespace]) -> String {
    let list: Vec<String> = machines.iter().map(|machine| machine.ip.to_string()).collect();
    format!("{{ {} }}", list.join(", "))
}

/// Deletes what a test process left behind when it was killed.
fn remove_abandoned() {
    let Ok(names) = fs::read_dir(NAMES) else { return };
    for name in names.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if let Some(owner) = owner.and_then(|owner| owner.parse::<u32>().ok())
            && !Path::new(&format!("/proc/{owner}")).exists()
        {
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let done = Command::new("ip").args(arguments).stdin(Stdio::null()).output().context("cannot start ip")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "`ip {}` failed: {}", arguments.join(" "), said.trim());
    Ok(())
}
