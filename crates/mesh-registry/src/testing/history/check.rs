//! The search for an order that explains a history.
//!
//! It is that of Wing and Gong ("Testing and verifying concurrent objects", 1993) with Lowe's memory
//! of what was tried ("Testing for linearizability", 2017): a set of operations that led to a state
//! is not explored twice. Histories are cut into parts that have nothing to do with each other first
//! (Horn and Kroening, "Faster linearizability checking via P-compositionality", 2015).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use mesh_core::{Clock, Instant};

use super::{
    Counterexample, Invocation,
    done::{Compact, Done},
    explain,
};

/// What an object does if calls come one after the other.
pub trait Model {
    /// All that later answers depend on.
    type State: Clone + Ord + Debug;
    /// What is asked of it.
    type Input: Clone + Debug;
    /// What it answers.
    type Output: Clone + Debug;
    /// A part of the object. Calls that share no part, not even by way of others, are judged apart.
    type Part: Clone + Ord;

    /// The state before the first call.
    fn initial(&self) -> Self::State;

    /// The state after a call that takes effect in `state` and gets the answer it got; `None` if the
    /// object would not have answered so. For a call without an answer: the state if it took effect,
    /// `None` if it then changed nothing.
    fn step(
        &self,
        state: &Self::State,
        invocation: &Invocation<Self::Input, Self::Output>,
    ) -> Option<Self::State>;

    /// The parts that a call looks at or changes.
    fn parts(&self, input: &Self::Input) -> Vec<Self::Part>;

    /// Whether the call can't change anything for others. Such a call may be left out of a failed
    /// history, to make it shorter.
    fn only_reads(&self, invocation: &Invocation<Self::Input, Self::Output>) -> bool;

    /// Where the call probably belongs in the order, as a number. It guides the search and does not
    /// change the verdict.
    fn hint(&self, _: &Invocation<Self::Input, Self::Output>) -> Option<u64> {
        None
    }

    /// The call and its answer, for people.
    fn describe(&self, invocation: &Invocation<Self::Input, Self::Output>) -> String {
        match invocation.output() {
            Some(output) => format!("{:?} -> {output:?}", invocation.input),
            None => format!("{:?} -> unknown", invocation.input),
        }
    }
}

/// How far a search may go. The problem is NP-complete: without a bound a bad history could take for ever.
#[derive(Clone, Copy)]
pub struct Budget<'c> {
    /// Most calls of [`Model::step`].
    pub steps_max: u64,
    /// Most states that are remembered at a time.
    pub states_max: usize,
    /// A time at which to give up.
    pub deadline: Option<(&'c dyn Clock, Instant)>,
}

impl Default for Budget<'_> {
    /// Ten million steps and a million states, no deadline.
    fn default() -> Self {
        Self { steps_max: 10_000_000, states_max: 1_000_000, deadline: None }
    }
}

/// Whether a history is linearizable.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// There is an order that explains it.
    Linearizable,
    /// There is none.
    Violation(Box<Counterexample>),
    /// The budget ended first. Neither can be said.
    Unknown {
        /// What ended, and where.
        reason: String,
    },
}

impl Verdict {
    /// Whether an order was found.
    pub fn is_linearizable(&self) -> bool {
        matches!(self, Self::Linearizable)
    }

    /// Nothing if the history is linearizable, else what to show.
    ///
    /// # Errors
    ///
    /// The counterexample or the reason why nothing can be said.
    pub fn into_result(self) -> Result<(), String> {
        match self {
            Self::Linearizable => Ok(()),
            Self::Violation(example) => Err(example.to_string()),
            Self::Unknown { reason } => Err(format!("nothing can be said: {reason}")),
        }
    }
}

pub(super) type Calls<'h, M> = Vec<&'h Invocation<<M as Model>::Input, <M as Model>::Output>>;

