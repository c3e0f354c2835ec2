//! `cargo xtask demo`: a real cluster on this machine, one node killed and back, one cut off while all write.
//!
//! `mesh up` owns the nodes. The demo watches each of them with `mesh peers list
//! --watch`, as an operator would, and every time that it prints is when a node
//! said so.

mod apart;
mod cluster;
mod interrupt;
mod process;
mod story;
mod view;

use std::{
    fs,
    io::IsTerminal,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    cli::{DemoOptions, Output},
    repo::{self, Repo},
};
use anyhow::{Context, Result};
use cluster::{Cluster, Node};
use interrupt::{Interrupt, Interrupted};
use story::Story;
use view::Views;

/// Longest wait for anything that the demo waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the demo measured.
#[derive(Debug)]
struct Figures {
    ready: Duration,
    joined: Duration,
    elected: Duration,
    dead: Duration,
    takeover: Duration,
    rejoined: Duration,
    converged: Duration,
    transport: String,
}

pub(crate) fn run(repo: &Repo, options: &DemoOptions) -> Result<()> {
    let target = repo.target_folder()?;
    let mesh = build(repo, &target)?;
    let folder = target.join(format!("demo-{}", std::process::id()));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let story = Story::start(options.output == Output::Json);
    // Ctrl-C reaches `mesh up` as well, which says goodbye for its nodes; the demo outlives
    // it to tell how it ended.
    let interrupt = Interrupt::listen()?;
    let remove =
        || fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()));
    match play(&mesh, &folder, options, &story, &interrupt) {
        Ok(figures) => {
            remove()?;
            finish(options, &story, &figures);
            Ok(())
        }
        Err(error) if error.is::<Interrupted>() => {
            story.tell("stopped before the end of the story; no node is left");
            remove()
        }
        Err(error) => Err(error.context(format!("the demo failed; logs are in {}", folder.display()))),
    }
}

/// Builds the `mesh` command and returns where it is.
fn build(repo: &Repo, target: &Path) -> Result<PathBuf> {
    if std::io::stderr().is_terminal() {
        eprintln!("building the mesh command (the first time takes a few minutes)");
    }
    repo::run(&mut repo.cargo(["build", "--quiet", "--package", "mesh-cli", "--bin", "mesh"]))?;
    Ok(target.join("debug/mesh"))
}

fn play(
    mesh: &Path,
    folder: &Path,
    options: &DemoOptions,
    story: &Story,
    interrupt: &Interrupt,
) -> Result<Figures> {
    story.tell(format_args!("starting {} nodes; every connection between them is mutual TLS", options.nodes));
    let mut cluster = Cluster::start(mesh, folder, options.nodes, PATIENCE, interrupt)?;
    let told = act(&mut cluster, options, story, interrupt);
    let stopped = cluster.stop(PATIENCE);
    match told {
        Ok(figures) => {
            stopped?;
            story.tell("all nodes said goodbye and stopped");
            Ok(figures)
        }
        // Whatever went wrong then went wrong because of the signal.
        Err(_) if interrupt.asked() => {
            stopped?;
            Err(Interrupted.into())
        }
        Err(error) => Err(error),
    }
}

/// Everything between the start of the cluster and its end.
fn act(
    cluster: &mut Cluster,
    options: &DemoOptions,
    story: &Story,
    interrupt: &Interrupt,
) -> Result<Figures> {
    let ready = story.elapsed();
    for node in cluster.nodes() {
        story.tell(format_args!("{} is ready; its control API is at https://{}", node.name, node.edge));
    }
    let views = Views::open(cluster, interrupt)?;
    meet(cluster, &views, story)?;
    let joined = story.elapsed();
    let transport = cluster.transport()?;

    let first = cluster.nodes().first().context("a cluster without nodes")?.clone();
    let leader = cluster.next_leader(&first, None, PATIENCE, interrupt)?;
    let elected = story.elapsed();
    story.tell(format_args!("{} leads the cluster, with fencing token {}", leader.name, leader.token));
    let voters = cluster.voters(&first, PATIENCE, interrupt)?;
    story.tell(format_args!("{voters} nodes vote on the registry, so that it outlives the death of one"));

    let is_leader = |node: &&Node| node.name == leader.name;
    let victim = cluster.nodes().iter().find(is_leader).context("a leader that is no node")?.clone();
    let killed = story.elapsed();
    let dead = lose(&victim, cluster, &views, story)?;
    let takeover = match others(&victim, cluster).next().cloned() {
        Some(witness) => {
            let next = cluster.next_leader(&witness, Some(&leader), PATIENCE, interrupt)?;
            let takeover = story.elapsed() - killed;
            story.tell(format_args!("{} leads now, with fencing token {}", next.name, next.token));
            takeover
        }
        None => Duration::ZERO,
    };
    let rejoined = regain(&victim, cluster, &views, story, interrupt)?;

    // The one that was started again is asked at its new port.
    views.close();
    let views = Views::open(cluster, interrupt)?;
    meet(cluster, &views, story)?;

    let witness = others(&victim, cluster).next().unwrap_or(&victim).clone();
    let leader = cluster.next_leader(&witness, None, PATIENCE, interrupt)?;
    let follows = |node: &&Node| node.name != leader.name && node.name != victim.name;
    let apart = cluster.nodes().iter().find(follows).or(cluster.nodes().last());
    let apart = apart.context("a cluster without nodes")?.clone();
    let converged = apart::write(&apart, cluster, &views, story, interrupt)?;

    views.close();
    if !options.script {
        story.tell("the cluster stays up; Ctrl-C ends it. Ask it yourself, in another terminal:");
        story.tell(format_args!("  {}", cluster.invitation()));
        cluster.wait_for_the_end(interrupt)?;
    }
    Ok(Figures { ready, joined, elected, dead, takeover, rejoined, converged, transport })
}

