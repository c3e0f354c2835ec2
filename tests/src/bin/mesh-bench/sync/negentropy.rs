//! The crate negentropy, version 1 of its protocol, over a sealed vector and without a frame limit, which is quickest.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_sync::Item;
use negentropy::{Id, NegentropyStorageVector};

use super::{Comparer, Sets, Taken, timed};

pub(super) struct Negentropy {
    a: NegentropyStorageVector,
    b: NegentropyStorageVector,
}

impl Comparer for Negentropy {
    const PREFIX: &'static str = "negentropy_";

    fn new(sets: &Sets, _: usize) -> Result<Self> {
        let sealed = |items: &[Item]| -> Result<_> {
            let mut storage = NegentropyStorageVector::with_capacity(items.len());
            for item in items {
                storage.insert(item.hlc.wall().0, Id::from_byte_array(item.id.0)).context("insert an id")?;
            }
            storage.seal().context("seal the ids")?;
            Ok(storage)
        };
        Ok(Self { a: sealed(&sets.a)?, b: sealed(&sets.b)? })
    }

    fn compare(&mut self, sets: &Sets, _: usize) -> Result<Taken> {
        let mut us = negentropy::Negentropy::borrowed(&self.a, 0)?;
        let mut them = negentropy::Negentropy::borrowed(&self.b, 0)?;
        let mut cpu = Duration::ZERO;
        let (mut have, mut need) = (Vec::new(), Vec::new());
        let (mut bytes, mut round_trips, mut session_bytes) = (0, 0, 0);
        let mut next = Some(timed(&mut cpu, || us.initiate())?);
        while let Some(said) = next {
            let answer = timed(&mut cpu, || them.reconcile(&said))?;
            round_trips += 1;
            bytes += (said.len() + answer.len()) as u64;
            next = timed(&mut cpu, || us.reconcile_with_ids(&answer, &mut have, &mut need))?;
            let lists = (have.capacity() + need.capacity()) * size_of::<Id>();
            session_bytes = session_bytes.max(said.len() + answer.len() + lists);
        }
        ensure!(
            ids(&have) == names(&sets.only_a) && ids(&need) == names(&sets.only_b),
            "it found something else"
        );
        Ok(Taken { bytes, round_trips, cpu, session_bytes })
    }
}

fn ids(found: &[Id]) -> Vec<[u8; 32]> {
    let mut ids: Vec<[u8; 32]> = found.iter().copied().map(Id::to_bytes).collect();
    ids.sort_unstable();
    ids
}

fn names(items: &[Item]) -> Vec<[u8; 32]> {
    let mut names: Vec<[u8; 32]> = items.iter().map(|item| item.id.0).collect();
    names.sort_unstable();
    names
}
