//! Sessions: how a store notices that a client is gone.

use std::{fmt, time::Duration};

use super::SessionError;
use crate::NodeId;

/// Names a session; given out by the store and never used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a client asks for when it opens a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSession {
    /// Whose it is. Where the request came over the network, the certificate decides.
    pub owner: NodeId,
    /// How long it lives without a renewal.
    pub ttl: Duration,
}

impl OpenSession {
    /// The shortest time to live.
    pub const TTL_MIN: Duration = Duration::from_millis(500);
    /// The longest time to live.
    pub const TTL_MAX: Duration = Duration::from_secs(3600);

    /// Checks the time to live.
    ///
    /// # Errors
    ///
    /// [`SessionError::Ttl`] names the range.
    pub fn check(&self) -> Result<(), SessionError> {
        if (Self::TTL_MIN..=Self::TTL_MAX).contains(&self.ttl) {
            return Ok(());
        }
        Err(SessionError::Ttl { asked: self.ttl, min: Self::TTL_MIN, max: Self::TTL_MAX })
    }
}

/// An open session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// Whose it is.
    pub owner: NodeId,
    /// How long it lives after a renewal, counted for its owner from before the renewal was sent.
    pub ttl: Duration,
    /// How often it was renewed.
    pub renewals: u64,
}

/// Names a transaction, so that a retry after a lost answer applies once.
///
/// The store keeps the outcomes of a session's last [`OUTCOMES_KEPT`](super::OUTCOMES_KEPT) sequence
/// numbers while the session lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey {
    /// An open session of the client.
    pub session: SessionId,
    /// Higher for each new transaction of that session, the same for a retry.
    pub sequence: u64,
}
