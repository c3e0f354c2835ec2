//! Changes that wait to be written.

use std::collections::BTreeMap;

use crate::store::MetadataWrite;

/// Tells when a change is safe: once [`Journal::durable`] has reached it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct JournalTicket(pub u64);

/// Changes to write in one commit, with [`EntryStore::write_metadata`](crate::store::EntryStore::write_metadata) or
/// beside entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteBatch {
    /// The last change that is in it.
    pub ticket: JournalTicket,
    /// What to write.
    pub writes: Vec<MetadataWrite>,
}

/// Collects changes to records, so that many become durable with one commit.
///
/// A change to a key replaces an earlier one that was not handed out yet. A batch has everything that waits, so that
/// what is on disk is always a state that was there in memory. One batch is out at a time; tell how it went with
/// [`Journal::on_written`] or [`Journal::on_write_failed`]. After a failure everything in it waits again, except what
/// was changed meanwhile.
///
/// It is as large as what its owner changes between two writes: owners bound their records, and a key waits once.
///
/// ```
/// use mesh_sync::state::Journal;
///
/// let mut journal = Journal::default();
/// let ticket = journal.put(b"a".to_vec(), b"1".to_vec());
/// let batch = journal.poll_write().expect("something waits");
/// assert!(journal.durable() < ticket);
/// // … the driver writes `batch.writes` …
/// journal.on_written(batch.ticket);
/// assert_eq!(journal.durable(), ticket);
/// assert_eq!(journal.poll_write(), None);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Journal {
    waiting: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    out: Option<WriteBatch>,
    last: JournalTicket,
    durable: JournalTicket,
}

impl Journal {
    /// Sets a record.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> JournalTicket {
        self.change(key, Some(value))
    }

    /// Removes a record.
    pub fn remove(&mut self, key: Vec<u8>) -> JournalTicket {
        self.change(key, None)
    }

    fn change(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) -> JournalTicket {
        self.last = JournalTicket(self.last.0 + 1);
        self.waiting.insert(key, value);
        self.last
    }

    /// Everything that waits, to be written in one commit; `None` if nothing does or a batch is out.
    pub fn poll_write(&mut self) -> Option<WriteBatch> {
        if self.out.is_some() || self.waiting.is_empty() {
            return None;
        }
        let changes = std::mem::take(&mut self.waiting).into_iter();
        let writes = changes.map(|(key, value)| MetadataWrite { key, value }).collect();
        self.out = Some(WriteBatch { ticket: self.last, writes });
        self.out.clone()
    }

    /// The batch with this ticket is durable.
    pub fn on_written(&mut self, ticket: JournalTicket) {
        if self.out.take_if(|out| out.ticket == ticket).is_some() {
            self.durable = ticket;
        }
    }

    /// The batch with this ticket was not written, or nobody knows.
    pub fn on_write_failed(&mut self, ticket: JournalTicket) {
        let Some(batch) = self.out.take_if(|out| out.ticket == ticket) else { return };
        for MetadataWrite { key, value } in batch.writes {
            self.waiting.entry(key).or_insert(value);
        }
    }

    /// Every change up to this one is on disk, itself or as a later one to the same key.
    pub const fn durable(&self) -> JournalTicket {
        self.durable
    }

    /// The ticket of the last change.
    pub const fn last(&self) -> JournalTicket {
        self.last
    }

    /// Changes that are not on disk.
    pub fn unwritten(&self) -> usize {
        self.waiting.len() + self.out.as_ref().map_or(0, |out| out.writes.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_failed_batch_waits_again_but_never_over_a_newer_change() {
        let mut journal = Journal::default();
        journal.put(b"a".to_vec(), b"1".to_vec());
        journal.put(b"b".to_vec(), b"1".to_vec());
        let batch = journal.poll_write().expect("two changes");
        journal.put(b"a".to_vec(), b"2".to_vec());
        assert_eq!(journal.poll_write(), None, "one batch at a time");
        journal.on_write_failed(batch.ticket);
        assert_eq!(journal.durable(), JournalTicket(0));
        let batch = journal.poll_write().expect("both again");
        let values: Vec<_> = batch.writes.iter().map(|write| write.value.as_deref()).collect();
        assert_eq!(values, [Some(&b"2"[..]), Some(b"1")]);
        journal.on_written(batch.ticket);
        assert_eq!(journal.durable(), journal.last());
    }

    proptest! {
        /// Whatever is changed, written and lost in whatever order: when a change counts as durable, what is written
        /// is that change or a later one to the same key; and in the end what is written is what was last said.
        #[test]
        fn what_is_durable_is_written(steps in prop::collection::vec((0_u8..4, 0_u8..5, any::<u8>()), 0..80)) {
            let mut journal = Journal::default();
            let mut disk = BTreeMap::<Vec<u8>, (u64, u8)>::new();
            let mut said = Vec::<(JournalTicket, Vec<u8>, u8)>::new();
            let mut out: Option<WriteBatch> = None;
            let write = |batch: &WriteBatch, disk: &mut BTreeMap<Vec<u8>, (u64, u8)>| {
                for change in &batch.writes {
                    let value = change.value.as_ref().expect("only puts");
                    let stamp = u64::from_be_bytes(value[..8].try_into().expect("eight bytes"));
                    disk.insert(change.key.clone(), (stamp, value[8]));
                }
            };
            for (action, key, value) in steps {
                match action {
                    0 | 1 => {
                        let stamp = journal.last().0 + 1;
                        let ticket = journal.put(vec![key], [&stamp.to_be_bytes()[..], &[value]].concat());
                        prop_assert_eq!(ticket.0, stamp);
                        said.push((ticket, vec![key], value));
                    }
                    2 => out = journal.poll_write().or(out),
                    _ => if let Some(batch) = out.take() {
                        if value & 1 == 0 {
                            write(&batch, &mut disk);
                            journal.on_written(batch.ticket);
                        } else {
                            journal.on_write_failed(batch.ticket);
                        }
                    }
                }
                for (ticket, key, _) in said.iter().filter(|said| said.0 <= journal.durable()) {
                    prop_assert!(disk.get(key).is_some_and(|(stamp, _)| *stamp >= ticket.0));
                }
            }
            if let Some(batch) = out {
                journal.on_write_failed(batch.ticket);
            }
            while let Some(batch) = journal.poll_write() {
                write(&batch, &mut disk);
                journal.on_written(batch.ticket);
            }
            prop_assert_eq!(journal.unwritten(), 0);
            for (_, key, _) in &said {
                let last = said.iter().rev().find(|said| said.1 == *key).expect("said");
                prop_assert_eq!(disk[key], (last.0.0, last.2));
            }
        }
    }
}