/// Judges a history. Its order does not matter.
///
/// ```
/// use mesh_registry::testing::history::{Budget, Invocation, Moment, RegisterCall, RegisterReply, Registers, check};
/// let key = mesh_core::store::Key::new("a")?;
/// let write = Invocation::answered(
///     1, Moment::at(0), RegisterCall::put(key.clone(), "1"), Moment::at(10), RegisterReply::done(None),
/// );
/// let stale = Invocation::answered(
///     2, Moment::at(20), RegisterCall::get(key), Moment::at(30), RegisterReply::got(None),
/// );
/// assert!(!check(&Registers, &[write, stale], &Budget::default()).is_linearizable());
/// # Ok::<(), mesh_core::store::KeyError>(())
/// ```
pub fn check<M: Model>(
    model: &M,
    history: &[Invocation<M::Input, M::Output>],
    budget: &Budget<'_>,
) -> Verdict {
    let mut steps_left = budget.steps_max;
    let mut unknown = None;
    for calls in components(model, history) {
        let total = calls.len();
        match search(model, &calls, budget, &mut steps_left) {
            Found::Order => {}
            Found::Nothing(stuck) => {
                return Verdict::Violation(Box::new(explain::explain(model, &calls, stuck, budget)));
            }
            Found::Exhausted(what) => {
                unknown.get_or_insert_with(|| format!("{what}, in a part of {total} calls"));
            }
        }
    }
    unknown.map_or(Verdict::Linearizable, |reason| Verdict::Unknown { reason })
}

/// The calls that have to be judged together.
fn components<'h, M: Model>(model: &M, history: &'h [Invocation<M::Input, M::Output>]) -> Vec<Calls<'h, M>> {
    let mut parent: Vec<usize> = (0..history.len()).collect();
    let mut first: BTreeMap<M::Part, usize> = BTreeMap::new();
    for (index, invocation) in history.iter().enumerate() {
        for part in model.parts(&invocation.input) {
            let other = *first.entry(part).or_insert(index);
            let (a, b) = (root(&mut parent, other), root(&mut parent, index));
            parent[a.max(b)] = a.min(b);
        }
    }
    let mut groups: BTreeMap<usize, Calls<'h, M>> = BTreeMap::new();
    for (index, invocation) in history.iter().enumerate() {
        groups.entry(root(&mut parent, index)).or_default().push(invocation);
    }
    groups.into_values().collect()
}

fn root(parent: &mut [usize], mut of: usize) -> usize {
    while parent[of] != of {
        parent[of] = parent[parent[of]];
        of = parent[of];
    }
    of
}

/// How a search ended.
pub(super) enum Found<S> {
    /// With an order.
    Order,
    /// There is none.
    Nothing(Stuck<S>),
    /// Too early.
    Exhausted(String),
}

/// Where the search got furthest before there was no way on.
#[derive(Clone, Debug)]
pub(super) struct Stuck<S> {
    /// How many answered calls were in order.
    pub(super) ordered: usize,
    /// The state after them.
    pub(super) state: S,
}

/// One step of the order: the state before it, and what may come next.
struct Frame<S> {
    state: S,
    candidates: Vec<usize>,
    next: usize,
    /// The call that led here.
    took: Option<usize>,
}

/// Looks for an order of `calls`. Answered calls come first in its numbering, sorted by call; then the open ones.
pub(super) fn search<'h, M: Model>(
    model: &'h M,
    calls: &Calls<'h, M>,
    budget: &Budget<'_>,
    steps_left: &mut u64,
) -> Found<M::State> {
    let search = Search::new(model, calls);
    let (mut closed, mut open) = (Done::none_of(search.closed.len()), Done::none_of(search.open.len()));
    if closed.is_full() {
        return Found::Order;
    }
    let mut tried: BTreeSet<(Compact, Compact, M::State)> = BTreeSet::new();
    let initial = model.initial();
    let mut stuck = Stuck { ordered: 0, state: initial.clone() };
    let candidates = search.candidates(&closed, &open, &initial);
    let mut stack = vec![Frame { state: initial, candidates, next: 0, took: None }];
    while let Some(frame) = stack.last_mut() {
        let Some(candidate) = frame.candidates.get(frame.next).copied() else {
            if closed.len() > stuck.ordered {
                stuck = Stuck { ordered: closed.len(), state: frame.state.clone() };
            }
            if let Some(took) = frame.took {
                search.set(took, &mut closed, &mut open, false);
            }
            stack.pop();
            continue;
        };
        frame.next += 1;
        if let Some(why) = spent(budget, steps_left, tried.len()) {
            return Found::Exhausted(why);
        }
        let Some(state) = model.step(&frame.state, search.call(candidate)) else { continue };
        search.set(candidate, &mut closed, &mut open, true);
        if closed.is_full() {
            return Found::Order;
        }
        if tried.insert((closed.compact(), open.compact(), state.clone())) {
            let candidates = search.candidates(&closed, &open, &state);
            stack.push(Frame { state, candidates, next: 0, took: Some(candidate) });
        } else {
            search.set(candidate, &mut closed, &mut open, false);
        }
    }
    Found::Nothing(stuck)
}

