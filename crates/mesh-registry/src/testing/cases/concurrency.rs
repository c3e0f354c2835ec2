//! Sixteen clients at once. What they saw is judged as a history.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use mesh_core::{
    Revision,
    store::{
        Compare, IdempotencyKey, Key, Operation, Scan, SessionId, Txn, TxnError, VersionedStore, WatchFrom,
        WatchOptions,
    },
};

use crate::testing::{
    RecordedStore, Recorder,
    history::Budget,
    trial::{Failure, Trial, Verdict, ensure},
};

pub(super) const CLIENTS: usize = 16;

/// One client: its store, which writes down what it does, and a source of whims.
pub(super) struct Client {
    pub(super) number: usize,
    pub(super) store: RecordedStore,
    pub(super) rng: fastrand::Rng,
}

/// Runs the same on sixteen clients, spread over all handles, and returns what they recorded.
pub(super) async fn clients<F>(t: &Trial, work: impl Fn(Client) -> F) -> Verdict<Recorder>
where
    F: Future<Output = Verdict> + Send + 'static,
{
    let recorder = Recorder::new(t.clock());
    let handles = t.provider.handles();
    // All begin together: else the first may be done before the last has begun.
    let start = Arc::new(tokio::sync::Barrier::new(CLIENTS));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let store = recorder.record(Arc::clone(&handles[number % handles.len()]), number as u64);
        let rng = fastrand::Rng::with_seed(number as u64);
        let (start, client) = (Arc::clone(&start), work(Client { number, store, rng }));
        tasks.spawn(async move {
            start.wait().await;
            client.await
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| Failure::new(format!("a client panicked: {error}")))??;
    }
    Ok(recorder)
}

pub(super) fn judge(recorder: &Recorder) -> Verdict {
    recorder.recording().judge(&Budget::default()).map_err(Failure::new)
}

