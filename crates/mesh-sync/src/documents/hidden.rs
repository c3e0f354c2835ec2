//! Whose older writes a document's last write hides.

use crate::entry::{AuthorId, AuthorSequence};

/// The highest number of each author's older writes that were not pruned. An author's entries go in the order of their
/// numbers, so that it tells whether any is left, however many there were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hidden(Vec<(AuthorId, AuthorSequence)>);

impl Hidden {
    pub(super) fn insert(&mut self, author: AuthorId, sequence: AuthorSequence) {
        match self.0.binary_search_by_key(&author, |(of, _)| *of) {
            Ok(at) => self.0[at].1 = self.0[at].1.max(sequence),
            Err(at) => {
                // Most documents have one writer.
                self.0.reserve_exact(1);
                self.0.insert(at, (author, sequence));
            }
        }
    }

    /// Writes of an author up to a number are gone.
    pub(super) fn forget_up_to(&mut self, author: &AuthorId, watermark: AuthorSequence) {
        if let Ok(at) = self.0.binary_search_by_key(author, |(of, _)| *of)
            && self.0[at].1 <= watermark
        {
            self.0.remove(at);
        }
    }

    /// Whether all that is left goes at the latest with the entry of this author that has this number.
    pub(super) fn goes_with(&self, author: AuthorId, sequence: AuthorSequence) -> bool {
        self.0.iter().all(|(of, highest)| *of == author && *highest <= sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_writes_of_an_author_take_the_room_of_one_and_go_when_the_last_of_them_goes() {
        let (one, two) = (AuthorId([1; 32]), AuthorId([2; 32]));
        let mut hidden = Hidden::default();
        for number in [3, 9, 1] {
            hidden.insert(one, AuthorSequence(number));
        }
        assert_eq!(hidden.0.len(), 1);
        assert!(hidden.goes_with(one, AuthorSequence(9)) && !hidden.goes_with(one, AuthorSequence(8)));
        assert!(!hidden.goes_with(two, AuthorSequence(10)));
        hidden.forget_up_to(&one, AuthorSequence(8));
        assert!(!hidden.goes_with(two, AuthorSequence(1)));
        hidden.forget_up_to(&one, AuthorSequence(9));
        assert!(hidden.goes_with(two, AuthorSequence(1)));
    }
}
