//! The two sides of a reconciliation of one dataset.
//!
//! The initiator says hello with its root and some bits of its sketch. From these the responder sees whether the sets
//! are equal, whether a cursor serves, about how many differences there are and whether only the newest items differ,
//! and answers at once with what is cheapest. Each method ends in the next one: cells that don't decode by their cap
//! in ranges, a decoded difference that doesn't explain both roots in ranges under a fresh key, and ranges in lists.
//! So a session ends after a bounded number of messages, with an outcome or an error, whatever the peer sends.

use std::collections::VecDeque;

use super::{
    decode::Decoder,
    index::Index,
    key::{ItemHasher, Nonce, ShortId, session_hasher},
    limits::{Limits, SessionError},
    message::{Hello, Message, Plan, Welcome},
    narrow::Narrow,
    outcome::{Cost, Method, Outcome, shorts_of},
    plan,
    probe::Probes,
    root::{Arrival, Root, SetHash},
    sketch::Cell,
};
use crate::{EntryId, Item};

/// How a session is to be held.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    /// What we accept. Stated to the peer.
    pub limits: Limits,
    /// How far we have followed the peer's arrivals; of use to an initiator only.
    pub cursor: Option<Arrival>,
    /// Compare under a fresh key at once: after a session whose outcome was applied, and roots still differ, or an
    /// audit that failed though roots are equal.
    pub salted: bool,
    /// Entries that we lack but don't want now, such as deferred ones. They are left out of what we ask for; a peer
    /// that compares a list of ours gives them all the same.
    pub unwanted: Vec<EntryId>,
}

/// Cells in the first message of a burst; later ones are longer, up to the frame limit.
const FIRST_CELLS: usize = 80;

enum State {
    /// Initiator: said hello.
    Greeted(Box<Hello>),
    /// Responder: waits for a hello.
    Idle,
    /// Initiator: takes cells.
    Decoding(Box<Decoder>),
    /// Responder: sends cells, and waits for what the initiator makes of them.
    Streaming(Box<Stream>),
    /// Initiator: has sent what it found.
    Proving(Outcome),
    /// Initiator: has asked for ranges and takes no more cells.
    FallingBack {
        salted: bool,
    },
    /// Both: exchange parts.
    Narrowing(Box<Narrow>),
    Done(Outcome),
    Failed,
}

struct Stream {
    hello: Box<Hello>,
    root: Root,
    cells: Vec<Cell>,
    at: usize,
    until: usize,
    burst: usize,
    want: Vec<ShortId>,
    unwanted: Vec<ShortId>,
}

/// One side of a session: a plain value. Feed what comes to [`Session::handle_frame`], send what
/// [`Session::poll_transmit`] gives until it gives none, and stop when [`Session::outcome`] is there.
///
/// Messages must arrive whole and in order; a session that loses one can't go on, and another is begun. The index may
/// change in between: entries that come or go while a session runs may be found or not.
///
/// ```
/// use mesh_core::Hlc;
/// use mesh_sync::{EntryId, Item, reconcile::{EpochKey, Index, Nonce, Session, SessionOptions}};
/// let key = EpochKey::derive("orders", 1);
/// let (mut ours, theirs) = (Index::new(key), Index::new(key));
/// let item = Item { hlc: Hlc::from_bits(1), id: EntryId([7; 32]) };
/// ours.insert(item);
///
/// let mut us = Session::initiate(&ours, SessionOptions::default(), Nonce([1; 16]));
/// let mut them = Session::respond(SessionOptions::default(), Nonce([2; 16]));
/// while us.outcome().is_none() || them.outcome().is_none() {
///     while let Some(frame) = us.poll_transmit() {
///         them.handle_frame(&theirs, &frame)?;
///     }
///     while let Some(frame) = them.poll_transmit() {
///         us.handle_frame(&ours, &frame)?;
///     }
/// }
/// assert_eq!(us.outcome().map(|outcome| outcome.give_all(&ours)), Some(vec![item]));
/// # Ok::<(), mesh_sync::reconcile::SessionError>(())
/// ```
pub struct Session {
    options: SessionOptions,
    nonce: Nonce,
    initiator: bool,
    state: State,
    outbox: VecDeque<Message>,
    theirs: Limits,
    key: Option<ItemHasher>,
    /// Cells that were received.
    symbols: u64,
    spoke: bool,
    known: bool,
    cost: Cost,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("state", &self.state.name()).field("cost", &self.cost).finish()
    }
}

