//! A failed history made short enough to read.

use std::fmt;

use super::{
    Invocation, Moment,
    check::{Budget, Calls, Found, Model, Stuck, search},
};

/// Most calls that are shown.
const SHOWN_MAX: usize = 24;
/// Most searches that are spent on making the history shorter.
const ATTEMPTS_MAX: usize = 400;

/// Calls that no order explains.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// Each call with its times, in the order of the calls; the last ones if there are many.
    pub calls: Vec<String>,
    /// Calls before those that are shown.
    pub earlier: usize,
    /// How many answered calls could be put in order.
    pub ordered: usize,
    /// The state after those.
    pub state: String,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "no order explains these calls:")?;
        if self.earlier > 0 {
            writeln!(f, "  ({} earlier calls are not shown)", self.earlier)?;
        }
        for call in &self.calls {
            writeln!(f, "  {call}")?;
        }
        write!(f, "after {} of them the state is {}, and no other fits", self.ordered, self.state)
    }
}

type Own<M> = Vec<Invocation<<M as Model>::Input, <M as Model>::Output>>;

/// Shortens `calls`, which no order explains, and describes what is left.
pub(super) fn explain<M: Model>(
    model: &M,
    calls: &Calls<'_, M>,
    stuck: Stuck<M::State>,
    budget: &Budget<'_>,
) -> Counterexample {
    let mut shrink = Shrink { model, budget, attempts: 0, stuck };
    let mut history: Own<M> = calls.iter().map(|call| (*call).clone()).collect();
    history.sort_by_key(|call| call.call);
    let history = shrink.prefix(history);
    let history = shrink.without_reads(history);
    let earlier = history.len().saturating_sub(SHOWN_MAX);
    Counterexample {
        calls: history[earlier..].iter().map(|call| line(model, call)).collect(),
        earlier,
        ordered: shrink.stuck.ordered,
        state: format!("{:?}", shrink.stuck.state),
    }
}

fn line<M: Model>(model: &M, call: &Invocation<M::Input, M::Output>) -> String {
    let end = call.answer.as_ref().map_or_else(|| "open".to_owned(), |answer| answer.at.to_string());
    format!("client {:<3} {} to {end}: {}", call.client, call.call, model.describe(call))
}

struct Shrink<'m, M: Model> {
    model: &'m M,
    budget: &'m Budget<'m>,
    attempts: usize,
    stuck: Stuck<M::State>,
}

impl<M: Model> Shrink<'_, M> {
    /// Whether no order explains `history`, as far as the budget can tell.
    fn fails(&mut self, history: &Own<M>) -> bool {
        if self.attempts >= ATTEMPTS_MAX {
            return false;
        }
        self.attempts += 1;
        let mut steps = self.budget.steps_max;
        match search(self.model, &history.iter().collect(), self.budget, &mut steps) {
            Found::Nothing(stuck) => {
                self.stuck = stuck;
                true
            }
            Found::Order | Found::Exhausted(_) => false,
        }
    }

    /// The shortest beginning that fails. What is not answered by its end becomes open. If a beginning
    /// fails, each longer one does, so halving finds it.
    fn prefix(&mut self, history: Own<M>) -> Own<M> {
        let mut ends: Vec<Moment> =
            history.iter().filter_map(|call| Some(call.answer.as_ref()?.at)).collect();
        ends.sort_unstable();
        let (mut low, mut high) = (0, ends.len().saturating_sub(1));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.fails(&until(&history, ends[middle])) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let Some(end) = ends.get(high) else { return history };
        let short = until(&history, *end);
        if self.fails(&short) { short } else { history }
    }

    /// Leaves out calls that only read, in ever smaller pieces, as long as it still fails.
    fn without_reads(&mut self, mut history: Own<M>) -> Own<M> {
        let mut piece = history.len();
        while piece > 0 && self.attempts < ATTEMPTS_MAX {
            let mut start = 0;
            while start < history.len() {
                let end = (start + piece).min(history.len());
                let keep = |index: usize, call: &Invocation<M::Input, M::Output>| {
                    !(start..end).contains(&index) || !self.model.only_reads(call)
                };
                let shorter: Own<M> =
                    history.iter().enumerate().filter(|(i, c)| keep(*i, c)).map(|(_, c)| c.clone()).collect();
                if shorter.len() < history.len() && self.fails(&shorter) {
                    history = shorter;
                } else {
                    start = end;
                }
            }
            piece /= 2;
        }
        // The last look was at a history that does not fail, perhaps: look once more at this one.
        self.attempts = 0;
        self.fails(&history);
        history
    }
}

fn until<I: Clone, O: Clone>(history: &[Invocation<I, O>], end: Moment) -> Vec<Invocation<I, O>> {
    let begun = history.iter().filter(|call| call.call <= end);
    begun
        .map(|call| Invocation {
            answer: call.answer.clone().filter(|answer| answer.at <= end),
            ..call.clone()
        })
        .collect()
}
