//! Range-based reconciliation (Meyer, *Range-Based Set Reconciliation*, 2022) over (hlc, id) order, one side of it.
//!
//! Both sides keep a queue of ranges about which they said something that wants an answer, and answers come in that
//! order, so they carry no names. A range is answered by parts which cover it by construction: each begins where the
//! one before ended, and the last has no end of its own. Every part that wants an answer is about a smaller range, or
//! one level deeper, and the levels are capped, so this ends.
//!
//! Differing ranges are divided until it is cheaper to list them, or to send a small sketch of them.

use std::collections::VecDeque;

use super::{
    decode::Decoder,
    index::Index,
    key::{ItemHasher, ShortId, short_of},
    limits::{Limits, SessionError},
    message::{Body, Part, bound_between},
    outcome::{Bulk, Outcome, shorts_of},
    sketch::{Cell, toggle},
};
use crate::{EntryId, Item};

/// Into how many parts a range is divided.
const FANOUT: u64 = 16;
/// Ranges of so few items are listed.
const LISTED: u64 = 24;
/// On this level, ranges are listed whatever they hold; honest sides get there for sets of some 2^50 items.
const DEPTH_MAX: u8 = 16;
/// Most items over which a sketch is made on the spot.
const SKETCHED_MAX: u64 = 131_072;
/// Sketches that failed before they are given up for the session.
const SKETCHES_FAILED_MAX: u32 = 4;
/// Most differences for which a sketch is made on the spot.
const SKETCHED_DIFFERENCES_MAX: u64 = 768;
/// As many new items are left to a stream, if the peer has hardly any of their neighbours.
const BULK_MIN: usize = 4_096;

/// A range about which we said something.
struct Pending {
    lower: Item,
    upper: Option<Item>,
    depth: u8,
    kind: Kind,
}

enum Kind {
    /// We sent a fingerprint, or a sketch, so the peer may say anything about it.
    Open { sketched: bool },
    /// We asked for a list.
    Asked,
    /// We sent a list of these.
    Listed(Vec<Item>),
}

/// A range to answer for.
struct Range {
    lower: Item,
    upper: Option<Item>,
    depth: u8,
}

enum Choice {
    Divide,
    List,
    Ask,
    Sketch(usize),
}

/// One side's state.
pub(super) struct Narrow {
    hasher: ItemHasher,
    salted: bool,
    ours: Limits,
    theirs: Limits,
    pending: VecDeque<Pending>,
    unwanted: Vec<ShortId>,
    /// Guess at the differences, and the items among which they are.
    differences: u64,
    suspect: u64,
    sketches_failed: u32,
    /// Items that were hashed for sketches that failed.
    wasted: u64,
    units_in: u64,
    listed_out: u64,
    /// Fingerprints sent, by level.
    prints_out: [u64; DEPTH_MAX as usize + 2],
    out: Vec<Part>,
    outcome: Outcome,
}

impl Narrow {
    pub(super) fn new(
        hasher: ItemHasher,
        salted: bool,
        limits: (Limits, Limits),
        unwanted: &[EntryId],
        differences: u64,
        outcome: Outcome,
    ) -> Self {
        Self {
            unwanted: shorts_of(&hasher, unwanted),
            hasher,
            salted,
            ours: limits.0,
            theirs: limits.1,
            pending: VecDeque::new(),
            differences,
            suspect: 1,
            sketches_failed: 0,
            wasted: 0,
            units_in: 0,
            listed_out: 0,
            prints_out: [0; DEPTH_MAX as usize + 2],
            out: Vec::new(),
            outcome,
        }
    }

    /// Waits for the peer to begin with everything from `lower` on.
    pub(super) fn expect(&mut self, index: &Index, lower: Item) {
        self.suspect = index.len() - index.rank(Some(&lower));
        self.pending.push_back(Pending {
            lower,
            upper: None,
            depth: 0,
            kind: Kind::Open { sketched: false },
        });
    }

    /// Begins with everything from `lower` on, where the peer holds `theirs` items.
    pub(super) fn begin(&mut self, index: &Index, lower: Item, theirs: u64) {
        self.suspect = index.len() - index.rank(Some(&lower));
        self.answer(index, Range { lower, upper: None, depth: 0 }, theirs);
    }

    /// Whether the peer owes no answer.
    pub(super) fn is_done(&self) -> bool {
        self.pending.is_empty()
    }

