//! Connections to etcd's endpoints: made when needed, changed when one fails.

use std::{
    fs,
    future::Future,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mesh_core::store::{Applied, StoreError};
use tokio::time::Instant;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{
    config::EtcdConfig,
    fault::{self, Fault},
    wire as pb,
};

/// Largest message that we take or send. Pages are cut long before.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// etcd closes connections whose client pings more often than every five seconds.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the first try of a call that may be repeated waits; each further one twice as long.
const PATIENCE_MIN: Duration = Duration::from_secs(1);

/// What repeating a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: it reads.
    Read,
    /// Nothing more than the first time, by what it says must hold.
    Repeatable,
    /// Something else. It is repeated only if it certainly had no effect.
    Once,
}

/// The endpoints, with a connection to one of them.
#[derive(Debug)]
pub(super) struct Connections {
    endpoints: Vec<Endpoint>,
    /// The one in use, modulo their number.
    current: AtomicUsize,
    open: Mutex<Option<(usize, Link)>>,
    login: Option<Login>,
    pub(super) request_timeout: Duration,
}

struct Login {
    user: String,
    password: String,
}

// Not derived: the password stays out of logs.
impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "login of {:?}", self.user)
    }
}

/// A connection, logged in.
#[derive(Clone, Debug)]
pub(super) struct Link {
    channel: Channel,
    auth: Auth,
}

/// Adds what etcd wants to see with each call.
#[derive(Clone, Debug)]
pub(super) struct Auth {
    token: Option<MetadataValue<Ascii>>,
    has_leader: bool,
}

impl Interceptor for Auth {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        if self.has_leader {
            request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        }
        Ok(request)
    }
}

type Guarded = InterceptedService<Channel, Auth>;

impl Link {
    pub(super) fn kv(&self) -> pb::kv_client::KvClient<Guarded> {
        self.kv_as(self.with_leader())
    }

    /// For reads that may be old, which a member without a leader answers as well.
    pub(super) fn kv_of_any_copy(&self) -> pb::kv_client::KvClient<Guarded> {
        self.kv_as(self.auth.clone())
    }

    fn kv_as(&self, auth: Auth) -> pb::kv_client::KvClient<Guarded> {
        pb::kv_client::KvClient::with_interceptor(self.channel.clone(), auth)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// A member that knows of no leader says so at once, where it would otherwise keep us waiting.
    fn with_leader(&self) -> Auth {
        Auth { has_leader: true, ..self.auth.clone() }
    }

    pub(super) fn lease(&self) -> pb::lease_client::LeaseClient<Guarded> {
        pb::lease_client::LeaseClient::with_interceptor(self.channel.clone(), self.with_leader())
    }

    pub(super) fn watch(&self) -> pb::watch_client::WatchClient<Guarded> {
        pb::watch_client::WatchClient::with_interceptor(self.channel.clone(), self.with_leader())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(super) fn maintenance(&self) -> pb::maintenance_client::MaintenanceClient<Guarded> {
        pb::maintenance_client::MaintenanceClient::with_interceptor(self.channel.clone(), self.auth.clone())
    }
}

impl Connections {
    /// Reads the files that the settings name; connects to nothing yet.
    ///
    /// # Errors
    ///
    /// [`StoreError::Invalid`] names the file or the endpoint.
    pub(super) fn new(config: &EtcdConfig) -> Result<Self, StoreError> {
        let tls = &config.tls;
        let mut secure = ClientTlsConfig::new();
        if let Some(path) = &tls.trust_bundle {
            secure = secure.ca_certificate(Certificate::from_pem(read("trust_bundle", path)?));
        }
        if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
            let identity = Identity::from_pem(read("certificate", certificate)?, read("key", key)?);
            secure = secure.identity(identity);
        }
        if let Some(name) = &tls.server_name {
            secure = secure.domain_name(name);
        }
        let endpoint = |url: &String| -> Result<Endpoint, StoreError> {
            let bad = |error: tonic::transport::Error| {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                invalid(format!("endpoint {url}: {error} {cause}"))
            };
            let endpoint = Endpoint::from_shared(url.clone())
                .map_err(bad)?
                .connect_timeout(config.connect_timeout)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_TIMEOUT)
                .keep_alive_while_idle(true);
            if url.starts_with("https://") {
                endpoint.tls_config(secure.clone()).map_err(bad)
            } else {
                Ok(endpoint)
            }
        };
        let login = match (&config.user, &config.password_file) {
            (Some(user), Some(path)) => {
                let password = String::from_utf8(read("password_file", path)?)
                    .map_err(|_| invalid(format!("{} is no text", path.display())))?;
                Some(Login {
                    user: user.clone(),
                    password: password.trim_end_matches(['\r', '\n']).to_owned(),
                })
            }
            _ => None,
        };
        Ok(Self {
            endpoints: config.endpoints.iter().map(endpoint).collect::<Result<_, _>>()?,
            current: AtomicUsize::new(0),
            open: Mutex::new(None),
            login,
            request_timeout: config.request_timeout,
        })
    }

    /// Makes a call, on another endpoint or again as `kind` allows.
    pub(super) async fn call<T, F>(
        &self,
        operation: &'static str,
        kind: Kind,
        call: impl Fn(Link) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.call_until(self.deadline(), operation, kind, call).await
    }

