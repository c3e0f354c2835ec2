//! Keyset pages: "the next hundred after this key", stable while the list changes.

use std::fmt::Write as _;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::Problem;

/// Longest key in a cursor, in bytes.
const KEY_BYTES_MAX: usize = 512;

/// How long a page may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimits {
    /// Items when the caller does not say.
    pub default: usize,
    /// Most items a caller may ask for.
    pub max: usize,
}

impl Default for PageLimits {
    fn default() -> Self {
        Self { default: 100, max: 1000 }
    }
}

/// Where a page starts: after a key. Opaque to callers, and good for one list only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    key: String,
}

impl Cursor {
    /// The cursor after `key`.
    pub fn after(key: impl Into<String>) -> Self {
        Self { key: key.into() }
    }

    /// The last key of the page before.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// As text. `list` names the list; another one refuses the text.
    pub fn encode(&self, list: &str) -> String {
        let mut text = format!("{:08x}", check(list, &self.key));
        for byte in self.key.bytes() {
            // Writing to a string can't fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    ///
    /// A problem with the code `<list>.cursor.invalid`.
    pub fn decode(list: &str, text: &str) -> Result<Self, Problem> {
        decode(text).filter(|(sum, key)| *sum == check(list, key)).map(|(_, key)| Self { key }).ok_or_else(
            || {
                Problem::new(
                    StatusCode::BAD_REQUEST,
                    format!("{list}.cursor.invalid"),
                    "the page cursor is not valid",
                )
                .object(text)
                .cause(format!("it was not given out as next_cursor by a page of {list}"))
                .action("leave out the parameter cursor to start with the first page")
            },
        )
    }
}

fn check(list: &str, key: &str) -> u32 {
    (xxh3_64(format!("{list}\0{key}").as_bytes()) >> 32) as u32
}

fn decode(text: &str) -> Option<(u32, String)> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) || text.len() > 8 + 2 * KEY_BYTES_MAX {
        return None;
    }
    let (sum, key) = text.split_at_checked(8)?;
    let bytes = (0..key.len() / 2)
        .map(|at| u8::from_str_radix(key.get(2 * at..2 * at + 2)?, 16).ok())
        .collect::<Option<Vec<u8>>>()?;
    Some((u32::from_str_radix(sum, 16).ok()?, String::from_utf8(bytes).ok()?))
}

/// Which page a request asks for: `?limit=` and `?cursor=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageQuery {
    /// Most items on the page.
    pub limit: usize,
    /// Where it starts; `None` for the first page.
    pub cursor: Option<Cursor>,
}

impl PageQuery {
    /// Takes `limit` and `cursor` out of the query's pairs and leaves the others.
    ///
    /// # Errors
    ///
    /// A problem with the code `<list>.limit.invalid` or `<list>.cursor.invalid`.
    pub fn take(list: &str, limits: PageLimits, pairs: &mut Vec<(String, String)>) -> Result<Self, Problem> {
        let mut query = Self { limit: limits.default, cursor: None };
        let mut error = None;
        pairs.retain(|(name, value)| {
            match name.as_str() {
                "limit" => match value.parse() {
                    Ok(limit) if (1..=limits.max).contains(&limit) => query.limit = limit,
                    _ => error = Some(limit_problem(list, limits, value)),
                },
                "cursor" => match Cursor::decode(list, value) {
                    Ok(cursor) => query.cursor = Some(cursor),
                    Err(problem) => error = Some(problem),
                },
                _ => return true,
            }
            false
        });
        error.map_or(Ok(query), Err)
    }

    /// Cuts the page out of `items`, which are in ascending order of `key` and already filtered.
    ///
    /// An item that stays in the list during a walk over all pages is seen
    /// exactly once, whatever comes and goes around it.
    pub fn cut<T>(&self, list: &str, items: impl Iterator<Item = T>, key: impl Fn(&T) -> &str) -> Page<T> {
        let after = self.cursor.as_ref().map(Cursor::key);
        let mut rest = items.filter(|item| after.is_none_or(|after| key(item) > after));
        let page: Vec<T> = rest.by_ref().take(self.limit).collect();
        let more = rest.next().is_some();
        let next_cursor = page.last().filter(|_| more).map(|last| Cursor::after(key(last)).encode(list));
        Page { items: page, next_cursor }
    }
}

fn limit_problem(list: &str, limits: PageLimits, value: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, format!("{list}.limit.invalid"), "the page limit is not valid")
        .object(value)
        .cause(format!("limit must be a number between 1 and {}", limits.max))
        .action(format!("leave it out for {} items, and follow next_cursor for more", limits.default))
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// Its items, in the list's order.
    pub items: Vec<T>,
    /// Give this as `cursor` for the next page; `null` on the last one.
    pub next_cursor: Option<String>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_walk_sees_each_staying_item_once_while_others_come_and_go() {
        let limits = PageLimits { default: 7, max: 10 };
        let mut list: BTreeSet<String> = (0..100).map(|n| format!("k{n:03}")).collect();
        let staying: BTreeSet<String> = list.iter().skip(1).step_by(2).cloned().collect();
        let (mut seen, mut query) = (Vec::new(), PageQuery { limit: 7, cursor: None });
        for round in 0.. {
            let page = query.cut("things", list.iter().cloned(), |item| item);
            seen.extend(page.items);
            // Between two pages: one of the others goes, even the one that the cursor names, and one comes.
            if let Some(gone) = seen.last().filter(|last| !staying.contains(*last)).cloned() {
                list.remove(&gone);
            }
            list.remove(&format!("k{:03}", 2 * round));
            list.insert(format!("k{:03}x", 6 * round));
            let Some(cursor) = page.next_cursor else { break };
            query = PageQuery::take("things", limits, &mut pairs(&[("cursor", &cursor)])).expect("cursor");
        }
        let unique: BTreeSet<String> = seen.iter().cloned().collect();
        assert_eq!(unique.len(), seen.len(), "nothing twice");
        assert!(unique.is_superset(&staying), "missing: {:?}", staying.difference(&unique));
    }

    #[test]
    fn wrong_limits_and_cursors_are_named() {
        let limits = PageLimits::default();
        for limit in ["0", "1001", "-1", "x", "", "99999999999999999999999"] {
            let problem = PageQuery::take("peers", limits, &mut pairs(&[("limit", limit)])).expect_err(limit);
            assert_eq!(&*problem.code, "peers.limit.invalid");
            assert!(problem.detail.as_deref().expect("cause").contains("1000"));
        }
        let of_peers = Cursor::after("w-1").encode("peers");
        assert_eq!(Cursor::decode("peers", &of_peers), Ok(Cursor::after("w-1")));
        let long = "ab".repeat(2000);
        for text in ["", "zz", "00000000", "ä", "0000000077", &of_peers[1..], &long] {
            assert_eq!(&*Cursor::decode("peers", text).expect_err(text).code, "peers.cursor.invalid");
        }
        assert!(Cursor::decode("shards", &of_peers).is_err(), "a cursor is good for its own list");
    }

    #[test]
    fn other_parameters_are_left_for_the_filter() {
        let mut rest = pairs(&[("state", "alive"), ("limit", "5"), ("zone", "a")]);
        let query = PageQuery::take("peers", PageLimits::default(), &mut rest).expect("valid");
        assert_eq!(query.limit, 5);
        assert_eq!(rest, pairs(&[("state", "alive"), ("zone", "a")]));
    }
}
