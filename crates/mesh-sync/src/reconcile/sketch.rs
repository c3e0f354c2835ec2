//! A rateless sketch of a set: any prefix of its cells, taken from a peer's, leaves the difference.
//!
//! The idea is that of Yang, Gilad and Alizadeh, *Practical Rateless Set Reconciliation* (SIGCOMM 2024): every item is
//! in cell 0, and in cell `i` with a probability of `1 / (1 + i/2)`, drawn from the item alone. About 1.4 cells per
//! difference suffice, however large the sets are. Cells are linear, so one cached prefix serves every peer.
//!
//! Two things are ours. A cell has no counter: whose item a difference is, each side sees by looking whether it holds
//! it. And what seeds the walk is apart from what checks a cell (see [`ItemHasher::seed_of`]).

use super::{
    key::{EpochKey, ItemHasher, ShortId, mix},
    root::Root,
    wire::{Reader, WireError},
};

/// The sum of the items in a cell.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Cell {
    /// Exclusive or of the short ids.
    pub ids: u64,
    /// Exclusive or of their checks, of 24 bits.
    pub check: u32,
}

impl Cell {
    /// How long an encoded cell is.
    pub const BYTES: usize = 11;

    /// Whether nothing is in it.
    pub const fn is_empty(&self) -> bool {
        self.ids == 0 && self.check == 0
    }

    #[inline]
    pub(super) fn toggle(&mut self, ids: u64, check: u32) {
        self.ids ^= ids;
        self.check ^= check;
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.ids.to_le_bytes());
        out.extend_from_slice(&self.check.to_le_bytes()[..3]);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let ids = reader.u64()?;
        let [low, middle, high] = reader.array::<3>()?;
        Ok(Self { ids, check: u32::from_le_bytes([low, middle, high, 0]) })
    }
}

/// The cells that an item is in, ascending without end.
#[derive(Clone, Copy)]
pub(super) struct Walk {
    state: u64,
    at: u64,
}

impl Walk {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed, at: 0 }
    }

    /// The cell that it stands on.
    #[inline]
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Goes on to the next cell. Only operations that IEEE 754 rounds exactly are used, so all machines agree.
    #[inline]
    pub(super) fn advance(&mut self) {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let draw = ((mix(self.state) >> 11) + 1) as f64 * (1.0 / (1_u64 << 53) as f64);
        let gap = (self.at as f64 + 1.5) * (1.0 / draw.sqrt() - 1.0);
        // A float that is too large saturates, which is as good as the end.
        self.at = self.at.saturating_add((gap.ceil() as u64).max(1));
    }
}

/// The first cells of a set's sketch, kept while items come and go.
///
/// ```
/// use mesh_sync::{EntryId, reconcile::{EpochKey, Sketch}};
/// let mut sketch = Sketch::new(EpochKey::derive("orders", 1), Sketch::CELLS);
/// let empty = sketch.clone();
/// sketch.insert(&EntryId([1; 32]));
/// sketch.remove(&EntryId([1; 32]));
/// assert_eq!(sketch, empty);
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Sketch {
    key: EpochKey,
    hasher: Hasher,
    cells: Vec<Cell>,
}

/// Hides the words of the key from debug output.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Hasher(pub(super) ItemHasher);

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher")
    }
}

impl Sketch {
    /// How many cells are kept by default; about 12,000 differences can be told with them.
    pub const CELLS: usize = 16_384;
    /// Fewest cells of a sketch.
    pub const CELLS_MIN: usize = 64;
    /// Most cells of a sketch.
    pub const CELLS_MAX: usize = 1 << 20;

    /// The sketch of an empty set, with `cells` cells, between [`Sketch::CELLS_MIN`] and [`Sketch::CELLS_MAX`].
    pub fn new(key: EpochKey, cells: usize) -> Self {
        let cells = cells.clamp(Self::CELLS_MIN, Self::CELLS_MAX);
        Self { key, hasher: Hasher(key.hasher()), cells: vec![Cell::default(); cells] }
    }