impl State {
    fn name(&self) -> &'static str {
        match self {
            State::Greeted(_) => "waiting for a welcome",
            State::Idle => "waiting for a hello",
            State::Decoding(_) => "decoding a sketch",
            State::Streaming(_) => "sending a sketch",
            State::Proving(_) => "waiting for a settlement",
            State::FallingBack { .. } => "waiting for ranges",
            State::Narrowing(_) => "exchanging ranges",
            State::Done(_) => "the session is over",
            State::Failed => "the session has failed",
        }
    }
}

impl Session {
    /// A session that we begin. The nonce must be fresh and random.
    pub fn initiate(index: &Index, options: SessionOptions, nonce: Nonce) -> Self {
        let hello = Box::new(Hello {
            key_tag: index.key().tag(),
            root: index.root(),
            nonce,
            limits: options.limits,
            cursor: options.cursor,
            salted: options.salted,
            probes: Probes::of(index.sketch().cells()),
            tails: plan::tails(index, nonce),
        });
        let mut session = Self::new(options, nonce, true, State::Greeted(hello.clone()));
        session.outbox.push_back(Message::Hello(hello));
        session
    }

    /// A session that the peer begins. The nonce must be fresh and random.
    pub fn respond(options: SessionOptions, nonce: Nonce) -> Self {
        Self::new(options, nonce, false, State::Idle)
    }

    fn new(options: SessionOptions, nonce: Nonce, initiator: bool, state: State) -> Self {
        Self {
            theirs: options.limits,
            options,
            nonce,
            initiator,
            state,
            outbox: VecDeque::new(),
            key: None,
            symbols: 0,
            spoke: false,
            known: false,
            cost: Cost::default(),
        }
    }

