//! Two attempts, the first with a head start.

use std::{future::Future, pin::pin, time::Duration};

/// How a race ended.
#[derive(Debug)]
pub(super) enum Raced<A, B, E, F> {
    /// The first attempt succeeded.
    First(A),
    /// The second did. The first may still be running.
    Second {
        won: B,
        /// The first attempt, or why it failed.
        first: Result<F, E>,
    },
    /// Both failed.
    Neither { first: E, second: E },
}

/// Runs `first` alone for `head_start`, or until it fails, and then `second` beside it.
/// Whichever succeeds before the other wins; at a tie the first does.
pub(super) async fn race<A, B, E, F, G>(
    mut first: F,
    second: impl FnOnce() -> G,
    head_start: Duration,
) -> Raced<A, B, E, F>
where
    F: Future<Output = Result<A, E>> + Unpin,
    G: Future<Output = Result<B, E>>,
{
    let mut first_error = None;
    match tokio::time::timeout(head_start, &mut first).await {
        Ok(Ok(won)) => return Raced::First(won),
        Ok(Err(error)) => first_error = Some(error),
        Err(_) => {}
    }
    let mut second = pin!(second());
    loop {
        tokio::select! {
            biased;
            ended = &mut first, if first_error.is_none() => match ended {
                Ok(won) => return Raced::First(won),
                Err(error) => first_error = Some(error),
            },
            ended = &mut second => match (ended, first_error) {
                (Ok(won), None) => return Raced::Second { won, first: Ok(first) },
                (Ok(won), Some(error)) => return Raced::Second { won, first: Err(error) },
                (Err(second), Some(first)) => return Raced::Neither { first, second },
                (Err(second), None) => {
                    return match first.await {
                        Ok(won) => Raced::First(won),
                        Err(first) => Raced::Neither { first, second },
                    };
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;

    use super::*;

    type Attempt = BoxFuture<'static, Result<&'static str, &'static str>>;

    fn after(ms: u64, outcome: Result<&'static str, &'static str>) -> Attempt {
        Box::pin(async move {
            // sleeps: virtual time
            tokio::time::sleep(Duration::from_millis(ms)).await;
            outcome
        })
    }

    async fn run(first: Attempt, second: Attempt) -> (String, u128) {
        let begin = tokio::time::Instant::now();
        let raced = race(first, || second, Duration::from_millis(100)).await;
        let text = match raced {
            Raced::First(won) => won.to_owned(),
            Raced::Second { won, first } => format!("{won}, first running: {}", first.is_ok()),
            Raced::Neither { first, second } => format!("{first} {second}"),
        };
        (text, begin.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_starts_after_the_head_start_or_when_the_first_failed() {
        let (ok, err) = (Ok("h2"), Err("e2"));
        assert_eq!(run(after(90, Ok("h3")), after(0, ok)).await, ("h3".into(), 90));
        assert_eq!(run(after(900, Ok("h3")), after(5, ok)).await, ("h2, first running: true".into(), 105));
        assert_eq!(run(after(20, Err("e3")), after(5, ok)).await, ("h2, first running: false".into(), 25));
        assert_eq!(run(after(102, Err("e3")), after(5, ok)).await, ("h2, first running: false".into(), 105));
        assert_eq!(run(after(300, Ok("h3")), after(5, err)).await, ("h3".into(), 300));
        assert_eq!(run(after(300, Err("e3")), after(5, err)).await, ("e3 e2".into(), 300));
    }
}
