//! What must be true of membership, always and after healing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mesh_core::{Incarnation, InstanceId, Instant, Member, MemberChange, MemberEvent, MemberState, NodeId};
use mesh_gossip::{Event, Gossip};

use crate::{
    Gossips, HostId, Launch, Step, Violation, Watch, World,
    options::Skew,
    skew::{self, Generation},
};

/// Most items that may wait in the queues of one core: a share for each member and link, and the user's own.
const QUEUE_BASE: usize = 512;
const QUEUE_PER_MEMBER: usize = 64;
/// Most effects of one step: a share for each member, and pages.
const EFFECTS_BASE: usize = 64;
const EFFECTS_PER_MEMBER: usize = 16;

/// Checks the rules that hold at every step of every node, and remembers what later rules need.
#[derive(Debug, Default)]
pub struct MembershipWatch {
    views: BTreeMap<HostId, View>,
    /// Deaths and suspicions of members, seen while somebody asked for calm.
    calm: bool,
    /// The longest queue and the most effects seen, for reports.
    pub queue_max: usize,
    /// See `queue_max`.
    pub effects_max: usize,
    /// Deaths that any node saw, true or false.
    pub deaths: u64,
    skew: Skew,
    generations: BTreeMap<HostId, Generation>,
    /// What the runs of newer versions say of themselves.
    news: BTreeMap<InstanceId, Vec<u8>>,
    /// Machines whose node runs on another one, too, with the starts of its and the other's certificate.
    twins: BTreeMap<HostId, (u64, u64)>,
    /// Processes that reported a conflict, and for whose run they stepped aside.
    conflicts: BTreeMap<HostId, Option<InstanceId>>,
}

/// What one process told its user.
#[derive(Debug, Default)]
struct View {
    told: BTreeMap<NodeId, Told>,
    runs: BTreeMap<(NodeId, InstanceId), Run>,
    broadcasts: BTreeSet<(NodeId, Bytes)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    instance: InstanceId,
    incarnation: Incarnation,
    state: MemberState,
}

/// What is known of one run of a member, remembered even after the member was forgotten.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    newest: Incarnation,
    died_at: Option<Incarnation>,
    left: bool,
}

impl MembershipWatch {
    /// From here on no member may die, for nothing is wrong any more.
    pub fn expect_calm(&mut self) {
        self.calm = true;
    }

    /// Nodes are of several versions.
    pub fn expect_skew(&mut self, skew: Skew) {
        self.skew = skew;
    }

    /// Two processes run as one node, each with a certificate that is valid from then on.
    pub fn expect_twins(&mut self, one: (HostId, u64), other: (HostId, u64)) {
        self.twins.insert(one.0, (one.1, other.1));
        self.twins.insert(other.0, (other.1, one.1));
    }

    /// Whether the process on a machine reported a conflict.
    pub fn knows_of_twin(&self, host: HostId) -> bool {
        self.conflicts.contains_key(&host)
    }

    /// For which run of its node the process on a machine stepped aside.
    pub fn yielded_to(&self, host: HostId) -> Option<InstanceId> {
        self.conflicts.get(&host).copied().flatten()
    }

    /// Whether a node was told of this broadcast.
    pub fn heard(&self, host: HostId, from: &NodeId, payload: &Bytes) -> bool {
        self.views.get(&host).is_some_and(|v| v.broadcasts.contains(&(from.clone(), payload.clone())))
    }

