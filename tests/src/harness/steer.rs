//! The `mesh` command with an operator's certificate, towards a node of a cluster.

use std::{
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use mesh_cli::context::{Context, Target};

use super::{binary::mesh_binary, cluster::Cluster};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where a node is called as an operator. On a machine of its own it is reached from there alone.
///
/// # Errors
///
/// The node does not listen.
pub fn target(cluster: &Cluster, name: &str) -> Result<Target> {
    let certificate = cluster.folder().join("operator");
    let port = cluster.addresses(name)?.edge.port();
    let context = Context {
        edge: vec![format!("127.0.0.1:{port}")],
        certificate: certificate.join("node.pem"),
        key: certificate.join("node.key"),
        trust_bundle: certificate.join("roots.pem"),
    };
    Ok(Target { name: name.to_owned(), context, timeout: PATIENCE })
}

/// Runs `mesh` towards a node.
///
/// # Errors
///
/// It can't be started; how it ends is in the output.
pub fn mesh(cluster: &Cluster, name: &str, arguments: &[&str]) -> Result<Output> {
    let binary = mesh_binary()?;
    let mut command = match cluster.namespace(name) {
        Ok(namespace) => namespace.command(binary),
        Err(_) => Command::new(binary),
    };
    let Target { context, timeout, .. } = target(cluster, name)?;
    command.env_remove("MESH_CONTEXT").arg("--edge").args(&context.edge);
    command.arg("--certificate").arg(&context.certificate).arg("--key").arg(&context.key);
    command.arg("--trust-bundle").arg(&context.trust_bundle);
    command.arg("--timeout").arg(format!("{}s", timeout.as_secs())).args(arguments);
    command.output().context("cannot start mesh")
}

/// What `mesh` prints.
///
/// # Errors
///
/// It does not succeed; the error has its words.
pub fn mesh_ok(cluster: &Cluster, name: &str, arguments: &[&str]) -> Result<String> {
    let done = mesh(cluster, name, arguments)?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "mesh {arguments:?} towards {name} ended with {}: {said}", done.status);
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
