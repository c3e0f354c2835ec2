//! What must hold, as seen from outside: by what clients were told, and by what is on the disks.

use std::collections::{BTreeMap, BTreeSet};

use mesh_sync::{
    EntryId,
    documents::{Documents, Version},
    entry::{AuthorId, AuthorSequence, Entry, Kind, Verified},
    reconcile,
    store::{EntryStore, ScanLimit},
};

/// What is known of one dataset, over all nodes and runs.
#[derive(Default)]
pub(crate) struct Rules {
    /// Everything that was ever signed.
    pub(crate) all: BTreeMap<EntryId, Verified>,
    /// What clients were told is durable.
    told: BTreeSet<EntryId>,
    /// What was ever durable somewhere.
    committed: BTreeSet<EntryId>,
    /// What went with a disk that was replaced by an older copy, before anybody else had it.
    excused: BTreeSet<EntryId>,
    /// Prunes that were signed, whether or not they became durable.
    pub(crate) prunes: BTreeMap<EntryId, Vec<(AuthorId, AuthorSequence)>>,
    /// How far those go that became durable, as far as was told.
    pub(crate) must: BTreeMap<AuthorId, AuthorSequence>,
    /// How far prunes were signed.
    pub(crate) ordered: BTreeMap<AuthorId, AuthorSequence>,
}

/// The nonces that sides have brought into comparisons, over all nodes and datasets.
#[derive(Default)]
pub(crate) struct Nonces(BTreeSet<[u8; 16]>);

impl Nonces {
    /// A comparison's key is fresh, so that nobody can have prepared ids that collide under it, and what one
    /// comparison misses the next one finds. Looks at a frame that a replica sends.
    pub(crate) fn on_frame(&mut self, frame: &[u8]) -> Result<(), Broken> {
        let nonce = match reconcile::Message::decode(frame) {
            Ok(reconcile::Message::Hello(hello)) => hello.nonce,
            Ok(reconcile::Message::Welcome(welcome)) => welcome.nonce,
            Ok(_) => return Ok(()),
            Err(error) => return Err(("what a replica writes can be read", error.to_string())),
        };
        match self.0.insert(nonce.0) {
            true => Ok(()),
            false => Err(("no two comparisons share a nonce", format!("{nonce:02x?}"))),
        }
    }
}

