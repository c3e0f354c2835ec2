//! Membership of N nodes in one process, and a few in processes of their own.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use futures_util::StreamExt;
use mesh_core::{MemberChange, MemberEvent, NodeId};
use mesh_transport::ca::DevCa;
use rustix::process::Signal;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use crate::{
    load::{cpu_seconds, load_average, rss_kib},
    node::{Child, Faults, Member},
    peers,
};

#[derive(Args)]
pub(crate) struct Options {
    /// Members in this process.
    #[arg(long, default_value_t = 200)]
    nodes: usize,
    /// Joins, kills, freezes and leaves, each.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Seconds of the steady measurement.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Seconds of 5 % loss, and of members that stall up to 1.5 s.
    #[arg(long, default_value_t = 60.0)]
    fault_seconds: f64,
    /// Seconds of the partition in halves.
    #[arg(long, default_value_t = 60.0)]
    partition_seconds: f64,
    /// Output: table or json.
    #[arg(short, long, default_value = "table")]
    output: String,
    /// Folder of programs that run peers; they are run one after the other, after us.
    #[arg(long)]
    peers: Option<PathBuf>,
}

/// A change as one observer saw it.
struct Seen {
    at: Instant,
    observer: NodeId,
    subject: NodeId,
    change: MemberChange,
}

struct Cluster {
    ca: DevCa,
    ca_folder: tempfile::TempDir,
    members: Vec<Member>,
    faults: Arc<Faults>,
    seen: mpsc::UnboundedReceiver<Seen>,
    tell: mpsc::UnboundedSender<Seen>,
    started: usize,
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn now() -> Instant {
    Instant::now()
}

fn ms(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e4).round() / 10.0
}

impl Cluster {
    fn new() -> Result<Self> {
        let ca = DevCa::new("bench.local")?;
        let ca_folder = tempfile::tempdir()?;
        ca.save(ca_folder.path())?;
        let (tell, seen) = mpsc::unbounded_channel();
        Ok(Self { ca, ca_folder, members: Vec::new(), faults: Arc::default(), seen, tell, started: 0 })
    }

    fn next_name(&mut self) -> String {
        self.started += 1;
        format!("n{}", self.started)
    }

