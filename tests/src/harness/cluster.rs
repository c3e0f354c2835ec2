//! A cluster of processes, and what a story does to it.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use mesh_core::{Clock, Instant, MemberState, Role, SystemClock};
use mesh_transport::ca::DevLeaf;
use rustix::process::Signal;
use toml::{Table, Value};

use super::{
    artifacts::Folder,
    binary::Program,
    board::{Addresses, Board, Boards},
    certificates::Authority,
    disk::SmallDisk,
    lab::{Lab, Namespace},
    operator::{Operator, Page},
    poll::poll,
    process::Process,
};

/// The name of every cluster here.
pub const CLUSTER: &str = "trial";
/// The trust domain of every cluster here.
pub const TRUST_DOMAIN: &str = "trial.internal";
/// The role of nodes that keep no control state.
const WORKER: &str = "worker";
/// The port of nodes that have a machine of their own.
const MESH_PORT: u16 = 17_421;
/// Longest wait for something that nothing stands in the way of; generous, for machines under load.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a cluster is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    story: String,
    machines: Vec<Machine>,
    /// Machines of the lab without a process of the cluster.
    guests: u8,
    lab: bool,
    revocations: bool,
    small_disk: Option<(String, u32)>,
    settings: Settings,
}

/// Settings by name, as `gossip.probe_interval`.
type Settings = Vec<(String, Value)>;

/// One node of a plan.
#[derive(Clone, Debug)]
struct Machine {
    name: String,
    role: &'static str,
    program: Option<Program>,
    settings: Settings,
}

/// Processes that form a cluster, named `n-1`, `n-2` and so on.
#[derive(Debug)]
pub struct Cluster {
    // Dropped in this order: processes end before their disks, networks and files go.
    nodes: BTreeMap<String, Node>,
    disks: BTreeMap<String, SmallDisk>,
    _lab: Option<Lab>,
    guests: Vec<Namespace>,
    authority: Authority,
    board: Board,
    settings: Settings,
    revocations: bool,
    started_at: Instant,
    folder: Folder,
}

/// A machine: what survives its process, and the process if there is one.
#[derive(Debug)]
struct Node {
    leaf: DevLeaf,
    namespace: Option<Namespace>,
    operator: Option<Operator>,
    process: Option<Process>,
    paused: bool,
    /// Its next run is told where others are.
    seeded: bool,
    /// What runs instead of `mesh`.
    program: Option<Program>,
    /// Settings of this node alone.
    settings: Settings,
}

impl Plan {
    /// So many nodes on the loopback interface, with the settings that users get.
    pub fn new(story: &str, nodes: u8) -> Self {
        let machine = |number| Machine {
            name: format!("n-{}", number + 1),
            role: WORKER,
            program: None,
            settings: Settings::new(),
        };
        Self {
            story: story.to_owned(),
            machines: (0..nodes).map(machine).collect(),
            guests: 0,
            lab: false,
            revocations: false,
            small_disk: None,
            settings: Settings::new(),
        }
    }

    /// The nodes up to now vote: the first of them begins a registry and takes the others in.
    #[must_use]
    pub fn voting(mut self) -> Self {
        for machine in &mut self.machines {
            machine.role = Role::CONTROL;
        }
        self
    }

    /// The nodes up to now run this program instead of `mesh`.
    #[must_use]
    pub fn running(mut self, program: &Program) -> Self {
        for machine in &mut self.machines {
            machine.program = Some(program.clone());
        }
        self
    }

    /// So many nodes more, `h-1` and so on, that do nothing but campaign for a scope.
    #[must_use]
    pub fn with_candidates(mut self, nodes: u8, scope: &str) -> Self {
        let scope = Table::from_iter([("name".to_owned(), Value::String(scope.to_owned()))]);
        let settings = vec![("leader.scopes".to_owned(), Value::Array(vec![Value::Table(scope)]))];
        self.machines.extend((0..nodes).map(|number| Machine {
            name: format!("h-{}", number + 1),
            role: WORKER,
            program: None,
            settings: settings.clone(),
        }));
        self
    }