    /// When a request that begins now must have ended.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.request_timeout
    }

    /// The same as a part of a request with a deadline.
    pub(super) async fn call_until<T, F>(
        &self,
        deadline: Instant,
        operation: &'static str,
        kind: Kind,
        call: impl Fn(Link) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let (mut pause, mut patience) = (Duration::from_millis(10), PATIENCE_MIN);
        loop {
            // A member may hold a call back for seconds, since the leader that it was sent to is dead.
            let until = if kind == Kind::Once { deadline } else { deadline.min(Instant::now() + patience) };
            let reason = match self.attempt(operation, kind, until, &call).await {
                Ok(answer) => return Ok(answer),
                Err(Fault::NotNow(reason)) => reason,
                Err(Fault::LoginExpired) if self.login.is_some() => "etcd wants a new login".to_owned(),
                Err(other) => return Err(other),
            };
            if Instant::now() + pause >= deadline {
                let applied = if kind == Kind::Repeatable { Applied::Unknown } else { Applied::No };
                let error = StoreError::Unavailable { operation, reason, applied, source: None };
                return Err(error.into());
            }
            tokio::time::sleep(pause).await;
            // Capped, for a store that refuses at once is asked often enough to double beyond any clock.
            (pause, patience) = ((pause * 2).min(PAUSE_MAX), (patience * 2).min(self.request_timeout));
        }
    }

    async fn attempt<T, F>(
        &self,
        operation: &'static str,
        kind: Kind,
        until: Instant,
        call: impl Fn(Link) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let (used, link) = match tokio::time::timeout_at(until, self.link()).await {
            Ok(link) => link?,
            Err(_) => return Err(Fault::NotNow("etcd does not answer".to_owned())),
        };
        let failed = match tokio::time::timeout_at(until, call(link)).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => fault::of_status(operation, kind == Kind::Once, status),
            Err(_) if kind == Kind::Once => fault::timeout(operation, self.request_timeout, true).into(),
            Err(_) => Fault::NotNow("an endpoint does not answer".to_owned()),
        };
        match &failed {
            Fault::NotNow(_)
            | Fault::LoginExpired
            | Fault::Store(StoreError::Unavailable { .. } | StoreError::Timeout { .. }) => {
                self.turn_from(used)
            }
            _ => {}
        }
        Err(failed)
    }

    /// A connection; made now if there is none.
    pub(super) async fn link(&self) -> Result<(usize, Link), Fault> {
        let used = self.current.load(Ordering::Relaxed);
        {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((of, link)) = &*open
                && *of == used
            {
                return Ok((used, link.clone()));
            }
        }
        let (used, link) = self.link_apart().await?;
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some((used, link.clone()));
        Ok((used, link))
    }

    /// A connection that nobody else uses.
    pub(super) async fn link_apart(&self) -> Result<(usize, Link), Fault> {
        let used = self.current.load(Ordering::Relaxed);
        match self.connect(used).await {
            Ok(link) => Ok((used, link)),
            Err(fault) => {
                self.turn_from(used);
                Err(fault)
            }
        }
    }

    /// The next call uses the next endpoint, unless another call has turned already.
    pub(super) fn turn_from(&self, used: usize) {
        let next = used.wrapping_add(1);
        // If it fails, somebody else has turned already.
        let _ = self.current.compare_exchange(used, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    async fn connect(&self, used: usize) -> Result<Link, Fault> {
        let Some(endpoint) = self.endpoints.get(used % self.endpoints.len().max(1)) else {
            return Err(Fault::NotNow("there is no endpoint".to_owned()));
        };
        let unreachable = |error: &dyn std::error::Error| {
            let mut reason = format!("can't connect to {}: {error}", endpoint.uri());
            let mut source = error.source();
            while let Some(error) = source {
                reason = format!("{reason}: {error}");
                source = error.source();
            }
            Fault::NotNow(reason)
        };
        let channel = endpoint.connect().await.map_err(|error| unreachable(&error))?;
        let token = match &self.login {
            None => None,
            Some(login) => {
                let request =
                    pb::AuthenticateRequest { name: login.user.clone(), password: login.password.clone() };
                let answer = pb::auth_client::AuthClient::new(channel.clone()).authenticate(request).await;
                let token =
                    answer.map_err(|status| fault::of_status("log in", false, status))?.into_inner().token;
                let damaged = |_| StoreError::Damaged {
                    what: "etcd's login token".to_owned(),
                    problem: "it has characters that a header can't have".to_owned(),
                };
                Some(MetadataValue::try_from(token).map_err(damaged)?)
            }
        };
        Ok(Link { channel, auth: Auth { token, has_leader: false } })
    }
}

fn invalid(problem: String) -> StoreError {
    StoreError::Invalid { what: "setting of registry.etcd", problem }
}

fn read(setting: &str, path: &Path) -> Result<Vec<u8>, StoreError> {
    fs::read(path).map_err(|error| invalid(format!("{setting}: can't read {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use mesh_core::Settings;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_with_the_request_that_it_is_a_part_of() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", silent.local_addr().expect("its address"));
        let config = EtcdConfig { endpoints: vec![url], ..EtcdConfig::default() };
        let connections = Connections::new(&config.validate().expect("valid settings")).expect("connections");
        for kind in [Kind::Read, Kind::Repeatable, Kind::Once] {
            let begun = Instant::now();
            let deadline = begun + Duration::from_millis(300);
            let never = |_: Link| std::future::pending::<Result<tonic::Response<()>, Status>>();
            let refused = connections.call_until(deadline, "test", kind, never).await;
            assert!(refused.is_err() && begun.elapsed() <= Duration::from_millis(310), "{refused:?}");
        }
    }
}
