//! The id that ties a request, its answer and its log lines together.

use std::{
    fmt,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header that carries it.
pub(super) const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id taken over from a caller, in bytes.
const BYTES_MAX: usize = 64;

/// A request's id. Handlers find it in the request's extensions.
///
/// A caller may bring its own, so that it finds its request in our logs. It is a
/// label for searching and nothing else: who calls is what the certificate says.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The caller's id if it is a plain one, else a new one.
    pub fn of_request(headers: &HeaderMap) -> Self {
        let plain = |value: &&HeaderValue| {
            (1..=BYTES_MAX).contains(&value.len())
                && value.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        };
        headers.get(HEADER).filter(plain).map_or_else(Self::generate, |value| Self(value.clone()))
    }

    /// A new id, different from all others of this process and, very likely, of other ones.
    pub fn generate() -> Self {
        static PROCESS: LazyLock<u64> = LazyLock::new(|| fastrand::u64(..));
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let text = format!("{:016x}-{}", *PROCESS, NEXT.fetch_add(1, Ordering::Relaxed));
        // Digits and a dash are always valid in a header.
        Self(HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("unknown")))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_id_is_kept_and_a_strange_one_replaced() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, HeaderValue::from_static(text));
            RequestId::of_request(&headers)
        };
        assert_eq!(of("build-17_a.b").as_str(), "build-17_a.b");
        for strange in ["", "a b", "x\"y", "../../etc"] {
            assert_ne!(of(strange).as_str(), strange);
        }
        assert_ne!(RequestId::generate(), RequestId::generate());
    }
}