    /// What is to be sent, in messages of at most the peer's frame limit.
    pub(super) fn drain(&mut self) -> Vec<Vec<Part>> {
        let mut frames: Vec<Vec<Part>> = Vec::new();
        let mut room = 0;
        for part in self.out.drain(..) {
            let bytes = part.bytes();
            match frames.last_mut() {
                Some(frame) if bytes <= room => {
                    room -= bytes;
                    frame.push(part);
                }
                _ => {
                    room = (self.theirs.frame_bytes_max as usize - 16).saturating_sub(bytes);
                    frames.push(vec![part]);
                }
            }
        }
        frames
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let listed = |pending: &Pending| match &pending.kind {
            Kind::Listed(items) => items.capacity() * size_of::<Item>(),
            Kind::Open { .. } | Kind::Asked => 0,
        };
        self.outcome.memory_bytes()
            + self.pending.capacity() * size_of::<Pending>()
            + self.pending.iter().map(listed).sum::<usize>()
    }

    /// The result, once [`Narrow::is_done`].
    pub(super) fn finish(&mut self) -> Outcome {
        let mut outcome = std::mem::replace(&mut self.outcome, Outcome::new(super::Method::Ranges));
        outcome.give.sort_unstable();
        outcome.give.dedup();
        outcome
    }

    /// Takes the peer's answers.
    pub(super) fn take(&mut self, index: &Index, parts: Vec<Part>) -> Result<(), SessionError> {
        let mut open = Vec::new();
        for part in parts {
            self.take_part(index, part, &mut open)?;
        }
        // All fingerprints of a message were compared, so the density of what differs is known best now.
        for (range, theirs) in open {
            match theirs {
                Reply::Print(theirs) => self.answer(index, range, theirs),
                Reply::Ready(part) => self.out.push(part),
                Reply::List => self.list(index, range),
            }
        }
        Ok(())
    }

    fn take_part(
        &mut self,
        index: &Index,
        part: Part,
        open: &mut Vec<(Range, Reply)>,
    ) -> Result<(), SessionError> {
        // What has no end of its own and holds nothing settles something that we said, so it needs no other limit.
        let units = match &part.body {
            Body::List(ids) | Body::WantIds(ids) => ids.len() as u64 + 1,
            Body::Sketch(cells) => cells.len() as u64 + 1,
            Body::Print { .. } => 1,
            _ => u64::from(part.upper.is_some()),
        };
        self.units_in += units;
        let limit = u64::from(self.ours.entries_max);
        if self.units_in > limit {
            return Err(SessionError::Limit { what: "range parts and listed ids", limit });
        }
        let range = self.stretch(&part)?;
        let (lower, upper) = (&range.lower, range.upper.as_ref());
        match part.body {
            Body::Same => {
                let same = index.rank(upper) - index.rank(Some(lower)).min(index.rank(upper));
                self.suspect = self.suspect.saturating_sub(same);
            }
            Body::Later => self.outcome.partial = true,
            Body::All => self.give_all(index, &range, Vec::new()),
            Body::Ask => open.push((range, Reply::List)),
            Body::List(ids) => {
                let want = self.compare(index, &range, &ids);
                open.push((range, Reply::Ready(Part { upper: None, body: Body::Want(want) })));
            }
            Body::Want(runs) => self.give_listed(&runs)?,
            Body::WantIds(ids) => self.give_ids(index, &range, ids),
            Body::Sketch(cells) => match self.decode(index, &range, &cells) {
                Some(want) => {
                    let part = Part { upper: None, body: Body::WantIds(want) };
                    open.push((range, Reply::Ready(part)));
                }
                None => {
                    self.sketch_failed(self.count(index, &range), cells.len());
                    // The peer's count is not known, but it isn't zero.
                    let theirs = self.count(index, &range).max(1);
                    let range = Range { depth: range.depth.saturating_add(1), ..range };
                    open.push((range, Reply::Print(theirs)));
                }
            },
            Body::Print { count, seal } => {
                let (ours, same) = self.print(index, &range);
                if ours == count && same == seal {
                    self.suspect = self.suspect.saturating_sub(ours);
                    open.push((range, Reply::Ready(Part { upper: None, body: Body::Same })));
                } else {
                    open.push((range, Reply::Print(count)));
                }
            }
        }
        Ok(())
    }