    async fn start(&mut self) -> Result<&Member> {
        let name = self.next_name();
        let seed = self.members.first().map(|m| m.address);
        let member = Member::start(&self.ca, &name, seed, self.faults.clone()).await?;
        let (_, mut events) = member.gossip.subscribe();
        let (tell, observer) = (self.tell.clone(), member.name.clone());
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if let MemberEvent::Changed { change, member, .. } = event {
                    let seen = Seen {
                        at: now(),
                        observer: observer.clone(),
                        subject: member.node_id.clone(),
                        change,
                    };
                    let _ = tell.send(seen);
                }
            }
        });
        self.members.push(member);
        self.members.last().context("just started")
    }

    fn start_child(&mut self) -> Result<Child> {
        let name = self.next_name();
        Child::start(self.ca_folder.path(), &name, self.members[0].address)
    }

    fn forget_seen(&mut self) {
        while self.seen.try_recv().is_ok() {}
    }

    /// When each member of this process, but `except`, saw `change` of `subject`, since `from`.
    async fn watch(
        &mut self,
        from: Instant,
        subject: &NodeId,
        change: MemberChange,
        limit: Duration,
    ) -> Result<Vec<Duration>> {
        let mut waiting: BTreeSet<NodeId> =
            self.members.iter().map(|m| m.name.clone()).filter(|n| n != subject).collect();
        let mut times = Vec::new();
        while !waiting.is_empty() {
            let left = limit.saturating_sub(from.elapsed());
            let Ok(Some(seen)) = tokio::time::timeout(left, self.seen.recv()).await else {
                bail!(
                    "{} of {} members did not see {subject} {change:?} within {limit:?}",
                    waiting.len(),
                    self.members.len()
                );
            };
            let same = seen.change == change
                || (change == MemberChange::Joined && seen.change == MemberChange::Recovered);
            if seen.subject == *subject && same && waiting.remove(&seen.observer) {
                times.push(seen.at.saturating_duration_since(from));
            }
        }
        times.sort();
        Ok(times)
    }

    /// Waits until every member sees `alive` members; the time that took.
    async fn wait_full(&self, alive: usize, limit: Duration) -> Result<Duration> {
        let from = now();
        for member in &self.members {
            let mut status = member.gossip.status_changes();
            let left = limit.saturating_sub(from.elapsed());
            let full = tokio::time::timeout(left, status.wait_for(|s| s.alive == alive)).await;
            if full.is_err() {
                self.say_counters();
                let short: Vec<usize> =
                    self.members.iter().map(|m| m.gossip.status().alive).filter(|n| *n != alive).collect();
                bail!("{} members do not see {alive} alive within {limit:?} but {short:?}", short.len());
            }
        }
        Ok(from.elapsed())
    }

    /// Follows the way to full views, for the curve; gives up after a while.
    async fn say_progress(&self, n: usize, step: Duration) -> Result<()> {
        const STEPS_MAX: usize = 40;
        let cpu = cpu_seconds()?;
        let mut curve = Vec::new();
        let mut full = false;
        while !full && curve.len() < STEPS_MAX {
            tokio::time::sleep(step).await;
            let ready = self.members.iter().filter(|m| m.gossip.status().ready).count();
            let alive = self.members.iter().map(|m| m.gossip.status().alive).sum::<usize>();
            full = ready == n && alive == n * n;
            curve.push((cpu_seconds()? - cpu, ready, alive));
        }
        say(format_args!("every {step:?}: CPU s, members ready, alive in all views: {curve:.1?}"));
        Ok(())
    }

    /// What all members together counted, to see what a cluster that does not settle is busy with.
    fn say_counters(&self) {
        let mut sums = std::collections::BTreeMap::<&str, u64>::new();
        for member in &self.members {
            let c = member.gossip.counters();
            for (name, value) in [
                ("sent_messages", c.sent_messages),
                ("sent_bytes", c.sent_bytes),
                ("unsent_messages", c.unsent_messages),
                ("received_messages", c.received_messages),
                ("refused_rate", c.refused_rate),
                ("duplicates", c.duplicates),
                ("probes", c.probes),
                ("probe_timeouts", c.probe_timeouts),
                ("probe_refusals", c.probe_refusals),
                ("suspicions_started", c.suspicions_started),
                ("suspicions_refuted", c.suspicions_refuted),
                ("suspicions_confirmed", c.suspicions_confirmed),
                ("refutations", c.refutations),
                ("syncs_started", c.syncs_started),
                ("sync_records_sent", c.sync_records_sent),
                ("late_timers", c.late_timers),
                ("links", member.gossip.status().links as u64),
                ("wanted", member.gossip.status().overlay_wanted as u64),
                ("wanted_up", member.gossip.status().overlay_up as u64),
            ] {
                *sums.entry(name).or_default() += value;
            }
        }
        say(format_args!("all members together: {sums:?}"));
    }

    async fn wait_overlay(&self, limit: Duration) -> Result<Duration> {
        let from = now();
        for member in &self.members {
            let mut status = member.gossip.status_changes();
            let left = limit.saturating_sub(from.elapsed());
            let up = status.wait_for(|s| s.overlay_wanted > 0 && s.overlay_up == s.overlay_wanted);
            tokio::time::timeout(left, up).await.context("the overlay is not complete in time")??;
        }
        Ok(from.elapsed())
    }

    fn false_deaths(&mut self, except: &BTreeSet<NodeId>) -> (usize, usize) {
        let (mut dead, mut suspected) = (BTreeSet::new(), BTreeSet::new());
        while let Ok(seen) = self.seen.try_recv() {
            if except.contains(&seen.subject) {
                continue;
            }
            match seen.change {
                MemberChange::Died => _ = dead.insert(seen.subject),
                MemberChange::Suspected => _ = suspected.insert(seen.subject),
                _ => {}
            }
        }
        (dead.len(), suspected.len())
    }
}

