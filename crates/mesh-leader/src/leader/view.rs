//! What this node knows of the records of leadership: a copy that follows the store by its watch.
//!
//! What this node did itself is entered at once, before the watch tells of it. Each record therefore has
//! a floor: words about earlier revisions are old news.

use std::collections::BTreeMap;

use mesh_core::{
    FencingToken, Instant, NodeId, Revision, WallTime,
    store::{Change, DeleteCause, Record, SessionId},
};

use crate::{
    Scope,
    event::LeaderView,
    records::{AskValue, CandidateValue, LeaseValue, Name, ScopeValue},
};

/// Who leads a scope, from a grant until the next change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reign {
    pub(super) holder: NodeId,
    pub(super) token: FencingToken,
    pub(super) term: u64,
    pub(super) since: WallTime,
    pub(super) correlation_id: u64,
    pub(super) session: Option<SessionId>,
    pub(super) revision: Revision,
    pub(super) zone: Option<String>,
    pub(super) spread: Option<String>,
}

impl Reign {
    fn of(record: &Record) -> Self {
        let value = LeaseValue::decode(&record.value, &record.last_writer);
        Self {
            holder: value.holder,
            // A lease that nobody was granted is not one that anybody can act upon.
            token: record.token.unwrap_or_default(),
            term: value.term,
            since: value.acquired,
            correlation_id: value.correlation_id,
            session: record.session,
            revision: record.revision,
            zone: value.zone,
            spread: value.spread,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) session: Option<SessionId>,
    pub(super) value: CandidateValue,
    pub(super) revision: Revision,
}

/// One scope.
#[derive(Clone, Debug, Default)]
pub(super) struct ScopeView {
    pub(super) reign: Option<Reign>,
    lease_floor: Revision,
    /// The persistent record, with the revision to compare with.
    pub(super) record: Option<(Revision, ScopeValue)>,
    record_floor: Revision,
    pub(super) candidates: BTreeMap<NodeId, Candidate>,
    pub(super) ask: Option<(Revision, AskValue)>,
    /// Since when nobody is known to lead, if anybody would.
    pub(super) vacant_since: Option<Instant>,
    /// The last reign that was seen.
    pub(super) last: Option<Reign>,
    /// The present reign followed another without a gap.
    pub(super) direct: bool,
    /// The last reign ended because its leader wanted it to.
    pub(super) ended_well: bool,
}

impl ScopeView {
    /// The term of the last reign.
    pub(super) fn term(&self) -> u64 {
        let record = self.record.as_ref().map_or(0, |(_, value)| value.term);
        self.reign.as_ref().map_or(record, |reign| reign.term.max(record))
    }

    fn records(&self) -> usize {
        usize::from(self.reign.is_some())
            + usize::from(self.record.is_some())
            + usize::from(self.ask.is_some())
            + self.candidates.len()
    }

    pub(super) fn shown(&self, scope: &Scope) -> LeaderView {
        let shown = self.reign.as_ref().or(self.last.as_ref());
        LeaderView {
            scope: scope.clone(),
            leader: self.reign.as_ref().map(|reign| reign.holder.clone()),
            token: shown.map(|reign| reign.token),
            term: self.term(),
            since: shown.map_or(WallTime::default(), |reign| reign.since),
            correlation_id: shown.map_or(0, |reign| reign.correlation_id),
            revision: shown.map_or(Revision::default(), |reign| reign.revision),
            candidates: self.candidates.keys().cloned().collect(),
        }
    }
}

/// What a change of a record meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The lease of a scope changed.
    Reign {
        scope: Scope,
        before: Option<Box<Reign>>,
        /// Why it is gone, if it is.
        cause: Option<DeleteCause>,
        revision: Revision,
    },
    /// Something else of a scope changed.
    Other(Scope),
}

impl Step {
    pub(super) fn scope(&self) -> &Scope {
        match self {
            Self::Reign { scope, .. } | Self::Other(scope) => scope,
        }
    }
}