    /// The stretch that a part is about, which is taken off the range at the head of the queue.
    fn stretch(&mut self, part: &Part) -> Result<Range, SessionError> {
        let Some(pending) = self.pending.front_mut() else {
            return Err(SessionError::Unexpected { message: "a range part", state: "no range is open" });
        };
        let fits = match (&pending.kind, &part.body) {
            (Kind::Listed(_), Body::Want(_)) => part.upper.is_none(),
            (Kind::Listed(_), _) | (_, Body::Want(_)) => false,
            (Kind::Asked, Body::List(_) | Body::All | Body::Later) => true,
            (Kind::Asked, _) => false,
            (Kind::Open { sketched }, Body::WantIds(_)) => *sketched && part.upper.is_none(),
            (Kind::Open { .. }, _) => true,
        };
        if !fits {
            return Err(SessionError::Unexpected {
                message: "an answer",
                state: "another kind was asked for",
            });
        }
        let lower = pending.lower;
        let (upper, depth) = match part.upper {
            Some(upper) if upper <= lower || pending.upper.is_some_and(|end| end <= upper) => {
                return Err(SessionError::OutsideRange);
            }
            Some(upper) => {
                pending.lower = upper;
                (Some(upper), pending.depth)
            }
            None => {
                let range = (pending.upper, pending.depth);
                if !matches!(pending.kind, Kind::Listed(_)) {
                    self.pending.pop_front();
                }
                range
            }
        };
        Ok(Range { lower, upper, depth })
    }

    fn count(&self, index: &Index, range: &Range) -> u64 {
        index.rank(range.upper.as_ref()).saturating_sub(index.rank(Some(&range.lower)))
    }

    /// Our count and fingerprint of a range.
    fn print(&self, index: &Index, range: &Range) -> (u64, u64) {
        let (lower, upper) = (&range.lower, range.upper.as_ref());
        if !self.salted {
            let sum = index.sum(lower, upper);
            return (sum.count, self.hasher.seal(sum.count, sum.hash));
        }
        let (mut count, mut sum) = (0, 0_u128);
        index.visit(lower, upper, |item| {
            count += 1;
            sum = sum.wrapping_add(self.hasher.hash(&item.id));
        });
        (count, self.hasher.seal(count, sum))
    }

    /// Answers for a range that differs and of which the peer holds `theirs` items.
    fn answer(&mut self, index: &Index, range: Range, theirs: u64) {
        // More than any set holds; the number comes from the peer.
        let theirs = theirs.min(1 << 48);
        let ours = self.count(index, &range);
        if theirs == 0 {
            self.give_all(index, &range, Vec::new());
            self.out.push(Part { upper: None, body: Body::Same });
            return;
        }
        if ours == 0 {
            self.outcome.need = self.outcome.need.saturating_add(theirs);
            self.out.push(Part { upper: None, body: Body::All });
            return;
        }
        match self.choose(ours, theirs, range.depth) {
            Choice::Divide => self.divide(index, range, ours),
            Choice::List => self.list(index, range),
            Choice::Sketch(cells) => self.sketch(index, range, cells),
            Choice::Ask => {
                self.say(&range, Kind::Asked, None, Body::Ask);
            }
        }
    }

    fn choose(&self, ours: u64, theirs: u64, depth: u8) -> Choice {
        let least = ours.min(theirs);
        let list = if theirs < ours / 2 { Choice::Ask } else { Choice::List };
        // A list that doesn't fit is never begun, or every session would list the same first part of it.
        let room = match list {
            Choice::Ask => u64::from(self.ours.entries_max) / 8,
            _ => (u64::from(self.theirs.entries_max) / 2).saturating_sub(self.listed_out),
        };
        if least <= LISTED || depth >= DEPTH_MAX {
            return list;
        }
        let expected = self.expected(ours.max(theirs)).max(ours.abs_diff(theirs));
        let cells = cells_for(expected);
        if least * 8 <= cells * Cell::BYTES as u64 {
            return if (if theirs < ours / 2 { theirs } else { ours }) + 256 <= room {
                list
            } else {
                Choice::Divide
            };
        }
        let fits = cells * Cell::BYTES as u64 <= u64::from(self.theirs.frame_bytes_max) / 2;
        if fits
            && expected <= SKETCHED_DIFFERENCES_MAX
            && ours <= SKETCHED_MAX
            && self.sketches_failed < SKETCHES_FAILED_MAX
        {
            return Choice::Sketch(cells as usize);
        }
        Choice::Divide
    }

    /// How many differences there are in a range of that many items, if they lie equally thick.
    fn expected(&self, items: u64) -> u64 {
        let density = (self.differences as f64 / self.suspect.max(1) as f64).min(1.0);
        (density * items as f64).ceil() as u64
    }