    /// So many machines more in the lab, for programs of ours.
    #[must_use]
    pub fn with_guests(mut self, machines: u8) -> Self {
        self.guests = machines;
        self
    }

    /// Each node in a namespace of its own, so that there is a network to break.
    #[must_use]
    pub fn in_lab(mut self) -> Self {
        self.lab = true;
        self
    }

    /// All nodes read a revocation list, empty at first.
    #[must_use]
    pub fn with_revocations(mut self) -> Self {
        self.revocations = true;
        self
    }

    /// One node's data is on a disk of so many KiB.
    #[must_use]
    pub fn with_small_disk(mut self, node: &str, kibibytes: u32) -> Self {
        self.small_disk = Some((node.to_owned(), kibibytes));
        self
    }

    /// A setting for all nodes, as `gossip.probe_interval`.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.settings.push((name.to_owned(), value.into()));
        self
    }

    /// Starts the cluster and waits until each node is ready and sees all of them alive.
    ///
    /// # Errors
    ///
    /// A node does not start, or does not find the others.
    pub fn start(self) -> Result<Cluster> {
        let mut cluster = self.prepare()?;
        let names = cluster.names();
        for name in &names {
            cluster.start(name)?;
        }
        cluster.wait_until_whole()?;
        Ok(cluster)
    }

    /// Makes files, networks and disks. No node runs yet.
    ///
    /// # Errors
    ///
    /// Something can't be made.
    pub fn prepare(self) -> Result<Cluster> {
        let folder = Folder::create(&self.story)?;
        let authority = Authority::new(TRUST_DOMAIN, CLUSTER)?;
        authority.issue("operator", "operator")?.save(&folder.path().join("operator"))?;
        let machines = u8::try_from(self.machines.len()).context("too many nodes")?;
        let lab = if self.lab { Some(Lab::new(machines + self.guests)?) } else { None };
        let mut namespaces = lab.iter().flat_map(|lab| lab.machines().to_vec()).collect::<VecDeque<_>>();
        let mut cluster = Cluster {
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            _lab: lab,
            guests: Vec::new(),
            authority,
            board: Board::default(),
            settings: self.settings,
            revocations: self.revocations,
            started_at: SystemClock.now(),
            folder,
        };
        if self.revocations {
            cluster.revoke(&[])?;
        }
        if let Some((name, kibibytes)) = self.small_disk {
            let disk = SmallDisk::mount(&cluster.data(&name), kibibytes)?;
            cluster.disks.insert(name, disk);
        }
        let founder = self.machines.iter().find(|machine| machine.role == Role::CONTROL);
        if let Some(founder) = founder {
            mesh::node::found_cluster(&cluster.data(&founder.name))?;
        }
        for Machine { name, role, program, settings } in self.machines {
            let leaf = cluster.authority.issue(role, &name)?;
            cluster.add(&name, leaf, namespaces.pop_front())?;
            let node = cluster.node_mut(&name)?;
            (node.program, node.settings) = (program, settings);
        }
        cluster.guests = namespaces.into();
        Ok(cluster)
    }
}

impl Cluster {
    /// The names of all nodes, in order.
    pub fn names(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    /// What all nodes said.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Who issues the certificates.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The files of this run.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A node's data directory.
    pub fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join(name).join("data")
    }

    /// The disk of a node that has a small one.
    ///
    /// # Errors
    ///
    /// It has not.
    pub fn disk(&self, name: &str) -> Result<&SmallDisk> {
        self.disks.get(name).with_context(|| format!("{name} has no small disk"))
    }

    /// The network of a node.
    ///
    /// # Errors
    ///
    /// The cluster is in no lab.
    pub fn namespace(&self, name: &str) -> Result<&Namespace> {
        self.node(name)?.namespace.as_ref().with_context(|| format!("{name} has no namespace"))
    }

