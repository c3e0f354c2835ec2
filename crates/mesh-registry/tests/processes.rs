//! A voter as a process that is killed: what it acknowledged is there, and a planted bug is caught.
//!
//! The voter runs in a second process of this same test program.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use futures_util::stream;
use mesh_core::{
    BoxError, MemberEvents, MemberSnapshot, Membership, NodeId, Settings, SystemClock,
    store::{Key, Operation, Txn, VersionedStore},
};
use mesh_registry::{
    PlantedBug, RegistryConfig,
    raft::{Begin, Peers, RaftOptions, RaftStore},
};
use mesh_transport::rpc::{Channel, Lane};

const FOLDER: &str = "MESH_TEST_VOTER_FOLDER";
const BUG: &str = "MESH_TEST_VOTER_BUG";
/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// There is nobody else.
struct Alone;

impl Membership for Alone {
    fn snapshot(&self) -> MemberSnapshot {
        MemberSnapshot::default()
    }
    fn subscribe(&self) -> (MemberSnapshot, MemberEvents) {
        (MemberSnapshot::default(), Box::pin(stream::pending()))
    }
}

impl Peers for Alone {
    fn channel(&self, node: &NodeId, _: Lane) -> Result<Channel, BoxError> {
        Err(format!("there is no {node}").into())
    }
}

async fn open(folder: &Path) -> RaftStore {
    let options = RaftOptions {
        directory: folder.to_owned(),
        node_id: "n1".parse().expect("a node id"),
        config: RegistryConfig::default().validate().expect("valid"),
        clock: Arc::new(SystemClock),
        membership: Arc::new(Alone),
        peers: Arc::new(Alone),
    };
    RaftStore::start(options, Begin::NewGroup).await.expect("the voter starts")
}

fn key(number: usize) -> Key {
    Key::new(format!("k{number}")).expect("a key")
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await.expect("it takes too long") })
}

/// The voter, when another test starts this program as one: writes one record after the other and says so when
/// each is acknowledged. There is nothing to test otherwise.
#[test]
fn voter() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        println!("nothing to do: the other tests start it as a process");
        return;
    };
    block_on(async {
        let store = open(Path::new(&folder)).await;
        if std::env::var_os(BUG).is_some() {
            // The first write waits for the election; only what follows is to be lost.
            store.transact(put(0)).await.expect("written");
            store.plant(PlantedBug::AckBeforeSync);
        }
        for number in 1.. {
            store.transact(put(number)).await.expect("written");
            println!("acknowledged {number}");
        }
    });
}

fn put(number: usize) -> Txn {
    let put = Operation::Put { key: key(number), value: vec![7; 1000].into(), session: None };
    Txn::new("n1".parse().expect("a node id")).then(put)
}

fn start(folder: &Path, bug: bool) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "voter", "--nocapture"]).env(FOLDER, folder);
    if bug {
        command.env(BUG, "1");
    }
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the voter's process")
}

/// Kills the voter after it has acknowledged so many, and tells which of them are not there afterwards.
fn lost(folder: &Path, bug: bool, acknowledged: usize) -> Vec<usize> {
    let mut voter = start(folder, bug);
    let mut last = 0;
    for line in BufReader::new(voter.stdout.take().expect("piped")).lines() {
        let line = line.expect("text");
        if let Some((_, number)) = line.split_once("acknowledged ") {
            last = number.trim().parse().expect("a number");
            if last >= acknowledged {
                break;
            }
        }
    }
    assert!(last >= acknowledged, "the voter ended after {last}");
    voter.kill().expect("killed");
    voter.wait().expect("gone");
    block_on(async {
        let store = open(folder).await;
        let mut lost = Vec::new();
        for number in 1..=last {
            if store.get(&key(number)).await.expect("read").value.is_none() {
                lost.push(number);
            }
        }
        store.stop().await;
        lost
    })
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let folder = tempfile::tempdir().expect("a folder");
    for acknowledged in [1, 40, 200] {
        assert_eq!(lost(folder.path(), false, acknowledged), Vec::<usize>::new());
    }
}

#[test]
fn a_voter_that_answers_before_the_disk_does_is_caught() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(!lost(folder.path(), true, 1).is_empty(), "nothing was lost, so that the bug would go unseen");
}
