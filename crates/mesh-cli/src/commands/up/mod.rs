//! `mesh up`: a secure cluster of child processes on this machine.

mod child;
mod cluster;
mod files;
mod follow;
mod view;

use std::{path::Path, pin::pin, process::ExitCode};

use mesh::core::{ClusterName, fs::DirectoryLock};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

use self::{
    cluster::{Cluster, Ended},
    files::ClusterFiles,
    view::View,
};
use crate::{
    args::UpArgs,
    client::Edge,
    context::{self, Context, Contexts, Target},
    failure::{Exit, Failure},
    output,
};

const NOTICE: &str = "\
mesh: DEVELOPMENT CLUSTER. Its certificates come from an authority made on the spot, whose key
      lies unencrypted in the cluster's folder. Do not use it for anything that matters.";

pub(super) async fn run(args: UpArgs) -> Result<ExitCode, Failure> {
    if let Err(error) = ClusterName::new(&args.cluster) {
        return Err(Failure::from_error(Exit::Usage, &error).next("choose another --cluster"));
    }
    // Before anything is started, so that an early Ctrl-C is not lost.
    let mut stop = StopSignals::new()?;
    files::private_folder(&args.dir)?;
    let _lock = DirectoryLock::acquire(&args.dir).map_err(|error| {
        Failure::from_error(Exit::Failed, &error)
            .next("stop the other `mesh up`, or choose another folder with --dir")
    })?;
    output::message(NOTICE);
    let ignored = child::settings_in_environment();
    if !ignored.is_empty() {
        output::message(format_args!("mesh: not used here, give --set instead: {}", ignored.join(", ")));
    }
    let files = ClusterFiles::create(&args)?;
    let mut cluster = Cluster::new(files);

    let mut stdin_closed = pin!(super::stdin_closed(args.until_stdin_closes));
    let started = tokio::select! {
        started = timeout(args.ready_timeout, start(&mut cluster, &args)) => Some(started),
        () = stop.recv() => None,
        () = &mut stdin_closed => None,
    };
    let edge = match started {
        Some(Ok(Ok(edge))) => edge,
        Some(Ok(Err(failure))) => {
            cluster.stop(&mut stop, |_| Ok(())).await?;
            return Err(failure);
        }
        Some(Err(_)) => {
            let after = humantime::format_duration(args.ready_timeout);
            let failure = Failure::new(
                Exit::TimeoutOrPartial,
                format!("the cluster was not up within {after}: {}", cluster.missing()),
            )
            .next(format!(
                "look at {}/node-*/node.log, or give more time with --ready-timeout",
                args.dir.display()
            ));
            cluster.stop(&mut stop, |_| Ok(())).await?;
            return Err(failure);
        }
        None => {
            cluster.stop(&mut stop, |_| Ok(())).await?;
            output::message("mesh: stopped before the cluster was up");
            return Ok(ExitCode::SUCCESS);
        }
    };

    let home = context::home()?;
    save_context(&home, &args.cluster, edge.context().clone())?;
    let mut view = View::new(args.output, &args.cluster, cluster.members());
    view.up(&Contexts::path(&home))?;

    let mut changes = follow::start(edge);
    let mut all_ended = false;
    while !all_ended {
        tokio::select! {
            () = stop.recv() => break,
            () = &mut stdin_closed => break,
            ended = cluster.ended() => {
                view.ended(&ended)?;
                all_ended = cluster.running() == 0;
            }
            Some(member) = changes.recv() => view.member(&member)?,
        }
    }
    drop(changes);
    if all_ended {
        return Err(Failure::new(Exit::Failed, "all nodes ended by themselves")
            .next(format!("look at {}/node-*/node.log", args.dir.display())));
    }
    view.stopping(cluster.running())?;
    let clean = cluster.stop(&mut stop, |ended: &Ended| view.stopped(ended)).await?;
    view.end(clean)?;
    if clean {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::new(Exit::TimeoutOrPartial, "some nodes had to be killed, or ended with an error")
        .next(format!("look at {}/node-*/node.log", args.dir.display())))
}

/// Starts all nodes and waits until each sees all.
async fn start(cluster: &mut Cluster, args: &UpArgs) -> Result<Edge, Failure> {
    cluster.start_all(&args.set).await?;
    let context = cluster.context();
    let target = Target { name: args.cluster.clone(), context, timeout: args.ready_timeout };
    let edge = Edge::new(target).await?;
    cluster.wait_until_joined(&edge).await?;
    Ok(edge)
}

/// Adds the context, and makes it the current one; other contexts stay as they are.
fn save_context(home: &Path, name: &str, context: Context) -> Result<(), Failure> {
    let mut contexts = Contexts::load(home)?;
    contexts.contexts.insert(name.to_owned(), context);
    contexts.current = Some(name.to_owned());
    contexts.save(home)
}

/// Ctrl-C, or a polite request from the system.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::from_error(Exit::Failed, &error).while_doing("cannot listen for signals")
            })
        };
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
