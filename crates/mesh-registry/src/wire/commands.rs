//! Commands as the log keeps them.

use std::time::Duration;

use bytes::Bytes;
use mesh_core::{
    Revision, WallTime,
    store::{SessionId, TXN_ITEMS_MAX},
};
use prost::Message;

use super::{COMMAND_VERSION, WireError, bad, generated as wire, malformed, values};
use crate::state::{Command, Expiry, TxnCommand};

const WHAT: &str = "a log entry";
/// Commands in one batch; our own stay far below.
const BATCH_MAX: usize = 4096;
/// Sessions in one entry.
const SESSIONS_MAX: usize = 1 << 16;

/// A command as bytes.
pub fn encode_command(command: &Command) -> Bytes {
    to_wire(command).encode_to_vec().into()
}

/// A command from bytes. Values share the buffer.
///
/// # Errors
///
/// [`WireError`] says what is wrong; a newer version is refused, since applying it by older rules would
/// make this node's state another than its peers'.
pub fn decode_command(bytes: Bytes) -> Result<Command, WireError> {
    from_wire(wire::Command::decode(bytes).map_err(malformed(WHAT))?, 0)
}

fn to_wire(command: &Command) -> wire::Command {
    use wire::command::Command as Kind;
    let kind = match command {
        Command::Txn(TxnCommand { txn, audit }) => {
            let (audit_key, audit_value) = audit
                .as_ref()
                .map(|(key, value)| (key.as_str().to_owned(), value.clone()))
                .unwrap_or_default();
            Kind::Txn(wire::TxnCommand { txn: Some(txn.into()), audit_key, audit_value })
        }
        Command::Open { owner, ttl } => {
            Kind::Open(wire::OpenSession { owner: owner.as_str().to_owned(), ttl_ms: values::millis(*ttl) })
        }
        Command::Renew(sessions) => {
            Kind::Renew(wire::SessionList { sessions: sessions.iter().map(|id| id.0).collect() })
        }
        Command::Close(session) => Kind::Close(wire::CloseSession { session: session.0 }),
        Command::Expire(sessions) => Kind::Expire(wire::ExpireSessions {
            sessions: sessions
                .iter()
                .map(|e| wire::Expiry { session: e.session.0, renewals: e.renewals })
                .collect(),
        }),
        Command::Compact(through) => Kind::Compact(through.0),
        Command::TrimAudit(before) => Kind::TrimAudit(before.0),
        Command::Batch(commands) => {
            Kind::Batch(wire::CommandList { commands: commands.iter().map(to_wire).collect() })
        }
        Command::RestoreChunk { id, offset, data } => {
            Kind::RestoreChunk(wire::RestoreChunk { id: *id, offset: *offset, data: data.clone() })
        }
        Command::RestoreEnd { id, bytes, xxh3 } => {
            Kind::RestoreEnd(wire::RestoreEnd { id: *id, bytes: *bytes, xxh3: *xxh3 })
        }
        Command::RestoreDrop { id, bytes } => Kind::RestoreDrop(wire::RestoreDrop { id: *id, bytes: *bytes }),
    };
    wire::Command { version: COMMAND_VERSION, command: Some(kind) }
}

fn from_wire(message: wire::Command, depth: usize) -> Result<Command, WireError> {
    use wire::command::Command as Kind;
    if message.version > COMMAND_VERSION {
        return Err(WireError::Version { what: WHAT, found: message.version, ours: COMMAND_VERSION });
    }
    Ok(match message.command.ok_or_else(|| bad(WHAT, "command", "it is missing"))? {
        Kind::Txn(command) => Command::Txn(txn_command(command)?),
        Kind::Open(open) => Command::Open {
            owner: values::node(WHAT, "owner", &open.owner)?,
            ttl: Duration::from_millis(open.ttl_ms),
        },
        Kind::Renew(list) => {
            bounded("sessions", list.sessions.len(), SESSIONS_MAX)?;
            Command::Renew(list.sessions.into_iter().map(SessionId).collect())
        }
        Kind::Close(close) => Command::Close(SessionId(close.session)),
        Kind::Expire(expire) => {
            bounded("sessions", expire.sessions.len(), SESSIONS_MAX)?;
            let expiry = |e: wire::Expiry| Expiry { session: SessionId(e.session), renewals: e.renewals };
            Command::Expire(expire.sessions.into_iter().map(expiry).collect())
        }
        Kind::Compact(through) => Command::Compact(Revision(through)),
        Kind::TrimAudit(before) => Command::TrimAudit(WallTime(before)),
        Kind::Batch(list) => {
            bounded("commands", list.commands.len(), BATCH_MAX)?;
            if depth > 0 {
                return Err(bad(WHAT, "batch", "it is inside another batch"));
            }
            let commands = list.commands.into_iter().map(|command| from_wire(command, depth + 1));
            Command::Batch(commands.collect::<Result<_, _>>()?)
        }
        Kind::RestoreChunk(chunk) => {
            Command::RestoreChunk { id: chunk.id, offset: chunk.offset, data: chunk.data }
        }
        Kind::RestoreEnd(end) => Command::RestoreEnd { id: end.id, bytes: end.bytes, xxh3: end.xxh3 },
        Kind::RestoreDrop(drop) => Command::RestoreDrop { id: drop.id, bytes: drop.bytes },
    })
}

fn txn_command(command: wire::TxnCommand) -> Result<TxnCommand, WireError> {
    let txn = command.txn.ok_or_else(|| bad(WHAT, "transaction", "it is missing"))?;
    bounded("compares", txn.compares.len(), TXN_ITEMS_MAX)?;
    bounded("operations", txn.operations.len(), TXN_ITEMS_MAX)?;
    let writer = values::node(WHAT, "writer", &txn.writer)?;
    let audit = if command.audit_key.is_empty() {
        None
    } else {
        Some((values::key(WHAT, &command.audit_key)?, command.audit_value))
    };
    Ok(TxnCommand { txn: values::txn(txn, writer)?, audit })
}

fn bounded(field: &'static str, len: usize, max: usize) -> Result<(), WireError> {
    if len <= max { Ok(()) } else { Err(bad(WHAT, field, format!("{len} are more than {max}"))) }
}
