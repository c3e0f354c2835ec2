//! Sizes, counts and keys.

use bytes::Bytes;
use mesh_core::store::{
    Compare, IdempotencyKey, Key, Operation, Scan, StoreError, TXN_BYTES_MAX, TXN_ITEMS_MAX, Txn, TxnError,
    VALUE_BYTES_MAX,
};

use crate::testing::trial::{Trial, Verdict, ensure, must_be};

/// Sends what must be refused as invalid, with an error that has these words in it.
async fn invalid(t: &Trial, txn: Txn, words: &[&str]) -> Verdict {
    let text = must_be!(t.transact(txn).await,
        Err(TxnError::Store(error @ StoreError::Invalid { .. })) => error.to_string(),
        "what breaks a limit is invalid");
    let missing = words.iter().find(|word| !text.contains(**word));
    ensure!(missing.is_none(), "the error does not name {missing:?}: {text}");
    Ok(())
}

pub(super) async fn a_value_at_the_limit_is_kept_and_one_past_it_is_refused(t: &Trial) -> Verdict {
    let largest = Bytes::from(vec![0xA5; VALUE_BYTES_MAX]);
    t.put("a", largest.clone()).await?;
    ensure!(t.value("a").await? == Some(largest), "a value of the largest size did not come back");
    t.put("empty", "").await?;
    ensure!(
        t.value("empty").await?.is_some_and(|value| value.is_empty()),
        "an empty value did not come back"
    );
    let past = Bytes::from(vec![0; VALUE_BYTES_MAX + 1]);
    let txn = t.txn().then(t.put_of("past", past)).then(t.put_of("small", ""));
    invalid(t, txn, &[&(VALUE_BYTES_MAX + 1).to_string(), &VALUE_BYTES_MAX.to_string(), "past"]).await?;
    ensure!(t.get("small").await?.is_none(), "a refused transaction wrote a record");
    Ok(())
}

pub(super) async fn a_transaction_past_its_bytes_is_refused_and_changes_nothing(t: &Trial) -> Verdict {
    let third = Bytes::from(vec![1; TXN_BYTES_MAX / 3]);
    let mut txn = t.txn();
    for name in ["a", "b", "c"] {
        txn = txn.then(t.put_of(name, third.clone()));
    }
    invalid(t, txn, &[&TXN_BYTES_MAX.to_string()]).await?;
    ensure!(t.get("a").await?.is_none(), "a refused transaction wrote a record");
    // Two thirds as a value and one as a compare are too many as well.
    let compare = Compare::Value { key: t.key("a"), value: third.clone() };
    let txn = t.txn().when(compare).then(t.put_of("b", third.clone())).then(t.put_of("c", third));
    invalid(t, txn, &[&TXN_BYTES_MAX.to_string()]).await?;
    let almost = Bytes::from(vec![1; TXN_BYTES_MAX / 2 - 2 * Key::BYTES_MAX]);
    let txn = t.txn().then(t.put_of("a", almost.clone())).then(t.put_of("b", almost.clone()));
    t.transact(txn).await?;
    ensure!(t.value("b").await? == Some(almost), "a transaction just below the limit did not come back");
    Ok(())
}

pub(super) async fn a_transaction_past_its_items_is_refused(t: &Trial) -> Verdict {
    let (found, limit) = ((TXN_ITEMS_MAX + 1).to_string(), TXN_ITEMS_MAX.to_string());
    let mut operations = t.txn();
    let mut compares = t.txn().then(t.put_of("effect", ""));
    for n in 0..=TXN_ITEMS_MAX {
        operations = operations.then(t.put_of(&n.to_string(), ""));
        compares = compares.when(t.absent(&n.to_string()));
    }
    invalid(t, operations, &[&found, &limit, "operations"]).await?;
    invalid(t, compares, &[&found, &limit, "compares"]).await?;
    let page = t.store().scan(&Scan::of(t.prefix(""))).await?.value;
    ensure!(page.records.is_empty(), "a refused transaction wrote {} records", page.records.len());
    Ok(())
}

pub(super) async fn a_transaction_of_as_many_items_as_allowed_is_applied(t: &Trial) -> Verdict {
    let mut txn = t.txn();
    for n in 0..TXN_ITEMS_MAX {
        let name = n.to_string();
        txn = txn.when(t.absent(&name)).then(t.put_of(&name, ""));
    }
    let revision = t.transact(txn).await?.revision;
    let page = t.store().scan(&Scan { limit: TXN_ITEMS_MAX + 1, ..Scan::of(t.prefix("")) }).await?.value;
    let whole = page.records.len() == TXN_ITEMS_MAX && page.records.iter().all(|r| r.revision == revision);
    ensure!(whole, "{} records are there, of {TXN_ITEMS_MAX} at revision {revision}", page.records.len());
    Ok(())
}

pub(super) async fn a_key_of_the_longest_length_is_kept(t: &Trial) -> Verdict {
    let own = t.key("").as_str().len();
    for (n, text) in
        ["x".repeat(Key::BYTES_MAX - own), "ключ с пробелом/\"%_\\*?#".to_owned()].iter().enumerate()
    {
        let key = t.key(text);
        t.put(text, n.to_string()).await?;
        let page = t.store().scan(&Scan::of((&key).into())).await?.value;
        let found: Vec<&Key> = page.records.iter().map(|record| &record.key).collect();
        ensure!(found == [&key], "{key:?} was written, a scan of it finds {found:?}");
    }
    Ok(())
}

pub(super) async fn a_key_that_is_changed_twice_is_refused(t: &Trial) -> Verdict {
    let key = t.key("a");
    invalid(t, t.txn().then(t.put_of("a", "1")).then(t.put_of("a", "2")), &[key.as_str()]).await?;
    invalid(t, t.txn().then(t.delete_of("a")).then(t.put_of("a", "2")), &[key.as_str()]).await?;
    ensure!(t.get("a").await?.is_none(), "a refused transaction wrote a record");
    Ok(())
}

pub(super) async fn the_stores_own_keys_cannot_be_written(t: &Trial) -> Verdict {
    let session = t.session().await?;
    for text in ["~", "~audit/0000000000001-0000000000000001", "~mine"] {
        let key = Key::new(text)?;
        let operations = [
            Operation::Put { key: key.clone(), value: "".into(), session: None },
            Operation::Delete { key: key.clone() },
            Operation::Grant { key: key.clone(), value: "".into(), session },
        ];
        for operation in operations {
            invalid(t, t.txn().then(operation), &[text]).await?;
        }
        ensure!(t.store().get(&key).await?.value.is_none(), "a refused transaction wrote {key:?}");
    }
    // Elsewhere in a key the character is like any other.
    t.put("~mine", "").await?;
    Ok(())
}

pub(super) async fn sizes_are_judged_before_anything_else(t: &Trial) -> Verdict {
    let once = IdempotencyKey { session: t.session().await?, sequence: 1 };
    t.put("a", "1").await?;
    let twice = t.txn().when(t.absent("a")).then(t.put_of("b", "1")).then(t.put_of("b", "2"));
    invalid(t, twice.once(once), &["changed twice"]).await?;
    // A request that never was one is not an outcome of its number.
    t.transact(t.txn().then(t.put_of("b", "1")).once(once)).await?;
    ensure!(t.get("b").await?.is_some(), "a number that was used for an invalid request can't be used again");
    Ok(())
}
