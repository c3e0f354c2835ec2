//! Stores under `kill -9`, and with the ends of their files torn off.
//!
//! The store that is killed runs in a second process of this same test program.
#![cfg(all(feature = "fjall", feature = "redb"))]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use mesh_core::Hlc;
use mesh_sync::{
    entry::{Author, AuthorKey, AuthorSequence, Collection, DatasetId, Draft, Outcome, Verified},
    store::{
        Arrival, Creation, Datasets, EntryStore, FjallOptions, FjallStore, MetadataWrite, RedbStore,
        StoreError, StoreIncarnation,
    },
};

const FOLDER: &str = "MESH_SYNC_TEST_FOLDER";
const BACKEND: &str = "MESH_SYNC_TEST_BACKEND";
/// Entries of one batch.
const BATCH: u64 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    Fjall,
    /// With so little memory that it flushes all the time.
    FjallThatFlushes,
    Redb,
}

use Backend::{Fjall, FjallThatFlushes, Redb};

impl Backend {
    fn open(self, folder: &Path) -> Result<Arc<dyn EntryStore>, StoreError> {
        let datasets: Box<dyn Datasets> = match self {
            Fjall => Box::new(FjallStore::in_folder(folder.join("store"), FjallOptions::default())?),
            FjallThatFlushes => {
                let options = FjallOptions { memtable_bytes: 64 << 10, ..FjallOptions::default() };
                Box::new(FjallStore::in_folder(folder.join("store"), options)?)
            }
            Redb => Box::new(RedbStore::in_file(folder.join("store.redb"))?),
        };
        datasets.open(&dataset(), Creation::new(&dataset(), StoreIncarnation(1)))
    }

    /// The files that hold what was written last.
    fn journals(self, folder: &Path) -> Vec<PathBuf> {
        match self {
            Fjall | FjallThatFlushes => {
                let files = fs::read_dir(folder.join("store")).expect("a folder");
                let paths = files.map(|file| file.expect("a file").path());
                paths.filter(|path| path.extension().is_some_and(|extension| extension == "jnl")).collect()
            }
            Redb => vec![folder.join("store.redb")],
        }
    }
}

fn dataset() -> DatasetId {
    DatasetId::new("crash").expect("valid")
}

/// The entries of batch `number`, from 0: a chain through all of them.
struct Chain {
    author: Author,
    last: Option<Verified>,
}

impl Chain {
    fn new() -> Self {
        Self {
            author: Author::new(AuthorKey::from_seed([5; 32]), dataset(), AuthorSequence::FIRST),
            last: None,
        }
    }

    fn batch(&mut self) -> Vec<Verified> {
        let collection = Collection::new("c").expect("valid");
        (0..BATCH)
            .map(|_| {
                let sequence = self.author.next_sequence().expect("there are more").0;
                let parent = self.last.as_ref().map(|last| last.id());
                let draft = Draft::put(&collection, "k", vec![7; 500]).after(parent);
                let entry = self.author.sign(draft, Hlc::from_bits(sequence)).expect("within limits");
                self.last = Some(entry.clone());
                entry
            })
            .collect()
    }
}

fn insert(store: &dyn EntryStore, batch: &[Verified], number: u64) {
    let cursor = MetadataWrite { key: b"batches".to_vec(), value: Some((number + 1).to_be_bytes().to_vec()) };
    let report = store.insert_batch(batch, &[cursor]).expect("inserted");
    assert!(report.outcomes.iter().all(|outcome| matches!(outcome, Outcome::Stored { .. })));
}

/// How many whole batches a store holds, after everything in it was checked.
///
/// Err if it says itself that it is damaged.
fn whole_batches(store: &dyn EntryStore) -> Result<u64, StoreError> {
    store.verify()?;
    let summary = store.summary();
    let listed = store.arrivals(Arrival::FIRST, usize::MAX)?;
    assert_eq!(summary.count % BATCH, 0, "there is half a batch");
    assert_eq!((listed.len() as u64, summary.last_arrival.0), (summary.count, summary.count));
    let batches = summary.count / BATCH;
    let cursor = store
        .metadata(b"batches")?
        .map_or(0, |value| u64::from_be_bytes(value.try_into().expect("a number")));
    assert_eq!(cursor, batches, "the cursor and the entries are of different commits");
    Ok(batches)
}

