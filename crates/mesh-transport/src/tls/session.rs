//! Remembered TLS sessions that can be forgotten all at once.
//!
//! Resumption restores the peer's certificate from the ticket and never asks the
//! verifier. So a change of trust throws every remembered session away, and
//! whoever accepts a connection rechecks its certificates besides.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    NamedGroup,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue,
    },
    pki_types::ServerName,
    server::{ServerSessionMemoryCache, StoresServerSessions},
};

/// Sessions kept on each side, a few KiB each.
const SESSIONS_MAX: usize = 256;

pub(crate) struct ClientSessions(ArcSwap<ClientSessionMemoryCache>);

impl ClientSessions {
    pub(crate) fn new() -> Self {
        Self(ArcSwap::from_pointee(ClientSessionMemoryCache::new(SESSIONS_MAX)))
    }

    pub(crate) fn forget(&self) {
        self.0.store(Arc::new(ClientSessionMemoryCache::new(SESSIONS_MAX)));
    }
}

impl fmt::Debug for ClientSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientSessions")
    }
}

impl ClientSessionStore for ClientSessions {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.0.load().set_kx_hint(server_name, group);
    }
    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.load().kx_hint(server_name)
    }
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
    fn insert_tls13_ticket(&self, server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.load().insert_tls13_ticket(server_name, value);
    }
    fn take_tls13_ticket(&self, server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.load().take_tls13_ticket(server_name)
    }
}

pub(crate) struct ServerSessions(ArcSwap<Arc<ServerSessionMemoryCache>>);

impl ServerSessions {
    pub(crate) fn new() -> Self {
        Self(ArcSwap::from_pointee(ServerSessionMemoryCache::new(SESSIONS_MAX)))
    }

    pub(crate) fn forget(&self) {
        self.0.store(Arc::new(ServerSessionMemoryCache::new(SESSIONS_MAX)));
    }
}

impl fmt::Debug for ServerSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerSessions")
    }
}

impl StoresServerSessions for ServerSessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.0.load().put(key, value)
    }
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.load().get(key)
    }
    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.load().take(key)
    }
    fn can_cache(&self) -> bool {
        true
    }
}