    /// The machines of the lab that have no process of the cluster; none without a lab.
    pub fn guests(&self) -> &[Namespace] {
        &self.guests
    }

    /// Where a running node listens.
    ///
    /// # Errors
    ///
    /// It does not.
    pub fn addresses(&self, name: &str) -> Result<Addresses> {
        self.board.look().of(name).addresses.with_context(|| format!("{name} does not listen"))
    }

    /// Adds a machine with this certificate, good or bad. It does not run yet.
    ///
    /// # Errors
    ///
    /// Its files can't be written.
    pub fn add(&mut self, name: &str, leaf: DevLeaf, namespace: Option<Namespace>) -> Result<()> {
        let identity = self.data(name).join("identity");
        fs::create_dir_all(&identity).with_context(|| format!("cannot make {}", identity.display()))?;
        leaf.save(&identity)?;
        let roots = identity.join("roots.pem");
        fs::write(&roots, self.authority.root_pem())
            .with_context(|| format!("cannot write {}", roots.display()))?;
        let node = Node {
            leaf,
            namespace,
            operator: None,
            process: None,
            paused: false,
            seeded: true,
            program: None,
            settings: Settings::new(),
        };
        self.nodes.insert(name.to_owned(), node);
        Ok(())
    }

    /// Starts a node and waits until it listens; the other running nodes are its seeds.
    ///
    /// # Errors
    ///
    /// It ends, or does not listen in time.
    pub fn start(&mut self, name: &str) -> Result<()> {
        self.launch(name)?;
        let listens_or_ended = |boards: &Boards| boards.of(name).addresses.is_some() || boards.of(name).ended;
        self.board.wait(PATIENCE, &format!("{name} listens"), listens_or_ended)?;
        let Some(mut addresses) = self.board.look().of(name).addresses else {
            bail!("{name} ended instead of listening:\n{}", *self.board.look());
        };
        let namespace = self.node(name)?.namespace.clone();
        // Its operator sits at the same machine.
        addresses.edge.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let certificate = self.folder.path().join("operator");
        let operator = Operator::follow(name, addresses, &certificate, namespace, &self.board)?;
        self.node_mut(name)?.operator = Some(operator);
        Ok(())
    }

    /// Lets the next runs of a node find the others by themselves, or not at all.
    ///
    /// # Errors
    ///
    /// There is no such node.
    pub fn forget_seeds(&mut self, name: &str) -> Result<()> {
        self.node_mut(name)?.seeded = false;
        Ok(())
    }

