//! quinn's errors as h3 wants to hear them.

use std::sync::Arc;

use h3::quic::{ConnectionErrorIncoming, StreamErrorIncoming, StreamId};
use quinn::{ConnectionError, ReadError, VarInt, WriteError};

pub(super) fn connection(error: ConnectionError) -> ConnectionErrorIncoming {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into_inner() }
        }
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        other => ConnectionErrorIncoming::Undefined(Arc::new(other)),
    }
}

pub(super) fn on_connection(error: ConnectionError) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming { connection_error: connection(error) }
}

pub(super) fn read(error: ReadError) -> StreamErrorIncoming {
    match error {
        ReadError::Reset(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() },
        ReadError::ConnectionLost(error) => on_connection(error),
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}

pub(super) fn write(error: WriteError) -> StreamErrorIncoming {
    match error {
        WriteError::Stopped(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() },
        WriteError::ConnectionLost(error) => on_connection(error),
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}

/// h3 keeps the constructor of its stream ids to itself but converts from `u64`,
/// refusing only what no QUIC stream id can be.
pub(super) fn stream_id(id: quinn::StreamId) -> StreamId {
    let id: u64 = VarInt::from(id).into_inner();
    match StreamId::try_from(id) {
        Ok(id) => id,
        Err(_) => unreachable!("quinn's stream ids are at most 2^62 - 1"),
    }
}

/// A code for the wire. h3 only uses small ones; anything else becomes
/// `H3_GENERAL_PROTOCOL_ERROR`.
pub(super) fn code(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::from_u32(0x101))
}