    /// What was found out, once the session is over. Frames that are left to [`Session::poll_transmit`] still have to
    /// be sent.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.state {
            State::Done(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Like [`Session::outcome`], by value.
    pub fn into_outcome(self) -> Option<Outcome> {
        match self.state {
            State::Done(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// What it has cost so far.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// About how much memory it holds.
    pub fn memory_bytes(&self) -> usize {
        let cell = size_of::<Cell>();
        size_of::<Self>()
            + match &self.state {
                State::Decoding(decoder) => decoder.memory_bytes(),
                State::Streaming(stream) => stream.cells.len() * cell + (stream.want.capacity() * 8),
                State::Narrowing(narrow) => narrow.memory_bytes(),
                State::Proving(outcome) | State::Done(outcome) => outcome.memory_bytes(),
                State::Greeted(_) | State::Idle | State::FallingBack { .. } | State::Failed => 0,
            }
    }

    /// The next frame to send.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        let message = self.outbox.pop_front().or_else(|| self.next_symbols())?;
        let frame = message.encode();
        self.spoke = true;
        self.cost.bytes_sent += frame.len() as u64;
        Some(frame)
    }

    /// Takes a frame of the peer.
    ///
    /// # Errors
    ///
    /// [`SessionError`] if the session is over by that. Except when the peer gave up, a refusal is left to
    /// [`Session::poll_transmit`].
    pub fn handle_frame(&mut self, index: &Index, frame: &[u8]) -> Result<(), SessionError> {
        self.cost.bytes_received += frame.len() as u64;
        if !self.known {
            self.cost.round_trips += u32::from(std::mem::take(&mut self.spoke));
            self.cost.bytes_known = self.cost.bytes_sent + self.cost.bytes_received;
        }
        let limit = u64::from(self.options.limits.frame_bytes_max);
        let result = if frame.len() as u64 > limit {
            Err(SessionError::Limit { what: "bytes in a frame", limit })
        } else {
            Message::decode(frame).map_err(SessionError::from).and_then(|message| self.handle(index, message))
        };
        if let Err(error) = &result
            && !matches!(error, SessionError::Over)
        {
            self.state = State::Failed;
            self.outbox.clear();
            self.outbox.extend(error.refusal().map(Message::Refused));
        }
        result
    }

    fn handle(&mut self, index: &Index, message: Message) -> Result<(), SessionError> {
        if let Message::Symbols { cells, .. } = &message {
            self.symbols += cells.len().max(1) as u64;
            let limit = u64::from(self.options.limits.symbols_max) + 1_024;
            if self.symbols > limit {
                return Err(SessionError::Limit { what: "symbols", limit });
            }
        }
        let unexpected = SessionError::Unexpected { message: message.name(), state: self.state.name() };
        match (std::mem::replace(&mut self.state, State::Failed), message) {
            (_, Message::Refused(refusal)) => Err(SessionError::Refused(refusal)),
            (State::Idle, Message::Hello(hello)) => self.on_hello(index, hello),
            (State::Greeted(hello), Message::Welcome(welcome)) => self.on_welcome(index, &hello, &welcome),
            (State::Decoding(decoder), Message::Symbols { cells, last }) => {
                self.on_symbols(index, decoder, &cells, last)
            }
            (State::Streaming(stream), Message::More(symbols)) => self.on_more(stream, symbols),
            (State::Streaming(stream), Message::Found { want, unwanted, proof }) => {
                self.on_found(index, stream, want, unwanted, proof)
            }
            (State::Streaming(stream), Message::Fallback { salted }) => {
                // What doesn't decode is more than was thought.
                self.cost.estimate = self.cost.estimate.max(stream.at as u64);
                self.begin_ranges(index, salted, Item::START, stream.hello.root.count);
                Ok(())
            }
            (State::Proving(outcome), Message::Settled) => {
                self.state = State::Done(outcome);
                Ok(())
            }
            (State::Proving(_), Message::Fallback { salted }) => {
                self.known = false;
                self.expect_ranges(index, salted, Item::START);
                Ok(())
            }
            (State::FallingBack { salted }, Message::Parts(parts)) => {
                self.expect_ranges(index, salted, Item::START);
                self.on_parts(index, parts)
            }
            (State::Narrowing(narrow), Message::Parts(parts)) => {
                self.state = State::Narrowing(narrow);
                self.on_parts(index, parts)
            }
            // Cells that were under way when we had enough.
            (state @ (State::Proving(_) | State::FallingBack { .. }), Message::Symbols { .. }) => {
                self.state = state;
                Ok(())
            }
            (state @ State::Done(_), Message::Symbols { .. }) if self.initiator => {
                self.state = state;
                Ok(())
            }
            (state @ (State::Done(_) | State::Failed), _) => {
                self.state = state;
                Err(SessionError::Over)
            }
            _ => Err(unexpected),
        }
    }

    fn on_hello(&mut self, index: &Index, hello: Box<Hello>) -> Result<(), SessionError> {
        self.theirs = hello.limits;
        self.key = Some(session_hasher(hello.nonce, self.nonce));
        let root = index.root();
        let (plan, estimate) = plan::weigh(index, &hello, self.options.salted);
        self.cost.estimate = estimate;
        self.outbox.push_back(Message::Welcome(Welcome {
            root: (plan == Plan::Equal).then_some(root),
            nonce: self.nonce,
            limits: self.options.limits,
            estimate: self.cost.estimate,
            plan,
        }));
        match plan {
            Plan::Equal => self.state = State::Done(Outcome::new(Method::Equal)),
            Plan::Since => {
                let outcome = Outcome { since: hello.cursor, ..Outcome::new(Method::Cursor) };
                self.state = State::Done(outcome);
            }
            Plan::Sketch => {
                let cap = index.sketch().cells().len().min(hello.limits.symbols_max as usize);
                self.state = State::Streaming(Box::new(Stream {
                    root,
                    cells: index.sketch().cells()[..cap].to_vec(),
                    at: 0,
                    until: plan::symbols_for(self.cost.estimate).min(cap),
                    burst: FIRST_CELLS,
                    want: Vec::new(),
                    unwanted: Vec::new(),
                    hello,
                }));
            }
            Plan::Ranges { salted, tail } => {
                let (lower, theirs) = match tail {
                    Some(tail) => (hello.tails[usize::from(tail)].from, plan::tail_items(tail)),
                    None => (Item::START, hello.root.count),
                };
                self.begin_ranges(index, salted, lower, theirs);
            }
        }
        Ok(())
    }

    fn on_welcome(&mut self, index: &Index, hello: &Hello, welcome: &Welcome) -> Result<(), SessionError> {
        self.theirs = welcome.limits;
        self.key = Some(session_hasher(self.nonce, welcome.nonce));
        self.cost.estimate = welcome.estimate;
        let salted = matches!(welcome.plan, Plan::Ranges { salted: true, .. });
        if self.options.salted && !salted {
            return Err(SessionError::Unexpected { message: "a plan", state: "a fresh key was asked for" });
        }
        match welcome.plan {
            Plan::Equal if !welcome.root.is_some_and(|root| root.same_set(&hello.root)) => {
                return Err(SessionError::Unexpected {
                    message: "a plan for equal sets",
                    state: "roots differ",
                });
            }
            Plan::Since if hello.cursor.is_none() => {
                return Err(SessionError::Unexpected { message: "a plan", state: "no cursor was told" });
            }
            Plan::Equal => self.state = State::Done(Outcome::new(Method::Equal)),
            Plan::Since => {
                let outcome = Outcome { since: hello.cursor, ..Outcome::new(Method::Cursor) };
                self.state = State::Done(outcome);
            }
            Plan::Sketch => {
                let cap = index.sketch().cells().len().min(self.options.limits.symbols_max as usize);
                let ours = index.sketch().cells()[..cap].to_vec();
                self.state = State::Decoding(Box::new(Decoder::new(*index.hasher(), ours)));
            }
            Plan::Ranges { salted, tail } => {
                let lower = match tail {
                    None => Item::START,
                    Some(tail) => hello.tails.get(usize::from(tail)).ok_or(SessionError::OutsideRange)?.from,
                };
                self.expect_ranges(index, salted, lower);
            }
        }
        Ok(())
    }

    fn on_symbols(
        &mut self,
        index: &Index,
        mut decoder: Box<Decoder>,
        cells: &[Cell],
        last: bool,
    ) -> Result<(), SessionError> {
        let before = decoder.taken();
        let taken = decoder.take(cells);
        if taken.is_ok() && decoder.is_complete() {
            return self.on_decoded(index, &decoder);
        }
        if taken.is_err() || decoder.room() == 0 || (last && decoder.taken() == before) {
            self.state = State::FallingBack { salted: false };
            self.outbox.push_back(Message::Fallback { salted: false });
            return Ok(());
        }
        if last {
            let more = (decoder.taken() / 3).max(FIRST_CELLS).min(decoder.room());
            self.outbox.push_back(Message::More(more as u32));
        }
        self.state = State::Decoding(decoder);
        Ok(())
    }

    fn on_decoded(&mut self, index: &Index, decoder: &Decoder) -> Result<(), SessionError> {
        // Roots that differ without a difference: ids that collide, or sums that were forged.
        let found = decoder.finish().unwrap_or_default();
        if found.is_empty() {
            self.state = State::FallingBack { salted: true };
            self.outbox.push_back(Message::Fallback { salted: true });
            return Ok(());
        }
        let hasher = index.hasher();
        let refused = shorts_of(hasher, &self.options.unwanted);
        let mut outcome = Outcome::new(Method::Sketch);
        let (mut want, mut unwanted) = (Vec::new(), Vec::new());
        for short in found {
            match index.resolve(short) {
                Some(item) => outcome.give.push(item),
                None if refused.binary_search(&short).is_ok() => unwanted.push(short),
                None => want.push(short),
            }
        }
        outcome.give.sort_unstable();
        outcome.need = want.len() as u64;
        let sum = SetHash::of(hasher, outcome.give.iter().map(|item| &item.id));
        let each = (self.theirs.frame_bytes_max as usize - 64) / 8;
        let mut frames: Vec<Message> = Vec::new();
        frames.extend(want.chunks(each).map(|ids| found_message(ids, &[])));
        frames.extend(unwanted.chunks(each).map(|ids| found_message(&[], ids)));
        if frames.is_empty() {
            frames.push(found_message(&[], &[]));
        }
        if let Some(Message::Found { proof, .. }) = frames.last_mut() {
            *proof = Some((outcome.give.len() as u64, sum));
        }
        self.outbox.extend(frames);
        self.known = true;
        self.state = State::Proving(outcome);
        Ok(())
    }

    fn on_more(&mut self, mut stream: Box<Stream>, symbols: u32) -> Result<(), SessionError> {
        let limit = stream.cells.len();
        if stream.at >= limit {
            return Err(SessionError::Limit { what: "symbols", limit: limit as u64 });
        }
        stream.until = stream.until.saturating_add(symbols.max(1) as usize).min(limit);
        self.state = State::Streaming(stream);
        Ok(())
    }

    fn on_found(
        &mut self,
        index: &Index,
        mut stream: Box<Stream>,
        want: Vec<ShortId>,
        unwanted: Vec<ShortId>,
        proof: Option<(u64, SetHash)>,
    ) -> Result<(), SessionError> {
        // No more items can be in a difference than cells were sent.
        let limit = stream.cells.len() as u64;
        stream.want.extend(want);
        stream.unwanted.extend(unwanted);
        if (stream.want.len() + stream.unwanted.len()) as u64 > limit {
            return Err(SessionError::Limit { what: "wanted entries", limit });
        }
        // Whatever was left to send is not needed any more.
        stream.until = stream.at;
        let Some((given, sum)) = proof else {
            self.state = State::Streaming(stream);
            return Ok(());
        };
        let resolve = |shorts: &[ShortId]| -> Option<Vec<Item>> {
            let mut items = shorts.iter().map(|short| index.resolve(*short)).collect::<Option<Vec<_>>>()?;
            items.sort_unstable();
            items.windows(2).all(|pair| pair[0] != pair[1]).then_some(items)
        };
        let resolved = resolve(&stream.want).zip(resolve(&stream.unwanted));
        let explained = resolved.filter(|(want, unwanted)| {
            let ours = want.iter().chain(unwanted).map(|item| &item.id);
            let mut hash = stream.root.hash;
            hash.subtract(SetHash::of(index.hasher(), ours).0);
            hash.add(sum.0);
            let count = stream.root.count.wrapping_sub((want.len() + unwanted.len()) as u64);
            hash == stream.hello.root.hash && count.wrapping_add(given) == stream.hello.root.count
        });
        match explained {
            Some((give, _)) => {
                self.outbox.push_back(Message::Settled);
                self.state = State::Done(Outcome { give, need: given, ..Outcome::new(Method::Sketch) });
            }
            None => {
                self.outbox.push_back(Message::Fallback { salted: true });
                self.begin_ranges(index, true, Item::START, stream.hello.root.count);
            }
        }
        Ok(())
    }

    fn narrow(&self, index: &Index, salted: bool) -> Narrow {
        let method = if salted { Method::SaltedRanges } else { Method::Ranges };
        let differences = match salted {
            true => self.cost.estimate.min(index.len()).max(plan::SALTED_DIFFERENCES),
            false => self.cost.estimate,
        };
        Narrow::new(
            self.key.unwrap_or(*index.hasher()),
            salted,
            (self.options.limits, self.theirs),
            &self.options.unwanted,
            differences,
            Outcome::new(method),
        )
    }

    fn expect_ranges(&mut self, index: &Index, salted: bool, lower: Item) {
        let mut narrow = self.narrow(index, salted);
        narrow.expect(index, lower);
        self.state = State::Narrowing(Box::new(narrow));
    }

    fn begin_ranges(&mut self, index: &Index, salted: bool, lower: Item, theirs: u64) {
        let mut narrow = self.narrow(index, salted);
        narrow.begin(index, lower, theirs);
        self.state = State::Narrowing(Box::new(narrow));
        self.after_parts();
    }

    fn on_parts(&mut self, index: &Index, parts: Vec<super::Part>) -> Result<(), SessionError> {
        if let State::Narrowing(narrow) = &mut self.state {
            narrow.take(index, parts)?;
        }
        self.after_parts();
        Ok(())
    }

    fn after_parts(&mut self) {
        if let State::Narrowing(narrow) = &mut self.state {
            self.outbox.extend(narrow.drain().into_iter().map(Message::Parts));
            if narrow.is_done() {
                self.known = true;
                self.state = State::Done(narrow.finish());
            }
        }
    }

    fn next_symbols(&mut self) -> Option<Message> {
        let State::Streaming(stream) = &mut self.state else { return None };
        if stream.at >= stream.until {
            return None;
        }
        let frame = (self.theirs.frame_bytes_max as usize - 16) / Cell::BYTES;
        let end = (stream.at + stream.burst.min(frame)).min(stream.until);
        stream.burst = stream.burst * 5 / 4;
        let cells = stream.cells[stream.at..end].to_vec();
        stream.at = end;
        Some(Message::Symbols { cells, last: end == stream.until })
    }
}

fn found_message(want: &[ShortId], unwanted: &[ShortId]) -> Message {
    Message::Found { want: want.to_vec(), unwanted: unwanted.to_vec(), proof: None }
}