    /// A setting for the next runs of all nodes, as `sync.prune_interval`.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.settings.push((name.to_owned(), value.into()));
    }

    /// Starts a node's process, with no operator and without waiting.
    ///
    /// # Errors
    ///
    /// The process can't be started.
    pub fn launch(&mut self, name: &str) -> Result<()> {
        ensure!(self.node(name)?.process.is_none(), "{name} runs already");
        let config = self.write_config(name)?;
        let log = self.folder.path().join(name).join("node.log");
        let node = self.node(name)?;
        let mesh;
        let program = match &node.program {
            Some(program) => program,
            None => {
                mesh = Program::mesh()?;
                &mesh
            }
        };
        let command = program.command(&config, node.namespace.as_ref());
        let process = Process::start(command, &log, name, &self.board)?;
        self.node_mut(name)?.process = Some(process);
        Ok(())
    }

    /// Waits until every running node is ready and sees all running ones alive, and no other.
    ///
    /// # Errors
    ///
    /// It does not come to that.
    pub fn wait_until_whole(&self) -> Result<Duration> {
        let running: Vec<&str> = self.running().collect();
        self.board.wait(PATIENCE, &format!("all of {running:?} see one another alive"), |boards| {
            running
                .iter()
                .all(|name| boards.of(name).ready && boards.of(name).names(MemberState::Alive) == running)
        })
    }

    /// The nodes with a process.
    pub fn running(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().filter(|(_, node)| node.process.is_some()).map(|(name, _)| name.as_str())
    }

    /// All names but these.
    pub fn others(&self, than: &[&str]) -> Vec<String> {
        self.nodes.keys().filter(|name| !than.contains(&name.as_str())).cloned().collect()
    }

    /// `kill -9`.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        self.signal(name, Signal::KILL)?;
        self.end(name).map(drop)
    }

    /// Waits for the end of a process that ends by itself.
    ///
    /// # Errors
    ///
    /// It does not run, or does not end.
    pub fn end(&mut self, name: &str) -> Result<ExitStatus> {
        let ended =
            self.board.wait(PATIENCE, &format!("the process of {name} ends"), |boards| boards.of(name).ended);
        let node = self.node_mut(name)?;
        node.operator = None;
        let process = node.process.take();
        ended?;
        process.with_context(|| format!("{name} does not run"))?.wait()
    }

    /// `kill -9` of all of these at the same moment.
    ///
    /// # Errors
    ///
    /// One does not run.
    pub fn kill_all(&mut self, names: &[&str]) -> Result<()> {
        for name in names {
            self.signal(name, Signal::KILL)?;
        }
        names.iter().try_for_each(|name| self.end(name).map(drop))
    }

    /// `SIGTERM`, and waits for the end.
    ///
    /// # Errors
    ///
    /// It does not run, or does not end.
    pub fn terminate(&mut self, name: &str) -> Result<ExitStatus> {
        self.signal(name, Signal::TERM)?;
        self.end(name)
    }

    /// `SIGSTOP`: it neither runs nor ends.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn pause(&mut self, name: &str) -> Result<()> {
        self.signal(name, Signal::STOP)?;
        self.node_mut(name)?.paused = true;
        Ok(())
    }

    /// `SIGCONT`.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn resume(&mut self, name: &str) -> Result<()> {
        self.signal(name, Signal::CONT)?;
        self.node_mut(name)?.paused = false;
        Ok(())
    }

    /// Writes a line to the standard input of a node that runs a program of ours.
    ///
    /// # Errors
    ///
    /// It does not run, or does not listen.
    pub fn tell(&mut self, name: &str, line: &str) -> Result<()> {
        let process = self.node_mut(name)?.process.as_mut();
        process.with_context(|| format!("{name} does not run"))?.tell(line)
    }

    /// `SIGHUP`: it reads certificates and revocations again.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub fn reload(&self, name: &str) -> Result<()> {
        self.signal(name, Signal::HUP)
    }

    /// Writes a list that revokes the certificates of these nodes and of no other. The nodes read
    /// it when they [`reload`](Self::reload), or notice by themselves some time later.
    ///
    /// # Errors
    ///
    /// It can't be written.
    pub fn revoke(&self, names: &[&str]) -> Result<()> {
        let leaves = names.iter().map(|name| Ok(&self.node(name)?.leaf)).collect::<Result<Vec<_>>>()?;
        self.revoke_leaves(&leaves)
    }

    /// Writes a list that revokes these certificates and no other.
    ///
    /// # Errors
    ///
    /// It can't be written.
    pub fn revoke_leaves(&self, leaves: &[&DevLeaf]) -> Result<()> {
        self.authority.write_revocations(leaves, &self.revocation_list())
    }

    /// A page of a running node's control API.
    ///
    /// # Errors
    ///
    /// Nobody answers.
    pub fn page(&self, name: &str, path: &str) -> Result<Page> {
        let operator = self.node(name)?.operator.as_ref();
        operator.with_context(|| format!("{name} has no operator"))?.page(path)
    }

    /// Asks for a page again and again until it says what is described, at most a minute.
    ///
    /// # Errors
    ///
    /// It does not; the error has the last page.
    pub fn wait_for_page(
        &self,
        name: &str,
        path: &str,
        what: &str,
        says: impl Fn(&Page) -> bool,
    ) -> Result<Page> {
        let mut last = None;
        let waited = poll(PATIENCE, &format!("{path} of {name} says that {what}"), || {
            let page = self.page(name, path)?;
            let found = says(&page).then(|| page.clone());
            last = Some(page);
            Ok(found)
        });
        waited.with_context(|| format!("the last page was {last:?}"))
    }

    /// Lets all nodes leave, checks that each ended well and none has panicked, and drops the files.
    ///
    /// # Errors
    ///
    /// A node did not end cleanly. The files stay.
    pub fn finish(mut self) -> Result<()> {
        let running: Vec<String> = self.running().map(str::to_owned).collect();
        for name in &running {
            if self.node(name)?.paused {
                self.resume(name)?;
            }
            self.signal(name, Signal::TERM)?;
        }
        for name in &running {
            let status = self.end(name)?;
            ensure!(status.success(), "{name} ended with {status}");
        }
        for name in self.names() {
            let boards = self.board.look();
            let panic = boards.of(&name).logged(&["panicked at"], self.started_at).next();
            ensure!(panic.is_none(), "{name} panicked: {panic:?}");
        }
        self.folder.fine();
        Ok(())
    }

    fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let process = self.node(name)?.process.as_ref();
        process.with_context(|| format!("{name} does not run"))?.signal(signal)
    }

    /// Waits for the end of a process that was told to end.
    fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.get(name).with_context(|| format!("there is no node {name}"))
    }

    fn node_mut(&mut self, name: &str) -> Result<&mut Node> {
        self.nodes.get_mut(name).with_context(|| format!("there is no node {name}"))
    }

    fn revocation_list(&self) -> PathBuf {
        self.folder.path().join("revoked.pem")
    }

    /// Writes the configuration for the next run of a node.
    fn write_config(&self, name: &str) -> Result<PathBuf> {
        let node = self.node(name)?;
        // A machine of its own has all ports; on a shared one the system chooses.
        let bind = match &node.namespace {
            Some(namespace) => SocketAddr::new(namespace.ip(), MESH_PORT),
            None => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        };
        let text = |value: &dyn ToString| Value::String(value.to_string());
        let seeds: Vec<Value> = {
            let boards = self.board.look();
            let running = self.running().filter(|other| node.seeded && *other != name);
            running.filter_map(|other| boards.of(other).addresses).map(|a| text(&a.mesh)).collect()
        };
        let mut config = Table::new();
        let mut set = |name: &str, value| insert(&mut config, name, value);
        set("node.data_dir", text(&self.data(name).display()));
        set("transport.bind", text(&bind));
        set("transport.edge.bind", text(&"127.0.0.1:0"));
        set("gossip.seeds", Value::Array(seeds));
        if self.revocations {
            let identity = self.data(name).join("identity");
            set("transport.tls.certificate", text(&identity.join("node.pem").display()));
            set("transport.tls.key", text(&identity.join("node.key").display()));
            set("transport.tls.trust_bundle", text(&identity.join("roots.pem").display()));
            set("transport.tls.crl", text(&self.revocation_list().display()));
        }
        for (name, value) in self.settings.iter().chain(&node.settings) {
            set(name, value.clone());
        }
        let path = self.folder.path().join(name).join("mesh.toml");
        let contents = toml::to_string(&config).context("the configuration is no TOML")?;
        fs::write(&path, contents).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// Puts a value at `a.b.c`; what stands in the way is replaced.
fn insert(table: &mut Table, name: &str, value: Value) {
    match name.split_once('.') {
        None => {
            table.insert(name.to_owned(), value);
        }
        Some((section, rest)) => {
            let entry = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if !entry.is_table() {
                *entry = Value::Table(Table::new());
            }
            if let Value::Table(section) = entry {
                insert(section, rest, value);
            }
        }
    }
}
