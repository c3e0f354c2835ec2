//! Follows the cluster's members while `mesh up` runs.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;

use crate::{client::Edge, commands::peers};

/// Changes that wait to be shown; the stream waits when it is full.
const CHANGES_MAX: usize = 64;
/// Pause before another node is asked after a stream broke.
const RETRY: Duration = Duration::from_millis(300);

/// Every member, and again whenever it changes. Ends when the receiver is dropped.
pub(super) fn start(edge: Edge) -> mpsc::Receiver<Value> {
    let (sender, receiver) = mpsc::channel(CHANGES_MAX);
    tokio::spawn(async move {
        while !sender.is_closed() {
            tokio::select! {
                () = follow(&edge, &sender) => {}
                () = sender.closed() => return,
            }
            tokio::time::sleep(RETRY).await;
        }
    });
    receiver
}

/// One stream, until it breaks: the node behind it may be the one that died.
async fn follow(edge: &Edge, sender: &mpsc::Sender<Value>) {
    let watch = [("watch".to_owned(), String::new())];
    let Ok(mut stream) = edge.events(peers::PATH, &watch, None).await else { return };
    while let Ok(Some(event)) = stream.next().await {
        let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
        for member in peers::members_of(&data) {
            if sender.send(member).await.is_err() {
                return;
            }
        }
    }
}