fn share(times: &[Duration], share: f64) -> f64 {
    let at = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len()) - 1;
    ms(times[at])
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// One figure per run; the report is their median.
#[derive(Default)]
struct Figures(Map<String, Value>);

impl Figures {
    fn note(&mut self, name: &str, value: f64) {
        let list = self.0.entry(name).or_insert_with(|| json!([]));
        if let Value::Array(list) = list {
            list.push(json!(value));
        }
    }

    fn medians(&self) -> Map<String, Value> {
        let values = |v: &Value| v.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        self.0.iter().map(|(name, v)| (name.clone(), json!(median(values(v))))).collect()
    }
}

fn say(text: std::fmt::Arguments<'_>) {
    eprintln!("[load {:.1}] {text}", load_average());
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let mut figures = Figures::default();
    let n = options.nodes;
    let mut cluster = Cluster::new()?;
    let rss_before = rss_kib()?;
    let load_before = load_average();

    bootstrap(&mut cluster, n, &mut figures).await?;
    steady(&cluster, &options, rss_before, &mut figures).await?;
    for run in 1..=options.runs {
        say(format_args!("run {run} of {}", options.runs));
        join(&mut cluster, &mut figures).await?;
        kill(&mut cluster, &mut figures).await?;
        vanish(&mut cluster, &mut figures).await?;
        leave(&mut cluster, &mut figures).await?;
    }
    let false_deaths = faults(&mut cluster, &options).await?;
    partition(&mut cluster, &options, &mut figures).await?;

    let mut report = figures.medians();
    report.insert("nodes".into(), json!(n));
    report.insert("false_deaths".into(), json!(false_deaths));
    report.insert("load_before".into(), json!(load_before));
    report.insert("load_after".into(), json!(load_average()));
    for member in &cluster.members {
        member.gossip.stop();
        member.endpoint.close();
    }
    drop(cluster);
    if let Some(folder) = &options.peers {
        report.insert("peers".into(), peers::run(folder, n, options.runs)?);
    }
    if options.output == "json" {
        println!("{}", Value::Object(report));
    } else {
        for (name, value) in &report {
            println!("{name:24} {value}");
        }
    }
    Ok(())
}

async fn bootstrap(cluster: &mut Cluster, n: usize, figures: &mut Figures) -> Result<()> {
    let from = now();
    let cpu = cpu_seconds()?;
    for _ in 0..n {
        cluster.start().await?;
    }
    let started = from.elapsed();
    cluster.say_progress(n, Duration::from_millis(250)).await?;
    cluster.wait_full(n, Duration::from_secs(60)).await?;
    figures.note("bootstrap_s", ms(from.elapsed()) / 1e3);
    let cpu_full = cpu_seconds()? - cpu;
    cluster.wait_overlay(Duration::from_secs(120)).await?;
    figures.note("overlay_s", ms(from.elapsed()) / 1e3);
    let handshakes: u64 = cluster.members.iter().map(|m| m.endpoint.connections() as u64).sum();
    say(format_args!("{handshakes} connection ends"));
    say(format_args!(
        "{n} members: started {:.2} s, full views {:.2} s ({cpu_full:.1} s CPU), overlay {:.2} s ({:.1} s CPU)",
        started.as_secs_f64(),
        figures.0["bootstrap_s"][0].as_f64().unwrap_or_default(),
        from.elapsed().as_secs_f64(),
        cpu_seconds()? - cpu
    ));
    Ok(())
}

