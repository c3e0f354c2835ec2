//! Documents: for operators only.

use std::{io, sync::Arc};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, Request, State},
    http::{Extensions, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use mesh_transport::edge::{Cursor, PageQuery, Problem, query_pairs};
use tokio::sync::mpsc;

use super::{
    API_VERSION, Api, bad_name, bad_query, known, operator, problem,
    view::{DocumentItem, DocumentReply, List, hex},
};
use crate::{
    documents::Version,
    engine::{Document, SyncHandle, Written},
    entry::{Collection, DatasetId, KEY_BYTES_MAX, Kind, PAYLOAD_BYTES_MAX},
};

const LIST: &str = "data";
/// Pieces of a large value that wait for a slow reader.
const PIECES_MAX: usize = 4;

/// A document's names, checked.
struct Name {
    dataset: DatasetId,
    collection: Collection,
    key: Bytes,
}

impl Name {
    fn new(api: &Api, (dataset, collection, key): (String, String, String)) -> Result<Self, Problem> {
        let dataset = known(api, &dataset)?;
        let collection = Collection::new(collection).map_err(|error| bad_name(&error))?;
        if key.len() > KEY_BYTES_MAX {
            let cause = format!("it has {} bytes, at most {KEY_BYTES_MAX} are allowed", key.len());
            return Err(Problem::new(StatusCode::BAD_REQUEST, "sync.key.invalid", "the key is too long")
                .cause(cause)
                .action("use a shorter key"));
        }
        Ok(Self { dataset, collection, key: key.into() })
    }

    fn shown(&self) -> String {
        format!("{} {}/{}", self.dataset, self.collection, String::from_utf8_lossy(&self.key))
    }

    fn reply(&self, api: &Api, written: &Written) -> Response {
        let entry = &written.entry;
        let version = Version {
            item: entry.item(),
            kind: entry.kind(),
            author: entry.author(),
            sequence: entry.sequence(),
        };
        let document = DocumentItem::new(&self.dataset, &self.collection, &self.key, &version);
        reply(api, document.with_value(&entry.payload(), 0))
    }
}

fn reply(api: &Api, document: DocumentItem) -> Response {
    let reply = DocumentReply { api_version: API_VERSION.to_owned(), observer: api.observer(), document };
    Json(reply).into_response()
}

pub(super) async fn write(
    State(api): State<Arc<Api>>,
    Path(path): Path<(String, String, String)>,
    extensions: Extensions,
    value: Bytes,
) -> Result<Response, Problem> {
    operator(&extensions)?;
    let name = Name::new(&api, path)?;
    if value.len() > PAYLOAD_BYTES_MAX {
        let cause = format!("it has {} bytes, at most {PAYLOAD_BYTES_MAX} are taken here", value.len());
        return Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "sync.value.too-large",
            "the value is too large",
        )
        .object(name.shown())
        .cause(cause)
        .action("cut it into several documents, or write it from a program: put_blob takes any length"));
    }
    let written = api.sync().put(&name.dataset, &name.collection, name.key.clone(), value).await;
    let written = written.map_err(|error| problem(&error).object(name.shown()))?;
    Ok(name.reply(&api, &written))
}

pub(super) async fn delete(
    State(api): State<Arc<Api>>,
    Path(path): Path<(String, String, String)>,
    extensions: Extensions,
) -> Result<Response, Problem> {
    operator(&extensions)?;
    let name = Name::new(&api, path)?;
    let deleted = api.sync().delete(&name.dataset, &name.collection, name.key.clone()).await;
    let deleted = deleted.map_err(|error| problem(&error).object(name.shown()))?;
    Ok(name.reply(&api, &deleted))
}

pub(super) async fn read(
    State(api): State<Arc<Api>>,
    Path(path): Path<(String, String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    operator(request.extensions())?;
    let name = Name::new(&api, path)?;
    let found = api.sync().get(&name.dataset, &name.collection, &name.key).await;
    let found = found.map_err(|error| problem(&error).object(name.shown()))?;
    let Some(document) = found else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "sync.document.unknown", "no such document")
            .object(name.shown())
            .cause(format!(
                "{} has none of that name; it may not have come yet, or be deleted",
                api.observer()
            ))
            .action(
                "list what there is: mesh data list DATASET COLLECTION; see what is behind: mesh sync status",
            ));
    };
    let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if accept.is_some_and(|accept| accept.starts_with("application/octet-stream")) {
        return Ok(raw(&api, name, document));
    }
    let item = DocumentItem::new(&name.dataset, &document.collection, &document.key, &document.version);
    Ok(reply(&api, item.with_value(&document.payload, PAYLOAD_BYTES_MAX)))
}

