//! What goes into the core and what comes out of it.

use std::time::Duration;

use mesh_core::{
    FencingToken, Instant, NodeId, Revision, WallTime,
    store::{
        Fresh, OpenSession, Page, Scan, Session, SessionError, SessionId, StoreError, Txn, TxnError,
        TxnOutcome, WatchEvent,
    },
};

use crate::{Refusal, Scope, TtlRefusal};

/// Names one request to the store, so that its answer finds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Names one watch; words of an earlier one are not heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(pub u64);

/// Names one command whose outcome somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// Something that the core wants from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read one record, to learn how long that takes.
    Probe,
    /// `open_session`.
    OpenSession(OpenSession),
    /// `keep_alive`.
    KeepAlive(SessionId),
    /// `close_session`.
    CloseSession(SessionId),
    /// `scan`.
    Scan(Scan),
    /// `transact`.
    Transact(Txn),
}

/// How a [`Request`] ended.
#[derive(Debug)]
pub enum Answer {
    /// Of a probe.
    Probe(Result<(), StoreError>),
    /// Of opening and renewing.
    Session(Result<Session, SessionError>),
    /// Of closing.
    Closed(Result<Revision, SessionError>),
    /// Of a scan.
    Page(Result<Fresh<Page>, StoreError>),
    /// Of a transaction.
    Txn(Result<TxnOutcome, TxnError>),
}

/// What membership says about a node. It helps candidates to be ready and to choose; it decides nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberHint {
    /// The node.
    pub node_id: NodeId,
    /// It is confirmed dead, or said goodbye.
    pub gone: bool,
    /// It takes no new work.
    pub shy: bool,
    /// The zone it is in.
    pub zone: Option<String>,
}

/// Something that happened to the node.
#[derive(Debug)]
pub enum Input {
    /// A request ended. The answer to a request that is no longer waited for is ignored.
    Answer {
        /// Which.
        request: RequestId,
        /// How.
        answer: Answer,
    },
    /// A watch reports.
    Watch {
        /// Which.
        watch: WatchId,
        /// What.
        event: WatchEvent,
    },
    /// A watch ended, or could not begin.
    WatchEnded {
        /// Which.
        watch: WatchId,
    },
    /// Membership reports.
    Member(MemberHint),
    /// The node's owner wants something.
    Command(Command),
}

/// How a node campaigns for a scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CampaignOptions {
    /// The higher one leads, among candidates that are equal in preference and spread.
    pub priority: i32,
    /// The node that shall lead whenever it can.
    pub preferred: Option<NodeId>,
    /// Scopes of one spread group are led by different nodes and zones where that is possible.
    pub spread: Option<String>,
}

/// Who wants a leader to hand over, and why. It is kept in the store's audit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Who asked: an operator's identity, or what program.
    pub by: String,
    /// Why, in their words.
    pub reason: String,
}

/// What a node's owner can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Take part in the election of a scope.
    Campaign {
        /// The scope.
        scope: Scope,
        /// How.
        options: CampaignOptions,
    },
    /// Take part no more; a lease is handed over or given back.
    Withdraw {
        /// The scope.
        scope: Scope,
    },
    /// The leader of a scope, this node or another, hands over. [`Effect::Done`] follows.
    HandOver {
        /// Returned with the outcome.
        op: OpId,
        /// The scope.
        scope: Scope,
        /// To whom; `None` leaves it to the leader.
        to: Option<NodeId>,
        /// Who wants it.
        order: Order,
    },
    /// Hand over every lease and campaign no more. [`Effect::Done`] follows once nothing is left.
    Drain {
        /// Returned with the outcome.
        op: OpId,
    },
    /// Campaign again after a drain.
    Undrain,
    /// Renew the session now: somebody waits for certainty.
    Confirm,
    /// Read all records again: what is remembered was found to differ from the store.
    Reread,
    /// Close the session and stop. What is still held is given up. [`Effect::Done`] follows.
    Close {
        /// Returned with the outcome.
        op: OpId,
    },
}

/// Something that the core wants done.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Ask the store. The answer is wanted within `timeout`; after that the core goes on without.
    Request {
        /// Returned with the answer.
        id: RequestId,
        /// What to ask.
        request: Request,
        /// How long the core waits.
        timeout: Duration,
    },
    /// Watch all records of leadership after a revision; an earlier watch ends.
    Watch {
        /// Returned with what the watch says.
        id: WatchId,
        /// From where.
        after: Revision,
    },
    /// The session's leases are good until then, on this node's clock; `None`: not until the store was
    /// asked again.
    Validity {
        /// The session.
        session: SessionId,
        /// Until when.
        valid_until: Option<Instant>,
    },
    /// A lease of this node changed.
    Lease(LeaseSignal),
    /// Who leads a scope changed.
    Leader(LeaderView),
    /// Nothing is known of a scope any more: it has no leader, no candidate and no record.
    Forgotten(Scope),
    /// Tell subscribers.
    Event(LeadershipEvent),
    /// A command came to its end.
    Done {
        /// Which.
        op: OpId,
        /// How.
        outcome: Result<(), Refusal>,
    },
    /// The time to live can't be kept, or can be again (`None`).
    Ttl(Option<TtlRefusal>),
}