async fn steady(cluster: &Cluster, options: &Options, rss_before: f64, figures: &mut Figures) -> Result<()> {
    // Links of the bootstrap that nobody wants linger for a while.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let sent = || cluster.members.iter().map(|m| m.gossip.counters().sent_bytes).sum::<u64>();
    let messages = || cluster.members.iter().map(|m| m.gossip.counters().sent_messages).sum::<u64>();
    let (cpu, bytes, count, from) = (cpu_seconds()?, sent(), messages(), now());
    tokio::time::sleep(Duration::from_secs_f64(options.seconds)).await;
    let per = from.elapsed().as_secs_f64() * cluster.members.len() as f64;
    figures.note("cpu_ms_per_node_s", (cpu_seconds()? - cpu) * 1e3 / per);
    figures.note("bytes_per_node_s", (sent() - bytes) as f64 / per);
    figures.note("messages_per_node_s", (messages() - count) as f64 / per);
    figures.note("rss_kib_per_node", (rss_kib()? - rss_before) / cluster.members.len() as f64);
    let links: usize = cluster.members.iter().map(|m| m.gossip.status().links).sum();
    figures.note("links_per_node", links as f64 / cluster.members.len() as f64);
    say(format_args!("steady: {:?}", figures.medians()));
    Ok(())
}

async fn join(cluster: &mut Cluster, figures: &mut Figures) -> Result<()> {
    settle().await;
    cluster.forget_seen();
    let expected = cluster.members.len() + 1;
    let from = now();
    let newcomer = cluster.start().await?;
    let (name, mut status) = (newcomer.name.clone(), newcomer.gossip.status_changes());
    let full = tokio::spawn(async move {
        let full =
            tokio::time::timeout(Duration::from_secs(60), status.wait_for(|s| s.alive == expected)).await;
        full.ok().and_then(Result::ok).map(|_| from.elapsed())
    });
    let times = cluster.watch(from, &name, MemberChange::Joined, Duration::from_secs(60)).await?;
    figures.note("join_p50_ms", share(&times, 0.5));
    figures.note("join_p95_ms", share(&times, 0.95));
    figures.note("join_p100_ms", share(&times, 1.0));
    let full = full.await?.context("the newcomer never had the full list")?;
    figures.note("newcomer_full_ms", ms(full));
    say(format_args!(
        "join: 50 % {}, all {} ms, newcomer full {} ms",
        share(&times, 0.5),
        share(&times, 1.0),
        ms(full)
    ));
    Ok(())
}

async fn settle() {
    tokio::time::sleep(Duration::from_secs(3)).await;
}

async fn with_child(cluster: &mut Cluster) -> Result<Child> {
    cluster.forget_seen();
    let child = cluster.start_child()?;
    cluster.watch(now(), &child.name, MemberChange::Joined, Duration::from_secs(30)).await?;
    settle().await;
    cluster.forget_seen();
    Ok(child)
}

async fn kill(cluster: &mut Cluster, figures: &mut Figures) -> Result<()> {
    let child = with_child(cluster).await?;
    let name = child.name.clone();
    let from = now();
    child.signal(Signal::KILL)?;
    let times = cluster.watch(from, &name, MemberChange::Died, Duration::from_secs(60)).await?;
    child.wait_dead().await?;
    figures.note("kill_dead_p95_ms", share(&times, 0.95));
    figures.note("kill_dead_p100_ms", share(&times, 1.0));
    say(format_args!("kill -9: dead at 95 % {}, 100 % {} ms", share(&times, 0.95), share(&times, 1.0)));
    Ok(())
}

async fn vanish(cluster: &mut Cluster, figures: &mut Figures) -> Result<()> {
    let child = with_child(cluster).await?;
    let name = child.name.clone();
    let from = now();
    // Frozen: no answer, no refusal, no goodbye, as when its host is gone.
    child.signal(Signal::STOP)?;
    let times = cluster.watch(from, &name, MemberChange::Died, Duration::from_secs(60)).await?;
    child.signal(Signal::KILL)?;
    child.wait_dead().await?;
    figures.note("vanish_dead_p95_ms", share(&times, 0.95));
    figures.note("vanish_dead_p100_ms", share(&times, 1.0));
    say(format_args!("vanished: dead at 95 % {}, 100 % {} ms", share(&times, 0.95), share(&times, 1.0)));
    Ok(())
}