/// The store, when another test starts this program as one. There is nothing to test otherwise.
#[test]
fn inserting_process() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        println!("nothing to do: the other tests start it as a process");
        return;
    };
    let backend = match std::env::var(BACKEND).as_deref() {
        Ok("Fjall") => Fjall,
        Ok("FjallThatFlushes") => FjallThatFlushes,
        other => {
            assert_eq!(other, Ok("Redb"));
            Redb
        }
    };
    let store = backend.open(Path::new(&folder)).expect("it opens after a kill");
    let mut chain = Chain::new();
    let there = store.summary().count / BATCH;
    for number in 0.. {
        let batch = chain.batch();
        if number >= there {
            insert(&*store, &batch, number);
            println!("acknowledged {}", number + 1);
        }
    }
}

fn start(backend: Backend, folder: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "inserting_process", "--nocapture"]).env(FOLDER, folder);
    command.env(BACKEND, format!("{backend:?}"));
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a process")
}

/// Lets a process insert `more` batches, kills it, and tells how many it has acknowledged in all.
fn killed_after(backend: Backend, folder: &Path, more: usize) -> u64 {
    let mut process = start(backend, folder);
    let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
    let numbers = lines.map_while(Result::ok).filter_map(|line| {
        line.split_once("acknowledged ").map(|(_, number)| number.trim().parse::<u64>().expect("a number"))
    });
    let acknowledged: Vec<u64> = numbers.take(more).collect();
    process.kill().expect("killed");
    process.wait().expect("gone");
    assert_eq!(acknowledged.len(), more, "the process ended by itself");
    *acknowledged.last().expect("at least one")
}

fn survives_kill_9(backend: Backend) {
    let folder = tempfile::tempdir().expect("a folder");
    for more in [1, 2, 7, 1, 40, 3] {
        let acknowledged = killed_after(backend, folder.path(), more);
        let store = backend.open(folder.path()).expect("it opens after a kill");
        let found = whole_batches(&*store).expect("nothing is damaged");
        assert!(found >= acknowledged, "{acknowledged} batches were acknowledged, {found} are there");
    }
}

#[test]
fn fjall_keeps_what_it_acknowledged_over_kill_9() {
    survives_kill_9(Fjall);
}

#[test]
fn fjall_that_flushes_keeps_what_it_acknowledged_over_kill_9() {
    survives_kill_9(FjallThatFlushes);
}

#[test]
fn redb_keeps_what_it_acknowledged_over_kill_9() {
    survives_kill_9(Redb);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for file in fs::read_dir(from).expect("a folder") {
        let (file, target) = (file.expect("a file"), to);
        let target = target.join(file.file_name());
        if file.file_type().expect("a type").is_dir() {
            copy(&file.path(), &target);
        } else {
            fs::copy(file.path(), target).expect("copied");
        }
    }
}

/// What a torn store came to.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Torn {
    Batches(u64),
    SaysSo,
}

fn look(backend: Backend, folder: &Path, what: &str) -> Torn {
    let looked = catch_unwind(AssertUnwindSafe(|| {
        let store = backend.open(folder)?;
        whole_batches(&*store)
    }));
    match looked {
        Ok(Ok(batches)) => Torn::Batches(batches),
        Ok(Err(error)) => {
            let text = error.to_string();
            assert!(text.contains("store"), "{what}: the error names no file: {text}");
            assert!(matches!(error, StoreError::Damaged { .. }), "{what}: {error:?}");
            Torn::SaysSo
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            panic!("{what}: {}", text.unwrap_or_default())
        }
    }
}

/// A store with so many batches, as a killed process leaves it. redb is copied while it is open, since it tidies up
/// when it is closed; fjall does not, and would write to its files from the background meanwhile.
fn filled(backend: Backend, folder: &Path, batches: u64) -> PathBuf {
    let live = folder.join("live");
    fs::create_dir_all(&live).expect("a folder");
    let store = backend.open(&live).expect("opens");
    let mut chain = Chain::new();
    for number in 0..batches {
        insert(&*store, &chain.batch(), number);
    }
    let left = folder.join("left");
    let open = (backend == Redb).then_some(store);
    copy(&live, &left);
    drop(open);
    assert_eq!(look(backend, &fresh(folder, &left), "untouched"), Torn::Batches(batches));
    left
}

