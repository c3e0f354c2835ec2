//! Header blocks of outgoing requests, responses and trailers.
//!
//! h3 Huffman-codes every string bit by bit, which costs more than all the rest of a
//! small call's way through it. The blocks made here refer to QPACK's static table
//! (RFC 9204, appendix A) where that has what we need, and carry everything else as it is.

use bytes::{BufMut, Bytes};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header, request, response};

use super::STAND_IN_AUTHORITY;
use crate::rpc::{REASON_HEADER, Reason};

/// Largest block that is made here, by RFC 9114's measure of 32 bytes a field and its
/// text. Larger ones are left to h3, which knows what the peer accepts.
const SIZE_MAX: usize = 1024;

// Places in the static table.
const AUTHORITY: u64 = 0;
const PATH: u64 = 1;
const METHOD_GET: u64 = 17;
const METHOD_POST: u64 = 20;
const SCHEME_HTTPS: u64 = 23;
const STATUS_200: u64 = 25;
const CONTENT_TYPE: u64 = 44;

/// The block of a request that goes out for `reason`; `None` leaves it to h3.
pub(crate) fn request(head: &request::Parts, reason: Reason) -> Option<Bytes> {
    let (authority, path) = (head.uri.authority()?.as_str(), head.uri.path_and_query()?.as_str());
    if head.uri.scheme() != Some(&http::uri::Scheme::HTTPS)
        || head.headers.contains_key(header::HOST)
        || head.extensions.get::<h3::ext::Protocol>().is_some()
        || head.method == Method::CONNECT
        || authority == STAND_IN_AUTHORITY
    {
        return None;
    }
    let mut block = Block::new();
    match head.method {
        Method::POST => block.indexed(METHOD_POST),
        Method::GET => block.indexed(METHOD_GET),
        ref other => block.named(METHOD_POST, other.as_str().as_bytes(), false),
    }
    block.indexed(SCHEME_HTTPS);
    block.named(AUTHORITY, authority.as_bytes(), false);
    block.named(PATH, path.as_bytes(), false);
    block.fields(&head.headers);
    if reason != Reason::Negotiated {
        block.field(REASON_HEADER.as_bytes(), reason.as_str().as_bytes(), false);
    }
    block.finish()
}

/// The block of a response; `None` leaves it to h3.
pub(crate) fn response(head: &response::Parts) -> Option<Bytes> {
    let mut block = Block::new();
    match head.status {
        StatusCode::OK => block.indexed(STATUS_200),
        other => block.named(STATUS_200, other.as_str().as_bytes(), false),
    }
    block.fields(&head.headers);
    block.finish()
}

/// The block of trailers; `None` leaves it to h3.
pub(super) fn trailers(trailers: &HeaderMap) -> Option<Bytes> {
    let mut block = Block::new();
    block.fields(trailers);
    block.finish()
}

/// A request whose block never leaves: see [`STAND_IN`](super::STAND_IN).
pub(crate) fn stand_in() -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static("https://_/");
    request
}

struct Block {
    bytes: Vec<u8>,
    size: usize,
}

impl Block {
    fn new() -> Self {
        let mut bytes = Vec::with_capacity(256);
        // Required insert count and base: nothing refers to a dynamic table.
        bytes.extend([0, 0]);
        Self { bytes, size: 0 }
    }

    /// A field that the static table has with its value.
    fn indexed(&mut self, place: u64) {
        // None of those used here is longer.
        self.size += 64;
        self.integer(0b1100_0000, 6, place);
    }

    /// A field whose name the static table has. `secret` values must not be put in any
    /// table by intermediaries.
    fn named(&mut self, place: u64, value: &[u8], secret: bool) {
        self.size += 48 + value.len();
        self.integer(if secret { 0b0111_0000 } else { 0b0101_0000 }, 4, place);
        self.text(0, 7, value);
    }

    fn fields(&mut self, fields: &HeaderMap<HeaderValue>) {
        for (name, value) in fields {
            if name == header::CONTENT_TYPE {
                self.named(CONTENT_TYPE, value.as_bytes(), value.is_sensitive());
                continue;
            }
            self.field(name.as_str().as_bytes(), value.as_bytes(), value.is_sensitive());
        }
    }

    fn field(&mut self, name: &[u8], value: &[u8], secret: bool) {
        self.size += 32 + name.len() + value.len();
        self.text(if secret { 0b0011_0000 } else { 0b0010_0000 }, 3, name);
        self.text(0, 7, value);
    }

    fn text(&mut self, pattern: u8, prefix_bits: u32, text: &[u8]) {
        self.integer(pattern, prefix_bits, text.len() as u64);
        self.bytes.extend_from_slice(text);
    }

    /// An integer with a prefix of that many bits (RFC 7541, 5.1).
    fn integer(&mut self, pattern: u8, prefix_bits: u32, value: u64) {
        let most = (1_u64 << prefix_bits) - 1;
        if value < most {
            self.bytes.put_u8(pattern | value as u8);
            return;
        }
        self.bytes.put_u8(pattern | most as u8);
        let mut rest = value - most;
        while rest >= 0x80 {
            self.bytes.put_u8(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.bytes.put_u8(rest as u8);
    }

    fn finish(self) -> Option<Bytes> {
        (self.size <= SIZE_MAX).then(|| self.bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_what_the_rfc_says() {
        let mut request = Request::post("https://n1/a").body(()).unwrap();
        request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        let block = request_block(request).unwrap();
        let expected = b"\x00\x00\xd4\xd7\x50\x02n1\x51\x02/a\x22te\x08trailers";
        assert_eq!(block.as_ref(), expected);
    }

    #[test]
    fn long_texts_have_long_lengths_and_secrets_are_marked() {
        let mut trailers_map = HeaderMap::new();
        let mut value = HeaderValue::from_str(&"v".repeat(300)).unwrap();
        value.set_sensitive(true);
        trailers_map.insert("authorization-x", value);
        let block = trailers(&trailers_map).unwrap();
        // 15 - 7 = 8; 300 - 127 = 173 = 0b1_0101101.
        let expected = [b"\x00\x00\x37\x08authorization-x\x7f\xad\x01".as_ref(), &[b'v'; 300]].concat();
        assert_eq!(block.as_ref(), expected);
    }

    #[test]
    fn what_is_large_or_unusual_is_left_to_h3() {
        let long = "x".repeat(SIZE_MAX);
        assert!(request_block(Request::get(format!("https://n1/{long}")).body(()).unwrap()).is_none());
        let host = Request::get("https://n1/").header("host", "n2").body(()).unwrap();
        assert!(request_block(host).is_none());
        assert!(request_block(stand_in()).is_none());
    }

    fn request_block(request: Request<()>) -> Option<Bytes> {
        super::request(&request.into_parts().0, Reason::Negotiated)
    }
}
