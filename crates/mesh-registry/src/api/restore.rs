//! `/control/v1/registry/restores`: puts the store of a snapshot in the place of the present one, for operators.

mod upload;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Request, State},
    http::{Extensions, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use mesh_core::{Clock, NodeId, store::VersionedStore};
use mesh_transport::edge::{JsonBody, Problem, query_pairs};
use serde::{Deserialize, Serialize};

use super::{
    API_VERSION,
    access::{Elsewhere, audit, operator, redirect},
};
use crate::state::RESTORE_BYTES_MAX;

pub use upload::{RestoreFailure, RestorePhase, SnapshotContents};

use upload::{Upload, UploadFile};

/// Most bytes in one piece of an upload; what the edge takes as a body by default.
pub const PIECE_BYTES_MAX: usize = 512 << 10;
/// An upload of which nothing was heard for so long gives way to another operator's.
pub const IDLE_MAX: Duration = Duration::from_secs(600);
/// Longest reason that is kept, in characters.
const REASON_CHARS_MAX: usize = 500;

/// What the routes need.
#[derive(Clone)]
pub struct RestoreOptions {
    /// The store.
    pub store: Arc<dyn VersionedStore>,
    /// Who has a copy, if this node has none.
    pub elsewhere: Elsewhere,
    /// Where uploads are until they are applied. Nobody else may use it; what is there is removed.
    pub folder: PathBuf,
    /// Tells how long an upload was idle.
    pub clock: Arc<dyn Clock>,
}

/// The body that begins a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreRequest {
    /// Bytes of the snapshot.
    pub bytes: u64,
    /// Their xxh3-64, 16 hexadecimal digits.
    pub xxh3: String,
    /// Why, for the audit.
    #[serde(default)]
    pub reason: String,
}

/// How far a restore is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReply {
    /// The version of this form, [`API_VERSION`].
    pub api_version: String,
    /// Names it at this node.
    pub id: String,
    /// Bytes that the snapshot has.
    pub bytes: u64,
    /// Bytes that are here: where the next piece begins.
    pub offset: u64,
    /// Most bytes in one piece.
    pub piece_bytes_max: usize,
    /// How far it is.
    pub phase: RestorePhase,
    /// What the snapshot holds; `null` before it was checked.
    pub contents: Option<SnapshotContents>,
    /// The store's revision after it; `null` before it is done.
    pub revision: Option<u64>,
    /// The generation of all tokens from then on; `null` before it is done.
    pub generation: Option<u64>,
    /// Why it did not come about.
    pub failure: Option<RestoreFailure>,
}

struct Api {
    options: RestoreOptions,
    /// One at a time.
    upload: Mutex<Option<Upload>>,
    /// Held while a piece is written.
    writing: tokio::sync::Mutex<()>,
}

/// The routes.
///
/// | route | does |
/// |---|---|
/// | `POST /control/v1/registry/restores` | begins, or goes on after a broken connection; a [`RestoreReply`] with how much is here |
/// | `PUT /control/v1/registry/restores/{id}?offset=N` | takes the bytes from `N` on, at most [`PIECE_BYTES_MAX`] at once |
/// | `POST /control/v1/registry/restores/{id}:apply` | checks the whole, and then replaces the store |
/// | `GET /control/v1/registry/restores/{id}` | how far it is |
///
/// What was sent lies in a file of this node and has no effect before `:apply`. It goes when the node stops,
/// and when another operator begins after it was idle for [`IDLE_MAX`].
pub fn restore_routes(options: RestoreOptions) -> Router {
    if let Err(error) = upload::clear(&options.folder) {
        tracing::warn!(path = %options.folder.display(), %error, "uploads of an earlier run could not be removed");
    }
    let api = Arc::new(Api { options, upload: Mutex::default(), writing: tokio::sync::Mutex::default() });
    let mut router = Router::new();
    for base in ["/control/v1", "/control"] {
        router = router
            .route(&format!("{base}/registry/restores"), post(begin))
            .route(&format!("{base}/registry/restores/{{id}}"), get(look).put(piece).post(apply));
    }
    router.with_state(api)
}

impl Upload {
    fn reply(&self) -> RestoreReply {
        RestoreReply {
            api_version: API_VERSION.to_owned(),
            id: self.id.clone(),
            bytes: self.bytes,
            offset: self.offset,
            piece_bytes_max: PIECE_BYTES_MAX,
            phase: self.phase,
            contents: self.contents,
            revision: self.revision,
            generation: self.generation,
            failure: self.failure.clone(),
        }
    }
}

