//! Holds back what comes from the future.
//!
//! A timestamp from a clock that runs ahead would win every conflict and drag all clocks along. Up to `max_drift`
//! is normal skew. What is further ahead waits: its id is remembered and left out of want lists until its time
//! comes. What is more than a day ahead will not be waited for.

use std::{collections::BTreeMap, time::Duration};

use mesh_core::{Hlc, WallTime};

use super::{AuthorId, Deferral, Entry, Outcome, Rejection, Verified};
use crate::{EntryId, Item};

/// Settings of [`Admission`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmissionConfig {
    /// How far ahead a timestamp may be. Default: 250 ms.
    pub max_drift: Duration,
    /// From where on it is rejected. Default: 24 h.
    pub reject_beyond: Duration,
    /// How many waiting ids of one author are remembered. Default: 1024.
    pub deferred_per_author_max: usize,
    /// How many are remembered in all. Default: 65536.
    pub deferred_max: usize,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self {
            max_drift: Duration::from_millis(250),
            reject_beyond: Duration::from_secs(24 * 60 * 60),
            deferred_per_author_max: 1024,
            deferred_max: 65_536,
        }
    }
}

/// What [`Admission::admit`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Admitted {
    /// Its time has come: store it.
    Now,
    /// Drop it; its id comes out of [`Admission::due`] at `until`.
    Deferred {
        /// When its time comes.
        until: WallTime,
        /// Whether there was room to remember it. If not, it is offered again in the next round.
        remembered: bool,
    },
    /// Drop it for good.
    Rejected(Rejection),
}

impl Admitted {
    /// The outcome to report; `None` if the entry is to be stored.
    pub fn outcome(self) -> Option<Outcome> {
        match self {
            Self::Now => None,
            Self::Deferred { until, .. } => Some(Outcome::Deferred(Deferral::AheadOfClock { until })),
            Self::Rejected(rejection) => Some(Outcome::Rejected(rejection)),
        }
    }
}

/// Decides by timestamp, and remembers what has to wait. A plain value: the time is passed in.
///
/// It takes only [`Verified`] entries, so that nobody fills the room of an author but that author. When an
/// author's room or all of it is full, the id with the latest time makes way.
///
/// ```
/// use mesh_core::{Hlc, WallTime};
/// use mesh_sync::entry::{
///     Admission, AdmissionConfig, Admitted, Author, AuthorKey, AuthorSequence, Collection, DatasetId, Draft,
/// };
///
/// let mut author = Author::new(AuthorKey::from_seed([7; 32]), DatasetId::new("notes")?, AuthorSequence::FIRST);
/// let draft = Draft::delete(&Collection::new("shopping")?, "milk");
/// let entry = author.sign(draft, Hlc::from_wall(WallTime(10_000)))?;
///
/// let mut admission = Admission::new(AdmissionConfig::default());
/// let until = WallTime(9_750);
/// assert_eq!(admission.admit(WallTime(9_000), &entry), Admitted::Deferred { until, remembered: true });
/// assert!(admission.is_deferred(&entry.item()));
/// assert_eq!(admission.due(until), [entry.item()]);
/// assert_eq!(admission.admit(until, &entry), Admitted::Now);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Admission {
    config: AdmissionConfig,
    /// In the order in which their time comes.
    waiting: BTreeMap<Item, AuthorId>,
    /// The same, by author.
    by_author: BTreeMap<AuthorId, BTreeMap<Item, ()>>,
}

impl Admission {
    /// Nothing waits yet.
    pub const fn new(config: AdmissionConfig) -> Self {
        Self { config, waiting: BTreeMap::new(), by_author: BTreeMap::new() }
    }

    /// Whether an entry with this timestamp would be let in now. For want lists, before anything is fetched.
    ///
    /// # Errors
    ///
    /// When its time comes, or [`Rejection::FarAhead`].
    pub fn check(&self, now: WallTime, hlc: Hlc) -> Result<(), Admitted> {
        let ahead = Duration::from_millis(hlc.wall().0.saturating_sub(now.0));
        if ahead > self.config.reject_beyond {
            Err(Admitted::Rejected(Rejection::FarAhead { hlc }))
        } else if ahead > self.config.max_drift {
            Err(Admitted::Deferred { until: self.until(hlc), remembered: false })
        } else {
            Ok(())
        }
    }

    /// Says whether `entry` is to be stored now, and remembers it if it has to wait.
    pub fn admit(&mut self, now: WallTime, entry: &Verified) -> Admitted {
        match self.check(now, entry.hlc()) {
            Ok(()) => {
                self.forget(entry);
                Admitted::Now
            }
            Err(Admitted::Deferred { until, .. }) => {
                Admitted::Deferred { until, remembered: self.remember(entry) }
            }
            Err(rejected) => rejected,
        }
    }

    /// Whether the entry waits, so that it is left out of want lists.
    pub fn is_deferred(&self, item: &Item) -> bool {
        self.waiting.contains_key(item)
    }

