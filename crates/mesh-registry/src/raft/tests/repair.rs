//! Damaged directories, and groups that begin anew.

use std::{fs, path::Path, time::Duration};

use futures_util::StreamExt;
use mesh_core::{
    Clock as _, Revision, SystemClock,
    store::{OpenSession, Prefix, StoreError, VersionedStore, WatchEvent, WatchFrom, WatchOptions},
};

use super::{
    cluster::{Cluster, put, soon, until},
    stories::test,
};
use crate::{
    raft::{Begin, RaftError, repair::Repair},
    state::SnapshotReader,
};

/// Changes one bit of a file.
fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("a file");
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("written");
}

/// Opens a directory whose last user may be about to end.
async fn look(directory: &Path) -> Repair {
    soon("the directory to be free", async {
        loop {
            match Repair::open(directory) {
                // sleeps: the run before this one is still about to end, and tells nobody when
                Err(RaftError::Lock(_)) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                opened => return opened.expect("can be looked at"),
            }
        }
    })
    .await
}

#[test]
fn a_damaged_voter_is_moved_aside_and_votes_again_under_a_new_number() {
    test(async {
        let mut cluster = Cluster::three().await;
        for i in 0..20 {
            cluster.write(put(&format!("k{i}"), "v", None)).await;
        }
        let data = cluster.data("n3");
        let before = cluster.nodes["n3"].store.voter_id().expect("it votes");
        assert!(matches!(Repair::open(&data), Err(RaftError::Lock(_))), "a node runs on it");
        cluster.kill("n3");
        let sound = look(&data).await;
        assert!(!sound.inspection().is_damaged(), "{:?}", sound.inspection());
        assert_eq!(sound.inspection().seat.map(|(_, id)| id), Some(before));
        drop(sound);

        let segment = data.join("log/0000000000000001.log");
        flip(&segment, 100);
        let error = cluster.try_start("n3", Begin::Wait).await.expect_err("damaged");
        let text = error.to_string();
        assert!(error.needs_repair() && text.contains(&segment.display().to_string()), "{text}");

        let repair = look(&data).await;
        let damaged: Vec<_> = repair.inspection().files.iter().filter(|f| f.problem.is_some()).collect();
        assert_eq!(damaged.len(), 1, "{damaged:?}");
        assert_eq!(damaged[0].path, segment);
        let aside = repair.set_aside().expect("moved").expect("there was one");
        assert!(aside.join("log").exists() && !data.exists());
        drop(repair);
        cluster.start("n3", Begin::Wait).await;
        until("n3 is taken in", || cluster.nodes["n3"].store.voter_id().is_some_and(|id| id != before)).await;
        cluster.voters(&["n1", "n2", "n3"]).await;
        assert_eq!(cluster.read("n3", "k7").await, Some("v".into()));
    });
}

#[test]
fn each_file_that_is_damaged_or_gone_keeps_the_node_from_starting() {
    test(async {
        let mut cluster = Cluster::with(|config| config.snapshot_entries = 100);
        cluster.start("n1", Begin::NewGroup).await;
        let data = cluster.data("n1");
        let snapshot = data.join("snapshot");
        let mut written = 0;
        while !snapshot.exists() {
            cluster.write(put(&format!("k{written}"), "v", None)).await;
            written += 1;
        }
        cluster.kill("n1");
        drop(look(&data).await);
        let whole = fs::read(&snapshot).expect("a snapshot");
        let identity = fs::read(data.join("identity")).expect("an identity");

        flip(&snapshot, 40);
        let error = cluster.try_start("n1", Begin::Wait).await.expect_err("damaged");
        let text = crate::raft::log::chain(&error);
        assert!(error.needs_repair() && text.contains(&snapshot.display().to_string()), "{text}");
        let found = look(&data).await;
        assert!(
            found.inspection().files.iter().any(|f| f.path == snapshot && f.problem.is_some()),
            "{found:?}"
        );
        drop(found);
        fs::write(&snapshot, &whole).expect("as it was");

        flip(&data.join("identity"), 35);
        let error = cluster.try_start("n1", Begin::Wait).await.expect_err("damaged");
        let text = crate::raft::log::chain(&error);
        assert!(
            error.needs_repair() && text.contains(&data.join("identity").display().to_string()),
            "{text}"
        );
        assert!(look(&data).await.inspection().is_damaged());
        fs::write(data.join("identity"), &identity).expect("as it was");

        cluster.start("n1", Begin::Wait).await;
        assert_eq!(cluster.read("n1", "k0").await, Some("v".into()), "looking changed nothing");
    });
}

