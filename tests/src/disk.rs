//! The disk of one simulated machine.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use mesh_core::{DiskFault, DiskOperation, DiskRequest, FileName};

/// What is wrong with a disk at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskHealth {
    /// Nothing.
    #[default]
    Good,
    /// Writes are refused for lack of space.
    Full,
    /// Writes and fsyncs fail, and what reached the disk is unknown.
    Failing,
}

/// Files as they would be found after a crash.
///
/// A replace becomes durable when its time has come. A crash before that leaves
/// the old file or the new one, never a mixture, for that is what a rename after
/// an fsync promises; the torn temporary file is not seen again.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    files: BTreeMap<FileName, Bytes>,
    under_way: BTreeMap<u64, (FileName, Bytes)>,
    requests: u64,
    /// What is wrong with it.
    pub health: DiskHealth,
}

/// A request the disk works on. Finish it with [`Disk::finish`] when its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

impl Disk {
    /// Takes a request; returns when it ends and what ends it.
    pub(crate) fn begin(&mut self, rng: &mut fastrand::Rng, request: &DiskRequest) -> (Duration, Ticket) {
        self.requests += 1;
        let ticket = Ticket(self.requests);
        let micros = match &request.operation {
            DiskOperation::Replace(contents) => {
                self.under_way.insert(ticket.0, (request.file, contents.clone()));
                rng.u64(500..12_000)
            }
            DiskOperation::Read => rng.u64(50..500),
        };
        (Duration::from_micros(micros), ticket)
    }

    /// Ends a request.
    pub(crate) fn finish(
        &mut self,
        rng: &mut fastrand::Rng,
        ticket: Ticket,
        request: &DiskRequest,
    ) -> Result<Option<Bytes>, DiskFault> {
        let write = self.under_way.remove(&ticket.0);
        match (&request.operation, self.health) {
            (DiskOperation::Read, _) => Ok(self.files.get(&request.file).cloned()),
            (DiskOperation::Replace(_), DiskHealth::Full) => Err(DiskFault::Full),
            (DiskOperation::Replace(_), health) => {
                let failed = health == DiskHealth::Failing;
                if let Some((file, contents)) = write
                    && (!failed || rng.bool())
                {
                    self.files.insert(file, contents);
                }
                if failed { Err(DiskFault::Failed("fsync: input/output error".into())) } else { Ok(None) }
            }
        }
    }

    /// The process or the machine stops now: each unsynced write is lost, or just made it.
    pub(crate) fn crash(&mut self, rng: &mut fastrand::Rng) {
        for (_, (file, contents)) in std::mem::take(&mut self.under_way) {
            if rng.u8(..4) == 0 {
                self.files.insert(file, contents);
            }
        }
    }

    /// All files are gone.
    pub fn wipe(&mut self) {
        self.files.clear();
        self.under_way.clear();
    }
}

#[cfg(test)]
mod tests {
    use mesh_core::DiskId;

    use super::*;

    const FILE: FileName = FileName("members");

    fn replace(contents: &'static [u8]) -> DiskRequest {
        let operation = DiskOperation::Replace(Bytes::from_static(contents));
        DiskRequest { id: DiskId(1), file: FILE, operation }
    }

    fn read(disk: &mut Disk, rng: &mut fastrand::Rng) -> Option<Bytes> {
        let request = DiskRequest { id: DiskId(2), file: FILE, operation: DiskOperation::Read };
        let (_, ticket) = disk.begin(rng, &request);
        disk.finish(rng, ticket, &request).expect("reads succeed")
    }

    fn write(disk: &mut Disk, rng: &mut fastrand::Rng, contents: &'static [u8]) -> Result<(), DiskFault> {
        let (_, ticket) = disk.begin(rng, &replace(contents));
        disk.finish(rng, ticket, &replace(contents)).map(|_| ())
    }

    #[test]
    fn a_crash_leaves_the_old_file_or_the_new_one() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..32 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut disk = Disk::default();
            write(&mut disk, &mut rng, b"old").expect("good disk");
            disk.begin(&mut rng, &replace(b"new"));
            disk.crash(&mut rng);
            seen.insert(read(&mut disk, &mut rng).expect("the file exists"));
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [&b"new"[..], b"old"]);
    }

    #[test]
    fn a_full_disk_keeps_what_it_has() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut disk = Disk::default();
        write(&mut disk, &mut rng, b"old").expect("good disk");
        disk.health = DiskHealth::Full;
        assert_eq!(write(&mut disk, &mut rng, b"new"), Err(DiskFault::Full));
        assert_eq!(read(&mut disk, &mut rng).as_deref(), Some(&b"old"[..]));
        disk.wipe();
        assert_eq!(read(&mut disk, &mut rng), None);
    }
}