    fn changed(
        &mut self,
        host: HostId,
        change: MemberChange,
        before: Option<MemberState>,
        member: &Member,
    ) -> Result<(), (&'static str, String)> {
        let about = || {
            format!(
                "{} {:?} at incarnation {} ({change:?})",
                member.node_id, member.state, member.incarnation
            )
        };
        if change == MemberChange::Died {
            self.deaths += 1;
            if self.calm {
                return Err(("nobody dies in calm", about()));
            }
        }
        let view = self.views.entry(host).or_default();
        let run = view.runs.entry((member.node_id.clone(), member.instance)).or_default();
        if member.incarnation < run.newest {
            return Err(("incarnations never go back", format!("{}, after {}", about(), run.newest)));
        }
        run.newest = member.incarnation;
        let live = member.state.is_live() && change != MemberChange::Reclaimed;
        if live && run.left {
            return Err(("who left stays gone", about()));
        }
        if live && let Some(died_at) = run.died_at.filter(|at| member.incarnation <= *at) {
            return Err((
                "the dead return only with a higher incarnation",
                format!("{}, dead at {died_at}", about()),
            ));
        }
        match member.state {
            MemberState::Dead => run.died_at = Some(member.incarnation),
            MemberState::Left => run.left = true,
            MemberState::Alive | MemberState::Suspect => {}
        }
        let told = view.told.get(&member.node_id).copied();
        if let (Some(told), Some(before)) = (told, before)
            && told.state != before
        {
            return Err((
                "changes have no gaps",
                format!("{}, from {before:?}, but it was {:?}", about(), told.state),
            ));
        }
        if let Some(told) = told
            && told.instance != member.instance
            && member.incarnation <= told.incarnation
        {
            return Err(("a new run supersedes the old", format!("{}, after {}", about(), told.incarnation)));
        }
        if change == MemberChange::Reclaimed {
            view.told.remove(&member.node_id);
        } else {
            let Member { instance, incarnation, state, .. } = *member;
            view.told.insert(member.node_id.clone(), Told { instance, incarnation, state });
        }
        Ok(())
    }

    fn conflict(
        &mut self,
        step: &Step<'_, Gossips>,
        other: InstanceId,
        we_step_aside: bool,
    ) -> Result<(), (&'static str, String)> {
        let Some((ours, theirs)) = self.twins.get(&step.host) else {
            return Err(("no conflict without a second process", format!("run {other}")));
        };
        let instance = step.core.local().instance;
        if we_step_aside && (*ours, instance) > (*theirs, other) {
            let text = format!("valid from {ours} as run {instance}, the other from {theirs} as run {other}");
            return Err(("who has the older certificate steps aside", text));
        }
        let yielded = self.conflicts.entry(step.host).or_default();
        *yielded = we_step_aside.then_some(other).or(*yielded);
        Ok(())
    }

    /// What newer versions say of themselves is in every full word about them, whoever passes it on.
    fn check_news(&mut self, step: &Step<'_, Gossips>) -> Result<(), (&'static str, String)> {
        if self.skew == Skew::None {
            return Ok(());
        }
        if let Some(Generation::Newer { news }) = self.generations.get(&step.host) {
            self.news.entry(step.core.local().instance).or_insert_with(|| news.clone());
        }
        for (to, payload) in step.sent {
            for (about, instance, told) in skew::told(payload) {
                // The subject itself is told the little that it does not know.
                if about != *to && self.news.get(&InstanceId(instance)).is_some_and(|news| *news != told) {
                    let text = format!("{} bytes about {about} to {to}", told.len());
                    return Err(("fields of newer versions are passed on", text));
                }
            }
        }
        Ok(())
    }