/// The value alone, whatever its length.
fn raw(api: &Api, name: Name, document: Document) -> Response {
    let id = document.version.item.id;
    let body = match document.version.kind {
        Kind::Blob => pieces(api.sync().clone(), name),
        Kind::Put | Kind::Delete => Body::from(document.payload),
    };
    let mut response = body.into_response();
    let octets = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, octets);
    if let Ok(tag) = HeaderValue::try_from(format!("\"{}\"", hex(id.as_bytes()))) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// A large value, piece by piece as its reader takes them.
fn pieces(sync: SyncHandle, name: Name) -> Body {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(PIECES_MAX);
    let failed = sender.clone();
    tokio::spawn(async move {
        let sink = Pieces(sender);
        let problem = match sync.read_blob(&name.dataset, &name.collection, &name.key, sink).await {
            Ok(Some(_)) => return,
            Ok(None) => "the document was deleted meanwhile".to_owned(),
            Err(error) => super::chain(&error),
        };
        // The reader sees that its answer breaks off; if it is gone, nobody has to be told.
        let _ = failed.send(Err(io::Error::other(problem))).await;
    });
    Body::from_stream(stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver))))
}

/// A writer whose pieces go to a body. It is used on threads that may block.
struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl io::Write for Pieces {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(piece)));
        sent.map(|()| piece.len()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where a page of documents ended: a collection, and a key in it.
fn place(cursor: &Cursor) -> Option<(Collection, Vec<u8>)> {
    let (collection, key) = cursor.key().split_once(' ')?;
    let bytes =
        key.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    Some((Collection::new(collection).ok()?, bytes.collect::<Option<Vec<u8>>>()?))
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Path(dataset): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    operator(request.extensions())?;
    let dataset = known(&api, &dataset)?;
    let mut pairs = query_pairs(request.uri())?;
    let query = PageQuery::take(LIST, api.options.pages, &mut pairs)?;
    let (mut only, mut prefix) = (None, Bytes::new());
    for (name, value) in pairs {
        match name.as_str() {
            "collection" => only = Some(Collection::new(&value).map_err(|error| bad_name(&error))?),
            "prefix" => prefix = value.into(),
            _ => {
                return Err(bad_query(
                    LIST,
                    &name,
                    &value,
                    "limit, cursor, collection or prefix as its name",
                ));
            }
        }
    }
    let sync = api.sync();
    let mut collections = match only {
        Some(collection) => vec![collection],
        None => sync.collections(&dataset).await.map_err(|error| problem(&error))?,
    };
    collections.sort();
    let mut after = query.cursor.as_ref().and_then(place);
    if let Some((collection, _)) = &after {
        collections.retain(|next| next >= collection);
    }
    let (mut items, mut cursor) = (Vec::new(), None);
    'collections: for collection in collections {
        let mut from =
            after.take().filter(|(begun, _)| *begun == collection).map(|(_, key)| Bytes::from(key));
        loop {
            // Keys before the prefix are not of interest: begin right before it.
            let begin = from.as_ref().filter(|from| **from >= prefix);
            let begin = begin.map(|from| from.to_vec()).or_else(|| before(&prefix));
            let want = query.limit - items.len();
            let page = sync.list(&dataset, &collection, begin.as_deref(), want).await;
            let page = page.map_err(|error| problem(&error))?;
            let matches = page.documents.iter().filter(|head| head.key.starts_with(&prefix));
            items.extend(
                matches.map(|head| DocumentItem::new(&dataset, &head.collection, &head.key, &head.version)),
            );
            let past =
                page.documents.last().is_some_and(|head| !head.key.starts_with(&prefix) && head.key > prefix);
            let last = page.next.filter(|_| !past);
            if items.len() >= query.limit {
                let end = last.or_else(|| page.documents.last().map(|head| head.key.clone()));
                let end = end.or(from).unwrap_or_default();
                cursor = Some(Cursor::after(format!("{collection} {}", hex(&end))).encode(LIST));
                break 'collections;
            }
            match last {
                Some(next) => from = Some(next),
                None => break,
            }
        }
    }
    Ok(Json(List::new(api.observer(), items, cursor)).into_response())
}

/// The place right before all keys with a prefix; `None` if that is the beginning.
fn before(prefix: &[u8]) -> Option<Vec<u8>> {
    let (last, rest) = prefix.split_last()?;
    // No key is empty, so that nothing is lost where the prefix is a single zero byte.
    let mut place = rest.to_vec();
    if let Some(less) = last.checked_sub(1) {
        place.push(less);
        place.resize(KEY_BYTES_MAX, 0xff);
    }
    Some(place).filter(|place| !place.is_empty())
}