/// Waits until every node says that it sees every one alive.
fn meet(cluster: &Cluster, views: &Views, story: &Story) -> Result<()> {
    let names: Vec<&str> = cluster.nodes().iter().map(|node| node.name.as_str()).collect();
    views.wait_until(PATIENCE, "every node sees every other one alive", |view| {
        names.iter().all(|observer| names.iter().all(|peer| view.is(observer, peer, "alive")))
    })?;
    story.tell(format_args!("every node sees all {} alive", names.len()));
    Ok(())
}

/// Kills a node and waits until every other one declares it dead. Returns how long that took.
fn lose(victim: &Node, cluster: &Cluster, views: &Views, story: &Story) -> Result<Duration> {
    process::signal("KILL", victim.pid)?;
    let killed = story.elapsed();
    story.tell(format_args!("{} was killed with kill -9 (process {})", victim.name, victim.pid));
    for observer in others(victim, cluster) {
        views.wait_until(PATIENCE, "the others declare it dead", |view| {
            view.is(&observer.name, &victim.name, "dead")
        })?;
        story.tell(format_args!("{} declares {} dead", observer.name, victim.name));
    }
    Ok(story.elapsed() - killed)
}

/// Starts a node again and waits until every other one sees it alive. Returns how long that took.
fn regain(
    victim: &Node,
    cluster: &mut Cluster,
    views: &Views,
    story: &Story,
    interrupt: &Interrupt,
) -> Result<Duration> {
    let restarted = story.elapsed();
    story.tell(format_args!("{} is started again", victim.name));
    cluster.restart(victim, PATIENCE, interrupt)?;
    for observer in others(victim, cluster) {
        views.wait_until(PATIENCE, "the others see it alive again", |view| {
            view.is(&observer.name, &victim.name, "alive")
        })?;
        story.tell(format_args!("{} sees {} alive again", observer.name, victim.name));
    }
    Ok(story.elapsed() - restarted)
}

fn others<'c>(victim: &Node, cluster: &'c Cluster) -> impl Iterator<Item = &'c Node> {
    let name = victim.name.clone();
    cluster.nodes().iter().filter(move |node| node.name != name)
}

fn finish(options: &DemoOptions, story: &Story, figures: &Figures) {
    let Figures { ready, joined, elected, dead, takeover, rejoined, converged, transport } = figures;
    match options.output {
        Output::Json => println!("{}", line(options.nodes, figures)),
        Output::Text => story.tell(format_args!(
            "ready after {} ms, all joined after {} ms, led after {} ms; death noticed in {} ms, \
             next leader in {} ms, back in {} ms, converged after a cut in {} ms, over {transport}",
            ms(ready),
            ms(joined),
            ms(elected),
            ms(dead),
            ms(takeover),
            ms(rejoined),
            ms(converged)
        )),
    }
}

/// The result as one line, in the order in which things happened.
fn line(nodes: u16, figures: &Figures) -> String {
    let Figures { ready, joined, elected, dead, takeover, rejoined, converged, transport } = figures;
    let [ready, joined, elected, dead, takeover, rejoined, converged] =
        [ready, joined, elected, dead, takeover, rejoined, converged].map(ms);
    format!(
        "{{\"nodes\":{nodes},\"ready_ms\":{ready},\"joined_ms\":{joined},\"elected_ms\":{elected},\
         \"dead_ms\":{dead},\"takeover_ms\":{takeover},\"rejoined_ms\":{rejoined},\
         \"converged_ms\":{converged},\"transport\":{},\"exit\":\"clean\"}}",
        serde_json::Value::from(transport.as_str())
    )
}

fn ms(time: &Duration) -> u128 {
    time.as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_is_one_line_of_json_in_order() {
        let time = Duration::from_millis;
        let figures = Figures {
            ready: time(1),
            joined: time(2),
            elected: time(3),
            dead: time(4),
            takeover: time(5),
            rejoined: time(6),
            converged: time(7),
            transport: "http3".to_owned(),
        };
        let line = line(3, &figures);
        assert_eq!(
            line,
            r#"{"nodes":3,"ready_ms":1,"joined_ms":2,"elected_ms":3,"dead_ms":4,"takeover_ms":5,"rejoined_ms":6,"converged_ms":7,"transport":"http3","exit":"clean"}"#
        );
        serde_json::from_str::<serde_json::Value>(&line).expect("it is JSON");
    }
}