fn number(value: &Bytes) -> u64 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub(super) async fn sixteen_count_together_and_no_count_is_lost(t: &Trial) -> Verdict {
    const EACH: usize = 20;
    let (key, writer) = (t.key("count"), t.writer());
    let recorder = clients(t, |client| {
        let (key, writer) = (key.clone(), writer.clone());
        async move {
            for _ in 0..EACH {
                loop {
                    let read = client.store.get(&key).await?.value;
                    let (next, compare) = match read {
                        None => (1, Compare::Absent { key: key.clone() }),
                        Some(record) => (
                            number(&record.value) + 1,
                            Compare::Revision { key: key.clone(), revision: record.revision },
                        ),
                    };
                    let next = next.to_string();
                    let txn = Txn::new(writer.clone()).when(compare).then(Operation::Put {
                        key: key.clone(),
                        value: next.into(),
                        session: None,
                    });
                    match client.store.transact(txn).await {
                        Ok(_) => break,
                        Err(TxnError::Conflict { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            Ok(())
        }
    })
    .await?;
    let sum = t.value("count").await?.map_or(0, |value| number(&value));
    ensure!(sum == (CLIENTS * EACH) as u64, "{CLIENTS} clients counted to {EACH} each, the sum is {sum}");
    judge(&recorder)
}

pub(super) async fn a_mix_of_reads_and_writes_is_linearizable(t: &Trial) -> Verdict {
    let keys: Vec<Key> = (0..5).map(|n| t.key(&n.to_string())).collect();
    let (writer, prefix) = (t.writer(), t.prefix(""));
    let recorder = clients(t, |mut client| {
        let (keys, writer, prefix) = (keys.clone(), writer.clone(), prefix.clone());
        async move {
            let mut seen = Revision(0);
            for n in 0..40 {
                let key = keys[client.rng.usize(..keys.len())].clone();
                let value = Bytes::from(format!("{}-{n}", client.number));
                let put = |key: Key| Operation::Put { key, value: value.clone(), session: None };
                let txn = Txn::new(writer.clone());
                let txn = match client.rng.u8(..10) {
                    0..=2 => {
                        seen = client.store.get(&key).await?.value.map_or(seen, |record| record.revision);
                        continue;
                    }
                    3 => {
                        client.store.scan(&Scan::of(prefix.clone())).await?;
                        continue;
                    }
                    4 | 5 => txn.then(put(key)),
                    6 => txn.when(Compare::Revision { key: key.clone(), revision: seen }).then(put(key)),
                    7 => txn.when(Compare::Absent { key: key.clone() }).then(put(key)),
                    8 => txn.when(Compare::Present { key: key.clone() }).then(Operation::Delete { key }),
                    _ => {
                        let other = keys[client.rng.usize(..keys.len())].clone();
                        let txn = txn.when(Compare::Present { key: other.clone() }).then(put(key.clone()));
                        if other == key { txn } else { txn.then(Operation::Delete { key: other }) }
                    }
                };
                match client.store.transact(txn).await {
                    Ok(_) | Err(TxnError::Conflict { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        }
    })
    .await?;
    judge(&recorder)
}

pub(super) async fn what_moves_between_keys_is_never_seen_twice_or_not_at_all(t: &Trial) -> Verdict {
    const ACCOUNTS: usize = 4;
    const EACH: u64 = 100;
    let names: Vec<String> = (0..ACCOUNTS).map(|n| format!("account{n}")).collect();
    let mut begin = t.txn();
    for name in &names {
        begin = begin.then(t.put_of(name, EACH.to_string()));
    }
    t.transact(begin).await?;
    let keys: Vec<Key> = names.iter().map(|name| t.key(name)).collect();
    let (writer, prefix) = (t.writer(), t.prefix("account"));
    clients(t, |mut client| {
        let (keys, writer, prefix) = (keys.clone(), writer.clone(), prefix.clone());
        async move {
            for _ in 0..20 {
                let page = client.store.scan(&Scan::of(prefix.clone())).await?.value;
                let sum: u64 = page.records.iter().map(|record| number(&record.value)).sum();
                ensure!(
                    sum == ACCOUNTS as u64 * EACH,
                    "a scan sees {sum} in all accounts: {:?}",
                    page.records
                );
                let from = client.rng.usize(..ACCOUNTS);
                let to = (from + client.rng.usize(1..ACCOUNTS)) % ACCOUNTS;
                let (from_record, to_record) = (&page.records[from], &page.records[to]);
                let mut txn = Txn::new(writer.clone());
                for (key, record) in [(&keys[from], from_record), (&keys[to], to_record)] {
                    txn = txn.when(Compare::Revision { key: key.clone(), revision: record.revision });
                }
                let amount = client.rng.u64(..=number(&from_record.value));
                let put = |key: &Key, value: u64| Operation::Put {
                    key: key.clone(),
                    value: value.to_string().into(),
                    session: None,
                };
                let txn = txn
                    .then(put(&keys[from], number(&from_record.value) - amount))
                    .then(put(&keys[to], number(&to_record.value) + amount));
                match client.store.transact(txn).await {
                    Ok(_) | Err(TxnError::Conflict { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        }
    })
    .await?;
    Ok(())
}

pub(super) async fn of_sixteen_candidates_one_holds_at_a_time(t: &Trial) -> Verdict {
    let mut sessions = Vec::new();
    for _ in 0..CLIENTS {
        sessions.push(t.session().await?);
    }
    let (lease, effect, writer) = (t.key("lease"), t.key("effect"), t.writer());
    let recorder = clients(t, |mut client| {
        let (lease, effect, writer) = (lease.clone(), effect.clone(), writer.clone());
        let (session, other) = (sessions[client.number], sessions[(client.number + 1) % CLIENTS]);
        async move {
            for n in 0..20 {
                let grant = |session: SessionId| Operation::Grant {
                    key: lease.clone(),
                    value: Bytes::new(),
                    session,
                };
                let absent = Compare::Absent { key: lease.clone() };
                let acquire = Txn::new(writer.clone()).when(absent).then(grant(session));
                let token = match client.store.transact(acquire).await {
                    Ok(outcome) => outcome.grants.first().map(|grant| grant.token),
                    Err(TxnError::Conflict { .. }) => None,
                    Err(error) => return Err(error.into()),
                };
                let Some(token) = token else {
                    client.store.get(&lease).await?;
                    continue;
                };
                let fenced = || Txn::new(writer.clone()).when(Compare::Fence { key: lease.clone(), token });
                let value = Bytes::from(format!("{}-{n}", client.number));
                let write = Operation::Put { key: effect.clone(), value, session: None };
                client.store.transact(fenced().then(write.clone())).await?;
                let last = if client.rng.bool() {
                    fenced().then(Operation::Delete { key: lease.clone() })
                } else {
                    fenced().then(grant(other))
                };
                let handed = client.store.transact(last).await?.grants;
                match client.store.transact(fenced().then(write)).await {
                    Err(TxnError::Fenced { .. }) => {}
                    other => return Err(Failure::new(format!("an old holder was not fenced: {other:?}"))),
                }
                if let Some(grant) = handed.first() {
                    let fence = Compare::Fence { key: lease.clone(), token: grant.token };
                    let release = Txn::new(writer.clone()).when(fence);
                    client.store.transact(release.then(Operation::Delete { key: lease.clone() })).await?;
                }
            }
            Ok(())
        }
    })
    .await?;
    judge(&recorder)
}

pub(super) async fn watches_are_complete_while_sixteen_write(t: &Trial) -> Verdict {
    let before = t.revision().await?;
    let writer = t.writer();
    let keys: Vec<Key> = (0..6).map(|n| t.key(&format!("{}/{n}", ["a", "b"][n % 2]))).collect();
    let prefixes = [t.prefix(""), t.prefix("a/"), t.prefix("b/")];
    let patience = t.limits.patience;
    let done = t.key("done");
    let mut sessions = Vec::new();
    for _ in 0..CLIENTS {
        sessions.push(t.session().await?);
    }
    let recorder = clients(t, |mut client| {
        let (keys, writer, prefixes) = (keys.clone(), writer.clone(), prefixes.clone());
        let (done, session) = (done.clone(), sessions[client.number]);
        async move {
            // Half of them watch while the others write, and resume now and then.
            if client.number % 2 == 0 {
                let prefix = &prefixes[client.number / 2 % prefixes.len()];
                let options = WatchOptions { buffer_changes_max: 10_000, ..WatchOptions::default() };
                return watcher(&mut client, prefix, before, options, patience).await;
            }
            for n in 0..30 {
                let mut txn = Txn::new(writer.clone());
                let first = client.rng.usize(..keys.len());
                for step in 0..client.rng.usize(1..=3) {
                    let key = keys[(first + step) % keys.len()].clone();
                    let value = Bytes::from(format!("{}-{n}-{step}", client.number));
                    txn = txn.then(match client.rng.u8(..5) {
                        0 => Operation::Delete { key },
                        _ => Operation::Put { key, value, session: None },
                    });
                }
                // Some of them twice, as after a lost answer.
                let txn = txn.once(IdempotencyKey { session, sequence: n });
                client.store.transact(txn.clone()).await?;
                if client.rng.bool() {
                    client.store.transact(txn).await?;
                }
            }
            let value = Bytes::from(client.number.to_string());
            let mark = |name: &str| Operation::Put {
                key: Key::new(format!("{name}{}", client.number)).unwrap_or_else(|_| done.clone()),
                value: value.clone(),
                session: None,
            };
            let mut last = Txn::new(writer.clone());
            for prefix in &prefixes[1..] {
                last = last.then(mark(&format!("{prefix}done")));
            }
            client.store.transact(last).await?;
            Ok(())
        }
    })
    .await?;
    judge(&recorder)
}

/// Watches until every writer has said that it is done, and resumes after each hundred events.
async fn watcher(
    client: &mut Client,
    prefix: &mesh_core::store::Prefix,
    mut after: Revision,
    options: WatchOptions,
    patience: std::time::Duration,
) -> Verdict {
    use futures_util::StreamExt;
    use mesh_core::store::{Change, WatchEvent};
    let mut done = std::collections::BTreeSet::new();
    loop {
        let mut stream = client.store.watch(prefix, WatchFrom::After(after), options).await?;
        for _ in 0..client.rng.usize(50..150) {
            let event = match tokio::time::timeout(patience, stream.next()).await {
                Ok(Some(event)) => event?,
                Ok(None) => return Err(Failure::new("a watch ended without an error")),
                Err(_) => return Err(Failure::new(format!("a watch delivered nothing for {patience:?}"))),
            };
            match event {
                WatchEvent::Changes { revision, changes } => {
                    after = revision;
                    for change in &changes {
                        if let Change::Put(record) = change
                            && record.key.as_str().contains("/done")
                        {
                            done.insert(record.value.clone());
                        }
                    }
                }
                WatchEvent::Bookmark { revision } => after = revision,
                gap @ WatchEvent::Gap { .. } => {
                    return Err(Failure::new(format!("a watch has a gap where nothing was lost: {gap:?}")));
                }
            }
            if done.len() == CLIENTS / 2 {
                return Ok(());
            }
        }
    }
}