    fn check(&mut self, step: &Step<'_, Gossips>) -> Result<(), (&'static str, String)> {
        for report in step.reports {
            match report {
                Event::Member(MemberEvent::Changed { change, before, member, .. }) => {
                    self.changed(step.host, *change, *before, member)?;
                }
                Event::Broadcast { from, payload } => {
                    let view = self.views.entry(step.host).or_default();
                    if !view.broadcasts.insert((from.clone(), payload.clone())) {
                        let text = format!("{} bytes from {from} came again", payload.len());
                        return Err(("a broadcast is delivered once", text));
                    }
                }
                Event::Conflict { other, we_step_aside } => {
                    self.conflict(step, *other, *we_step_aside)?;
                }
                _ => {}
            }
        }
        self.check_news(step)?;
        let status = step.core.status();
        let members = status.alive + status.suspect + status.dead + status.left_members;
        self.effects_max = self.effects_max.max(step.effects);
        if step.effects > EFFECTS_BASE + EFFECTS_PER_MEMBER * members {
            return Err((
                "work is bounded",
                format!("{} effects of one step, {members} members", step.effects),
            ));
        }
        let queue = step.core.queue_length();
        self.queue_max = self.queue_max.max(queue);
        if queue > QUEUE_BASE + QUEUE_PER_MEMBER * members {
            return Err(("queues are bounded", format!("{queue} items, {members} members")));
        }
        Ok(())
    }
}

impl Watch<Gossips> for MembershipWatch {
    fn started(&mut self, _: Instant, launch: &Launch) {
        self.views.remove(&launch.host);
        self.conflicts.remove(&launch.host);
        let generation = Generation::of(self.skew, launch.host, launch.runs_before);
        self.generations.insert(launch.host, generation);
    }

    fn stepped(&mut self, step: &Step<'_, Gossips>) -> Result<(), Violation> {
        self.check(step).map_err(|(rule, detail)| Violation {
            at: step.now,
            host: Some(step.host),
            rule,
            detail,
        })
    }
}

/// In what views are not full and equal yet.
#[derive(Clone, Debug)]
pub struct Difference {
    /// In words, with what everybody holds of the member that it is about.
    pub text: String,
    /// Somebody changed its metadata, and not everybody knows yet: news, and no fault by itself.
    pub is_news: bool,
}

/// How the views of these nodes differ from the truth; `None` if they are full and equal.
///
/// Full means: every one of them is alive in every view, in its present run and with its
/// present metadata, nobody else is live, and each is ready and not isolated.
pub fn difference<W: Watch<Gossips>>(world: &World<Gossips, W>, live: &[HostId]) -> Option<Difference> {
    let cores: Vec<(HostId, &Gossip)> = live.iter().filter_map(|h| Some((*h, world.core(*h)?))).collect();
    let truth: BTreeMap<NodeId, Arc<Member>> =
        cores.iter().map(|(_, core)| (core.local().node_id.clone(), core.local())).collect();
    let differs = |text: String, about: Option<&NodeId>, is_news| {
        let opinions = about.map_or_else(String::new, |about| opinions(world, live, about));
        Some(Difference { text: text + &opinions, is_news })
    };
    let mut news = None;
    for (host, core) in &cores {
        let status = core.status();
        if !status.ready || status.isolated {
            let what = if status.isolated { "isolated" } else { "not ready" };
            return differs(format!("{host:?} is {what}"), None, false);
        }
        let held: BTreeMap<NodeId, Arc<Member>> =
            core.members().filter(|m| m.state.is_live()).map(|m| (m.node_id.clone(), m)).collect();
        for (node_id, member) in &held {
            let problem = match truth.get(node_id) {
                None => "holds to be live who is gone",
                Some(real) if member.instance != real.instance => "knows an old run",
                Some(_) if member.state != MemberState::Alive => "suspects",
                Some(real) => {
                    let equal =
                        member.metadata_version == real.metadata_version && member.metadata == real.metadata;
                    if !equal {
                        news.get_or_insert((*host, node_id.clone()));
                    }
                    continue;
                }
            };
            return differs(format!("{host:?} {problem}: {node_id}"), Some(node_id), false);
        }
        if let Some(missing) = truth.keys().find(|n| !held.contains_key(*n)) {
            let count = truth.len() - held.len();
            return differs(
                format!("{host:?} lacks {count} of {}: {missing}", truth.len()),
                Some(missing),
                false,
            );
        }
    }
    let (host, about) = news?;
    differs(format!("{host:?} has old metadata of {about}"), Some(&about), true)
}

