//! A large cluster that was cut in halves: how soon every view is full again.

use std::time::Duration;

use serde::Serialize;

use crate::{Unwatched, Violation, converge::Cluster};

/// Figures of one run. Times are of the run, not of the machine it ran on.
#[derive(Clone, Debug, Serialize)]
pub struct Healing {
    /// Nodes, half of them on either side.
    pub nodes: u32,
    /// The seed of the run.
    pub seed: u64,
    /// How many members all nodes together hold to be alive as the network becomes whole again.
    pub alive_apart: usize,
    /// From then until the first node sees one of the other side.
    pub first_seen_s: f64,
    /// Until half of the lost views are back.
    pub half_s: f64,
    /// Until every view is full and equal.
    pub full_s: f64,
    /// Messages that all nodes sent in that time.
    pub messages: u64,
    /// Payload bytes that all nodes sent in that time.
    pub bytes: u64,
    /// Exchanges of repair that began in that time.
    pub syncs: u64,
    /// How many members all nodes together hold to be alive, every 50 ms.
    pub curve: Vec<usize>,
}

/// Starts `nodes` nodes, cuts them in halves for so long, and measures the way back to full views.
///
/// # Errors
///
/// A stage that did not end in two minutes of the run.
pub fn heal(nodes: u32, seed: u64, apart: Duration) -> Result<Healing, Violation> {
    let mut cluster = Cluster::new(nodes, 0, seed, Unwatched);
    cluster.start()?;
    cluster.wait("the overlay", |c| c.overlay_is_up())?;
    cluster.pass(Duration::from_secs(15))?;

    let far = |host: u32| u8::from(host >= nodes / 2);
    cluster.world.network.weather.sides = (0..nodes).map(far).collect();
    cluster.pass(apart)?;
    let alive = |c: &Cluster<Unwatched>| -> usize {
        c.live.iter().filter_map(|h| c.world.core(*h)).map(|core| core.status().alive).sum()
    };
    let all = nodes as usize;
    let split = alive(&cluster);

    let counted = |c: &Cluster<Unwatched>| {
        let counters = c.live.iter().filter_map(|h| c.world.core(*h)).map(|core| core.counters());
        counters.fold([0; 3], |[a, b, s], c| [a + c.sent_messages, b + c.sent_bytes, s + c.syncs_started])
    };
    let before = counted(&cluster);
    let start = cluster.world.now();
    cluster.world.network.clear();
    let (mut curve, mut first, mut half) = (Vec::new(), None, None);
    cluster.wait("full views after the halves met", |c| {
        let (since, now) = (c.since(start), alive(c));
        if since.as_millis().is_multiple_of(50) {
            curve.push(now);
        }
        if now > split {
            first.get_or_insert(since);
        }
        if now >= (split + all * all) / 2 {
            half.get_or_insert(since);
        }
        now == all * all && c.full().is_none()
    })?;
    let full_s = cluster.since(start).as_secs_f64();
    let after = counted(&cluster);
    let seconds = |at: Option<Duration>| at.map_or(full_s, |at| at.as_secs_f64());
    Ok(Healing {
        nodes,
        seed,
        alive_apart: split,
        first_seen_s: seconds(first),
        half_s: seconds(half),
        full_s,
        messages: after[0] - before[0],
        bytes: after[1] - before[1],
        syncs: after[2] - before[2],
        curve,
    })
}
