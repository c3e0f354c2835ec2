//! Entity tags and the conditional headers (RFC 9110, section 13).

use std::{fmt, hash::Hash, io};

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use mesh_core::Revision;
use serde::Serialize;
use xxhash_rust::xxh3::Xxh3;

use super::Problem;

/// Names one version of a view.
#[derive(Clone, PartialEq, Eq)]
pub struct EntityTag(String);

impl EntityTag {
    /// A tag of a live view: a digest of what it shows.
    ///
    /// It is a weak tag, because callers leave measurements that change all the
    /// time (round trips) out of `view`; an answer that differs in those alone
    /// counts as the same.
    ///
    /// ```
    /// use mesh_transport::edge::EntityTag;
    /// assert_eq!(EntityTag::of_view(&["a", "b"]), EntityTag::of_view(&["a", "b"]));
    /// assert_ne!(EntityTag::of_view(&["a", "b"]), EntityTag::of_view(&["ab"]));
    /// ```
    pub fn of_view<T: Serialize + ?Sized>(view: &T) -> Self {
        let mut digest = Digest(Xxh3::new());
        // A view that can't be serialized gets the tag of the part before, and its answer fails anyway.
        let _ = serde_json::to_writer(&mut digest, view);
        Self(format!("W/\"{:032x}\"", digest.0.digest128()))
    }

    /// [`of_view`](Self::of_view) for a large view: a digest of the parts that it is
    /// made from, without rendering it. Everything that shows must be among them.
    pub fn of_parts<T: Hash + ?Sized>(parts: &T) -> Self {
        let mut digest = Xxh3::new();
        parts.hash(&mut digest);
        Self(format!("W/\"{:032x}\"", digest.digest128()))
    }

    /// The tag of stored records: the highest revision that the answer covers.
    pub fn of_revision(revision: Revision) -> Self {
        Self(format!("\"r{revision}\""))
    }

    /// Whether the caller already has this version (`If-None-Match`).
    pub fn is_known(&self, headers: &HeaderMap) -> bool {
        let opaque = self.0.trim_start_matches("W/");
        headers
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .any(|candidate| candidate == "*" || candidate.trim_start_matches("W/") == opaque)
    }

    fn header(&self) -> HeaderValue {
        // Hexadecimal digits and quotes are always valid in a header.
        HeaderValue::from_str(&self.0).unwrap_or(HeaderValue::from_static("W/\"\""))
    }
}

impl fmt::Display for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Hashes what is written, so that no text of the view is built.
struct Digest(Xxh3);

impl io::Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Answers 304 if the caller already has `tag`, and else with `answer`; both carry the tag.
///
/// `answer` runs only when it is needed.
pub fn conditional(headers: &HeaderMap, tag: &EntityTag, answer: impl FnOnce() -> Response) -> Response {
    let mut response =
        if tag.is_known(headers) { StatusCode::NOT_MODIFIED.into_response() } else { answer() };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, tag.header());
    // Keep it, but ask each time: this is an answer to one identity about a live system.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    response
}

/// What a writer believes to change (`If-Match`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IfMatch {
    /// Nothing was stated.
    Missing,
    /// `*`: whatever is there.
    Any,
    /// One of these revisions.
    Revisions(Vec<Revision>),
}

impl IfMatch {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// A problem with the code `request.if-match.invalid` if it is not `*` or tags like `"r12"`.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut revisions = Vec::new();
        let mut any = false;
        for value in headers.get_all(header::IF_MATCH) {
            for tag in value.to_str().unwrap_or("?").split(',').map(str::trim) {
                if tag == "*" {
                    any = true;
                    continue;
                }
                let revision = tag
                    .strip_prefix("\"r")
                    .and_then(|rest| rest.strip_suffix('"'))
                    .and_then(|digits| digits.parse().ok())
                    .ok_or_else(|| {
                        Problem::new(
                            StatusCode::BAD_REQUEST,
                            "request.if-match.invalid",
                            "the If-Match header is not a revision",
                        )
                        .object(tag)
                        .cause("it must be * or a tag like \"r12\" from the ETag header of a read")
                        .action("read the object again and send its ETag")
                    })?;
                revisions.push(Revision(revision));
            }
        }
        Ok(match (any, revisions.is_empty()) {
            (true, _) => Self::Any,
            (false, true) => Self::Missing,
            (false, false) => Self::Revisions(revisions),
        })
    }

    /// Checks it against the object's own revision; a missing header is refused.
    ///
    /// # Errors
    ///
    /// 428 with the code `<what>.revision.required`, or 412 with `<what>.revision.stale`.
    pub fn require(&self, what: &str, object: &str, current: Revision) -> Result<(), Problem> {
        match self {
            Self::Any => Ok(()),
            Self::Revisions(revisions) if revisions.contains(&current) => Ok(()),
            Self::Missing => Err(Problem::new(
                StatusCode::PRECONDITION_REQUIRED,
                format!("{what}.revision.required"),
                "the write needs an If-Match header",
            )
            .object(object)
            .cause("without it a change by somebody else could be overwritten unseen")
            .action(format!("send If-Match: \"r{current}\", or * to overwrite whatever is there"))),
            Self::Revisions(_) => Err(Problem::new(
                StatusCode::PRECONDITION_FAILED,
                format!("{what}.revision.stale"),
                "the object changed since it was read",
            )
            .object(object)
            .cause(format!("its revision is now {current}"))
            .action("read it again, decide again, and send the new ETag as If-Match")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).expect("header"));
        headers
    }

    #[test]
    fn a_known_tag_gives_304_and_the_answer_is_not_made() {
        let tag = EntityTag::of_view("view");
        for known in [tag.to_string(), format!("\"x\", {tag}"), tag.to_string()[2..].to_owned(), "*".into()] {
            let response =
                conditional(&headers(header::IF_NONE_MATCH, &known), &tag, || unreachable!("not needed"));
            assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{known}");
            assert_eq!(response.headers()[header::ETAG], tag.to_string());
        }
        let response =
            conditional(&headers(header::IF_NONE_MATCH, "W/\"other\""), &tag, || "new".into_response());
        assert_eq!(response.status(), StatusCode::OK);
    }

    #[test]
    fn a_writer_with_an_old_revision_is_told_the_new_one() {
        let stale = IfMatch::from_headers(&headers(header::IF_MATCH, "\"r4\"")).expect("valid");
        assert_eq!(stale.require("peers", "w-1", Revision(4)), Ok(()));
        let problem = stale.require("peers", "w-1", Revision(5)).expect_err("stale");
        assert_eq!((problem.status, &*problem.code), (412, "peers.revision.stale"));
        assert!(problem.detail.as_deref().expect("cause").contains('5'));

        let missing = IfMatch::from_headers(&HeaderMap::new()).expect("valid");
        let problem = missing.require("peers", "w-1", Revision(5)).expect_err("missing");
        assert_eq!((problem.status, &*problem.code), (428, "peers.revision.required"));
        assert!(problem.action.as_deref().expect("action").contains("\"r5\""));

        let any = IfMatch::from_headers(&headers(header::IF_MATCH, "*")).expect("valid");
        assert_eq!(any.require("peers", "w-1", Revision(9)), Ok(()));
        for wrong in ["\"5\"", "r5", "W/\"r5\"", "\"rx\"", "\u{e9}"] {
            let headers = headers(header::IF_MATCH, wrong);
            assert_eq!(&*IfMatch::from_headers(&headers).expect_err(wrong).code, "request.if-match.invalid");
        }
    }
}