#[test]
fn a_new_group_begins_with_a_snapshot_and_its_tokens_are_higher() {
    test(async {
        let mut cluster = Cluster::three().await;
        cluster.write(put("a", "1", None)).await;
        let old = cluster.nodes["n1"].store.group();
        let mut reader = SnapshotReader::default();
        let pieces: Vec<_> = cluster.store("n1").snapshot().await.expect("a snapshot").collect().await;
        for piece in &pieces {
            reader.push(piece.as_ref().expect("a piece")).expect("whole");
        }
        let state = reader.finish().expect("whole");
        // Restores that no snapshot on the disk knows of.
        for _ in 0..2 {
            let pieces = pieces.iter().map(|piece| Ok(piece.as_ref().expect("a piece").clone()));
            let pieces: Vec<Result<_, StoreError>> = pieces.collect();
            let leader = cluster.leader().await;
            soon("a restore", cluster.store(&leader).restore(futures_util::stream::iter(pieces).boxed()))
                .await
                .expect("restored");
        }
        let leader = cluster.leader().await;
        let before = cluster.store(&leader).status().await.expect("a status");
        // What the old group gave out after the snapshot was taken.
        let lost = cluster.write(put("b", "lost", None)).await.revision;
        let owner = OpenSession { owner: "w-1".parse().expect("an id"), ttl: Duration::from_secs(60) };
        let session = cluster.store(&leader).open_session(owner.clone()).await.expect("opened").id;
        for name in ["n1", "n2", "n3"] {
            cluster.kill(name);
        }

        let repair = look(&cluster.data("n2")).await;
        repair.set_aside().expect("moved");
        assert_eq!(repair.inspection().generation, None);
        repair.prepare(state, SystemClock.wall()).expect("prepared");
        drop(repair);
        cluster.start("n2", Begin::FromSnapshot).await;
        until("the new group has a leader", || cluster.nodes["n2"].store.group() != old).await;
        assert_eq!(cluster.read("n2", "a").await, Some("1".into()));
        assert_eq!(cluster.read("n2", "b").await, None);
        let status = cluster.store("n2").status().await.expect("a status");
        assert!(status.generation > before.generation, "{before:?} {status:?}");
        assert_ne!(status.cluster, before.cluster);
        let next = cluster.store("n2").open_session(owner).await.expect("opened").id;
        assert!(next > session, "an id of the old group is not given out again: {session} {next}");
        assert!(status.revision > lost, "nor is a revision: {lost} {}", status.revision);
        // Whoever watched the old group may have missed what became of its last changes.
        let all = Prefix::all();
        for seen in [lost, Revision(status.revision.0 + 7)] {
            let watch = cluster.store("n2").watch(&all, WatchFrom::After(seen), WatchOptions::default());
            let first =
                soon("a gap", watch.await.expect("begun").next()).await.expect("goes on").expect("no error");
            assert!(matches!(first, WatchEvent::Gap { to, .. } if to == status.revision), "{first:?}");
        }

        for name in ["n1", "n3"] {
            look(&cluster.data(name)).await.set_aside().expect("moved");
            cluster.start(name, Begin::Wait).await;
        }
        cluster.voters(&["n1", "n2", "n3"]).await;
        assert_eq!(cluster.read("n3", "a").await, Some("1".into()));
        cluster.kill("n2");
        cluster.start("n2", Begin::FromSnapshot).await;
        assert_ne!(cluster.nodes["n2"].store.group(), old, "it belongs to a group, and begins no other");
    });
}

#[test]
fn a_directory_that_holds_nothing_yet_is_not_damaged() {
    let folder = tempfile::tempdir().expect("a folder");
    let none = Repair::open(&folder.path().join("registry")).expect("looked at");
    assert_eq!(none.inspection().files, []);
    assert_eq!(none.set_aside().expect("nothing to do"), None);
    fs::write(folder.path().join("founder"), "x").expect("written");
    let empty = Repair::open(folder.path()).expect("looked at");
    assert!(!empty.inspection().is_damaged(), "{:?}", empty.inspection());
    drop(empty);
    // A log of which nothing says whose it is.
    fs::create_dir(folder.path().join("log")).expect("made");
    assert!(Repair::open(folder.path()).expect("looked at").inspection().is_damaged());
}