    /// The key under which it is kept.
    pub fn key(&self) -> EpochKey {
        self.key
    }

    /// Its cells.
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// The short id of an item in this sketch.
    pub fn short(&self, id: &crate::EntryId) -> ShortId {
        self.hasher.0.short(id)
    }

    /// Adds an item that is not in the set.
    pub fn insert(&mut self, id: &crate::EntryId) {
        self.toggle(self.short(id));
    }

    /// Takes out an item that is in the set.
    pub fn remove(&mut self, id: &crate::EntryId) {
        self.toggle(self.short(id));
    }

    pub(super) fn toggle(&mut self, short: ShortId) {
        toggle(&self.hasher.0, short, &mut self.cells);
    }

    pub(super) fn hasher(&self) -> &ItemHasher {
        &self.hasher.0
    }

    /// The sketch and the root that it belongs to as bytes, with a checksum. Items that arrived after
    /// `root.arrival` are replayed onto what [`Sketch::restore`] gives.
    pub fn checkpoint(&self, root: &Root) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + Root::BYTES + self.cells.len() * Cell::BYTES);
        out.extend_from_slice(Self::MAGIC);
        out.extend_from_slice(&self.key.tag().to_le_bytes());
        out.extend_from_slice(&root.encode());
        out.extend_from_slice(&(self.cells.len() as u32).to_le_bytes());
        self.cells.iter().for_each(|cell| cell.write(&mut out));
        let sum = blake3::hash(&out);
        out.extend_from_slice(&sum.as_bytes()[..16]);
        out
    }

    /// The sketch and root of a checkpoint that was made under `key`.
    ///
    /// # Errors
    ///
    /// [`WireError`] if the bytes are not those of a checkpoint, or of one under another key. Build the sketch anew
    /// from the store then.
    pub fn restore(key: EpochKey, bytes: &[u8]) -> Result<(Self, Root), WireError> {
        let body = checked(bytes)?;
        let mut reader = Reader::new(body);
        let magic = reader.array::<8>()?;
        if &magic != Self::MAGIC {
            return Err(WireError::Invalid {
                what: "the mark of a sketch",
                value: u64::from_le_bytes(magic),
            });
        }
        let tag = reader.u64()?;
        if tag != key.tag() {
            return Err(WireError::Invalid { what: "the key of a sketch", value: tag });
        }
        let root = Root::read(&mut reader)?;
        let count = reader.u32()? as usize;
        if !(Self::CELLS_MIN..=Self::CELLS_MAX).contains(&count) || reader.remaining() != count * Cell::BYTES
        {
            return Err(WireError::Invalid { what: "the number of cells", value: count as u64 });
        }
        let mut sketch = Self::new(key, count);
        for cell in &mut sketch.cells {
            *cell = Cell::read(&mut reader)?;
        }
        Ok((sketch, root))
    }

    const MAGIC: &'static [u8; 8] = b"mshskt01";
}

/// Adds an item to cells that don't hold it, or takes it out of those that do.
#[inline]
pub(super) fn toggle(hasher: &ItemHasher, short: ShortId, cells: &mut [Cell]) {
    let check = hasher.check_of(short);
    let mut walk = Walk::new(hasher.seed_of(short));
    while let Some(cell) = usize::try_from(walk.at()).ok().and_then(|at| cells.get_mut(at)) {
        cell.toggle(short.0, check);
        walk.advance();
    }
}

/// What precedes the checksum, if that is right.
pub(super) fn checked(bytes: &[u8]) -> Result<&[u8], WireError> {
    let Some(length) = bytes.len().checked_sub(16) else {
        return Err(WireError::Truncated { length: bytes.len() });
    };
    let (body, sum) = bytes.split_at(length);
    if blake3::hash(body).as_bytes()[..16] != *sum {
        return Err(WireError::Checksum);
    }
    Ok(body)
}