    /// Takes note that the guess was too low, unless it was raised since that sketch was made.
    fn sketch_failed(&mut self, items: u64, cells: usize) {
        if cells as u64 >= cells_for(self.expected(items)) * 3 / 4 {
            self.sketches_failed += 1;
            self.differences = self.differences.saturating_mul(2);
        }
    }

    /// Says something about a range that wants an answer. If that would be too much for the peer, leaves what is left
    /// of the range to the next session and says so by `false`.
    ///
    /// Half of the peer's limit is for lists, and of the other half each level has its share. So in a session that
    /// meets the limit, the first of the ranges that differ still get to their lists, and the next one goes further.
    fn say(&mut self, range: &Range, kind: Kind, last: Option<Item>, body: Body) -> bool {
        let limit = u64::from(self.theirs.entries_max);
        let fits = match &body {
            Body::List(ids) => spend(&mut self.listed_out, ids.len() as u64 + 1, limit / 2),
            Body::Sketch(cells) => spend(&mut self.listed_out, cells.len() as u64 + 1, limit / 2),
            _ => {
                let levels = self.prints_out.len();
                let level = usize::from(range.depth).min(levels - 1);
                spend(&mut self.prints_out[level], 1, limit / 2 / levels as u64)
            }
        };
        if !fits {
            self.outcome.partial = true;
            self.out.push(Part { upper: None, body: Body::Later });
            return false;
        }
        self.pending.push_back(Pending {
            lower: range.lower,
            upper: range.upper,
            depth: range.depth.saturating_add(1),
            kind,
        });
        self.out.push(Part { upper: last, body });
        true
    }

    /// Bounds that divide our items of a range evenly, `each` apart; the last is the range's own.
    fn bounds(&self, index: &Index, range: &Range, each: u64) -> Vec<Option<Item>> {
        let (from, to) = (index.rank(Some(&range.lower)), index.rank(range.upper.as_ref()));
        let mut bounds = Vec::new();
        let mut at = from + each.max(1);
        while at < to {
            if let (Some(before), Some(item)) = (index.select(at - 1), index.select(at)) {
                let bound = bound_between(Some(before), item);
                if bound > range.lower && range.upper.is_none_or(|upper| bound < upper) {
                    bounds.push(Some(bound));
                }
            }
            at += each.max(1);
        }
        bounds.push(None);
        bounds
    }

    fn divide(&mut self, index: &Index, range: Range, ours: u64) {
        let mut lower = range.lower;
        for bound in self.bounds(index, &range, ours.div_ceil(FANOUT)) {
            let part = Range { lower, upper: bound.or(range.upper), depth: range.depth };
            let (count, seal) = self.print(index, &part);
            if !self.say(&part, Kind::Open { sketched: false }, bound, Body::Print { count, seal }) {
                return;
            }
            lower = bound.unwrap_or(lower);
        }
    }

    fn list(&mut self, index: &Index, range: Range) {
        let each = u64::from(self.theirs.frame_bytes_max / 16).min(4_096);
        let mut lower = range.lower;
        for bound in self.bounds(index, &range, each) {
            let part = Range { lower, upper: bound.or(range.upper), depth: range.depth };
            let mut items = Vec::new();
            index.visit(&part.lower, part.upper.as_ref(), |item| items.push(*item));
            let ids: Vec<ShortId> = items.iter().map(|item| self.hasher.short(&item.id)).collect();
            if !self.say(&part, Kind::Listed(items), bound, Body::List(ids)) {
                return;
            }
            lower = bound.unwrap_or(lower);
        }
    }

    fn cells(&self, index: &Index, range: &Range, cells: usize) -> Vec<Cell> {
        let mut out = vec![Cell::default(); cells];
        index.visit(&range.lower, range.upper.as_ref(), |item| {
            toggle(&self.hasher, self.hasher.short(&item.id), &mut out);
        });
        out
    }

    fn sketch(&mut self, index: &Index, range: Range, cells: usize) {
        let body = Body::Sketch(self.cells(index, &range, cells));
        self.say(&range, Kind::Open { sketched: true }, None, body);
    }