impl Api {
    fn upload(&self) -> MutexGuard<'_, Option<Upload>> {
        // Each change of it is complete before anything that could panic.
        self.upload.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at, or changes, the upload of that name.
    fn with<T>(&self, id: &str, work: impl FnOnce(&mut Upload) -> Result<T, Problem>) -> Result<T, Problem> {
        let mut upload = self.upload();
        let Some(upload) = upload.as_mut().filter(|upload| upload.id == id) else {
            return Err(Problem::new(StatusCode::NOT_FOUND, "registry.restore.unknown", "no such restore")
                .object(id)
                .cause("this node has no upload of that name; it stopped since, or another one began")
                .action("begin again: mesh registry restore --from FILE"));
        };
        upload.touched = self.options.clock.now();
        work(upload)
    }
}

async fn begin(
    State(api): State<Arc<Api>>,
    extensions: Extensions,
    uri: Uri,
    JsonBody(request): JsonBody<RestoreRequest>,
) -> Result<Response, Problem> {
    let operator = operator(&extensions)?;
    if let Some(redirect) = redirect(&api.options.elsewhere, uri.path()) {
        return Ok(redirect);
    }
    let (bytes, xxh3) = (request.bytes, hash_of(&request.xxh3)?);
    if bytes > RESTORE_BYTES_MAX {
        return Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "registry.restore.too-large",
            "the snapshot is too large",
        )
        .cause(format!("it has {bytes} bytes, the limit RESTORE_BYTES_MAX is {RESTORE_BYTES_MAX}"))
        .action("restore an older, smaller snapshot"));
    }
    let reason: String = request.reason.chars().take(REASON_CHARS_MAX).collect();
    let now = api.options.clock.now();
    let mut upload = api.upload();
    if let Some(present) = upload.as_mut() {
        let same = (present.bytes, present.xxh3) == (bytes, xxh3) && present.operator == operator;
        if same && present.phase == RestorePhase::Receiving {
            present.touched = now;
            present.reason = reason;
            return Ok(Json(present.reply()).into_response());
        }
        let busy = match present.phase {
            RestorePhase::Applying => true,
            RestorePhase::Receiving => present.operator != operator && now.since(present.touched) < IDLE_MAX,
            RestorePhase::Done | RestorePhase::Failed => false,
        };
        if busy {
            return Err(Problem::new(
                StatusCode::CONFLICT,
                "registry.restore.under-way",
                "another restore is under way",
            )
            .object(&present.id)
            .cause(format!(
                "{} began it; {} of {} bytes are here",
                present.operator, present.offset, present.bytes
            ))
            .action(format!("wait until it is done, or until it was idle for {IDLE_MAX:?}")));
        }
    }
    let id = format!("{:016x}", fastrand::u64(..));
    let file = UploadFile::create(&api.options.folder, &id).map_err(|error| unwritable(&api, &error))?;
    let begun = Upload {
        id,
        operator,
        reason,
        bytes,
        xxh3,
        offset: 0,
        phase: RestorePhase::Receiving,
        contents: None,
        revision: None,
        generation: None,
        failure: None,
        touched: now,
        file: Arc::new(file),
    };
    let reply = begun.reply();
    *upload = Some(begun);
    Ok((StatusCode::CREATED, Json(reply)).into_response())
}