/// How many leases of a spread group each node and zone holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Spread {
    groups: BTreeMap<String, Group>,
}

#[derive(Clone, Debug, Default)]
struct Group {
    nodes: BTreeMap<NodeId, u32>,
    zones: BTreeMap<String, u32>,
}

impl Spread {
    fn add(&mut self, reign: &Reign) {
        let Some(group) = &reign.spread else { return };
        let group = self.groups.entry(group.clone()).or_default();
        *group.nodes.entry(reign.holder.clone()).or_default() += 1;
        if let Some(zone) = &reign.zone {
            *group.zones.entry(zone.clone()).or_default() += 1;
        }
    }

    fn remove(&mut self, reign: &Reign) {
        let Some(name) = &reign.spread else { return };
        let Some(group) = self.groups.get_mut(name) else { return };
        if let Some(count) = group.nodes.get_mut(&reign.holder) {
            *count -= 1;
            if *count == 0 {
                group.nodes.remove(&reign.holder);
            }
        }
        if let Some(zone) = &reign.zone
            && let Some(count) = group.zones.get_mut(zone)
        {
            *count -= 1;
            if *count == 0 {
                group.zones.remove(zone);
            }
        }
        if group.nodes.is_empty() {
            self.groups.remove(name);
        }
    }

    pub(super) fn of_node(&self, group: &str, node_id: &NodeId) -> u32 {
        self.groups.get(group).and_then(|group| group.nodes.get(node_id)).copied().unwrap_or(0)
    }

    pub(super) fn of_zone(&self, group: &str, zone: &str) -> u32 {
        self.groups.get(group).and_then(|group| group.zones.get(zone)).copied().unwrap_or(0)
    }
}

/// All scopes.
#[derive(Debug, Default)]
pub(super) struct View {
    scopes: BTreeMap<Scope, ScopeView>,
    pub(super) spread: Spread,
    records: usize,
    records_max: usize,
    pub(super) left_out: u64,
}

impl View {
    pub(super) fn new(records_max: usize) -> Self {
        Self { records_max, ..Self::default() }
    }

    pub(super) fn scope(&self, scope: &Scope) -> Option<&ScopeView> {
        self.scopes.get(scope)
    }

    pub(super) fn scopes(&self) -> impl Iterator<Item = (&Scope, &ScopeView)> {
        self.scopes.iter()
    }

    /// A scope that this node takes part in: its records are kept whatever the limit.
    pub(super) fn own(&mut self, scope: &Scope) -> &mut ScopeView {
        self.scopes.entry(scope.clone()).or_default()
    }

    /// Takes one change of the watch, or of a scan.
    ///
    /// `is_own` tells whether a scope's records are kept whatever the limit.
    pub(super) fn apply(
        &mut self,
        change: &Change,
        revision: Revision,
        is_own: impl FnOnce(&Scope) -> bool,
    ) -> Option<Step> {
        let name = Name::of(change.key())?;
        let record = match change {
            Change::Put(record) => Some(record),
            Change::Deleted { .. } => None,
        };
        let cause = match change {
            Change::Put(_) => None,
            Change::Deleted { cause, .. } => Some(*cause),
        };
        let scope = match &name {
            Name::Lease(scope) | Name::Scope(scope) | Name::Candidate(scope, _) | Name::Ask(scope) => scope,
        };
        if record.is_some()
            && self.records >= self.records_max
            && !self.scopes.contains_key(scope)
            && !is_own(scope)
        {
            self.left_out += 1;
            return None;
        }
        if record.is_none() && !self.scopes.contains_key(scope) {
            return None;
        }
        match name {
            Name::Lease(scope) => self.lease(scope, record.map(Reign::of), cause, revision),
            Name::Scope(scope) => {
                let value = record.map(|record| ScopeValue::decode(&record.value));
                self.record(&scope, value, revision);
                Some(Step::Other(scope))
            }
            Name::Candidate(scope, node_id) => {
                self.change(&scope, |view| {
                    match record {
                        Some(record) => {
                            let candidate = Candidate {
                                session: record.session,
                                value: CandidateValue::decode(&record.value),
                                revision: record.revision,
                            };
                            view.candidates.insert(node_id, candidate);
                        }
                        None => {
                            view.candidates.remove(&node_id);
                        }
                    };
                });
                Some(Step::Other(scope))
            }
            Name::Ask(scope) => {
                let ask = record.and_then(|record| Some((revision, AskValue::decode(&record.value)?)));
                self.change(&scope, |view| view.ask = ask);
                Some(Step::Other(scope))
            }
        }
    }

