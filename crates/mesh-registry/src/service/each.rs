//! Transactions of one caller that came at once: each is decided by itself and has an answer of its own.

use std::sync::Arc;

use futures_util::future::join_all;
use mesh_core::{
    PeerIdentity,
    store::{Applied, StoreError, TXN_ITEMS_MAX, TxnError},
};
use prost::Message;
use tonic::Status;

use super::{Shared, invalid, malformed, permit};
use crate::{
    leader_hint::AskAgain,
    state::Refusal,
    wire::{self, failures, transact_each_answer::Answer, transact_reply::Outcome, values},
};

/// Transactions in one request.
pub(crate) const EACH_MAX: usize = 256;
/// Bytes of the answers to one request, about. Refusals show what was found, so that many of them are much.
const ANSWERS_BYTES_MAX: usize = 2 << 20;

/// Decides each transaction of a request.
pub(super) async fn transact(
    shared: &Shared,
    peer: &Arc<PeerIdentity>,
    request: wire::TransactEachRequest,
) -> Result<wire::TransactEachReply, Status> {
    let count = request.txns.len();
    if count > EACH_MAX {
        return Err(invalid("transactions", format!("{count} in one request are more than {EACH_MAX}")));
    }
    let each = request.txns.into_iter().map(|txn| async move {
        let _place = permit(&shared.requests, shared.config.requests_in_flight_max)
            .inspect_err(|_| shared.counters.shed())?;
        one(shared, peer, txn).await
    });
    let mut bytes = 0;
    let answers = join_all(each).await.into_iter().map(|done| {
        let done = done.and_then(|reply| {
            bytes += reply.encoded_len();
            if bytes > ANSWERS_BYTES_MAX { Err(no_room(&reply)) } else { Ok(reply) }
        });
        let answer = match done {
            Ok(reply) => Answer::Reply(reply),
            Err(status) => Answer::Failure(failures::in_reply(&status)),
        };
        wire::TransactEachAnswer { answer: Some(answer) }
    });
    Ok(wire::TransactEachReply { answers: answers.collect() })
}

/// The caller asks again, and is told then: transactions of such requests have names.
fn no_room(reply: &wire::TransactReply) -> Status {
    let applied = match reply.outcome {
        Some(Outcome::Refused(_)) => Applied::No,
        _ => Applied::Unknown,
    };
    let reason = format!("its answer does not fit beside the others, which have {ANSWERS_BYTES_MAX} bytes");
    let source = Some(AskAgain.into());
    failures::of_store(&StoreError::Unavailable { operation: "transact", reason, applied, source })
}

/// Decides a transaction of a caller that may use the store.
pub(super) async fn one(
    shared: &Shared,
    peer: &Arc<PeerIdentity>,
    txn: wire::Txn,
) -> Result<wire::TransactReply, Status> {
    for (what, count) in [("compares", txn.compares.len()), ("operations", txn.operations.len())] {
        if count > TXN_ITEMS_MAX {
            return Err(invalid("transaction", format!("{count} {what} are more than {TXN_ITEMS_MAX}")));
        }
    }
    let txn = values::txn(txn, peer.node_id().clone()).map_err(|error| malformed(&error))?;
    txn.check().map_err(|error| failures::of_store(&error))?;
    shared.allow(shared.access.write(peer, &txn), peer)?;
    if let Some(key) = txn.idempotency {
        shared.own_session(key.session, peer, "name its transactions").await?;
    }
    if let Some(session) = shared.check_leadership(peer, &txn).await? {
        let gone = Outcome::Refused((&Refusal::SessionGone(session)).into());
        return Ok(wire::TransactReply { outcome: Some(gone) });
    }
    let outcome = match shared.store.transact(txn).await {
        Ok(applied) => Outcome::Applied((&applied).into()),
        Err(error) => {
            if let TxnError::SessionGone { session } = &error {
                shared.owners.forget(*session);
            }
            let refusal: Refusal = failures::of_txn(error)?;
            Outcome::Refused((&refusal).into())
        }
    };
    Ok(wire::TransactReply { outcome: Some(outcome) })
}