    /// What the peer has and we lack of a range, from a sketch; takes note of the reverse.
    fn decode(&mut self, index: &Index, range: &Range, cells: &[Cell]) -> Option<Vec<ShortId>> {
        let count = self.count(index, range);
        if count > SKETCHED_MAX * 4 || self.wasted > index.len().saturating_mul(2) {
            return None;
        }
        self.wasted += count;
        let ours = self.cells(index, range, cells.len());
        let mut decoder = Decoder::new(self.hasher, ours);
        decoder.take(cells).ok()?;
        let mut found = decoder.finish().ok()?;
        self.wasted -= count;
        let give = self.matching(index, range, &found);
        let mut known: Vec<ShortId> = give.iter().map(|item| self.hasher.short(&item.id)).collect();
        known.sort_unstable();
        found.retain(|short| known.binary_search(short).is_err());
        self.outcome.give.extend(give);
        found.retain(|short| self.unwanted.binary_search(short).is_err());
        self.outcome.need += found.len() as u64;
        Some(found)
    }

    /// Our items of a range whose short ids are in `shorts`, which is sorted.
    fn matching(&self, index: &Index, range: &Range, shorts: &[ShortId]) -> Vec<Item> {
        let mut out = Vec::new();
        if !shorts.is_empty() {
            index.visit(&range.lower, range.upper.as_ref(), |item| {
                if shorts.binary_search(&self.hasher.short(&item.id)).is_ok() {
                    out.push(*item);
                }
            });
        }
        out
    }

    /// What we lack of a list, as runs; takes note of what the peer lacks.
    fn compare(&mut self, index: &Index, range: &Range, theirs: &[ShortId]) -> Vec<(u32, u32)> {
        let mut listed: Vec<(ShortId, bool)> = theirs.iter().map(|short| (*short, false)).collect();
        listed.sort_unstable();
        let mut common = Vec::new();
        let mut give = Vec::new();
        index.visit(&range.lower, range.upper.as_ref(), |item| {
            let short = short_of(self.hasher.hash(&item.id));
            match listed.binary_search_by_key(&short, |(short, _)| *short) {
                Ok(at) => {
                    listed[at].1 = true;
                    common.push(item.id);
                }
                Err(_) => give.push(*item),
            }
        });
        if give.len() >= BULK_MIN && common.len() <= give.len() / 2 {
            drop(give);
            self.give_all(index, range, common);
        } else {
            self.outcome.give.extend(give);
        }
        let mut runs: Vec<(u32, u32)> = Vec::new();
        let mut skipped = 0;
        for short in theirs {
            let held = listed.binary_search_by_key(short, |(short, _)| *short).is_ok_and(|at| listed[at].1);
            if held || self.unwanted.binary_search(short).is_ok() {
                skipped += 1;
                continue;
            }
            self.outcome.need += 1;
            match runs.last_mut() {
                Some((_, wanted)) if skipped == 0 => *wanted += 1,
                _ => runs.push((skipped, 1)),
            }
            skipped = 0;
        }
        runs
    }

    fn give_all(&mut self, index: &Index, range: &Range, mut except: Vec<EntryId>) {
        let (lower, upper) = (&range.lower, range.upper.as_ref());
        if self.count(index, range) >= BULK_MIN as u64 {
            except.sort_unstable();
            self.outcome.bulk.push(Bulk { from: *lower, until: range.upper, except });
        } else {
            let give = &mut self.outcome.give;
            index.visit(lower, upper, |item| give.push(*item));
        }
    }

    fn give_listed(&mut self, runs: &[(u32, u32)]) -> Result<(), SessionError> {
        let Some(Pending { kind: Kind::Listed(items), .. }) = self.pending.pop_front() else {
            return Err(SessionError::Unexpected { message: "a want list", state: "no list is open" });
        };
        let mut rest = items.as_slice();
        for (skip, take) in runs {
            let wanted = rest
                .get(*skip as usize..)
                .and_then(|rest| rest.split_at_checked(*take as usize))
                .ok_or(SessionError::OutsideRange)?;
            self.outcome.give.extend_from_slice(wanted.0);
            rest = wanted.1;
        }
        Ok(())
    }

    fn give_ids(&mut self, index: &Index, range: &Range, mut ids: Vec<ShortId>) {
        ids.sort_unstable();
        let give = self.matching(index, range, &ids);
        self.outcome.give.extend(give);
    }
}

fn cells_for(differences: u64) -> u64 {
    differences + differences / 2 + 14
}

/// Takes `units` from a budget, of which `spent` is gone.
fn spend(spent: &mut u64, units: u64, limit: u64) -> bool {
    let fits = *spent + units <= limit;
    if fits {
        *spent += units;
    }
    fits
}

/// What a part is answered with, decided after the whole message was read.
enum Reply {
    /// It differs, and the peer holds so many items.
    Print(u64),
    Ready(Part),
    List,
}
