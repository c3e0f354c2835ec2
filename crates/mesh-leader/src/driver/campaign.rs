//! A campaign as its owner has it.

use std::{fmt, sync::Arc};

use tokio::sync::watch;

use super::{Leadership, shared::Shared};
use crate::{Command, Lease, Refusal, Scope};

/// This node takes part in the election of a scope for as long as this lives.
///
/// Dropping it withdraws: a lease is handed over, or given back.
pub struct Campaign {
    scope: Scope,
    leadership: Leadership,
    shared: Arc<Shared>,
    lease: watch::Receiver<Option<Lease>>,
    /// Tells this campaign from others for the same scope.
    id: u64,
    withdrawn: bool,
}

impl fmt::Debug for Campaign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Campaign").field("scope", &self.scope).field("lease", &self.lease()).finish()
    }
}

impl Campaign {
    pub(super) fn new(scope: Scope, id: u64, leadership: Leadership, shared: Arc<Shared>) -> Self {
        let lease = shared.own(&scope);
        Self { scope, leadership, shared, lease, id, withdrawn: false }
    }

    /// The scope.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The lease, while this node has it.
    pub fn lease(&self) -> Option<Lease> {
        self.lease.borrow().clone()
    }

    /// Waits until this node leads, and returns its lease.
    ///
    /// # Errors
    ///
    /// [`Refusal::Stopped`] once leadership has ended on this node.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing; the campaign goes on.
    pub async fn elected(&mut self) -> Result<Lease, Refusal> {
        match self.lease.wait_for(Option::is_some).await {
            Ok(lease) => lease.clone().ok_or(Refusal::Stopped),
            Err(_) => Err(Refusal::Stopped),
        }
    }

    /// Takes part no more, and waits until a lease is handed over or given back.
    ///
    /// # Errors
    ///
    /// [`Refusal::Stopped`] once leadership has ended on this node.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future withdraws all the same.
    pub async fn withdraw(mut self) -> Result<(), Refusal> {
        let scope = self.scope.clone();
        self.leadership.command(Command::Withdraw { scope }).await?;
        self.withdrawn = true;
        // An end of the channel is an end of the lease as well.
        let _ = self.lease.wait_for(Option::is_none).await;
        Ok(())
    }
}

impl Drop for Campaign {
    fn drop(&mut self) {
        if !self.withdrawn {
            self.shared.drop_campaign(&self.scope, self.id);
        }
    }
}
