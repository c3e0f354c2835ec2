//! Items under small numbers, and a table that finds them by their short id.

use super::key::{ItemHasher, ShortId};
use crate::{EntryId, Item};

const CHUNK: usize = 4096;

/// Items that keep their number, the *slot*, until they are removed. Grows without moving what it holds.
#[derive(Default)]
pub(super) struct Slab {
    chunks: Vec<Vec<Item>>,
    free: Vec<u32>,
    length: usize,
}

impl Slab {
    pub(super) fn insert(&mut self, item: Item) -> u32 {
        self.length += 1;
        if let Some(slot) = self.free.pop() {
            self.chunks[slot as usize / CHUNK][slot as usize % CHUNK] = item;
            return slot;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let chunk = self.chunks.len() - 1;
        self.chunks[chunk].push(item);
        (chunk * CHUNK + self.chunks[chunk].len() - 1) as u32
    }

    pub(super) fn remove(&mut self, slot: u32) {
        self.length -= 1;
        self.free.push(slot);
    }

    #[inline]
    pub(super) fn item(&self, slot: u32) -> &Item {
        &self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    #[inline]
    pub(super) fn id(&self, slot: u32) -> &EntryId {
        &self.item(slot).id
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Item>() + self.free.capacity() * 4
    }
}

/// Slots by short id: open addressing, in the order of the ids, so that growing is one pass.
#[derive(Default)]
pub(super) struct Shorts {
    /// The upper half of the short id, then the slot.
    cells: Vec<u64>,
    used: usize,
}

const EMPTY: u64 = u64::MAX;
const GONE: u64 = u64::MAX - 1;

impl Shorts {
    pub(super) fn with_capacity(items: usize) -> Self {
        Self { cells: vec![EMPTY; (items * 3 / 2).max(64)], used: 0 }
    }

    fn home(&self, tag: u64) -> usize {
        ((tag * self.cells.len() as u64) >> 32) as usize
    }

    fn next(&self, at: usize) -> usize {
        if at + 1 == self.cells.len() { 0 } else { at + 1 }
    }

    pub(super) fn insert(&mut self, short: ShortId, slot: u32) {
        if (self.used + 1) * 5 > self.cells.len() * 4 {
            let live = self.cells.iter().filter(|cell| **cell < GONE).count();
            let old = std::mem::replace(self, Self::with_capacity((live + 1) * 6 / 5));
            old.cells.into_iter().filter(|cell| *cell < GONE).for_each(|cell| self.place(cell));
        }
        self.place((short.0 >> 32) << 32 | u64::from(slot));
    }

    fn place(&mut self, cell: u64) {
        let mut at = self.home(cell >> 32);
        while self.cells[at] != EMPTY {
            at = self.next(at);
        }
        self.cells[at] = cell;
        self.used += 1;
    }

    /// The slot of an item that has this short id, if there is one.
    pub(super) fn find(&self, short: ShortId, hasher: &ItemHasher, slab: &Slab) -> Option<u32> {
        self.position(short.0 >> 32, |slot| hasher.short(slab.id(slot)) == short)
            .map(|at| self.cells[at] as u32)
    }

    pub(super) fn remove(&mut self, short: ShortId, slot: u32) {
        if let Some(at) = self.position(short.0 >> 32, |found| found == slot) {
            self.cells[at] = GONE;
        }
    }

    fn position(&self, tag: u64, is_it: impl Fn(u32) -> bool) -> Option<usize> {
        if self.cells.is_empty() {
            return None;
        }
        let mut at = self.home(tag);
        loop {
            match self.cells[at] {
                EMPTY => return None,
                GONE => {}
                cell if cell >> 32 == tag && is_it(cell as u32) => return Some(at),
                _ => {}
            }
            at = self.next(at);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.cells.capacity() * 8
    }
}
