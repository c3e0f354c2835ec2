//! A disk that fills up.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use mesh_core::store::{StoreError, TxnError, VersionedStore};

use super::{
    cluster::{Cluster, put, soon},
    stories::test,
};
use crate::raft::Begin;

/// A small disk, gone when this is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where we may not mount.
    fn mount(at: &Path, bytes: u64) -> Option<Self> {
        std::fs::create_dir_all(at).expect("a folder");
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What is left goes with the machine's temporary files.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_refuses_writes_and_takes_them_again_when_there_is_space() {
    test(async {
        let mut cluster = Cluster::new();
        let Some(_disk) = SmallDisk::mount(&cluster.data("n1"), 4 << 20) else {
            println!("skipped: this test needs the right to mount a tmpfs");
            return;
        };
        let ballast = cluster.data("n1").join("ballast");
        std::fs::write(&ballast, vec![1; 2 << 20]).expect("room for it");
        cluster.start("n1", Begin::NewGroup).await;
        let value = vec![7_u8; 8 << 10];
        let mut written = 0;
        let refused = soon("the disk to be full", async {
            loop {
                let leader = cluster.leader().await;
                match cluster.store(&leader).transact(put(&format!("k{written}"), value.clone(), None)).await
                {
                    Ok(_) => written += 1,
                    Err(error) => return error,
                }
            }
        })
        .await;
        let TxnError::Store(StoreError::ReadOnly { reason }) = &refused else { panic!("{refused:?}") };
        assert!(reason.contains("is full") && reason.contains("log"), "{reason}");
        let status = cluster.store("n1").status().await.expect("a status");
        assert!(status.read_only.is_some_and(|reason| reason.contains("is full")));
        assert_eq!(cluster.read("n1", "k0").await, Some(value.clone().into()), "reads go on");

        std::fs::remove_file(&ballast).expect("removed");
        soon("writes to be taken again", async {
            while cluster.store("n1").transact(put("after", "1", None)).await.is_err() {
                // sleeps: polls until there is space
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
        cluster.kill("n1");
        cluster.start("n1", Begin::Wait).await;
        for i in 0..written {
            assert_eq!(cluster.read("n1", &format!("k{i}")).await, Some(value.clone().into()), "k{i}");
        }
        assert_eq!(cluster.read("n1", "after").await, Some("1".into()));
    });
}
