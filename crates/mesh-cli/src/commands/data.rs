//! `mesh data put`, `get`, `delete`, `list` and `watch`

use std::{
    io::{self, Read, Write},
    path::Path,
    process::ExitCode,
};

use bytes::Bytes;
use serde_json::Value;

use super::listing;
use crate::{
    args::{ConnectionArgs, DataCommand, DataListArgs, DocumentArgs, GetArgs, PutArgs},
    client::{Edge, encode},
    failure::{Exit, Failure},
    output::{self, Column, Format, Listing, render_one, text_at},
};

const PATH: &str = "/control/v1/data";
const EVENTS: &str = "/control/v1/events/data";
/// The largest value that is sent, in bytes; a document of an entry of its own has no more.
const VALUE_BYTES_MAX: u64 = 1 << 20;

/// Those that are not wide fit 80 columns with names of ordinary length.
const COLUMNS: &[Column] = &[
    Column { title: "COLLECTION", wide: false, cell: |document| text_at(document, "collection") },
    Column { title: "KEY", wide: false, cell: key },
    Column { title: "BYTES", wide: false, cell: |document| text_at(document, "bytes") },
    Column { title: "WRITTEN", wide: false, cell: |document| text_at(document, "time") },
    Column { title: "AUTHOR", wide: false, cell: |document| short(&text_at(document, "author")) },
    Column { title: "ID", wide: true, cell: |document| text_at(document, "id") },
    Column { title: "HLC", wide: true, cell: |document| text_at(document, "hlc") },
    Column { title: "SEQUENCE", wide: true, cell: |document| text_at(document, "sequence") },
];

/// The key, or its bytes where they are no text.
fn key(document: &Value) -> String {
    match text_at(document, "key") {
        none if none.is_empty() => text_at(document, "key_hex"),
        text => text,
    }
}

/// As much of a long name as tells a few apart.
fn short(name: &str) -> String {
    name.chars().take(12).collect()
}

pub(super) async fn run(connection: &ConnectionArgs, command: DataCommand) -> Result<ExitCode, Failure> {
    let edge = super::edge(connection).await?;
    match command {
        DataCommand::Put(args) => put(&edge, &args).await,
        DataCommand::Get(args) => get(&edge, &args).await,
        DataCommand::Delete(args) => delete(&edge, &args).await,
        DataCommand::List(args) => list(&edge, &args).await,
        DataCommand::Watch(args) => watch(&edge, &args).await,
    }
}

fn path(document: &DocumentArgs) -> String {
    let DocumentArgs { dataset, collection, key } = document;
    format!("{PATH}/{}/{}/{}", encode(dataset), encode(collection), encode(key))
}

async fn put(edge: &Edge, args: &PutArgs) -> Result<ExitCode, Failure> {
    let value = match (&args.value, &args.file) {
        (Some(value), _) => Bytes::from(value.clone()),
        (None, Some(file)) if file.as_os_str() != "-" => read_file(file)?,
        _ => read_all(io::stdin().lock(), "standard input")?,
    };
    if value.len() as u64 > VALUE_BYTES_MAX {
        return Err(too_large("the value", &format!("{} bytes", value.len())));
    }
    let written = edge.put(&path(&args.document), value).await?;
    told(&args.document, "written", &written);
    Ok(ExitCode::SUCCESS)
}

fn read_file(file: &Path) -> Result<Bytes, Failure> {
    let name = file.display().to_string();
    let opened = std::fs::File::open(file).map_err(|error| {
        Failure::from_error(Exit::Usage, &error)
            .while_doing(format!("cannot read {name}"))
            .next("check that the file exists and may be read")
    })?;
    read_all(opened, &name)
}

fn read_all(from: impl Read, name: &str) -> Result<Bytes, Failure> {
    let mut value = Vec::new();
    // One byte more than is allowed tells that there is more.
    let read = from.take(VALUE_BYTES_MAX + 1).read_to_end(&mut value);
    read.map_err(|error| {
        Failure::from_error(Exit::Failed, &error).while_doing(format!("cannot read {name}"))
    })?;
    if value.len() as u64 > VALUE_BYTES_MAX {
        return Err(too_large(name, "more"));
    }
    Ok(value.into())
}

fn too_large(what: &str, found: &str) -> Failure {
    let text = format!("{what} has {found}, a document has at most {VALUE_BYTES_MAX} bytes");
    Failure::new(Exit::Usage, text).next("cut it into several documents")
}

fn told(document: &DocumentArgs, done: &str, answer: &Value) {
    let DocumentArgs { dataset, collection, key } = document;
    let id = text_at(answer, "document.id");
    output::message(format_args!("{dataset} {collection}/{key}: {done} as entry {}", short(&id)));
}

