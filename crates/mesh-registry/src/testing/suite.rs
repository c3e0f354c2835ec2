//! Runs the cases.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;

use super::{
    cases::{Case, cases},
    provider::ProviderFactory,
    report::{Failover, Line, Outcome, Report},
    trial::{Failure, Trial},
};

/// A case that takes so many times the provider's patience hangs.
const PATIENCES_PER_CASE: u32 = 10;

/// Runs every case, one after the other, each on a provider of its own.
pub async fn conformance(factory: &dyn ProviderFactory) -> Report {
    let mut lines = Vec::new();
    let mut failovers = Vec::new();
    for case in cases() {
        let (outcome, times) = examine(case, factory).await;
        lines.push(Line { name: case.name, promise: case.promise, outcome });
        failovers.extend(times);
    }
    Report {
        provider: factory.provider(),
        lines,
        failover: (!failovers.is_empty()).then(|| Failover::new(failovers)),
        remarks: factory.limits().remarks,
    }
}

/// Runs one case, by its name, as a test: on a runtime of its own.
///
/// # Panics
///
/// If the provider breaks the promise, or there is no such case.
pub fn run_case(name: &str, factory: &dyn ProviderFactory) {
    let case = cases().iter().find(|case| case.name == name);
    let case = case.unwrap_or_else(|| panic!("there is no case {name:?}; testing::cases() has them all"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a test needs a runtime");
    let (outcome, failovers) = runtime.block_on(examine(case, factory));
    let provider = factory.provider();
    match outcome {
        Outcome::Kept => {}
        Outcome::CannotPromise(why) => println!("{provider} cannot promise {name}: {why}"),
        Outcome::Skipped(why) => println!("skipped {name} of {provider}: {why}"),
        Outcome::Broken(how) => {
            panic!("provider {provider} breaks a promise\npromised: {}\nbut: {how}", case.promise)
        }
    }
    let failover = Failover::new(failovers);
    if let (Some(median), Some(worst)) = (failover.median(), failover.worst()) {
        println!("failover of {provider}: median {median:?}, worst {worst:?}");
    }
}

pub(super) async fn examine(case: &Case, factory: &dyn ProviderFactory) -> (Outcome, Vec<Duration>) {
    if let Some(missing) = factory.missing() {
        return (Outcome::Skipped(missing), Vec::new());
    }
    let limits = factory.limits();
    let refused = case.needs.iter().find_map(|promise| Some((promise, limits.why_not(*promise)?)));
    if let Some((promise, reason)) = refused {
        return (Outcome::CannotPromise(format!("{promise}: {reason}")), Vec::new());
    }
    let longest = limits.patience * PATIENCES_PER_CASE;
    let provider = match factory.start().await {
        Ok(provider) => provider,
        Err(error) => return (Outcome::Broken(format!("it did not start: {error}")), Vec::new()),
    };
    let trial = match Trial::begin(case.name, provider, limits).await {
        Ok(trial) => trial,
        Err(failure) => return (Outcome::Broken(failure.to_string()), Vec::new()),
    };
    let run = AssertUnwindSafe((case.run)(&trial)).catch_unwind();
    let outcome = match tokio::time::timeout(longest, run).await {
        Ok(Ok(Ok(()))) => Outcome::Kept,
        Ok(Ok(Err(Failure::CannotPromise(why)))) => Outcome::CannotPromise(why),
        Ok(Ok(Err(failure))) => Outcome::Broken(failure.to_string()),
        Ok(Err(panic)) => Outcome::Broken(format!("the case panicked: {}", message(&*panic))),
        Err(_) => Outcome::Broken(format!("the case did not end within {longest:?}")),
    };
    (outcome, trial.failovers())
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
