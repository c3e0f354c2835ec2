//! One rule for signatures, whether one is checked or many at once.
//!
//! Points of small order and non-canonical encodings are refused first, by the bytes. What is left is checked by
//! the rule of ZIP 215, under which a batch holds exactly if each of its members does.

use std::{convert::Infallible, ops::Deref};

use ed25519_zebra::{Signature, VerificationKey, VerificationKeyBytes, batch};
use rand_core::{TryCryptoRng, TryRng};

use super::{AuthorId, Entry, PointError, points};

/// Why a signature does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// The author's key is refused.
    #[error("the author's key is refused")]
    Key(#[source] PointError),
    /// The point in the signature is refused.
    #[error("the signature's point is refused")]
    Commitment(#[source] PointError),
    /// The author did not sign this entry.
    #[error("the signature is not the author's, or not over this entry")]
    Invalid,
}

/// An entry that its author has signed. Stores take nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified(Entry);

impl Verified {
    /// Takes the caller's word that the signature was checked.
    ///
    /// For stores, that read what they were given as [`Verified`].
    pub const fn trust(entry: Entry) -> Self {
        Self(entry)
    }

    /// The entry.
    pub fn into_entry(self) -> Entry {
        self.0
    }
}

impl Deref for Verified {
    type Target = Entry;
    fn deref(&self) -> &Entry {
        &self.0
    }
}

impl AsRef<Entry> for Verified {
    fn as_ref(&self) -> &Entry {
        &self.0
    }
}

/// Checks the signature of one entry, in about 50 µs.
///
/// # Errors
///
/// [`SignatureError`]; [`verify_batch`] has the same one for the same entry.
pub fn verify(entry: Entry) -> Result<Verified, SignatureError> {
    let (key, signature) = admissible(&entry.author(), &entry.signature())?;
    single(key, signature, &entry.signed_message())?;
    Ok(Verified(entry))
}

/// Checks many signatures at once, in less than half the time for each. The result has one outcome for each entry,
/// in their order, and they are those of [`verify`].
///
/// When a batch does not hold, its halves are tried, a few times over, and then each entry alone, so that a bad
/// entry spoils nobody else's outcome. The work for a batch of bad entries is at most about three times that of
/// checking each alone. One call uses one core; split a large batch among several.
pub fn verify_batch(entries: Vec<Entry>) -> Vec<Result<Verified, SignatureError>> {
    let prepared: Vec<_> = entries.iter().map(prepare).collect();
    let mut held = vec![true; entries.len()];
    let candidates: Vec<usize> = (0..entries.len()).filter(|index| prepared[*index].is_ok()).collect();
    settle(&prepared, &candidates, HALVINGS_MAX, &mut held);
    let outcomes = entries.into_iter().zip(prepared).zip(held);
    let outcome =
        |((entry, prepared), held): ((Entry, Result<Prepared, SignatureError>), bool)| match prepared {
            Err(error) => Err(error),
            Ok(_) if !held => Err(SignatureError::Invalid),
            Ok(_) => Ok(Verified(entry)),
        };
    outcomes.map(outcome).collect()
}

/// Checks a signature that [`AuthorKey::sign_message`](super::AuthorKey::sign_message) made, by the rule that entries
/// are checked by.
///
/// # Errors
///
/// [`SignatureError`].
pub fn verify_message(
    author: &AuthorId,
    context: &str,
    message: &[u8],
    signature: &[u8; 64],
) -> Result<(), SignatureError> {
    let (key, signature) = admissible(author, signature)?;
    single(key, signature, &in_context(context, message))
}

/// What is signed for a message. It starts as no entry's does, and its context can't run over into the message.
pub(super) fn in_context(context: &str, message: &[u8]) -> Vec<u8> {
    let length = (context.len() as u64).to_be_bytes();
    [b"mesh-sync message v1\0", &length[..], context.as_bytes(), message].concat()
}

/// How often a batch that does not hold is halved.
const HALVINGS_MAX: u32 = 4;
/// Below this a batch saves nothing.
const BATCH_MIN: usize = 4;

/// A signature whose points are let in.
struct Prepared {
    item: batch::Item,
    /// Everything that the check depends on: key, signature, and the message by its id.
    transcript: [u8; 128],
}

fn prepare(entry: &Entry) -> Result<Prepared, SignatureError> {
    let (key, signature) = admissible(&entry.author(), &entry.signature())?;
    let mut transcript = [0; 128];
    transcript[..32].copy_from_slice(entry.author().as_bytes());
    transcript[32..96].copy_from_slice(&entry.signature());
    transcript[96..].copy_from_slice(entry.id().as_bytes());
    Ok(Prepared { item: (key, signature, &entry.signed_message()).into(), transcript })
}

fn settle(all: &[Result<Prepared, SignatureError>], group: &[usize], halvings: u32, held: &mut [bool]) {
    let prepared = || group.iter().filter_map(|index| Some((*index, all[*index].as_ref().ok()?)));
    if group.len() < BATCH_MIN {
        for (index, one) in prepared() {
            held[index] = one.item.clone().verify_single().is_ok();
        }
        return;
    }
    let mut verifier = batch::Verifier::new();
    let mut coefficients = blake3::Hasher::new_derive_key("mesh-sync batch coefficients v1");
    for (_, one) in prepared() {
        verifier.queue(one.item.clone());
        coefficients.update(&one.transcript);
    }
    if verifier.verify(Coefficients(coefficients.finalize_xof())).is_ok() {
        return;
    }
    if halvings == 0 {
        for (index, one) in prepared() {
            held[index] = one.item.clone().verify_single().is_ok();
        }
        return;
    }
    let (left, right) = group.split_at(group.len() / 2);
    settle(all, left, halvings - 1, held);
    settle(all, right, halvings - 1, held);
}

/// The one gate before both ways of checking.
fn admissible(
    author: &AuthorId,
    signature: &[u8; 64],
) -> Result<(VerificationKeyBytes, Signature), SignatureError> {
    let signature = Signature::from_bytes(signature);
    points::check(author.as_bytes()).map_err(SignatureError::Key)?;
    points::check(signature.r_bytes()).map_err(SignatureError::Commitment)?;
    Ok((VerificationKeyBytes::from(author.0), signature))
}

fn single(key: VerificationKeyBytes, signature: Signature, message: &[u8]) -> Result<(), SignatureError> {
    let key = VerificationKey::try_from(key).map_err(|_| SignatureError::Invalid)?;
    key.verify(&signature, message).map_err(|_| SignatureError::Invalid)
}

/// The random coefficients of a batch, drawn from a hash of the whole batch.
///
/// They must not be known before the batch is fixed, else its members could be made to cancel out. A hash of
/// everything that the check depends on gives that without a source of randomness, so that the same batch always
/// has the same outcome.
struct Coefficients(blake3::OutputReader);

impl TryRng for Coefficients {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Coefficients {}

#[cfg(test)]
mod tests;
