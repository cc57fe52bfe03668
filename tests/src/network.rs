//! Hosts as network namespaces on one switch, and cuts between them.

use crate::shell::{Cmd, cmd};
use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};
use std::{fs::File, net::Ipv4Addr};

/// Namespaces `TAG-0`, `TAG-1`… joined by a bridge in `TAG-switch`; nothing of it is seen in the host's own network.
/// Gone when dropped.
#[derive(Debug)]
pub struct Network {
    tag: String,
    hosts: usize,
}

/// Which way a cut goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// What `from` sends does not reach `to`; the other way all is well.
    OneWay {
        /// Index of the sender.
        from: usize,
        /// Index of the receiver.
        to: usize,
    },
    /// Nothing passes between the two.
    Both(usize, usize),
}

impl Cut {
    fn ways(self) -> Vec<(usize, usize)> {
        match self {
            Self::OneWay { from, to } => vec![(from, to)],
            Self::Both(a, b) => vec![(a, b), (b, a)],
        }
    }
}

impl Network {
    /// Makes it with `hosts` hosts, each with an address on one subnet.
    pub fn new(tag: &str, hosts: usize) -> Result<Self> {
        let network = Self { tag: tag.to_owned(), hosts };
        let switch = network.switch();
        ip(["netns", "add", &switch])?;
        in_ns(&switch, "ip link add br0 type bridge && ip link set br0 up")?;
        for host in 0..hosts {
            let name = network.namespace(host);
            ip(["netns", "add", &name])?;
            let port = format!("port{host}");
            ip(["-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
            in_ns(&switch, &format!("ip link set {port} master br0 up"))?;
            let address = network.address(host);
            in_ns(&name, &format!("ip link set lo up && ip addr add {address}/24 dev eth0 && ip link set eth0 up"))?;
            in_ns(
                &name,
                "nft add table inet imz && nft 'add chain inet imz input { type filter hook input priority 0; }'",
            )
            .context("package nftables is needed")?;
        }
        Ok(network)
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.tag)
    }

    /// The name of a host's namespace.
    pub fn namespace(&self, host: usize) -> String {
        format!("{}-{host}", self.tag)
    }

    /// A host's address.
    pub fn address(&self, host: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, u8::try_from(host + 1).unwrap_or(u8::MAX))
    }

    /// A command that runs in a host's namespace.
    pub fn on(&self, host: usize, command: Cmd) -> Cmd {
        command.in_netns(&self.namespace(host))
    }

    /// Drops packets between two hosts until [`Network::heal`].
    pub fn cut(&self, cut: Cut) -> Result<()> {
        cut.ways().into_iter().try_for_each(|(from, to)| {
            let rule = format!("nft add rule inet imz input ip saddr {} counter drop", self.address(from));
            in_ns(&self.namespace(to), &rule).map(|_| ())
        })
    }

    /// Ends all cuts. Returns how many packets they dropped, so that a test can assert that there was a cut.
    pub fn heal(&self) -> Result<u64> {
        let mut dropped = 0;
        for host in 0..self.hosts {
            dropped += self.dropped(host)?;
            in_ns(&self.namespace(host), "nft flush chain inet imz input")?;
        }
        Ok(dropped)
    }

    /// Packets to `host` that the cuts dropped so far.
    pub fn dropped(&self, host: usize) -> Result<u64> {
        let rules = in_ns(&self.namespace(host), "nft list chain inet imz input")?;
        let counts = rules.split("counter packets ").skip(1);
        Ok(counts.filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok()).sum())
    }

    /// Limits what `host` sends, as in `400mbit`.
    pub fn limit(&self, host: usize, rate: &str) -> Result<()> {
        let rule = format!("tc qdisc add dev eth0 root tbf rate {rate} burst 512kb latency 100ms");
        in_ns(&self.namespace(host), &rule).map(|_| ())
    }

    /// Bytes that `host` received and sent since it was made.
    pub fn traffic(&self, host: usize) -> Result<(u64, u64)> {
        let table = in_ns(&self.namespace(host), "cat /proc/self/net/dev")?;
        let line = table.lines().find_map(|line| line.trim().strip_prefix("eth0:")).context("no eth0")?;
        let fields: Vec<u64> = line.split_whitespace().filter_map(|f| f.parse().ok()).collect();
        ensure!(fields.len() >= 16, "/proc/net/dev is not as expected: {line}");
        Ok((fields[0], fields[8]))
    }

    /// Runs `work` on a thread in a host's namespace; the sockets that it makes are that host's.
    pub fn inside<T: Send>(&self, host: usize, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(format!("/run/netns/{}", self.namespace(host)))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET).context("enter a network namespace")?;
                work()
            });
            thread.join().map_err(|_| anyhow::anyhow!("a thread in a network namespace panicked"))?
        })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in (0..self.hosts).map(|host| self.namespace(host)).chain([self.switch()]) {
            let _ = cmd("ip", ["netns", "del", &name]).run();
        }
    }
}

fn ip<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<()> {
    cmd("ip", args).ok().context("network namespaces are needed (package iproute2, root)").map(|_| ())
}

fn in_ns(name: &str, script: &str) -> Result<String> {
    crate::shell::sh(script, [""; 0]).in_netns(name).ok()
}
