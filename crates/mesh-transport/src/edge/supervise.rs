//! One open connection: who calls, and when it has to end.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, response::Response};
use http::Request;
use mesh_core::PeerIdentity;
use rustls::pki_types::CertificateDer;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tower::ServiceExt;

use super::{
    ConnectionInfo,
    listener::Port,
    metrics::Refused,
    watched::{GuardedBody, InFlight},
};

/// Certificates are checked again this often, so that expiry ends a connection too.
const RECHECK_INTERVAL: Duration = Duration::from_secs(60);
/// Longer than any connection lives.
const FAR: Duration = Duration::from_secs(365 * 86_400);

/// Brings the requests of one connection to the router.
pub(super) struct Caller {
    pub(super) router: Router,
    pub(super) peer: Arc<PeerIdentity>,
    pub(super) info: ConnectionInfo,
    pub(super) in_flight: InFlight,
}

impl Caller {
    /// The answer to one request, which is under way until its body is done with.
    pub(super) fn ask(
        &self,
        mut request: Request<Body>,
    ) -> impl Future<Output = http::Response<GuardedBody>> + Send + use<> {
        let guard = self.in_flight.enter();
        request.extensions_mut().insert(self.peer.clone());
        request.extensions_mut().insert(self.info.clone());
        let answer = self.router.clone().oneshot(request);
        async move {
            let Ok(response): Result<Response, _> = answer.await;
            response.map(|body| GuardedBody::new(body, guard))
        }
    }
}

/// What is known of an open connection.
pub(super) struct Connection {
    pub(super) remote: SocketAddr,
    pub(super) peer: Arc<PeerIdentity>,
    pub(super) certificates: Vec<CertificateDer<'static>>,
    /// Turns true when the conversation is to end in good order.
    pub(super) drain: watch::Sender<bool>,
    /// Requests at work.
    pub(super) under_way: watch::Receiver<usize>,
}

impl Port {
    /// Runs a conversation until it ends by itself or has to: because the caller is no longer
    /// trusted, because it is idle or old, or because the port closes.
    pub(super) async fn supervise<E: std::fmt::Display>(
        &self,
        connection: Connection,
        conversation: impl Future<Output = Result<(), E>>,
    ) {
        let Connection { remote, peer, certificates, drain, mut under_way } = connection;
        tokio::pin!(conversation);
        let mut trust = self.tls.trust_changed.clone();
        let mut trust_watched = true;
        let mut stopped = self.stopped.clone();
        let started = Instant::now();
        let mut idle_since = Some(started);
        let mut recheck_at = started + RECHECK_INTERVAL;
        // Trust may have moved between the handshake and the clone above.
        let mut verify = true;
        // When what is still under way is cut, once the connection is to close.
        let mut cut_at: Option<Instant> = None;
        loop {
            if verify && let Err(error) = (self.tls.identify)(&certificates) {
                self.refuse(remote, Refused::Revoked, &error);
                return;
            }
            verify = false;
            let close_at = (started + self.config.connection_age_max)
                .min(idle_since.map_or(started + FAR, |since| since + self.config.idle_timeout));
            let close = tokio::select! {
                ended = conversation.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%remote, peer_id = %peer.node_id(), %error, "edge connection failed");
                    }
                    return;
                }
                changed = trust.changed(), if trust_watched => {
                    trust_watched = changed.is_ok();
                    verify = true;
                    false
                }
                () = sleep_until(recheck_at) => {
                    recheck_at = Instant::now() + RECHECK_INTERVAL;
                    verify = true;
                    false
                }
                // Its sender lives as long as the conversation.
                _ = under_way.changed() => {
                    idle_since = (*under_way.borrow_and_update() == 0).then(Instant::now);
                    false
                }
                () = sleep_until(cut_at.unwrap_or(close_at)) => {
                    if cut_at.is_some() {
                        return;
                    }
                    true
                }
                _ = stopped.wait_for(|stopped| *stopped), if cut_at.is_none() => true,
            };
            if close {
                drain.send_replace(true);
                cut_at = Some(Instant::now() + self.config.drain_timeout);
            }
        }
    }
}
