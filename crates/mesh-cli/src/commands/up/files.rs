//! What `mesh up` leaves in its folder: keys, a configuration for each node, logs.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use mesh::transport::ca::{CaError, DevCa, LEAF_LIFETIME};
use toml::{Table, Value};

use crate::{
    args::UpArgs,
    context::Context,
    failure::{Exit, Failure},
};

/// Who issues the certificates. It says loudly what they are not.
const TRUST_DOMAIN: &str = "mesh.dev.internal";
/// The first nodes may carry control state; the others only work.
const CONTROL_NODES: u16 = 3;
/// A goodbye among processes of one machine needs no longer.
const LEAVE_TIMEOUT: &str = "3s";

/// The files of one node.
#[derive(Clone, Debug)]
pub(super) struct NodeFiles {
    pub(super) name: String,
    pub(super) config: PathBuf,
    pub(super) log: PathBuf,
    data: PathBuf,
    role: &'static str,
}

/// The files of a cluster.
#[derive(Debug)]
pub(super) struct ClusterFiles {
    pub(super) nodes: Vec<NodeFiles>,
    operator: PathBuf,
}

impl ClusterFiles {
    /// Makes folders, certificates and keys. A root from an earlier run is used again.
    pub(super) fn create(args: &UpArgs) -> Result<Self, Failure> {
        let folder = std::path::absolute(&args.dir).map_err(|error| cannot("use", &args.dir, &error))?;
        let ca_failed = |error: CaError| {
            Failure::from_error(Exit::Failed, &error)
                .while_doing("cannot make the development certificates")
                .next(format!("remove {} to start afresh, or choose another --dir", folder.display()))
        };
        let ca = DevCa::load_or_create(&folder.join("ca"), TRUST_DOMAIN).map_err(ca_failed)?;
        let issue = |role: &str, name: &str, to: &Path| {
            private_folder(to)?;
            let lifetime: Duration = LEAF_LIFETIME;
            let leaf = ca.issue(&args.cluster, role, name, lifetime).map_err(ca_failed)?;
            leaf.save(to).map_err(ca_failed)
        };
        let nodes: Vec<NodeFiles> = (1..=args.nodes)
            .map(|number| {
                let name = format!("node-{number}");
                let folder = folder.join(&name);
                NodeFiles {
                    config: folder.join("mesh.toml"),
                    log: folder.join("node.log"),
                    data: folder.join("data"),
                    role: if number <= CONTROL_NODES { "control" } else { "worker" },
                    name,
                }
            })
            .collect();
        for node in &nodes {
            private_folder(&node.data)?;
            issue(node.role, &node.name, &node.data.join("identity"))?;
        }
        // One of them begins the registry, unless any has one from an earlier run: a node whose registry was
        // moved aside has to be taken in by the others.
        let has_registry = |node: &NodeFiles| node.data.join("registry").join("identity").exists();
        if let Some(first) = nodes.first().filter(|_| !nodes.iter().any(has_registry)) {
            mesh::node::found_cluster(&first.data).map_err(|error| {
                Failure::from_error(Exit::Failed, &error).while_doing("cannot prepare the first node")
            })?;
        }
        let operator = folder.join("operator");
        issue(mesh::core::Role::OPERATOR, "operator", &operator)?;
        Ok(Self { nodes, operator })
    }

    /// A context in which these edges are called as the operator.
    pub(super) fn context(&self, edge: Vec<String>) -> Context {
        Context {
            edge,
            certificate: self.operator.join("node.pem"),
            key: self.operator.join("node.key"),
            trust_bundle: self.operator.join("roots.pem"),
        }
    }
}

impl NodeFiles {
    /// Writes the node's configuration.
    pub(super) fn write_config(&self, seeds: &[String]) -> Result<(), Failure> {
        let text = |text: &str| Value::String(text.to_owned());
        let any_port = || text("127.0.0.1:0");
        let section = |keys: Vec<(&str, Value)>| {
            Value::Table(keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Table>())
        };
        let seeds = seeds.iter().map(|seed| text(seed)).collect();
        let config = Table::from_iter([
            (
                "node".to_owned(),
                section(vec![
                    ("id", text(&self.name)),
                    ("data_dir", text(&self.data.to_string_lossy())),
                    ("leave_timeout", text(LEAVE_TIMEOUT)),
                ]),
            ),
            (
                "transport".to_owned(),
                section(vec![("bind", any_port()), ("edge", section(vec![("bind", any_port())]))]),
            ),
            ("gossip".to_owned(), section(vec![("preset", text("local")), ("seeds", Value::Array(seeds))])),
        ]);
        let contents = format!(
            "# Written by `mesh up`, which replaces it at each start.\n\n{}",
            toml::to_string(&config).map_err(|error| cannot("write", &self.config, &error))?
        );
        fs::write(&self.config, contents).map_err(|error| cannot("write", &self.config, &error))
    }

    /// Opens the log, to append.
    pub(super) fn open_log(&self) -> Result<fs::File, Failure> {
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(|error| cannot("open", &self.log, &error))
    }
}

/// Makes a folder that its owner alone can look into.
pub(super) fn private_folder(path: &Path) -> Result<(), Failure> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|error| cannot("make", path, &error))
}

fn cannot(verb: &str, path: &Path, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::from_error(Exit::Failed, error)
        .while_doing(format!("cannot {verb} {}", path.display()))
        .next("choose a folder that you may write with --dir")
}