/// What each of these nodes holds of one member.
fn opinions<W: Watch<Gossips>>(world: &World<Gossips, W>, live: &[HostId], about: &NodeId) -> String {
    let one = |host: &HostId| {
        let held = world.core(*host)?.member(about);
        let held = held.map_or_else(
            || "nothing".into(),
            |m| {
                format!(
                    "{} run {} incarnation {} metadata {}",
                    m.state, m.instance, m.incarnation, m.metadata_version
                )
            },
        );
        Some(format!("\n          {host:?}: {held}"))
    };
    live.iter().filter_map(one).collect()
}

/// Fails if a node has told its user something else than its view shows.
///
/// # Errors
///
/// The first difference.
pub fn events_match_views(world: &World<Gossips, MembershipWatch>, live: &[HostId]) -> Result<(), Violation> {
    for host in live {
        let (Some(core), Some(view)) = (world.core(*host), world.watch.views.get(host)) else { continue };
        for member in core.members().filter(|m| m.node_id != *world.node_id(*host)) {
            let told = view.told.get(&member.node_id);
            let fits = match told {
                Some(told) => told.state == member.state && told.instance == member.instance,
                // Somebody whom it only ever knew as gone is no news.
                None => !member.state.is_live(),
            };
            if !fits {
                let detail = format!("{} is {} in the view, told was {told:?}", member.node_id, member.state);
                return Err(Violation {
                    at: world.now(),
                    host: Some(*host),
                    rule: "events match the view",
                    detail,
                });
            }
        }
    }
    Ok(())
}

/// Fails if a live member went unprobed for more than three intervals.
///
/// # Errors
///
/// The first such member.
pub fn everybody_is_probed<W: Watch<Gossips>>(
    world: &World<Gossips, W>,
    live: &[HostId],
    interval: Duration,
) -> Result<(), Violation> {
    if live.len() < 2 {
        return Ok(());
    }
    for host in live {
        let Some(core) = world.core(*host) else { continue };
        let since = core.last_probed().map(|at| world.local_time(*host).since(at));
        if since.is_none_or(|since| since > interval * 3) {
            let detail = format!("the last probe was {since:?} ago, the interval is {interval:?}");
            let rule = "nobody goes unprobed for three intervals";
            return Err(Violation { at: world.now(), host: Some(*host), rule, detail });
        }
    }
    Ok(())
}

/// Machines that nothing reaches and nothing leaves, and since when.
#[derive(Debug, Default)]
pub struct CutOff {
    since: BTreeMap<HostId, (Instant, u64)>,
}

impl CutOff {
    /// Fails if a node that has heard nobody for so long does not say that it is isolated.
    ///
    /// Time in which a process was stopped, starved or not there does not count.
    ///
    /// # Errors
    ///
    /// The first such node.
    pub fn check<W: Watch<Gossips>>(
        &mut self,
        world: &World<Gossips, W>,
        patience: Duration,
    ) -> Result<(), Violation> {
        if world.network.is_whole() {
            self.since.clear();
            return Ok(());
        }
        let now = world.now();
        for host in world.hosts() {
            let (Some(core), true, true) =
                (world.core(host), world.is_awake(host), world.network.is_cut_off(host))
            else {
                self.since.remove(&host);
                continue;
            };
            let late_timers = core.counters().late_timers;
            let (since, late_before) = self.since.entry(host).or_insert((now, late_timers));
            if *late_before != late_timers {
                (*since, *late_before) = (now, late_timers);
            }
            let status = core.status();
            let knew_others = status.alive + status.suspect + status.dead > 1;
            let takes_part = !status.left && !status.stepped_aside;
            if now.since(*since) > patience && knew_others && takes_part && !status.isolated {
                let detail = format!("cut off for {:?}, {status:?}", now.since(*since));
                let rule = "who is cut off says so";
                return Err(Violation { at: now, host: Some(host), rule, detail });
            }
        }
        Ok(())
    }
}