fn hash_of(text: &str) -> Result<u64, Problem> {
    let hash = (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten();
    hash.ok_or_else(|| {
        Problem::new(StatusCode::BAD_REQUEST, "registry.restore.hash", "the hash can't be read")
            .object("xxh3")
            .cause(format!("{text:?} is not 16 hexadecimal digits"))
            .action("send the xxh3-64 of the snapshot's bytes")
    })
}

fn unwritable(api: &Api, error: &std::io::Error) -> Problem {
    Problem::new(StatusCode::INSUFFICIENT_STORAGE, "registry.restore.unwritable", "the upload can't be kept")
        .object(api.options.folder.display().to_string())
        .cause(error.to_string())
        .action("make room on this node's disk, or ask another node with --edge")
}

async fn look(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    operator(request.extensions())?;
    api.with(&id, |upload| Ok(Json(upload.reply()).into_response()))
}

async fn piece(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    uri: Uri,
    extensions: Extensions,
    data: Bytes,
) -> Result<Response, Problem> {
    operator(&extensions)?;
    let bad = |problem: String| {
        Problem::new(StatusCode::BAD_REQUEST, "registry.restore.piece", "the piece can't be taken")
            .object(&id)
            .cause(problem)
    };
    let pairs = query_pairs(&uri)?;
    let [offset] = &pairs[..] else {
        return Err(bad("the query is not `offset=N`".to_owned()).action("say where the piece begins"));
    };
    let offset = (offset.0 == "offset").then(|| offset.1.parse::<u64>().ok()).flatten();
    let Some(offset) = offset else {
        return Err(bad("`offset` is not a whole number".to_owned()).action("say where the piece begins"));
    };
    if data.is_empty() || data.len() > PIECE_BYTES_MAX {
        let problem = format!("it has {} bytes, 1 to {PIECE_BYTES_MAX} are allowed", data.len());
        return Err(bad(problem).action("cut the snapshot into smaller pieces"));
    }
    let _writing = api.writing.lock().await;
    let file = api.with(&id, |upload| {
        if upload.phase != RestorePhase::Receiving || upload.offset != offset {
            return Err(Problem::new(
                StatusCode::CONFLICT,
                "registry.restore.offset",
                "the piece does not go here",
            )
            .object(&upload.id)
            .cause(format!("it begins at {offset}, {} bytes are here", upload.offset))
            .action("look where to go on with GET, and send from there"));
        }
        if offset + data.len() as u64 > upload.bytes {
            return Err(bad(format!("{} bytes were announced, this is more", upload.bytes))
                .action("begin again with the right size"));
        }
        Ok(Arc::clone(&upload.file))
    })?;
    let end = offset + data.len() as u64;
    let written = tokio::task::spawn_blocking(move || file.write(offset, &data)).await;
    let written = written.map_err(std::io::Error::other).and_then(|written| written);
    written.map_err(|error| unwritable(&api, &error))?;
    api.with(&id, |upload| {
        upload.offset = end;
        Ok(Json(upload.reply()).into_response())
    })
}

async fn apply(
    State(api): State<Arc<Api>>,
    Path(target): Path<String>,
    extensions: Extensions,
) -> Result<Response, Problem> {
    let operator = operator(&extensions)?;
    let Some(id) = target.strip_suffix(":apply") else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "registry.restore.verb", "no such verb")
            .object(target)
            .action("use :apply"));
    };
    let reply = api.with(id, |upload| {
        // Whoever asks again, after an answer that was lost, learns how far it is.
        if upload.phase != RestorePhase::Receiving {
            return Ok(upload.reply());
        }
        if upload.offset < upload.bytes {
            return Err(Problem::new(
                StatusCode::CONFLICT,
                "registry.restore.incomplete",
                "the upload is not complete",
            )
            .object(&upload.id)
            .cause(format!("{} of {} bytes are here; nothing was changed", upload.offset, upload.bytes))
            .action("send the rest first"));
        }
        upload.phase = RestorePhase::Applying;
        let (file, bytes, xxh3) = (Arc::clone(&upload.file), upload.bytes, upload.xxh3);
        let (api, id, reason) = (Arc::clone(&api), upload.id.clone(), upload.reason.clone());
        tokio::spawn(async move { carry_out(&api, &id, file, bytes, xxh3, &operator, &reason).await });
        Ok(upload.reply())
    })?;
    Ok((StatusCode::ACCEPTED, Json(reply)).into_response())
}

async fn carry_out(
    api: &Api,
    id: &str,
    file: Arc<UploadFile>,
    bytes: u64,
    xxh3: u64,
    operator: &NodeId,
    reason: &str,
) {
    let failed = |code: &str, detail: String| {
        tracing::warn!(peer_id = %operator, code, detail, "a restore did not come about");
        let failure = RestoreFailure { code: code.to_owned(), detail };
        let _ = api.with(id, |upload| {
            (upload.phase, upload.failure) = (RestorePhase::Failed, Some(failure));
            Ok(())
        });
    };
    let checking = Arc::clone(&file);
    let checked = tokio::task::spawn_blocking(move || checking.check(bytes, xxh3)).await;
    let contents = match checked.map_err(|error| error.to_string()).and_then(|checked| checked) {
        Ok(contents) => contents,
        Err(problem) => return failed("registry.restore.damaged", format!("{problem}; nothing was changed")),
    };
    let _ = api.with(id, |upload| {
        upload.contents = Some(contents);
        Ok(())
    });
    let store = &api.options.store;
    match store.restore(file.pieces(bytes)).await {
        Ok(restored) => {
            let what = format!(
                "restored {} records of revision {} and generation {}, now revision {} and generation {}; {reason}",
                contents.records,
                contents.revision,
                contents.generation,
                restored.revision,
                restored.generation,
            );
            audit(&**store, operator, "registry.restore", &what).await;
            let _ = api.with(id, |upload| {
                (upload.phase, upload.failure) = (RestorePhase::Done, None);
                (upload.revision, upload.generation) = (Some(restored.revision.0), Some(restored.generation));
                Ok(())
            });
        }
        Err(error) => {
            let code = match &error {
                mesh_core::store::StoreError::Unsupported { .. } => "registry.restore.unsupported",
                _ => "registry.restore.store",
            };
            let effect = match error.applied() {
                mesh_core::store::Applied::No => "nothing was changed",
                _ => "it may have taken effect: look at mesh registry status",
            };
            failed(code, format!("{error}; {effect}"));
        }
    }
}