/// How a lease of this node changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseSignal {
    /// It is ours.
    Held {
        /// Its scope.
        scope: Scope,
        /// The session it hangs on.
        session: SessionId,
        /// Its token.
        token: FencingToken,
        /// Its term.
        term: u64,
    },
    /// Not to be acted upon: it is being handed over. Comes before the request to the store.
    Suspended {
        /// Its scope.
        scope: Scope,
    },
    /// The handover did not happen; it is ours as before.
    Resumed {
        /// Its scope.
        scope: Scope,
    },
    /// It is not ours any more.
    Ended {
        /// Its scope.
        scope: Scope,
        /// Why.
        reason: Reason,
    },
}

/// What happened to the leadership of a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Transition {
    /// Another node leads from here on.
    Observed,
    /// This node leads from here on.
    Elected,
    /// This node goes on leading.
    Renewed,
    /// This node leads no more, although it did not give up.
    Lost,
    /// Another node's lease has run out; nobody leads.
    Expired,
    /// The leader, this node or another, gave the lease back or handed it over.
    SteppedDown,
    /// This node led, and a newer token exists.
    Fenced,
}

impl Transition {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Observed,
        Self::Elected,
        Self::Renewed,
        Self::Lost,
        Self::Expired,
        Self::SteppedDown,
        Self::Fenced,
    ];

    /// The word that people and programs see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observed => "observed",
            Self::Elected => "elected",
            Self::Renewed => "renewed",
            Self::Lost => "lost",
            Self::Expired => "expired",
            Self::SteppedDown => "stepped-down",
            Self::Fenced => "fenced",
        }
    }
}

/// Why something happened. A closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Nobody led.
    Vacant,
    /// The leader before handed over.
    HandedOver,
    /// It was so when this node first looked, or looked again after a gap.
    Found,
    /// The session was renewed.
    Renewal,
    /// No renewal was answered before the deadline.
    RenewalsFailed,
    /// The process was paused, and the lease could not be confirmed afterwards.
    Paused,
    /// The store says that the session is gone.
    SessionGone,
    /// The leader's session was not renewed in time.
    SessionExpired,
    /// The leader's session was closed.
    SessionClosed,
    /// The leader gave the lease back.
    Released,
    /// An operator, or the program, asked for it.
    Asked,
    /// This node takes part no more.
    Withdrawn,
    /// This node drains.
    Draining,
    /// Another candidate is preferred.
    BetterCandidate,
    /// Another lease was granted.
    NewerToken,
    /// Somebody deleted the lease.
    Deleted,
    /// The store was restored from a snapshot.
    Restored,
    /// This node stops.
    Stopped,
}

impl Reason {
    /// The word that people and programs see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vacant => "vacant",
            Self::HandedOver => "handed-over",
            Self::Found => "found",
            Self::Renewal => "renewal",
            Self::RenewalsFailed => "renewals-failed",
            Self::Paused => "paused",
            Self::SessionGone => "session-gone",
            Self::SessionExpired => "session-expired",
            Self::SessionClosed => "session-closed",
            Self::Released => "released",
            Self::Asked => "asked",
            Self::Withdrawn => "withdrawn",
            Self::Draining => "draining",
            Self::BetterCandidate => "better-candidate",
            Self::NewerToken => "newer-token",
            Self::Deleted => "deleted",
            Self::Restored => "restored",
            Self::Stopped => "stopped",
        }
    }
}

/// One transition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeadershipEvent {
    /// What happened.
    pub transition: Transition,
    /// To which scope.
    pub scope: Scope,
    /// Who leads from here on (observed, elected, renewed), or did until here (all others).
    pub leader: NodeId,
    /// The token of that reign.
    pub token: FencingToken,
    /// Its term.
    pub term: u64,
    /// Why.
    pub reason: Reason,
    /// The same on all nodes and in all log lines for one reign.
    pub correlation_id: u64,
    /// When this node saw it.
    pub at: Instant,
    /// The same on the wall clock, for people.
    pub wall: WallTime,
}

/// Who leads a scope, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct LeaderView {
    /// The scope.
    pub scope: Scope,
    /// Who leads; `None` while nobody does.
    pub leader: Option<NodeId>,
    /// The token; while nobody leads, that of the last reign that this node saw.
    pub token: Option<FencingToken>,
    /// The term, which counts the reigns of the scope since it became known; while nobody leads, the last one.
    pub term: u64,
    /// Since when, on the clock of the node that wrote it. For people.
    pub since: WallTime,
    /// The number that the log lines of this reign share.
    pub correlation_id: u64,
    /// The revision of the lease's record.
    pub revision: Revision,
    /// Who would lead, in the order of their names.
    pub candidates: Vec<NodeId>,
}

/// How a node's part in leadership stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeadershipStatus {
    /// It has read all records and follows their changes.
    pub synced: bool,
    /// Its session, if one is open.
    pub session: Option<SessionId>,
    /// The session is known to be open: leases can be acted upon.
    pub confirmed: bool,
    /// Scopes that it leads.
    pub leads: usize,
    /// Scopes that it campaigns for.
    pub campaigns: usize,
    /// It gives its leases away.
    pub draining: bool,
    /// Why it does not campaign at all, if its time to live was refused.
    pub ttl_refused: Option<TtlRefusal>,
    /// What keeps it from campaigning, in the words of the store: it is tried again all the time.
    pub trouble: Option<String>,
}
