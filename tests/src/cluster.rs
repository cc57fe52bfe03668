//! Hosts that replicate one file set, and what tests do with all of them.

use crate::{
    host::{FILESET, Host, Place},
    image::GIB,
    network::{Cut, Network},
    shell::eventually,
    tree,
    workspace::Workspace,
};
use anyhow::{Context, Result, ensure};
use std::{fs, ops::Index, path::Path, sync::mpsc::RecvTimeoutError, time::Duration};

const PORT: u16 = 7400;

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Options {
    disks: Vec<u64>,
    clients: usize,
    state_on_disk: bool,
    mount_options: Vec<String>,
}

impl Options {
    /// Two hosts with disks of 4 GiB.
    pub fn pair() -> Self {
        Self { disks: vec![4 * GIB; 2], clients: 0, state_on_disk: false, mount_options: Vec::new() }
    }

    /// One host that stores the file set, and clients that do not.
    pub fn clients(count: usize) -> Self {
        Self { disks: vec![4 * GIB; 1 + count], clients: count, ..Self::pair() }
    }

    /// With disks of other sizes, in bytes; as many hosts as sizes.
    pub fn disks(mut self, bytes: &[u64]) -> Self {
        self.disks = bytes.to_vec();
        self
    }

    /// With the managers' state on the same disk as the store, for cuts of power.
    pub fn state_on_disk(mut self) -> Self {
        self.state_on_disk = true;
        self
    }

    /// With more options for `lento fileset create` and `lento replicate`.
    pub fn mount_options(mut self, options: &[&str]) -> Self {
        self.mount_options = options.iter().map(|s| (*s).to_owned()).collect();
        self
    }
}

/// Hosts on a network of their own.
#[derive(Debug)]
pub struct Cluster {
    hosts: Vec<Host>,
    network: Network,
    options: Options,
    space: Workspace,
}

impl Index<usize> for Cluster {
    type Output = Host;
    fn index(&self, host: usize) -> &Host {
        &self.hosts[host]
    }
}

/// Runs `test` on two hosts that replicate an empty file set; tells their logs if it fails.
pub fn with_pair(options: Options, test: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    with_hosts(options, |cluster| {
        cluster.create(0)?;
        (1..cluster.hosts.len()).try_for_each(|host| cluster.replicate(host))?;
        test(cluster)
    })
}

/// Runs `test` on a holder, whose store `fill` made first, and clients that have mounted it with these options of
/// `lento mount`; everything is killed if it takes longer than `timeout`, as what a mount does not answer waits for ever.
pub fn with_clients(
    (count, options, timeout): (usize, &[&str], Duration),
    fill: impl FnOnce(&Path) -> Result<()>,
    test: impl FnOnce(&Cluster) -> Result<()>,
) -> Result<()> {
    with_hosts(Options::clients(count), |cluster| {
        fill(&cluster[0].mount())?;
        cluster.create(0)?;
        (1..=count).try_for_each(|client| cluster.mount_client(client, &[], options))?;
        cluster.within(timeout, || test(cluster))
    })
}

/// Runs `test` on hosts on which nothing was started yet; tells their logs if it fails.
pub fn with_hosts(options: Options, test: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    let cluster = Cluster::new(options)?;
    let result = test(&cluster);
    if result.is_err() {
        cluster.hosts.iter().for_each(Host::report);
    }
    result
}

impl Cluster {
    /// Makes hosts, disks and network; starts nothing.
    pub fn new(options: Options) -> Result<Self> {
        let space = Workspace::new()?;
        let network = Network::new(space.tag(), options.disks.len())?;
        let mut hosts = Vec::new();
        for (i, bytes) in options.disks.iter().enumerate() {
            let place = Place {
                name: char::from(b'a' + i as u8).to_string(),
                namespace: network.namespace(i),
                listen: format!("{}:{PORT}", network.address(i)),
            };
            let is_client = i + options.clients >= options.disks.len();
            hosts.push(match is_client {
                true => Host::client(space.path(), place, *bytes)?,
                false => Host::new(space.path(), place, *bytes, options.state_on_disk)?,
            });
        }
        Ok(Self { hosts, network, options, space })
    }

    /// A place for what is on no host's disk.
    pub fn path(&self) -> &Path {
        self.space.path()
    }

    /// All hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The network between them.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Makes `host` the first of the cluster, and its store a file set.
    pub fn create(&self, host: usize) -> Result<()> {
        let host = &self.hosts[host];
        host.lento(["init", "--name", host.name(), "--listen", host.listen()]).ok()?;
        host.start()?;
        let create = host.lento(["fileset", "create", FILESET, "--store"]).arg(host.mount());
        create.args(&self.options.mount_options).timeout(Duration::from_secs(300)).ok()?;
        host.wait_mounted()
    }

    /// A ticket from the first host.
    pub fn ticket(&self) -> Result<String> {
        self.ticket_for(&[])
    }

    fn ticket_for(&self, options: &[&str]) -> Result<String> {
        let text = self.hosts[0].lento(["invite", "--fileset", FILESET]).args(options).ok()?;
        // What else is printed is for people; the ticket is the longest word.
        let word = text.split_whitespace().max_by_key(|w| w.len()).context("no ticket printed")?;
        Ok(word.to_owned())
    }

    /// Has `host` join with a ticket of the first one, without replicating.
    pub fn join(&self, host: usize) -> Result<()> {
        let ticket = self.ticket()?;
        let host = &self.hosts[host];
        host.lento(["join", &ticket, "--name", host.name(), "--listen", host.listen()]).ok()?;
        host.start()
    }

