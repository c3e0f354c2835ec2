//! A fence for SQL databases: one statement inside the user's own transaction.
//!
//! The statement compares and raises the mark of a scope, and its row lock keeps other leaders' transactions
//! waiting until this one is committed or rolled back. It changes one row if the token is admitted and none
//! if it is not; then the transaction must be rolled back.
//!
//! | database | isolation | notes |
//! |---|---|---|
//! | PostgreSQL 9.5 and later | any; with `SERIALIZABLE` retry on 40001 as always | `ON CONFLICT … WHERE` looks at the newest row |
//! | SQLite 3.24 and later | any | `BEGIN IMMEDIATE` avoids a failed upgrade of a read lock |
//!
//! The tests run the statements on PostgreSQL 15 and SQLite 3.40, as Debian 12 has them.
//!
//! The statements name the table `mesh_fence`; make it once with [`SqlFence::CREATE_TABLE`]. Tokens are
//! stored as two 64-bit signed integers.

use std::future::Future;

use mesh_core::FencingToken;

use super::FenceError;
use crate::Scope;

/// How a database writes parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placeholders {
    /// `$1`, `$2`, `$3`: PostgreSQL.
    Dollar,
    /// `?1`, `?2`, `?3`: SQLite.
    Question,
}

/// A transaction of the user's, with whatever client library.
///
/// # Contract
///
/// [`execute`](Self::execute) runs the statement inside the transaction that the guarded writes are made
/// in, and returns the number of rows that it changed.
pub trait SqlTransaction: Send {
    /// What goes wrong with the database.
    type Error: Send;

    /// Runs a statement with a text and two integers as its parameters.
    fn execute(
        &mut self,
        statement: &str,
        scope: &str,
        generation: i64,
        counter: i64,
    ) -> impl Future<Output = Result<u64, Self::Error>> + Send;
}

/// Why a transaction must be rolled back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqlFenceError<E> {
    /// A newer leader has written. Roll back, and stop leading.
    #[error("fenced: a token newer than {stated} of {scope} has written already")]
    Stale {
        /// The scope.
        scope: Scope,
        /// What the transaction stated.
        stated: FencingToken,
    },
    /// The token can't be stored.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// The database did not run the statement.
    #[error("the database did not run the fencing statement")]
    Database(#[source] E),
}

/// The statements of the fence.
///
/// ```
/// use mesh_leader::fence::sql::{Placeholders, SqlFence};
/// let statement = SqlFence::new(Placeholders::Dollar).statement();
/// assert!(statement.contains("VALUES ($1, $2, $3)"));
/// // In the user's transaction, first of all:
/// //   let changed = tx.execute(statement, &[&scope, &generation, &counter])?;
/// //   if changed == 0 { roll back: a newer leader has written }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlFence {
    placeholders: Placeholders,
}

impl SqlFence {
    /// Makes the table of marks, if it is not there.
    pub const CREATE_TABLE: &'static str = "CREATE TABLE IF NOT EXISTS mesh_fence (\
        scope TEXT PRIMARY KEY, \
        generation BIGINT NOT NULL, \
        counter BIGINT NOT NULL)";

    const DOLLAR: &'static str = "INSERT INTO mesh_fence AS f (scope, generation, counter) \
        VALUES ($1, $2, $3) \
        ON CONFLICT (scope) DO UPDATE SET generation = excluded.generation, counter = excluded.counter \
        WHERE (f.generation, f.counter) <= (excluded.generation, excluded.counter)";

    const QUESTION: &'static str = "INSERT INTO mesh_fence AS f (scope, generation, counter) \
        VALUES (?1, ?2, ?3) \
        ON CONFLICT (scope) DO UPDATE SET generation = excluded.generation, counter = excluded.counter \
        WHERE (f.generation, f.counter) <= (excluded.generation, excluded.counter)";

    /// Statements with parameters as this database writes them.
    pub fn new(placeholders: Placeholders) -> Self {
        Self { placeholders }
    }

    /// Compares and raises: scope, generation and counter are its parameters, one changed row is admission.
    pub fn statement(self) -> &'static str {
        match self.placeholders {
            Placeholders::Dollar => Self::DOLLAR,
            Placeholders::Question => Self::QUESTION,
        }
    }

    /// The two numbers of a token as the table stores them.
    ///
    /// # Errors
    ///
    /// [`FenceError::Unstorable`] for a number of 2^63 or more.
    pub fn parameters(token: FencingToken) -> Result<(i64, i64), FenceError> {
        let part = |part: u64| i64::try_from(part).map_err(|_| FenceError::Unstorable { token });
        Ok((part(token.generation)?, part(token.counter)?))
    }

    /// Compares the token with the mark of its scope and raises the mark, as part of the transaction.
    ///
    /// # Errors
    ///
    /// [`SqlFenceError::Stale`] if a newer token was admitted. Whatever the error, roll back.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the transaction in an unknown state: roll back.
    pub async fn admit<T: SqlTransaction>(
        self,
        transaction: &mut T,
        scope: &Scope,
        token: FencingToken,
    ) -> Result<(), SqlFenceError<T::Error>> {
        let (generation, counter) = Self::parameters(token)?;
        let changed = transaction.execute(self.statement(), scope.as_str(), generation, counter).await;
        match changed.map_err(SqlFenceError::Database)? {
            0 => Err(SqlFenceError::Stale { scope: scope.clone(), stated: token }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_does_not_fit_is_refused_by_name() {
        let token = FencingToken { generation: 1, counter: 1 << 63 };
        let refused = SqlFence::parameters(token).expect_err("too large").to_string();
        assert!(refused.contains("1.9223372036854775808"), "{refused}");
        assert_eq!(SqlFence::parameters(FencingToken { generation: 2, counter: 3 }), Ok((2, 3)));
    }

    #[test]
    fn the_two_dialects_differ_in_their_parameters_alone() {
        let dollar = SqlFence::new(Placeholders::Dollar).statement();
        let question = SqlFence::new(Placeholders::Question).statement();
        assert_eq!(dollar.replace('$', "?"), question);
    }
}