/// Between two looks at the clock.
const STEPS_PER_LOOK: u64 = 1024;

fn spent(budget: &Budget<'_>, steps_left: &mut u64, states: usize) -> Option<String> {
    if *steps_left == 0 {
        return Some(format!("no order was found in {} steps", budget.steps_max));
    }
    *steps_left -= 1;
    if states >= budget.states_max {
        return Some(format!("no order was found among {} states", budget.states_max));
    }
    let (clock, deadline) = budget.deadline?;
    let late = steps_left.is_multiple_of(STEPS_PER_LOOK) && clock.now() >= deadline;
    late.then(|| format!("no order was found before {deadline:?}"))
}

struct Search<'h, M: Model> {
    model: &'h M,
    /// Answered calls, sorted by call.
    closed: Calls<'h, M>,
    /// Which of them change nothing for others.
    reads: Vec<bool>,
    /// When each was answered, in ticks.
    returns: Vec<u64>,
    /// Where each probably belongs.
    hints: Vec<(u64, u64)>,
    /// Calls of unknown outcome, sorted by call.
    open: Calls<'h, M>,
}

impl<'h, M: Model> Search<'h, M> {
    fn new(model: &'h M, calls: &Calls<'h, M>) -> Self {
        let (mut closed, mut open): (Calls<'h, M>, Calls<'h, M>) =
            calls.iter().copied().partition(|call| call.answer.is_some());
        closed.sort_by_key(|call| call.call);
        open.sort_by_key(|call| call.call);
        open.retain(|call| !model.only_reads(call));
        let returns: Vec<u64> =
            closed.iter().map(|call| call.answer.as_ref().map_or(u64::MAX, |a| a.at.tick)).collect();
        let hints =
            closed.iter().zip(&returns).map(|(call, end)| (model.hint(call).unwrap_or(0), *end)).collect();
        let reads = closed.iter().map(|call| model.only_reads(call)).collect();
        Self { model, closed, reads, returns, hints, open }
    }

    fn call(&self, number: usize) -> &'h Invocation<M::Input, M::Output> {
        match number.checked_sub(self.closed.len()) {
            None => self.closed[number],
            Some(open) => self.open[open],
        }
    }

    fn set(&self, number: usize, closed: &mut Done, open: &mut Done, to: bool) {
        let (done, number) = match number.checked_sub(self.closed.len()) {
            None => (closed, number),
            Some(number) => (open, number),
        };
        if to { done.insert(number) } else { done.remove(number) }
    }

    /// The calls that may come next: those made before the first pending return. Open ones come last,
    /// since most of the time they are not needed.
    ///
    /// A read that fits now may come now: if an order has it later, moving it here leaves all others as they
    /// are. So it is the only candidate. One that tells the model more, and so makes it another state, does
    /// not count.
    fn candidates(&self, closed: &Done, open: &Done, state: &M::State) -> Vec<usize> {
        let mut first_return = u64::MAX;
        let mut candidates = Vec::new();
        for (number, call) in self.closed.iter().enumerate().skip(closed.low()) {
            if call.call.tick > first_return {
                break;
            }
            if !closed.contains(number) {
                first_return = first_return.min(self.returns[number]);
                candidates.push(number);
            }
        }
        let fits =
            |n: &&usize| self.reads[**n] && self.model.step(state, self.closed[**n]).as_ref() == Some(state);
        if let Some(read) = candidates.iter().find(fits) {
            return vec![*read];
        }
        candidates.sort_by_key(|number| self.hints[*number]);
        let offset = self.closed.len();
        let pending = self.open.iter().enumerate().skip(open.low());
        let pending = pending.take_while(|(_, call)| call.call.tick <= first_return);
        candidates.extend(pending.filter(|(n, _)| !open.contains(*n)).map(|(n, _)| offset + n));
        candidates
    }
}