/// A copy to tear.
fn fresh(folder: &Path, from: &Path) -> PathBuf {
    let torn = folder.join("torn");
    if torn.exists() {
        fs::remove_dir_all(&torn).expect("removed");
    }
    copy(from, &torn);
    torn
}

/// Where the written part of a file ends: some are longer than what is in them.
fn written(path: &Path) -> u64 {
    let bytes = fs::read(path).expect("read");
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1)
}

fn tear(backend: Backend, batches: u64, rounds: u64) -> BTreeSet<Torn> {
    let folder = tempfile::tempdir().expect("a folder");
    let left = filled(backend, folder.path(), batches);
    let mut rng = fastrand::Rng::with_seed(17);
    let mut seen = BTreeSet::new();
    let ends: Vec<u64> = backend.journals(&left).iter().map(|path| written(path)).collect();
    for round in 0..rounds {
        for (index, end) in ends.iter().enumerate() {
            // Some rounds tear at the very end, others anywhere.
            let back = if round < 3 { round } else { rng.u64(0..*end) };
            let at = end.saturating_sub(1 + back);
            for cut in [true, false] {
                let torn = fresh(folder.path(), &left);
                let path = &backend.journals(&torn)[index];
                let what =
                    if cut { format!("cut at {at} of {end}") } else { format!("flipped at {at} of {end}") };
                if cut {
                    fs::OpenOptions::new()
                        .write(true)
                        .open(path)
                        .and_then(|file| file.set_len(at))
                        .expect("cut");
                } else {
                    let mut bytes = fs::read(path).expect("read");
                    let position = usize::try_from(at).expect("fits");
                    bytes[position] ^= 1 << rng.u8(0..8);
                    fs::write(path, bytes).expect("written");
                }
                let found = look(backend, &torn, &what);
                if let Torn::Batches(found) = found {
                    assert!(found <= batches);
                }
                seen.insert(found);
            }
        }
    }
    seen
}

#[test]
fn fjall_with_a_torn_journal_has_whole_batches_or_says_that_it_is_damaged() {
    let seen = tear(Fjall, 12, 14);
    assert!(seen.iter().any(|torn| matches!(torn, Torn::Batches(1..12))), "nothing was torn: {seen:?}");
}

#[test]
fn fjall_that_flushes_with_torn_journals_has_whole_batches_or_says_that_it_is_damaged() {
    // How much is flushed, and so how much is there without the journal, depends on the background.
    let seen = tear(FjallThatFlushes, 60, 5);
    assert!(seen.contains(&Torn::SaysSo), "nothing was torn: {seen:?}");
}

#[test]
fn redb_with_a_torn_file_has_whole_batches_or_says_that_it_is_damaged() {
    let seen = tear(Redb, 12, 24);
    assert!(seen.contains(&Torn::SaysSo), "nothing was torn: {seen:?}");
}

#[test]
fn a_redb_file_that_was_cut_to_nothing_is_damaged_and_not_new() {
    let folder = tempfile::tempdir().expect("a folder");
    let left = filled(Redb, folder.path(), 3);
    let file = &Redb.journals(&left)[0];
    fs::OpenOptions::new().write(true).open(file).and_then(|file| file.set_len(0)).expect("cut");
    let Err(error) = Redb.open(&left) else { panic!("it was opened as a new one") };
    let text = error.to_string();
    for part in [file.to_str().expect("text"), "empty", "restore it, or remove it"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[test]
fn a_torn_store_goes_on_where_it_was_cut() {
    // The second may have flushed more than is left of its journal.
    for (backend, there, cut) in [(Fjall, 6, 3), (FjallThatFlushes, 60, 200_000)] {
        let folder = tempfile::tempdir().expect("a folder");
        let left = filled(backend, folder.path(), there);
        let torn = fresh(folder.path(), &left);
        let path = &backend.journals(&torn)[0];
        let end = written(path);
        assert!(end > cut);
        fs::OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(end - cut)).expect("cut");
        let store = backend.open(&torn).expect("opens");
        let found = whole_batches(&*store).expect("nothing is damaged");
        assert!(found > 0 && found <= there, "{found} of {there}");
        let mut chain = Chain::new();
        for number in 0..there + 20 {
            let batch = chain.batch();
            if number >= found {
                insert(&*store, &batch, number);
            }
        }
        drop(store);
        assert_eq!(look(backend, &torn, "filled again"), Torn::Batches(there + 20));
    }
}
