//! Who is let in: certificates of strangers, old ones, and ones that were taken back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_core::{Clock, MemberState, SystemClock};
use mesh_sim::harness::{Authority, CLUSTER, Cluster, Knock, Plan, TRUST_DOMAIN, knock, poll};
use mesh_transport::{ca::DevLeaf, tls::alpn};

use super::{PATIENCE, wait_until_seen};

/// Longest time from the reload of a revocation list to the end of a revoked node's links.
const DROPPED: Duration = Duration::from_secs(2);

/// Bad certificates, with the rule that each breaks.
fn bad_certificates(cluster: &Cluster) -> Result<Vec<(&'static str, DevLeaf)>> {
    let authority = cluster.authority();
    // Another root that says of itself what ours says.
    let impostor = Authority::new(TRUST_DOMAIN, CLUSTER)?;
    Ok(vec![
        ("chain", impostor.issue("worker", "bad-chain")?),
        ("expired", authority.issue_expired("worker", "bad-expired")?),
        ("cluster", authority.issue_for("another", "worker", "bad-cluster")?),
        ("revoked", authority.issue("worker", "bad-revoked")?),
    ])
}

/// Revokes the certificate that is to be revoked, and waits until all nodes know.
fn take_back(cluster: &Cluster, bad: &[(&str, DevLeaf)]) -> Result<()> {
    let revoked: Vec<&DevLeaf> =
        bad.iter().filter(|(rule, _)| *rule == "revoked").map(|(_, leaf)| leaf).collect();
    cluster.revoke_leaves(&revoked)?;
    let told = SystemClock.now();
    for name in cluster.running() {
        cluster.reload(name)?;
    }
    cluster.board().wait(PATIENCE, "all have read the revocation list", |boards| {
        cluster.running().all(|name| boards.of(name).logged(&["identity reloaded"], told).next().is_some())
    })?;
    Ok(())
}

#[test]
fn a_bad_certificate_is_refused_on_both_ports_by_a_rule_that_the_log_names() -> Result<()> {
    let cluster = Plan::new("knocks", 1).with_revocations().start()?;
    let bad = bad_certificates(&cluster)?;
    take_back(&cluster, &bad)?;
    let addresses = cluster.addresses("n-1")?;
    let good = cluster.authority().issue("worker", "good")?;
    for (port, address, protocol) in
        [("mesh", addresses.mesh, alpn::GOSSIP), ("edge", addresses.edge, &b"http/1.1"[..])]
    {
        let answer = knock(address, Some(&good), protocol)?;
        ensure!(answer == Knock::Welcome, "a good certificate was refused on the {port} port: {answer:?}");
        let answer = knock(address, None, protocol)?;
        ensure!(answer != Knock::Welcome, "a caller without a certificate was let in on the {port} port");
        for (rule, leaf) in &bad {
            let words = [format!("refused by rule {rule}"), format!("bad-{rule}")];
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let knocked = SystemClock.now();
            // A source has one line a second, so the stranger knocks until it gets one.
            poll(PATIENCE, &format!("the log names rule {rule} for the {port} port"), || {
                let answer = knock(address, Some(leaf), protocol)?;
                ensure!(answer != Knock::Welcome, "{rule}: a bad certificate was let in on the {port} port");
                Ok(cluster.board().look().of("n-1").logged(&words, knocked).next().map(drop))
            })?;
        }
    }
    cluster.finish()
}

#[test]
fn nodes_with_bad_certificates_are_never_listed() -> Result<()> {
    let mut cluster = Plan::new("intruders", 3).with_revocations().start()?;
    let bad = bad_certificates(&cluster)?;
    take_back(&cluster, &bad)?;
    let members: Vec<String> = cluster.running().map(str::to_owned).collect();
    let started = SystemClock.now();
    for (rule, leaf) in bad {
        let name = format!("bad-{rule}");
        cluster.add(&name, leaf, None)?;
        cluster.launch(&name)?;
        let words = format!("refused by rule {rule}");
        cluster.board().wait(PATIENCE, &format!("{name} is refused and told so"), |boards| {
            let refuses = |node: &str| boards.of(node).logged(&[&words], started).next().is_some();
            let says = |words: &str| boards.of(&name).logged(&[words], started).next().is_some();
            if rule == "expired" {
                // It reads its own certificate, and does not even start.
                return says("every node would refuse it");
            }
            let told = says("a certificate is not accepted");
            // One of another cluster hangs up first, by the same rule.
            told && (refuses(&name) || members.iter().any(|member| refuses(member)))
        })?;
    }
    cluster.board().never(Duration::from_secs(3), "somebody lists an intruder", |boards| {
        members.iter().any(|observer| boards.of(observer).peers.keys().any(|name| name.starts_with("bad-")))
    })?;
    for name in cluster.others(&members.iter().map(String::as_str).collect::<Vec<_>>()) {
        ensure!(!cluster.board().look().of(&name).ready, "{name} thinks that it is part of the cluster");
    }
    ensure!(!cluster.end("bad-expired")?.success(), "a node started with a certificate that is over");
    for name in ["bad-chain", "bad-cluster", "bad-revoked"] {
        cluster.kill(name)?;
    }
    cluster.finish()
}

#[test]
fn a_live_node_whose_certificate_is_revoked_is_dropped_at_once() -> Result<()> {
    let cluster = Plan::new("revoked", 4).with_revocations().start()?;
    let others = ["n-1", "n-2", "n-3"];
    cluster.revoke(&["n-4"])?;
    let told = SystemClock.now();
    for name in others {
        cluster.reload(name)?;
    }
    let dropped = |name: &str| -> Result<bool> {
        let page = cluster.page(name, "/metrics")?;
        let mut downs = page.body.lines().filter(|line| line.starts_with("mesh_transport_link_downs_total"));
        Ok(downs.any(|line| line.contains("revoked") && !line.ends_with(" 0")))
    };
    poll(DROPPED, "all have closed their links to the revoked node", || {
        let dropped: Vec<bool> = others.iter().map(|name| dropped(name)).collect::<Result<_>>()?;
        Ok((!dropped.contains(&false)).then_some(()))
    })
    .with_context(|| format!("{:?} after the reload", SystemClock.now().since(told)))?;
    println!("revoked: links closed {:?} after the first reload", SystemClock.now().since(told));
    wait_until_seen(&cluster, &others, &["n-4"], MemberState::Dead)?;
    cluster.board().never(
        Duration::from_secs(5),
        "the revoked node comes back, or another goes",
        |boards| {
            !boards.all_see(&others, &["n-4"], MemberState::Dead)
                || !boards.all_see(&others, &others, MemberState::Alive)
        },
    )?;
    cluster.finish()
}
