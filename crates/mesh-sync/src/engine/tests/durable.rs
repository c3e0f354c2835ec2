//! What outlives an engine, and who decides about it.

use std::{sync::Arc, time::Duration};

use super::bench::*;
use crate::{
    config::{Access, SyncConfig},
    engine::{Engine, Queued, RoundOutcome, SyncError, SyncHandle, SyncStatus},
    entry::{Author, AuthorSequence, Collection, Draft, Entry, Outcome, Rejection},
    memory::MemoryNetwork,
    replica::PRUNE_COLLECTION,
};

#[cfg(feature = "fjall")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_in_a_folder_is_free_again_after_a_shutdown_and_has_everything() {
    use crate::store::{FjallOptions, FjallStore};
    let folder = tempfile::tempdir().expect("a folder");
    let open = || {
        let store =
            FjallStore::in_folder(folder.path(), FjallOptions::default()).expect("nobody else has it");
        Disk { stores: Arc::new(store), ..Disk::default() }
    };
    let network = MemoryNetwork::default();
    for run in 0..3 {
        let engine = start(&network, 1, config(Access::Cluster), &open()).await;
        let sync = engine.handle();
        let mut writes = Vec::new();
        for at in 0..100 {
            let sync = sync.clone();
            let write = async move { sync.put(&notes(), &list(), format!("{run} {at}"), "here").await };
            writes.push(tokio::spawn(write));
        }
        for write in writes {
            soon(write).await.expect("no panic").expect("written");
        }
        for earlier in 0..=run {
            assert_eq!(value(&sync, &format!("{earlier} 99")).await.as_deref(), Some(&b"here"[..]));
        }
        let author = sync.status().await.datasets[0].authors[0];
        assert_eq!(author.contiguous, AuthorSequence(100 * (run + 1)), "no number is left out or used twice");
        network.remove(&node(1));
        drop(sync);
        soon(engine.shutdown()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_is_there_again_after_a_restart() {
    let (network, disk) = (MemoryNetwork::default(), Disk::default());
    let engine = start(&network, 1, config(Access::Cluster), &disk).await;
    let sync = engine.handle();
    sync.set_peers(peers(&[2]));
    until(|| async { sync.status().await.datasets[0].peers.len() == 1 }).await;
    let written = sync.put(&notes(), &list(), "key", "1").await.expect("written");
    // Durable with this answer, also if it was queued before.
    let queued = sync.queue(&notes(), &node(2), written.id).await.expect("queued");
    assert_eq!(queued, Queued::Duplicate);
    let stranger = sync.queue(&notes(), &node(7), written.id).await.expect_err("no peer").to_string();
    assert!(stranger.contains("n7 is no peer of notes"), "{stranger}");
    soon(engine.shutdown()).await;

    let engine = start(&network, 1, config(Access::Cluster), &disk).await;
    let sync = engine.handle();
    assert_eq!(sync.status().await.datasets[0].queue.entries, 1);
    let other = start(&network, 2, config(Access::Cluster), &Disk::default()).await;
    has(&other.handle(), "key", "1").await;
    until(|| async { sync.status().await.datasets[0].queue.entries == 0 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_others_have_signed_have_an_outcome_each() {
    let network = MemoryNetwork::default();
    let engines = cluster(&network, &[1, 2]).await;
    let (a, b) = (engines[0].handle(), engines[1].handle());
    let mut author = Author::new(key(9), notes(), AuthorSequence::FIRST);
    let wall = mesh_core::Clock::wall(&mesh_core::SystemClock);
    let good = author.sign(Draft::put(&list(), "key", "1"), mesh_core::Hlc::from_wall(wall)).expect("signs");
    let mut bytes = good.encoded().to_vec();
    *bytes.last_mut().expect("some") ^= 1;
    let forged = Entry::decode(bytes.into()).expect("its form is right");
    let entries = vec![good.clone().into_entry(), forged, good.into_entry()];
    let outcomes = a.submit(&notes(), entries).await.expect("taken");
    assert!(matches!(outcomes[0], Outcome::Stored { .. }), "{outcomes:?}");
    assert!(matches!(outcomes[1], Outcome::Rejected(Rejection::Signature(_))), "{outcomes:?}");
    assert!(outcomes[2].is_held(), "{outcomes:?}");
    has(&b, "key", "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relationship_opens_a_dataset_and_its_end_closes_it() {
    let network = MemoryNetwork::default();
    let a = start(&network, 1, config(Access::Ask), &Disk::default()).await;
    let b = start(&network, 2, config(Access::Ask), &Disk::default()).await;
    let (a, b) = (a.handle(), b.handle());
    a.put(&notes(), &list(), "key", "1").await.expect("written");
    a.create_relationship(&node(2), &notes()).await.expect("room");
    b.create_relationship(&node(1), &notes()).await.expect("room");
    has(&b, "key", "1").await;
    a.remove_relationship(&node(2), &notes()).await.expect("a peer");
    a.put(&notes(), &list(), "key", "2").await.expect("written");
    let rounds = soon(b.sync_now(Some(&notes()), None, Duration::from_millis(300))).await.expect("a peer");
    assert!(matches!(rounds[0].outcome, RoundOutcome::NotConnected { .. }), "{rounds:?}");
    assert_eq!(value(&b, "key").await.as_deref(), Some(&b"1"[..]));
    let gone = a.retire(&notes(), &node(2)).await.expect_err("no peer");
    assert!(matches!(gone, SyncError::UnknownPeer { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_removed_is_a_peer_of_no_dataset_and_is_not_called() {
    let network = MemoryNetwork::default();
    let a = start(&network, 1, config(Access::Ask), &Disk::default()).await;
    let b = start(&network, 2, config(Access::Ask), &Disk::default()).await;
    let (a, b) = (a.handle(), b.handle());
    for (sync, other) in [(&a, node(2)), (&b, node(1))] {
        sync.set_peers(peers(&[1, 2]));
        sync.create_relationship(&other, &notes()).await.expect("room");
    }
    a.put(&notes(), &list(), "key", "1").await.expect("written");
    has(&b, "key", "1").await;
    a.remove_peer(&node(2)).await.expect("removed");
    until(|| async { a.status().await.connected.is_empty() && b.status().await.connected.is_empty() }).await;
    let status = a.status().await;
    assert!(status.datasets[0].peers.is_empty(), "{:?}", status.datasets[0].peers);
    assert!(b.connect(&node(1)).await.is_ok_and(|open| open.is_empty()), "it is served nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_overwritten_is_pruned_everywhere_once_all_have_it() {
    let network = MemoryNetwork::default();
    let engines = cluster(&network, &[1, 2]).await;
    let (a, b) = (engines[0].handle(), engines[1].handle());
    for at in 0..10 {
        a.put(&notes(), &list(), "key", format!("{at}")).await.expect("written");
    }
    has(&b, "key", "9").await;
    let refused = b.prune(&notes(), false).await.expect_err("not its business");
    assert!(matches!(refused, SyncError::NoPruner { .. }));
    // Confirmations come with time, and each prune goes as far as they do.
    until(|| async {
        let report = a.prune(&notes(), false).await.expect("may prune");
        assert_eq!(report.ordered_by.is_some(), !report.watermarks.is_empty(), "{report:?}");
        a.status().await.datasets[0].authors[0].pruned >= AuthorSequence(9)
    })
    .await;
    for sync in [&a, &b] {
        until(|| async {
            let status = sync.status().await;
            status.datasets[0].authors[0].pruned >= AuthorSequence(9)
        })
        .await;
        assert_eq!(value(sync, "key").await.as_deref(), Some(&b"9"[..]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_serve_takes_no_streams_and_flush_tells_who_is_away() {
    let network = MemoryNetwork::default();
    let a = start(&network, 1, config(Access::Cluster), &Disk::default()).await;
    let b = start(&network, 2, config(Access::Cluster), &Disk::default()).await;
    let (a, b) = (a.handle(), b.handle());
    b.stop_serving();
    a.set_peers(peers(&[2]));
    until(|| async { a.status().await.datasets[0].peers.len() == 1 }).await;
    a.put(&notes(), &list(), "key", "1").await.expect("written");
    let flushed = soon(a.flush(Duration::from_millis(200))).await.expect("flushes");
    assert_eq!(flushed.away, [(notes(), node(2))]);
    assert!(flushed.is_complete() && flushed.acknowledged.is_empty());
    assert!(a.connect(&node(2)).await.is_err());
    b.start_serving();
    has(&b, "key", "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_prunes_nothing_and_names_who_holds_it_up() {
    let network = MemoryNetwork::default();
    let engines = cluster(&network, &[1, 2]).await;
    let (a, b) = (engines[0].handle(), engines[1].handle());
    for at in 0..10 {
        a.put(&notes(), &list(), "key", format!("{at}")).await.expect("written");
    }
    has(&b, "key", "9").await;
    until(|| async { b.prune(&notes(), true).await.expect("anybody may look").entries == 9 }).await;
    assert_eq!(a.status().await.datasets[0].entries, 10);

    // Somebody who is away has confirmed nothing, and all waits for it until it is retired.
    a.set_peers(peers(&[2, 3]));
    until(|| async { a.prune(&notes(), false).await.expect("may prune").held_up_by == [node(3)] }).await;
    assert_eq!(a.status().await.datasets[0].entries, 10);
    a.retire(&notes(), &node(3)).await.expect("a peer");
    let report = a.prune(&notes(), false).await.expect("may prune");
    assert_eq!((report.entries, &report.held_up_by[..]), (9, &[][..]), "{report:?}");
    // What is left is the last value, and the order itself.
    for sync in [&a, &b] {
        until(|| async { sync.status().await.datasets[0].entries == 2 }).await;
        assert_eq!(value(sync, "key").await.as_deref(), Some(&b"9"[..]));
        assert_eq!(sync.collections(&notes()).await.expect("read"), [list()], "the order is no document");
    }
}

/// A deletion that is old enough stays while an older write of somebody else is held: with it gone, the document would
/// be back at the next start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_stays_for_as_long_as_it_hides_what_others_wrote() {
    let (network, disk) = (MemoryNetwork::default(), Disk::default());
    let settings = || SyncConfig { tombstone_retention: Duration::ZERO, ..config(Access::Cluster) };
    let a = start(&network, 1, settings(), &disk).await;
    let b = start(&network, 2, settings(), &Disk::default()).await;
    for engine in [&a, &b] {
        engine.handle().set_peers(peers(&[1, 2]));
    }
    let (sync, other) = (a.handle(), b.handle());
    other.put(&notes(), &list(), "stays", "for ever").await.expect("written");
    other.put(&notes(), &list(), "key", "1").await.expect("written");
    has(&sync, "key", "1").await;
    sync.delete(&notes(), &list(), "key").await.expect("deleted");
    sync.put(&notes(), &list(), "late", "1").await.expect("written");
    sync.put(&notes(), &list(), "late", "2").await.expect("written");
    has(&other, "late", "2").await;
    // The second write is overwritten by the third, and what is before it is the deletion.
    until(|| async { other.prune(&notes(), true).await.expect("a look").held_up_by.is_empty() }).await;
    let report = sync.prune(&notes(), false).await.expect("may prune");
    assert_eq!((report.entries, report.ordered_by), (0, None), "{report:?}");
    network.remove(&node(1));
    drop(sync);
    soon(a.shutdown()).await;

    let a = start(&network, 1, settings(), &disk).await;
    a.handle().set_peers(peers(&[1, 2]));
    assert_eq!(value(&a.handle(), "key").await, None);
    // Once its author has nothing to say there any more, both go, one after the other.
    other.put(&notes(), &list(), "stays", "changed").await.expect("written");
    has(&a.handle(), "stays", "changed").await;
    until(|| async {
        a.handle().prune(&notes(), false).await.expect("may prune");
        a.handle().status().await.datasets[0].authors.iter().all(|author| author.pruned >= AuthorSequence(2))
    })
    .await;
    assert_eq!(value(&a.handle(), "key").await, None);
}

/// One read ends between two entries of one number, of which only one is worth nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_of_one_number_are_not_parted_where_a_read_ends() {
    let network = MemoryNetwork::default();
    let a = start(&network, 1, config(Access::Cluster), &Disk::default()).await;
    let sync = a.handle();
    let mut author = Author::new(key(9), notes(), AuthorSequence::FIRST);
    // One after the other: of two writes of one moment their ids would decide.
    let begun = now().wall().0 - 1000;
    let at = |ms: u64| mesh_core::Hlc::from_wall(mesh_core::WallTime(begun + ms));
    let mut sign = |ms| author.sign(Draft::put(&list(), "key", "1"), at(ms)).expect("signs").into_entry();
    let mut entries: Vec<Entry> = (0..63).map(&mut sign).collect();
    let twin = |name: &str, value: u8| {
        let mut again = Author::new(key(9), notes(), AuthorSequence(64));
        again.sign(Draft::put(&list(), name.to_owned(), vec![value]), at(64)).expect("signs").into_entry()
    };
    // The one that is overwritten is the first of the two.
    let lives = twin("lives", 0);
    let goes = (0..=255).map(|value| twin("key", value)).find(|goes| goes.id() < lives.id());
    entries.extend([lives, goes.expect("one of many")]);
    let mut author = Author::new(key(9), notes(), AuthorSequence(65));
    entries.push(author.sign(Draft::put(&list(), "key", "last"), at(65)).expect("signs").into_entry());
    let outcomes = sync.submit(&notes(), entries).await.expect("taken");
    assert!(outcomes.iter().all(Outcome::is_held), "{outcomes:?}");
    until(|| async { sync.prune(&notes(), true).await.expect("a look").entries >= 63 }).await;
    let report = sync.prune(&notes(), false).await.expect("may prune");
    assert_eq!(report.watermarks, [(key(9).id(), AuthorSequence(63))]);
    assert_eq!(value(&sync, "lives").await.as_deref(), Some(&[0][..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_may_prune_does_so_by_itself() {
    let network = MemoryNetwork::default();
    let settings = SyncConfig { prune_interval: Duration::from_secs(1), ..config(Access::Cluster) };
    let a = start(&network, 1, settings, &Disk::default()).await;
    let sync = a.handle();
    for at in 0..10 {
        sync.put(&notes(), &list(), "key", format!("{at}")).await.expect("written");
    }
    until(|| async { sync.status().await.datasets[0].authors[0].pruned == AuthorSequence(9) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_writes_where_orders_to_prune_are() {
    let network = MemoryNetwork::default();
    let a = start(&network, 1, config(Access::Cluster), &Disk::default()).await;
    let (sync, prunes) = (a.handle(), Collection::new(PRUNE_COLLECTION).expect("valid"));
    let put = sync.put(&notes(), &prunes, "key", "1").await.map(|_| ());
    let delete = sync.delete(&notes(), &prunes, "key").await.map(|_| ());
    let blob = sync.put_blob(&notes(), &prunes, "key", Box::new(&b"1"[..])).await.map(|_| ());
    for refused in [put, delete, blob] {
        let refused = refused.expect_err("refused").to_string();
        assert!(refused.contains("mesh.prune") && refused.contains("kept for sync itself"), "{refused}");
    }
}

/// Nodes may be told at different times who prunes. One that stored an order as any other entry obeys it once it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_came_before_the_setting_is_obeyed_after_it() {
    let (network, disk) = (MemoryNetwork::default(), Disk::default());
    let a = start(&network, 1, config(Access::Cluster), &Disk::default()).await;
    let unset = || SyncConfig { pruners: Vec::new(), ..config(Access::Cluster) };
    let b = start(&network, 2, unset(), &disk).await;
    let all = peers(&[1, 2]);
    for engine in [&a, &b] {
        engine.handle().set_peers(all.clone());
    }
    let (sync, other) = (a.handle(), b.handle());
    for at in 0..10 {
        sync.put(&notes(), &list(), "key", format!("{at}")).await.expect("written");
    }
    has(&other, "key", "9").await;
    until(|| async { sync.prune(&notes(), false).await.expect("may prune").entries == 9 }).await;
    let count = |sync: &SyncHandle| {
        let sync = sync.clone();
        async move { sync.status().await.datasets[0].entries }
    };
    until(|| async { count(&sync).await == 2 && count(&other).await == 11 }).await;
    // Somebody else writes to the document of that order, and is no pruner.
    let mut stranger = Author::new(key(8), notes(), AuthorSequence::FIRST);
    let prunes = Collection::new(PRUNE_COLLECTION).expect("valid");
    let forged = Draft::put(&prunes, key(1).id().as_bytes().to_vec(), "nothing");
    let forged = stranger.sign(forged, now()).expect("signs").into_entry();
    assert!(other.submit(&notes(), vec![forged]).await.expect("taken")[0].is_held());
    until(|| async { count(&sync).await == 3 && count(&other).await == 12 }).await;
    network.remove(&node(2));
    drop(other);
    soon(b.shutdown()).await;

    let b = start(&network, 2, config(Access::Cluster), &disk).await;
    b.handle().set_peers(all);
    until(|| async { count(&b.handle()).await == 3 }).await;
    let rounds = soon(b.handle().sync_now(Some(&notes()), None, Duration::from_secs(20))).await;
    let rounds = rounds.expect("a peer");
    assert!(rounds.iter().all(|round| round.outcome == RoundOutcome::Equal), "{rounds:?}");
}

/// A prune as it would be signed: `1`, the number of watermarks, each author and the number up to which it goes.
fn prune_by(pruner: &mut Author, watermarks: &[(u8, u8)]) -> Entry {
    let mut payload = vec![1, u8::try_from(watermarks.len()).expect("few")];
    for (author, up_to) in watermarks {
        payload.extend_from_slice(key(*author).id().as_bytes());
        payload.push(*up_to);
    }
    let prunes = Collection::new(PRUNE_COLLECTION).expect("valid");
    let draft = Draft::put(&prunes, pruner.id().as_bytes().to_vec(), payload);
    pruner.sign(draft, now()).expect("signs").into_entry()
}

fn now() -> mesh_core::Hlc {
    mesh_core::Hlc::from_wall(mesh_core::Clock::wall(&mesh_core::SystemClock))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_that_was_pruned_itself_is_said_again_by_the_pruner() {
    let (network, disk) = (MemoryNetwork::default(), Disk::default());
    let starts = |number: u8, disk: Disk| {
        let carrier = Arc::new(network.carrier(&node(number)));
        let pruners = [1, 9].map(|number| key(number).id().to_string()).to_vec();
        let options = options(number, carrier, SyncConfig { pruners, ..config(Access::Cluster) }, &disk);
        let network = &network;
        async move {
            let engine = Engine::start(options).await.expect("starts");
            network.serve(&node(number), engine.handle().handler());
            engine
        }
    };
    let engine = starts(1, disk.clone()).await;
    let sync = engine.handle();
    // What the pruner has said of somebody, and another pruner, who does not know it, of the pruner.
    let mut pruner = Author::new(key(1), notes(), AuthorSequence(10));
    let mut other = Author::new(key(9), notes(), AuthorSequence::FIRST);
    let said = sync.submit(&notes(), vec![prune_by(&mut pruner, &[(7, 5)])]).await.expect("taken");
    assert!(said[0].is_held(), "{said:?}");
    let pruned = |of: u8| {
        let sync = sync.clone();
        async move {
            let status = sync.status().await;
            let head = status.datasets[0].authors.iter().find(|head| head.author == key(of).id());
            head.map_or(AuthorSequence(0), |head| head.pruned)
        }
    };
    until(|| async { pruned(7).await == AuthorSequence(5) }).await;
    let said = sync.submit(&notes(), vec![prune_by(&mut other, &[(1, 20)])]).await.expect("taken");
    assert!(said[0].is_held(), "{said:?}");
    until(|| async { pruned(1).await == AuthorSequence(20) }).await;
    soon(engine.shutdown()).await;

    // Somebody who has not heard of it has what it removes.
    let b = starts(2, Disk::default()).await;
    let mut author = Author::new(key(7), notes(), AuthorSequence::FIRST);
    let entries = (0..6)
        .map(|at| author.sign(Draft::put(&list(), format!("{at}"), "x"), now()).expect("signs").into_entry());
    let stored = b.handle().submit(&notes(), entries.collect()).await.expect("taken");
    assert!(stored.iter().all(Outcome::is_held), "{stored:?}");
    // The look that is due each minute is due at the start, too.
    let a = starts(1, disk).await;
    for engine in [&a, &b] {
        engine.handle().set_peers(peers(&[1, 2]));
    }
    until(|| async {
        let (ours, theirs) = (a.handle().status().await, b.handle().status().await);
        let of = |status: &SyncStatus| {
            let head = status.datasets[0].authors.iter().find(|head| head.author == key(7).id());
            head.map(|head| (head.pruned.0, head.contiguous.0))
        };
        of(&ours) == Some((5, 6)) && of(&theirs) == Some((5, 6))
    })
    .await;
}