    fn change(&mut self, scope: &Scope, change: impl FnOnce(&mut ScopeView)) {
        let view = self.scopes.entry(scope.clone()).or_default();
        let before = view.records();
        change(view);
        self.records = self.records + view.records() - before;
    }

    /// Enters who leads, or that nobody does; `None` if it is old news.
    pub(super) fn lease(
        &mut self,
        scope: Scope,
        reign: Option<Reign>,
        cause: Option<DeleteCause>,
        revision: Revision,
    ) -> Option<Step> {
        let view = self.scopes.entry(scope.clone()).or_default();
        if revision < view.lease_floor || (revision == view.lease_floor && view.reign == reign) {
            return None;
        }
        let records = view.records();
        view.lease_floor = revision;
        let before = view.reign.take();
        if let Some(before) = &before {
            self.spread.remove(before);
            view.last = Some(before.clone());
        }
        if let Some(reign) = &reign {
            self.spread.add(reign);
            view.direct = before.is_some();
        } else {
            view.ended_well = matches!(cause, Some(DeleteCause::Written | DeleteCause::SessionClosed));
        }
        view.reign = reign;
        self.records = self.records + view.records() - records;
        Some(Step::Reign { scope, before: before.map(Box::new), cause, revision })
    }

    /// Enters the persistent record of a scope.
    pub(super) fn record(&mut self, scope: &Scope, value: Option<ScopeValue>, revision: Revision) {
        self.change(scope, |view| {
            if revision >= view.record_floor {
                view.record_floor = revision;
                view.record = value.map(|value| (revision, value));
            }
        });
    }

    /// The store was restored to an earlier revision: what was news before is none any more.
    pub(super) fn forget_floors(&mut self) {
        for view in self.scopes.values_mut() {
            view.lease_floor = Revision::default();
            view.record_floor = Revision::default();
        }
    }

    /// Forgets a scope of which nothing is left; whether it did.
    pub(super) fn forget(&mut self, scope: &Scope) -> bool {
        let nothing = self.scopes.get(scope).is_some_and(|view| view.records() == 0);
        if nothing {
            self.scopes.remove(scope);
        }
        nothing
    }

    /// A scope that is known.
    pub(super) fn known(&mut self, scope: &Scope) -> Option<&mut ScopeView> {
        self.scopes.get_mut(scope)
    }

    /// The keys of all records that are known, for comparison with a scan: what it lacks is gone.
    pub(super) fn names(&self) -> Vec<Name> {
        let mut names = Vec::with_capacity(self.records);
        for (scope, view) in &self.scopes {
            if view.reign.is_some() {
                names.push(Name::Lease(scope.clone()));
            }
            if view.record.is_some() {
                names.push(Name::Scope(scope.clone()));
            }
            if view.ask.is_some() {
                names.push(Name::Ask(scope.clone()));
            }
            names.extend(view.candidates.keys().map(|node| Name::Candidate(scope.clone(), node.clone())));
        }
        names
    }
}

impl Name {
    /// The key that names it.
    pub(super) fn key(&self) -> mesh_core::store::Key {
        use crate::records::{ask_key, candidate_key, lease_key, scope_key};
        match self {
            Self::Lease(scope) => lease_key(scope),
            Self::Scope(scope) => scope_key(scope),
            Self::Candidate(scope, node_id) => candidate_key(scope, node_id),
            Self::Ask(scope) => ask_key(scope),
        }
    }
}
