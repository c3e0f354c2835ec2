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
            // A member that lost its leader ends the stream, where it would otherwise fall silent.
            request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        }
        Ok(request)
    }
}

type Guarded = InterceptedService<Channel, Auth>;

impl Link {
    pub(super) fn kv(&self) -> pb::kv_client::KvClient<Guarded> {
        pb::kv_client::KvClient::with_interceptor(self.channel.clone(), self.auth.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(super) fn lease(&self) -> pb::lease_client::LeaseClient<Guarded> {
        pb::lease_client::LeaseClient::with_interceptor(self.channel.clone(), self.auth.clone())
    }

    pub(super) fn watch(&self) -> pb::watch_client::WatchClient<Guarded> {
        let auth = Auth { has_leader: true, ..self.auth.clone() };
        pb::watch_client::WatchClient::with_interceptor(self.channel.clone(), auth)
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

    /// Makes a call that reads, on any endpoint that answers.
    pub(super) async fn read<T, F>(
        &self,
        operation: &'static str,
        call: impl Fn(Link) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.call(operation, false, call).await
    }

    /// Makes a call that changes something. It is repeated only while it certainly had no effect.
    pub(super) async fn write<T, F>(
        &self,
        operation: &'static str,
        call: impl Fn(Link) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        self.call(operation, true, call).await
    }

    async fn call<T, F>(
        &self,
        operation: &'static str,
        writes: bool,
        call: impl Fn(Link) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.request_timeout;
        let mut pause = Duration::from_millis(10);
        loop {
            let reason = match self.attempt(operation, writes, deadline, &call).await {
                Ok(answer) => return Ok(answer),
                Err(Fault::NotNow(reason)) => reason,
                Err(Fault::LoginExpired) if self.login.is_some() => "etcd wants a new login".to_owned(),
                Err(other) => return Err(other),
            };
            if Instant::now() + pause >= deadline {
                let error = StoreError::Unavailable { operation, reason, applied: Applied::No, source: None };
                return Err(error.into());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn attempt<T, F>(
        &self,
        operation: &'static str,
        writes: bool,
        deadline: Instant,
        call: impl Fn(Link) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let late = |writes| fault::timeout(operation, self.request_timeout, writes);
        let (used, link) = match tokio::time::timeout_at(deadline, self.link()).await {
            Ok(link) => link?,
            Err(_) => return Err(late(false).into()),
        };
        // A read that a stuck member holds back may have time for another one.
        let share = self.request_timeout / u32::try_from(self.endpoints.len()).unwrap_or(1).max(1);
        let until = if writes { deadline } else { deadline.min(Instant::now() + share) };
        let failed = match tokio::time::timeout_at(until, call(link)).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => fault::of_status(operation, writes, status),
            Err(_) if until < deadline => Fault::NotNow("an endpoint does not answer".to_owned()),
            Err(_) => late(writes).into(),
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
        match self.connect(used).await {
            Ok(link) => {
                *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some((used, link.clone()));
                Ok((used, link))
            }
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