async fn leave(cluster: &mut Cluster, figures: &mut Figures) -> Result<()> {
    settle().await;
    cluster.forget_seen();
    let goer = cluster.members.pop().context("a member to leave")?;
    let from = now();
    let left = tokio::spawn({
        let gossip = goer.gossip.clone();
        async move { gossip.leave(Duration::from_secs(10)).await }
    });
    let times = cluster.watch(from, &goer.name, MemberChange::Left, Duration::from_secs(60)).await?;
    left.await??;
    goer.endpoint.close();
    figures.note("leave_p50_ms", share(&times, 0.5));
    figures.note("leave_p100_ms", share(&times, 1.0));
    say(format_args!("leave: 50 % {}, all {} ms", share(&times, 0.5), share(&times, 1.0)));
    Ok(())
}

/// Loss for everybody, much loss for one, stalls for one in 25: nobody may be declared dead.
async fn faults(cluster: &mut Cluster, options: &Options) -> Result<usize> {
    let time = Duration::from_secs_f64(options.fault_seconds);
    settle().await;
    cluster.forget_seen();
    cluster.faults.set_loss(0.05);
    tokio::time::sleep(time).await;
    cluster.faults.set_loss(0.0);
    let (lost_dead, lost_suspected) = cluster.false_deaths(&BTreeSet::new());
    say(format_args!("5 % loss for {time:?}: {lost_dead} false deaths, {lost_suspected} suspected"));

    let unlucky = cluster.members.last().context("a member")?.name.clone();
    cluster.forget_seen();
    cluster.faults.set_loss_at(Some((unlucky.clone(), 0.3)));
    tokio::time::sleep(time.min(Duration::from_secs(60))).await;
    cluster.faults.set_loss_at(None);
    let (unlucky_dead, unlucky_suspected) = cluster.false_deaths(&BTreeSet::new());
    say(format_args!("30 % loss on {unlucky}: {unlucky_dead} false deaths, {unlucky_suspected} suspected"));

    let mut children = Vec::new();
    for _ in 0..(options.nodes / 25).max(1) {
        children.push(with_child(cluster).await?);
    }
    cluster.forget_seen();
    let until = now() + time;
    let mut rng = fastrand::Rng::with_seed(7);
    while now() < until {
        let child = &children[rng.usize(..children.len())];
        child.signal(Signal::STOP)?;
        tokio::time::sleep(Duration::from_millis(rng.u64(100..1500))).await;
        child.signal(Signal::CONT)?;
        tokio::time::sleep(Duration::from_millis(rng.u64(50..500))).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (stalled_dead, stalled_suspected) = cluster.false_deaths(&BTreeSet::new());
    say(format_args!(
        "stalls up to 1.5 s for {time:?}: {stalled_dead} false deaths, {stalled_suspected} suspected"
    ));
    // Dropping kills them; the next measurement starts when everybody knows.
    drop(children);
    cluster.wait_full(cluster.members.len(), Duration::from_secs(60)).await?;
    Ok(lost_dead + unlucky_dead + stalled_dead)
}

/// Two halves that don't hear each other, and the time to full views after they do again.
async fn partition(cluster: &mut Cluster, options: &Options, figures: &mut Figures) -> Result<()> {
    let n = cluster.members.len();
    cluster.wait_full(n, Duration::from_secs(60)).await?;
    let far: Vec<NodeId> = cluster.members.iter().skip(n / 2).map(|m| m.name.clone()).collect();
    cluster.faults.split(far);
    tokio::time::sleep(Duration::from_secs_f64(options.partition_seconds)).await;
    let split = cluster.members.iter().filter(|m| m.gossip.status().alive == n).count();
    say(format_args!("partition: {split} members still see everybody"));
    let from = now();
    cluster.faults.heal();
    cluster.say_progress(n, Duration::from_millis(200)).await?;
    cluster.wait_full(n, Duration::from_secs(120)).await?;
    figures.note("heal_s", ms(from.elapsed()) / 1e3);
    say(format_args!("healed in {:.2} s", from.elapsed().as_secs_f64()));
    Ok(())
}
