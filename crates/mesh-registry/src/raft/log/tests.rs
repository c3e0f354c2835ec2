use std::{fs, sync::Arc};

use bytes::Bytes;
use mesh_core::SystemClock;
use openraft::{
    EntryPayload, RaftLogReader, StorageError,
    storage::{RaftLogStorage, RaftLogStorageExt},
    testing::log::{StoreBuilder, Suite},
};
use tempfile::TempDir;

use super::*;
use crate::{
    raft::{
        machine::Machine,
        types::{Proposal, log_id},
    },
    state,
};

fn open(folder: &Path) -> Result<Log, RaftError> {
    Log::open(folder.join("log"), Arc::new(SystemClock), None)
}

fn opened(folder: &Path) -> Log {
    open(folder).expect("opens")
}

fn entry(index: u64, bytes: usize) -> Entry {
    let data = Bytes::from(vec![index as u8 | 1; bytes]);
    let command = state::Command::RestoreChunk { id: 1, offset: index, data };
    Entry { log_id: log_id(1, 1, index), payload: EntryPayload::Normal(Proposal::new(command)) }
}

async fn append(log: &mut Log, indexes: std::ops::Range<u64>, bytes: usize) {
    for index in indexes {
        log.blocking_append([entry(index, bytes)]).await.expect("appended");
    }
}

async fn indexes(log: &mut Log) -> Vec<u64> {
    let entries = log.try_get_log_entries(..).await.expect("read");
    entries.iter().map(|entry| entry.log_id.index).collect()
}

/// The segments of a folder, in order.
fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        fs::read_dir(folder.join("log")).expect("a folder").map(|e| e.expect("a file").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    paths.sort();
    paths
}

/// Where the last byte that is not zero is, and one.
fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1)
}

struct Builder;

impl StoreBuilder<Types, Log, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, Log, Machine), StorageError<Types>> {
        let folder = tempfile::tempdir().expect("a folder");
        let log = opened(folder.path());
        let machine =
            Machine::open(folder.path().to_owned(), log.clone(), 0, Arc::new(SystemClock)).expect("opens");
        Ok((folder, log, machine))
    }
}

#[tokio::test]
async fn the_suite_of_openraft_passes() {
    Suite::test_all(Builder).await.expect("it passes");
}

#[tokio::test]
async fn what_was_appended_is_there_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut log = opened(folder.path());
    append(&mut log, 0..300, 4000).await;
    log.save_vote(&Vote::new_committed(3, 2)).await.expect("saved");
    log.truncate_after(Some(log_id(1, 1, 280))).await.expect("truncated");
    append(&mut log, 281..290, 10).await;
    log.save_committed(Some(log_id(1, 1, 285))).await.expect("noted");
    log.purge(log_id(1, 1, 100)).await.expect("purged");
    append(&mut log, 290..291, 10).await;
    log.close().await;
    let many = segments(folder.path());
    assert!(many.len() > 2 && !many[0].ends_with("0000000000000001.log"), "{many:?}");

    let mut log = opened(folder.path());
    assert_eq!(indexes(&mut log).await, (101..291).collect::<Vec<_>>());
    let entries = log.try_get_log_entries(..).await.expect("read");
    for found in entries {
        let bytes = if found.log_id.index > 280 { 10 } else { 4000 };
        assert_eq!(found, entry(found.log_id.index, bytes));
    }
    assert_eq!(log.read_vote().await.expect("read"), Some(Vote::new_committed(3, 2)));
    assert_eq!(log.read_committed().await.expect("read"), Some(log_id(1, 1, 285)));
    let state = log.get_log_state().await.expect("read");
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 1, 100)));
    append(&mut log, 291..295, 10).await;
    log.close().await;
    assert_eq!(indexes(&mut opened(folder.path())).await.last(), Some(&294));
}

#[tokio::test]
async fn a_torn_last_write_is_dropped_and_the_log_goes_on() {
    for kept in [0, 512, 1024] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut log = opened(folder.path());
        append(&mut log, 0..3, 100).await;
        let whole = fs::read(&segments(folder.path())[0]).expect("bytes");
        append(&mut log, 3..4, 3000).await;
        log.close().await;
        // Of the last write only its first sectors reached the disk.
        let path = &segments(folder.path())[0];
        let mut bytes = fs::read(path).expect("bytes");
        let cut = (used(&whole) + kept).next_multiple_of(512);
        bytes[cut..].fill(0);
        if kept == 0 {
            bytes[used(&whole)..].fill(0);
        }
        fs::write(path, bytes).expect("torn");

        let mut log = opened(folder.path());
        assert_eq!(indexes(&mut log).await, [0, 1, 2], "kept {kept}");
        append(&mut log, 3..6, 50).await;
        log.close().await;
        assert_eq!(indexes(&mut opened(folder.path())).await, [0, 1, 2, 3, 4, 5]);
    }
}

#[tokio::test]
async fn damage_stops_the_log_and_names_file_and_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut log = opened(folder.path());
    append(&mut log, 0..4, 700).await;
    log.close().await;
    let path = segments(folder.path())[0].clone();
    let good = fs::read(&path).expect("bytes");
    for at in (0..used(&good)).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        fs::write(&path, &bad).expect("damaged");
        let error = match open(folder.path()) {
            Ok(_) => panic!("byte {at} was not noticed"),
            Err(error) => error.to_string(),
        };
        assert!(error.contains("0000000000000001.log") && error.contains("mesh registry repair"), "{error}");
    }
    // A hole before what was written later is no torn write.
    let mut bad = good.clone();
    bad[512..1024].fill(0);
    fs::write(&path, &bad).expect("damaged");
    let error = open(folder.path()).err().expect("noticed").to_string();
    assert!(error.contains("after it was written when this one was on disk"), "{error}");
}

#[tokio::test]
async fn a_missing_segment_is_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut log = opened(folder.path());
    append(&mut log, 0..200, 4000).await;
    log.close().await;
    let paths = segments(folder.path());
    assert!(paths.len() >= 3);
    let hidden = folder.path().join("hidden");
    for path in [&paths[1], &paths[0]] {
        fs::rename(path, &hidden).expect("hidden");
        let error = open(folder.path()).err().expect("noticed").to_string();
        assert!(error.contains("missing"), "{error}");
        fs::rename(&hidden, path).expect("back");
    }
    opened(folder.path());
}

#[test]
fn a_log_that_ends_while_it_begins_a_segment_leaves_no_thread_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = opened(folder.path());
    let spares = Arc::new(Spares::new(Arc::clone(&log.shared), folder.path().join("log")));
    // The end comes between the moment when the writer takes the spare and the one when it orders the next.
    spares.stop();
    spares.order();
    let (done, ended) = std::sync::mpsc::channel();
    thread::spawn(move || {
        spares.run();
        let _ = done.send(());
    });
    ended.recv_timeout(std::time::Duration::from_secs(60)).expect("the thread ends");
}
