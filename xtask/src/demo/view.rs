//! What each node says about the others, as it says so.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Result, bail};
use serde_json::Value;

use super::{
    cluster::Cluster,
    interrupt::{Interrupt, TICK},
    process::Lines,
};
use crate::steps::Stopwatch;

/// The states of all members in the eyes of all observers.
#[derive(Debug, Default)]
pub(super) struct View {
    states: BTreeMap<(String, String), String>,
}

impl View {
    /// Whether `observer` last said this state of `peer`.
    pub(super) fn is(&self, observer: &str, peer: &str, state: &str) -> bool {
        let key = (observer.to_owned(), peer.to_owned());
        self.states.get(&key).is_some_and(|known| known == state)
    }

    /// Takes in one line of a watch: every member in it, with its state.
    fn learn(&mut self, observer: &str, line: &Value) {
        match line {
            Value::Object(fields) => {
                if let (Some(peer), Some(state)) = (line["node_id"].as_str(), line["state"].as_str()) {
                    self.states.insert((observer.to_owned(), peer.to_owned()), state.to_owned());
                }
                fields.values().for_each(|value| self.learn(observer, value));
            }
            Value::Array(items) => items.iter().for_each(|item| self.learn(observer, item)),
            _ => {}
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    view: Mutex<View>,
    changed: Condvar,
}

impl Shared {
    /// A thread that panicked leaves states behind that are still true.
    fn lock(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A watch on each node.
#[derive(Debug)]
pub(super) struct Views {
    shared: Arc<Shared>,
    watches: Vec<Lines>,
    interrupt: Interrupt,
}

impl Views {
    /// Starts `mesh peers list --watch` against every node.
    pub(super) fn open(cluster: &Cluster, interrupt: &Interrupt) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut watches = Vec::new();
        for node in cluster.nodes() {
            let (shared, observer) = (Arc::clone(&shared), node.name.clone());
            let mut command = cluster.operator(&node.edge);
            command.args(["peers", "list", "--watch", "--output", "jsonl"]).stderr(cluster.log("watch.log")?);
            watches.push(Lines::start(&mut command, move |line| {
                shared.lock().learn(&observer, &line);
                shared.changed.notify_all();
                true
            })?);
        }
        Ok(Self { shared, watches, interrupt: interrupt.clone() })
    }

    /// Waits until what the nodes said fulfils the condition, or somebody interrupts.
    pub(super) fn wait_until(
        &self,
        patience: Duration,
        what: &str,
        condition: impl Fn(&View) -> bool,
    ) -> Result<()> {
        let watch = Stopwatch::start();
        let mut view = self.shared.lock();
        while !condition(&view) {
            self.interrupt.check()?;
            if watch.elapsed() >= patience {
                bail!("waited {patience:?} until {what}; the nodes say: {:?}", view.states);
            }
            view = self.shared.changed.wait_timeout(view, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Ends the watches.
    pub(super) fn close(self) {
        drop(self.watches);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_and_changes_are_understood() {
        let mut view = View::default();
        let member = |name: &str, state: &str| json!({"node_id": name, "state": state});
        view.learn(
            "a",
            &json!({"event": "snapshot", "peer": {"items": [member("a", "alive"), member("b", "alive")]}}),
        );
        assert!(view.is("a", "b", "alive") && !view.is("b", "a", "alive"));
        view.learn(
            "a",
            &json!({"event": "died", "peer": {"reason": "refused", "peer": member("b", "dead")}}),
        );
        assert!(view.is("a", "b", "dead") && view.is("a", "a", "alive"));
    }

    #[test]
    fn a_condition_that_never_comes_says_what_was_seen() {
        let views = Views { shared: Arc::default(), watches: Vec::new(), interrupt: Interrupt::default() };
        views.shared.lock().learn("a", &json!({"node_id": "b", "state": "suspect"}));
        let error = views.wait_until(Duration::ZERO, "b is dead", |view| view.is("a", "b", "dead"));
        let text = error.expect_err("it is not").to_string();
        assert!(text.contains("b is dead") && text.contains("suspect"), "{text}");
    }
}
