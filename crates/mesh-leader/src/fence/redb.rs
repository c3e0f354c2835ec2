//! A fence for tables of redb: a hook inside the user's own write transaction.

use mesh_core::FencingToken;
use redb::{ReadableTable, StorageError, TableDefinition, TableError, WriteTransaction};

use super::{FenceError, HighWater};
use crate::Scope;

/// Scope to generation and counter.
const MARKS: TableDefinition<'static, &str, (u64, u64)> = TableDefinition::new("mesh_fence");

/// Why a write transaction is not to be committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedbFenceError {
    /// Not admitted. Drop the transaction, and stop leading.
    #[error(transparent)]
    Fence(#[from] FenceError),
    /// The table of marks can't be opened: another table has its name, `mesh_fence`.
    #[error("cannot open the table of fencing marks")]
    Table(#[from] TableError),
    /// The disk failed.
    #[error("cannot read or write a fencing mark")]
    Storage(#[from] StorageError),
}

/// Keeps the marks of all scopes in a table of the database that they protect.
///
/// redb runs one write transaction at a time, and what was written in it becomes durable as a whole, so
/// that a mark and the effect beside it can't come apart.
///
/// ```
/// use mesh_core::FencingToken;
/// use mesh_leader::{Scope, fence::redb::RedbFence};
/// use redb::TableDefinition;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// const ORDERS: TableDefinition<u64, &str> = TableDefinition::new("orders");
/// let database = redb::Database::create(folder.path().join("orders.redb"))?;
/// let scope: Scope = "orders".parse()?;
/// let token = FencingToken { generation: 1, counter: 4 }; // Of the lease.
///
/// let txn = database.begin_write()?;
/// RedbFence::admit(&txn, &scope, token)?;
/// txn.open_table(ORDERS)?.insert(1, "tea")?;
/// txn.commit()?;
///
/// let old = FencingToken { generation: 1, counter: 3 };
/// let txn = database.begin_write()?;
/// assert!(RedbFence::admit(&txn, &scope, old).is_err());
/// txn.abort()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct RedbFence;

impl RedbFence {
    /// Compares the token with the mark of its scope and raises the mark, as part of `txn`: both become
    /// durable with the rest of it, or not at all. Call it in every transaction that a leader writes.
    ///
    /// # Errors
    ///
    /// [`RedbFenceError::Fence`] if a newer token was admitted; drop the transaction.
    pub fn admit(txn: &WriteTransaction, scope: &Scope, token: FencingToken) -> Result<(), RedbFenceError> {
        let mut marks = txn.open_table(MARKS)?;
        let stored = marks.get(scope.as_str())?.map(|mark| {
            let (generation, counter) = mark.value();
            FencingToken { generation, counter }
        });
        let mut mark = HighWater::stored(stored);
        mark.admit(token)?;
        if stored != Some(token) {
            marks.insert(scope.as_str(), (token.generation, token.counter))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ::redb::{Database, ReadableDatabase};

    use super::*;

    const VALUES: TableDefinition<'static, &str, u64> = TableDefinition::new("values");

    fn token(counter: u64) -> FencingToken {
        FencingToken { generation: 1, counter }
    }

    fn write(database: &Database, counter: u64, commit: bool) -> Result<(), RedbFenceError> {
        let scope: Scope = "s".parse().expect("a scope");
        let txn = database.begin_write().expect("begins");
        RedbFence::admit(&txn, &scope, token(counter))?;
        txn.open_table(VALUES).expect("opens").insert("v", counter).expect("inserts");
        if commit {
            txn.commit().expect("commits");
        } else {
            txn.abort().expect("aborts");
        }
        Ok(())
    }

    fn value(database: &Database) -> u64 {
        let txn = database.begin_read().expect("begins");
        let table = txn.open_table(VALUES).expect("opens");
        table.get("v").expect("reads").expect("there").value()
    }

    #[test]
    fn the_mark_outlives_the_process_and_refuses_the_old() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("db");
        {
            let database = Database::create(&path).expect("creates");
            write(&database, 5, true).expect("admitted");
            write(&database, 5, true).expect("the same leader again");
        }
        let database = Database::open(&path).expect("opens");
        let refused = write(&database, 4, true).expect_err("old");
        let stale = FenceError::Stale { stated: token(4), admitted: token(5) };
        assert!(matches!(refused, RedbFenceError::Fence(error) if error == stale));
        assert_eq!(value(&database), 5);
    }

    #[test]
    fn an_aborted_transaction_raises_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::create(folder.path().join("db")).expect("creates");
        write(&database, 3, true).expect("admitted");
        write(&database, 9, false).expect("admitted, then aborted");
        write(&database, 4, true).expect("9 never took effect");
        assert_eq!(value(&database), 4);
    }
}