async fn get(edge: &Edge, args: &GetArgs) -> Result<ExitCode, Failure> {
    let path = path(&args.document);
    let Some(format) = args.format.document() else { return raw(edge, &path).await };
    let mut reply = edge.get(&path, &[]).await?;
    let document = reply.get_mut("document").map(Value::take).unwrap_or(reply);
    output::print(&render_one(&document, format, "key", || listing::describe(&document)))?;
    Ok(ExitCode::SUCCESS)
}

/// The value as it is, piece by piece.
async fn raw(edge: &Edge, path: &str) -> Result<ExitCode, Failure> {
    let mut value = edge.download(path).await?;
    let mut out = io::stdout().lock();
    while let Some(piece) = value.next().await? {
        match out.write_all(&piece) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            Err(error) => {
                return Err(
                    Failure::from_error(Exit::Failed, &error).while_doing("cannot write to standard output")
                );
            }
        }
    }
    match out.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::from_error(Exit::Failed, &error).while_doing("cannot write to standard output"))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

async fn delete(edge: &Edge, document: &DocumentArgs) -> Result<ExitCode, Failure> {
    let deleted = edge.delete(&path(document)).await?;
    told(document, "deleted", &deleted);
    Ok(ExitCode::SUCCESS)
}

fn filters(args: &DataListArgs) -> Vec<(String, String)> {
    let filter = |name: &str, value: &Option<String>| Some((name.to_owned(), value.clone()?));
    [filter("collection", &args.collection), filter("prefix", &args.prefix)].into_iter().flatten().collect()
}

async fn list(edge: &Edge, args: &DataListArgs) -> Result<ExitCode, Failure> {
    let documents = listing::all(edge, &format!("{PATH}/{}", encode(&args.dataset)), &filters(args)).await?;
    let listing = Listing { kind: "documents", name_key: "key", columns: COLUMNS, items: &documents };
    output::print(&listing.render(args.output.format))?;
    if documents.is_empty() {
        output::message("no document matches");
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints every change until Ctrl-C.
async fn watch(edge: &Edge, args: &DataListArgs) -> Result<ExitCode, Failure> {
    let format = args.output.format;
    let mut titled = false;
    let path = format!("{EVENTS}/{}", encode(&args.dataset));
    listing::follow(edge, &path, &filters(args), |name, change| {
        output::write(&render(name, change, format, &mut titled))
    })
    .await
}

fn render(name: &str, change: &Value, format: Format, titled: &mut bool) -> String {
    match format {
        Format::Json | Format::Jsonl => listing::document(name, change, Format::Jsonl),
        Format::Yaml => format!("---\n{}", listing::document(name, change, Format::Yaml)),
        // The beginning of the stream is no change.
        _ if name == "snapshot" => String::new(),
        Format::Name => format!("{}\n", key(change)),
        Format::Table | Format::Wide => {
            let mut text = String::new();
            if !std::mem::replace(titled, true) {
                text.push_str(&line(["EVENT", "COLLECTION", "KEY", "BYTES", "AUTHOR"].map(str::to_owned)));
            }
            let bytes = text_at(change, "bytes");
            let author = short(&text_at(change, "author"));
            text.push_str(&line([
                name.to_owned(),
                text_at(change, "collection"),
                key(change),
                bytes,
                author,
            ]));
            text
        }
    }
}

/// A line of a table that grows, so that its widths are fixed.
fn line(cells: [String; 5]) -> String {
    let [event, collection, key, bytes, author] = cells;
    format!("{event:<8}  {collection:<20}  {key:<28}  {bytes:<8}  {author}").trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_one_part_of_the_path_each() {
        let document =
            DocumentArgs { dataset: "notes".into(), collection: "list".into(), key: "a/b ü?".into() };
        assert_eq!(path(&document), "/control/v1/data/notes/list/a%2Fb%20%C3%BC%3F");
    }

    #[test]
    fn a_value_that_is_too_large_is_refused_before_it_is_sent() {
        let fits = read_all(io::repeat(1).take(VALUE_BYTES_MAX), "x").expect("just as many as are allowed");
        assert_eq!(fits.len() as u64, VALUE_BYTES_MAX);
        let failure = read_all(io::repeat(1), "standard input").expect_err("without an end");
        insta::assert_snapshot!(failure, @"
        error: standard input has more, a document has at most 1048576 bytes
         next: cut it into several documents
        ");
    }

    #[test]
    fn a_watch_prints_changes_and_not_its_beginning() {
        let change = json!({"collection": "list", "key": "milk", "bytes": 3, "author": "0123456789abcdef"});
        let mut titled = false;
        let mut text = render("snapshot", &json!({"documents": 4}), Format::Table, &mut titled);
        text.push_str(&render("put", &change, Format::Table, &mut titled));
        text.push_str(&render(
            "delete",
            &json!({"collection": "list", "key_hex": "ff"}),
            Format::Table,
            &mut titled,
        ));
        insta::assert_snapshot!(text, @"
        EVENT     COLLECTION            KEY                           BYTES     AUTHOR
        put       list                  milk                          3         0123456789ab
        delete    list                  ff
        ");
    }
}