    /// Has `host` join and replicate the file set; returns when it is live.
    pub fn replicate(&self, host: usize) -> Result<()> {
        self.join(host)?;
        self.replicate_joined(host)
    }

    /// Has `host`, which has joined, replicate the file set.
    pub fn replicate_joined(&self, host: usize) -> Result<()> {
        let host = &self.hosts[host];
        let replicate = host.lento(["replicate", FILESET, "--store"]).arg(host.mount());
        replicate.args(&self.options.mount_options).timeout(Duration::from_secs(600)).ok()?;
        host.wait_mounted()
    }

    /// Has `host` join as a client with a ticket that has these options, and mount the file set with those.
    pub fn mount_client(&self, host: usize, ticket: &[&str], options: &[&str]) -> Result<()> {
        let ticket = self.ticket_for(&[&["--client"], ticket].concat())?;
        let host = &self.hosts[host];
        host.lento(["join", &ticket, "--name", host.name()]).ok()?;
        host.start()?;
        host.lento(["mount", FILESET]).arg(host.mount()).args(options).ok()?;
        host.wait_mounted()
    }

    /// Waits until the holder has what clients wrote, and the clients see what the holder has; everything is fetched for
    /// that, and compared. Returns the number of objects.
    pub fn clients_agree(&self, timeout: Duration) -> Result<usize> {
        for (i, host) in self.hosts.iter().enumerate().skip(1) {
            self.wait_on(i, timeout).with_context(|| format!("client {}", host.name()))?;
        }
        let holder = tree::read(&self.hosts[0].mount())?;
        for host in &self.hosts[1..] {
            eventually(timeout, "a client sees what the holder has", || {
                self.same(&holder, &host.mount()).map(|()| true)
            })?;
        }
        self.same(&holder, &self.hosts[0].store())?;
        Ok(holder.len())
    }

    /// Cuts the network between the first two hosts.
    pub fn cut(&self) -> Result<()> {
        self.network.cut(Cut::Both(0, 1))
    }

    /// Heals the network, and asserts that the cuts dropped something.
    pub fn heal(&self) -> Result<u64> {
        let dropped = self.network.heal()?;
        ensure!(dropped > 0, "the cut of the network dropped no packet: there was no fault");
        Ok(dropped)
    }

    /// `lento wait` on a host.
    pub fn wait_on(&self, host: usize, timeout: Duration) -> Result<()> {
        let seconds = format!("{}s", timeout.as_secs());
        let wait = self.hosts[host].lento(["wait", FILESET, "--timeout", &seconds]);
        wait.timeout(timeout + Duration::from_secs(10)).ok().map(|_| ())
    }

    /// Runs `test`; if it takes longer than `timeout`, reports and kills all hosts, so that whatever waits for them fails.
    pub fn within(&self, timeout: Duration, test: impl FnOnce() -> Result<()>) -> Result<()> {
        let (done, ended) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let watchdog = scope.spawn(move || {
                let late = ended.recv_timeout(timeout) == Err(RecvTimeoutError::Timeout);
                if late {
                    eprintln!("the test did not end in {timeout:?}: its hosts are killed");
                    self.hosts.iter().for_each(Host::report);
                    self.hosts.iter().for_each(Host::end_processes);
                }
                late
            });
            let result = test();
            drop(done);
            let late = watchdog.join().map_err(|_| anyhow::anyhow!("the watchdog panicked"))?;
            ensure!(!late, "it did not end in {timeout:?}; {result:?} came of it");
            result
        })
    }

    fn running(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(|host| host.runs())
    }

    /// Waits until all hosts with a daemon have all that is there, and checks that they are equal: mounts and stores, by our own
    /// comparison and by `lento verify`. Returns the number of objects.
    pub fn converge(&self, timeout: Duration) -> Result<usize> {
        eventually(timeout, "all hosts are live and without lag", || {
            for host in self.running() {
                let fileset = host.fileset()?;
                ensure!(fileset["state"] == "live", "{}: state is {}", host.name(), fileset["state"]);
                let replicas = fileset["replicas"].as_array().map_or(&[][..], Vec::as_slice);
                for replica in replicas {
                    let lag = replica["lag"]["records"].as_u64();
                    ensure!(lag == Some(0), "{}: {lag:?} records behind: {fileset}", host.name());
                }
            }
            Ok(true)
        })?;
        // What is a few records behind by now is so because it was written after the status; wait for that too.
        for (i, host) in self.hosts.iter().enumerate() {
            if host.runs() {
                self.wait_on(i, timeout)?;
            }
        }
        let first = tree::read(&self.hosts[0].mount())?;
        for host in self.running() {
            self.same(&first, &host.mount())?;
            self.same(&first, &host.store())?;
        }
        for host in self.running() {
            host.lento(["verify", FILESET]).timeout(Duration::from_secs(120)).ok()?;
        }
        Ok(first.len())
    }

    fn same(&self, first: &tree::Tree, other: &Path) -> Result<()> {
        let found = tree::differences(first, &tree::read(other)?);
        let shown: Vec<&str> = found.iter().take(20).map(String::as_str).collect();
        ensure!(
            found.is_empty(),
            "{:?} (left) and {other:?} (right) differ in {} paths:\n    {}",
            self.hosts[0].mount(),
            found.len(),
            shown.join("\n    ")
        );
        Ok(())
    }

    /// Waits until `path` on `host` has this content.
    pub fn sees(&self, host: usize, path: &str, content: &[u8]) -> Result<Duration> {
        let file = self.hosts[host].at(path);
        eventually(Duration::from_secs(20), &format!("{path} is on {}", self.hosts[host].name()), || {
            Ok(fs::read(&file)? == content)
        })
    }
}