pub(crate) type Broken = (&'static str, String);

impl Rules {
    pub(crate) fn is_pruned(&self, entry: &Entry) -> bool {
        self.ordered.get(&entry.author()).is_some_and(|up_to| entry.sequence() <= *up_to)
    }

    fn may_be_absent(&self, id: &EntryId) -> bool {
        self.all.get(id).is_some_and(|entry| self.is_pruned(entry))
    }

    /// A client was told that these are durable here.
    pub(crate) fn on_told(&mut self, store: &dyn EntryStore, ids: &[EntryId]) -> Result<(), Broken> {
        let held = store.has(ids).expect("reads");
        for (id, held) in ids.iter().zip(held) {
            if !held && !self.may_be_absent(id) {
                return Err(("what a client is told is durable is on disk", id.to_string()));
            }
            self.told.insert(*id);
            for (author, up_to) in self.prunes.get(id).into_iter().flatten() {
                let must = self.must.entry(*author).or_default();
                *must = (*must).max(*up_to);
            }
        }
        Ok(())
    }

    pub(crate) fn on_committed(
        &mut self,
        store: &dyn EntryStore,
        entries: &[Verified],
    ) -> Result<(), Broken> {
        for entry in entries {
            let parents: Vec<EntryId> = entry.parents().collect();
            for (parent, held) in parents.iter().zip(store.has(&parents).expect("reads")) {
                if !held && !self.may_be_absent(parent) {
                    return Err(("a replica is closed under parents", format!("{parent} of {}", entry.id())));
                }
            }
            if self.all.get(&entry.id()) != Some(entry) {
                return Err(("nothing is stored that nobody signed", entry.id().to_string()));
            }
            self.committed.insert(entry.id());
        }
        Ok(())
    }

    /// A disk is about to be replaced: what nobody else has goes with it.
    pub(crate) fn on_restore(&mut self, others: &[&dyn EntryStore]) {
        for id in &self.told {
            if !others.iter().any(|store| store.has(&[*id]).expect("reads")[0]) {
                self.excused.insert(*id);
            }
        }
    }

    /// A prune is about to be ordered on one node; `held` tells how far each active node holds an author's entries.
    pub(crate) fn on_prune(
        &mut self,
        watermarks: &[(AuthorId, AuthorSequence)],
        held: impl Fn(&AuthorId) -> AuthorSequence,
        young: impl Fn(&Entry) -> bool,
        store: &dyn EntryStore,
    ) -> Result<(), Broken> {
        for (author, up_to) in watermarks {
            if held(author) < *up_to {
                let text = format!("{author} up to {up_to}, while an active node has {}", held(author));
                return Err(("nothing is pruned that an active peer lacks", text));
            }
            let of_author = store.by_author(author, AuthorSequence::FIRST, usize::MAX).expect("reads");
            for one in of_author.iter().filter(|one| one.sequence <= *up_to) {
                let entry = &self.all[&one.item.id];
                if entry.collection().is_reserved() || !self.is_last_write(entry, store) {
                    continue;
                }
                if entry.kind() != Kind::Delete {
                    return Err(("a value that counts is not pruned", entry.id().to_string()));
                }
                if young(entry) {
                    return Err(("a tombstone is kept for its time", entry.id().to_string()));
                }
                let goes = |other: &Entry| {
                    let up_to = watermarks.iter().find(|(of, _)| *of == other.author());
                    up_to.is_some_and(|(_, up_to)| other.sequence() <= *up_to)
                };
                let hidden = |other: &&Verified| {
                    is_of_one(other, entry) && other.item() < entry.item() && !goes(other)
                };
                let mut older = self.all.values().filter(hidden);
                if let Some(left) = older.find(|left| store.has(&[left.id()]).expect("reads")[0]) {
                    let text = format!("{} hides {}", entry.id(), left.id());
                    return Err(("a deletion is not pruned before what it deletes", text));
                }
            }
            let ordered = self.ordered.entry(*author).or_default();
            *ordered = (*ordered).max(*up_to);
        }
        Ok(())
    }

    fn is_last_write(&self, entry: &Entry, store: &dyn EntryStore) -> bool {
        let same = |other: &&Verified| {
            is_of_one(other, entry)
                && other.item() > entry.item()
                && store.has(&[other.id()]).expect("reads")[0]
        };
        !self.all.values().any(|other| same(&other))
    }

    /// When all has healed.
    pub(crate) fn at_the_end(&self, store: &dyn EntryStore) -> Result<(), Broken> {
        store.verify().map_err(|error| ("a store fits together", error.to_string()))?;
        let told: Vec<EntryId> = self.told.iter().copied().collect();
        for (id, held) in told.iter().zip(store.has(&told).expect("reads")) {
            let entry = &self.all[id];
            let head = store.head(&entry.author()).expect("reads").unwrap_or_default();
            let pruned = entry.sequence() <= head.pruned;
            if !held && !pruned && !self.excused.contains(id) {
                return Err(("no acknowledged entry is lost", id.to_string()));
            }
            if held && pruned {
                return Err(("nothing that was pruned comes back", id.to_string()));
            }
        }
        Ok(())
    }

    /// Each document has the value that was written last of all that was ever durable, pruned or not.
    pub(crate) fn documents_at_the_end(&self, store: &dyn EntryStore) -> Result<(), Broken> {
        let (mut expected, mut found) = (Documents::new(), Documents::new());
        for id in &self.committed {
            expected.apply(&self.all[id]);
        }
        let limit = ScanLimit { entries: usize::MAX, bytes: usize::MAX };
        for stored in store.scan(std::ops::Bound::Unbounded, limit).expect("reads") {
            found.apply(&stored.entry);
            // A crash right after a commit leaves nobody who would have told.
            expected.apply(&stored.entry);
        }
        let item = |version: Option<&Version>| version.map(|version| version.item);
        for (key, last) in expected.versions().filter(|(key, _)| !key.collection.is_reserved()) {
            if item(found.get(key)) != item(Some(last)).filter(|_| !last.is_tombstone()) {
                let text = format!("{key:?} should have {last:?}, and has {:?}", found.get(key));
                return Err(("a document has its last value", text));
            }
        }
        Ok(())
    }
}

/// Whether two entries write to the same document.
fn is_of_one(one: &Entry, other: &Entry) -> bool {
    one.collection() == other.collection() && one.key() == other.key()
}
