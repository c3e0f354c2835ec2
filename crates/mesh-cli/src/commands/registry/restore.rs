//! `mesh registry restore`

use std::{fs::File, os::unix::fs::FileExt, path::Path, process::ExitCode, time::Duration};

use mesh::registry::api::{RestorePhase, RestoreReply};
use serde_json::{Value, json};

use super::{PATH, file};
use crate::{
    args::RestoreArgs,
    client::Edge,
    commands::{confirm::confirm, listing},
    failure::{Exit, Failure},
    output::{self, render_one},
};

/// How often an upload whose connection broke is taken up again.
const RESUMES_MAX: u32 = 5;
/// Wait before that, and between two looks at how far the restore is.
const PAUSE: Duration = Duration::from_millis(250);

pub(super) async fn run(edge: &Edge, args: RestoreArgs) -> Result<ExitCode, Failure> {
    let path = &args.from;
    let checked = file::check(path)?;
    if !args.yes {
        let plan = format!(
            "the registry of {} will be replaced by the {} records of {} (revision {}); what was written since is lost, \
             sessions end and all leases are granted anew with higher tokens",
            edge.addresses().join(" or "),
            checked.state.records_len(),
            path.display(),
            checked.state.revision(),
        );
        confirm(&plan, "nothing was restored").await?;
    }
    drop(checked.state);
    let source = File::open(path).map_err(|error| unreadable(path, &error))?;
    let upload = Upload { path, source, bytes: checked.bytes, reason: args.reason.unwrap_or_default() };
    let xxh3 = upload.xxh3()?;
    let (at, id) = upload.send(edge, &xxh3).await?;
    let done = apply(&at, &id).await?;
    let mut restored = serde_json::to_value(&done).unwrap_or_default();
    if let Value::Object(keys) = &mut restored {
        keys.retain(|key, _| matches!(key.as_str(), "contents" | "revision" | "generation" | "bytes"));
    }
    restored["file"] = Value::from(path.display().to_string());
    output::print(&render_one(&restored, args.output.format, "file", || listing::describe(&restored)))?;
    Ok(ExitCode::SUCCESS)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::from_error(Exit::Failed, error)
        .while_doing(format!("cannot read {}; nothing was changed", path.display()))
}

fn reply(value: Value) -> Result<RestoreReply, Failure> {
    serde_json::from_value(value).map_err(|error| {
        Failure::from_error(Exit::Failed, &error)
            .while_doing("the answer is not what it should be")
            .next("compare the versions of this command and of the node: mesh --version")
    })
}

struct Upload<'p> {
    path: &'p Path,
    source: File,
    bytes: u64,
    reason: String,
}

impl Upload<'_> {
    fn xxh3(&self) -> Result<String, Failure> {
        let mut hash = mesh::registry::state::SnapshotHash::default();
        let mut at = 0;
        while at < self.bytes {
            let piece = self.read(at, 1 << 20)?;
            hash.update(&piece);
            at += piece.len() as u64;
        }
        Ok(hash.hex())
    }

    fn read(&self, at: u64, bytes_max: usize) -> Result<Vec<u8>, Failure> {
        let left = usize::try_from(self.bytes - at).unwrap_or(usize::MAX);
        let mut piece = vec![0; left.min(bytes_max)];
        self.source.read_exact_at(&mut piece, at).map_err(|error| unreadable(self.path, &error))?;
        Ok(piece)
    }

    /// Sends everything, and goes on where it stopped when a connection breaks. The node that has it, and its
    /// name there.
    async fn send(&self, edge: &Edge, xxh3: &str) -> Result<(Edge, String), Failure> {
        let mut broken = 0;
        loop {
            let failure = match self.send_some(edge, xxh3).await {
                Ok(sent) => return Ok(sent),
                Err(failure) => failure,
            };
            broken += 1;
            let again = matches!(failure.exit, Exit::Unreachable | Exit::TimeoutOrPartial | Exit::Conflict);
            // A refusal of ours is as final as it is for any other change.
            if !again || broken > RESUMES_MAX || failure.message.contains("[access.") {
                return Err(failure.while_doing("the snapshot was not sent, and nothing was changed"));
            }
            output::message(format_args!("{}; going on where it stopped", failure.message));
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Begins or goes on: a node that has a part of the same upload says how much.
    async fn send_some(&self, edge: &Edge, xxh3: &str) -> Result<(Edge, String), Failure> {
        let begin = json!({ "bytes": self.bytes, "xxh3": xxh3, "reason": self.reason });
        let (begun, address) = edge.post_somewhere(&format!("{PATH}/restores"), &begin).await?;
        let mut begun = reply(begun)?;
        let at = edge.at(&address);
        while begun.offset < self.bytes {
            let piece = self.read(begun.offset, begun.piece_bytes_max)?;
            let to = format!("{PATH}/restores/{}?offset={}", begun.id, begun.offset);
            begun = reply(at.put(&to, piece.into()).await?)?;
        }
        Ok((at, begun.id))
    }
}

/// Lets the node replace the store, and waits until it has.
async fn apply(at: &Edge, id: &str) -> Result<RestoreReply, Failure> {
    let path = format!("{PATH}/restores/{id}");
    let mut state = reply(at.post(&format!("{path}:apply"), &json!({})).await?)?;
    loop {
        match state.phase {
            RestorePhase::Done => return Ok(state),
            RestorePhase::Failed => {
                let failure = state.failure.map(|failure| format!("{} [{}]", failure.detail, failure.code));
                return Err(Failure::new(Exit::Failed, failure.unwrap_or_default())
                    .while_doing("the snapshot was not restored")
                    .next("look how the store stands: mesh registry status"));
            }
            _ => {}
        }
        tokio::time::sleep(PAUSE).await;
        let looked = at.get(&path, &[]).await.map_err(|failure| {
            failure
                .while_doing("the restore had begun, and it is not known what became of it")
                .next("look how the store stands: mesh registry status")
        })?;
        state = reply(looked)?;
    }
}