    /// The entries whose time has come. Each is given once; want it again.
    pub fn due(&mut self, now: WallTime) -> Vec<Item> {
        let (mut due, drift) = (Vec::new(), self.drift_millis());
        while let Some(first) = self.waiting.first_entry() {
            if first.key().hlc.wall().0.saturating_sub(now.0) > drift {
                break;
            }
            let (item, author) = first.remove_entry();
            self.remove_of_author(author, &item);
            due.push(item);
        }
        due
    }

    /// When to call [`Admission::due`] next.
    pub fn next_due(&self) -> Option<WallTime> {
        self.waiting.first_key_value().map(|(item, _)| self.until(item.hlc))
    }

    /// Those that wait, in the order in which their time comes.
    pub fn waiting(&self) -> impl Iterator<Item = &Item> {
        self.waiting.keys()
    }

    /// How many wait.
    pub fn deferred(&self) -> usize {
        self.waiting.len()
    }

    fn drift_millis(&self) -> u64 {
        u64::try_from(self.config.max_drift.as_millis()).unwrap_or(u64::MAX)
    }

    fn until(&self, hlc: Hlc) -> WallTime {
        WallTime(hlc.wall().0.saturating_sub(self.drift_millis()))
    }

    fn remember(&mut self, entry: &Entry) -> bool {
        let (item, author) = (entry.item(), entry.author());
        self.waiting.insert(item, author);
        self.by_author.entry(author).or_default().insert(item, ());
        let of_author = &self.by_author[&author];
        if of_author.len() > self.config.deferred_per_author_max {
            let last = of_author.last_key_value().map(|(item, ())| *item);
            last.into_iter().for_each(|last| self.remove(&last));
        }
        if self.waiting.len() > self.config.deferred_max {
            let last = self.waiting.last_key_value().map(|(item, _)| *item);
            last.into_iter().for_each(|last| self.remove(&last));
        }
        self.waiting.contains_key(&item)
    }

    fn forget(&mut self, entry: &Entry) {
        self.remove(&entry.item());
    }

    fn remove(&mut self, item: &Item) {
        if let Some(author) = self.waiting.remove(item) {
            self.remove_of_author(author, item);
        }
    }

    fn remove_of_author(&mut self, author: AuthorId, item: &Item) {
        if let Some(of_author) = self.by_author.get_mut(&author) {
            of_author.remove(item);
            if of_author.is_empty() {
                self.by_author.remove(&author);
            }
        }
    }

    /// Forgets an entry that nobody waits for any more, as one that was pruned.
    pub fn drop_deferred(&mut self, id: EntryId, hlc: Hlc) {
        self.remove(&Item { hlc, id });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Author, AuthorKey, AuthorSequence, Collection, DatasetId, Draft};

    fn entries(seed: u8, count: u64, from: u64) -> Vec<Verified> {
        let dataset = DatasetId::new("d").expect("valid");
        let mut author = Author::new(AuthorKey::from_seed([seed; 32]), dataset, AuthorSequence::FIRST);
        let collection = Collection::new("c").expect("valid");
        let mut one = |at| author.sign(Draft::put(&collection, "k", "v"), Hlc::from_wall(WallTime(at)));
        (0..count).map(|n| one(from + n).expect("signed")).collect()
    }

    #[test]
    fn skew_is_let_in_and_a_day_ahead_is_rejected() {
        let mut admission = Admission::new(AdmissionConfig::default());
        let day = 24 * 60 * 60 * 1000;
        let entry = &entries(1, 1, day + 250)[0];
        assert_eq!(admission.admit(WallTime(day), entry), Admitted::Now);
        assert!(matches!(admission.admit(WallTime(day - 1), entry), Admitted::Deferred { .. }));
        assert!(matches!(
            admission.admit(WallTime(249), entry),
            Admitted::Rejected(Rejection::FarAhead { .. })
        ));
        assert_eq!(admission.deferred(), 1);
    }

    #[test]
    fn one_author_ahead_of_time_takes_no_room_of_others_and_the_nearest_stay() {
        let config = AdmissionConfig { deferred_per_author_max: 3, deferred_max: 5, ..Default::default() };
        let mut admission = Admission::new(config);
        let noisy = entries(1, 10, 10_000);
        for entry in noisy.iter().rev() {
            admission.admit(WallTime(0), entry);
        }
        assert_eq!(admission.deferred(), 3);
        let other = &entries(2, 1, 20_000)[0];
        assert!(matches!(admission.admit(WallTime(0), other), Admitted::Deferred { remembered: true, .. }));
        let late = &entries(1, 1, 90_000)[0];
        assert!(matches!(admission.admit(WallTime(0), late), Admitted::Deferred { remembered: false, .. }));
        let nearest: Vec<Item> = noisy[..3].iter().map(|entry| entry.item()).collect();
        assert_eq!(admission.next_due(), Some(WallTime(9_750)));
        assert_eq!(admission.due(WallTime(9_752)), nearest);
        assert_eq!(admission.due(WallTime(9_752)), []);
        assert_eq!(admission.deferred(), 1);
    }
}
