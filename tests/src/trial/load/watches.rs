//! Watches that see the whole round: one that stays, one that is broken off and resumed over and over.

use futures_util::StreamExt;
use mesh_core::store::{Key, Overflow, Prefix, VersionedStore, WatchEvent, WatchFrom, WatchOptions};
use tokio::time::sleep;

use super::{Hand, PACE};

/// The key whose change ends all watches of a round.
pub(super) const END: &str = "z-end";
/// Events after which a restless watch is broken off.
const EVENTS: usize = 40;

/// Watches until the end of the round was shown.
pub(super) async fn work(hand: Hand, restless: bool) {
    let prefix = Prefix::new(&hand.round.prefix).expect("a prefix of plain letters");
    let end = hand.key(END);
    let options = WatchOptions { buffer_changes_max: 16_384, overflow: Overflow::Gap };
    let mut from = WatchFrom::Now;
    loop {
        let Ok(mut events) = hand.store.watch(&prefix, from, options).await else {
            sleep(PACE).await;
            continue;
        };
        let mut count = 0;
        while let Some(Ok(event)) = events.next().await {
            let (revision, over) = read(&event, &end);
            from = WatchFrom::After(revision);
            if over {
                return;
            }
            count += 1;
            if restless && count >= EVENTS {
                break;
            }
        }
        sleep(PACE).await;
    }
}

/// How far the watch is with this event, and whether that is the end.
fn read(event: &WatchEvent, end: &Key) -> (mesh_core::Revision, bool) {
    match event {
        WatchEvent::Changes { revision, changes } => {
            (*revision, changes.iter().any(|change| change.key() == end))
        }
        WatchEvent::Bookmark { revision } => (*revision, false),
        WatchEvent::Gap { to, .. } => (*to, false),
    }
}
