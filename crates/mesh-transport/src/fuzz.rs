//! What fuzzers call: every decoder of this crate whose bytes come from a peer, a caller or a file.

use mesh_core::fuzz::Target;

/// The targets of this crate.
pub const TARGETS: &[Target] = &[
    #[cfg(feature = "quic")]
    ("transport_links", links),
    ("transport_certificate", certificate),
    #[cfg(feature = "edge")]
    ("transport_edge", edge),
    #[cfg(feature = "rpc")]
    ("transport_grpc", grpc),
];

/// Greetings and frames of links, also as the hexadecimal text of a header.
#[cfg(feature = "quic")]
pub fn links(data: &[u8]) {
    use bytes::BytesMut;

    use crate::links::wire::{Hello, Welcome, from_hex, next_frame, to_hex};

    let greetings = |bytes: &[u8]| {
        if let Some(hello) = Hello::decode(bytes) {
            assert_eq!(Hello::decode(&hello.encode()), Some(hello));
        }
        if let Some(welcome) = Welcome::decode(bytes) {
            assert_eq!(Welcome::decode(&welcome.encode()), Some(welcome));
        }
    };
    greetings(data);
    if let Some(bytes) = from_hex(data) {
        assert!(to_hex(&bytes).as_bytes().eq_ignore_ascii_case(data));
        greetings(&bytes);
    }
    // However a stream of frames is cut, the same frames come out of it.
    let frames = |size: usize| {
        let (mut buffer, mut taken) = (BytesMut::new(), Vec::new());
        for piece in data.chunks(size) {
            buffer.extend_from_slice(piece);
            loop {
                match next_frame(&mut buffer) {
                    Ok(Some(frame)) => taken.push(frame),
                    Ok(None) => break,
                    Err(error) => return (taken, Some(error)),
                }
            }
        }
        (taken, None)
    };
    assert_eq!(frames(7), frames(data.len().max(1)));
}

/// Certificates, and the PEM texts that they come in.
pub fn certificate(data: &[u8]) {
    use rustls_pki_types::CertificateDer;

    use crate::{identity::Material, identity::der, tls::spiffe_id};

    let read = |certificate: &CertificateDer<'_>| {
        if let Some(fields) = der::fields(certificate) {
            assert!(fields.subject.chars().all(|c| !c.is_control()), "a subject goes to a log");
        }
        if let Ok(leaf) = webpki::EndEntityCert::try_from(certificate)
            && let Ok(id) = spiffe_id(&leaf, "fuzzed")
        {
            assert_eq!(id.to_string().parse().ok(), Some(id));
        }
    };
    read(&CertificateDer::from(data));
    if let Ok(material) = Material::from_pem(data, data, data, data) {
        material.certificates.iter().for_each(read);
    }
}

/// What callers of the edge port write into queries and headers.
#[cfg(feature = "edge")]
pub fn edge(data: &[u8]) {
    use http::{HeaderMap, HeaderValue, header};

    use crate::edge::{
        Cursor, EntityTag, EventId, Field, Fields, Filter, IfMatch, PageLimits, PageQuery, query_pairs,
    };

    const FIELDS: Fields = Fields {
        list: "fuzzed",
        fields: &[Field::text("zone"), Field::one_of("state", &["alive", "dead"])],
        labels: true,
        reserved: &["watch"],
    };
    let text = String::from_utf8_lossy(data);
    if let Ok(cursor) = Cursor::decode("fuzzed", &text) {
        assert_eq!(Cursor::decode("fuzzed", &cursor.encode("fuzzed")).ok(), Some(cursor));
    }
    let key = Cursor::after(text.chars().take(100).collect::<String>());
    assert_eq!(Cursor::decode("fuzzed", &key.encode("fuzzed")).ok(), Some(key), "our own cursors are good");
    if let Ok(id) = text.parse::<EventId>() {
        assert_eq!(id.to_string().parse::<EventId>(), Ok(id));
    }
    if let Ok(value) = HeaderValue::from_bytes(data) {
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_MATCH, value.clone());
        headers.insert(header::IF_NONE_MATCH, value);
        // Either is fine; neither may panic.
        let _ = IfMatch::from_headers(&headers);
        let _ = EntityTag::of_parts(&1).is_known(&headers);
    }
    let Ok(uri) = format!("/list?{text}").parse::<http::Uri>() else { return };
    let Ok(mut pairs) = query_pairs(&uri) else { return };
    if let Ok(page) = PageQuery::take("fuzzed", PageLimits::default(), &mut pairs) {
        assert!((1..=PageLimits::default().max).contains(&page.limit));
    }
    if let Ok(filter) = Filter::parse(&FIELDS, &pairs) {
        let kept = filter.keeps(|_| ["alive", "x"], || ["text"]);
        assert!(kept || !filter.is_empty(), "a filter without conditions keeps all");
    }
}

/// Deadlines in headers, and message lengths in bodies.
#[cfg(feature = "rpc")]
pub fn grpc(data: &[u8]) {
    use http::{HeaderMap, HeaderValue};

    use crate::rpc::grpc::{MessageScanner, timeout};

    if let Ok(value) = HeaderValue::from_bytes(data) {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", value);
        if timeout(&headers).is_some() {
            assert!((2..=9).contains(&data.len()), "eight digits and a unit at most");
        }
    }
    let scan = |size: usize| {
        let mut scanner = MessageScanner::default();
        let stopped = data.chunks(size).find_map(|piece| scanner.advance(piece, 1000).err());
        (stopped, stopped.is_none() && scanner.inside_message())
    };
    assert_eq!(scan(3), scan(data.len().max(1)), "however a body is cut");
}

#[cfg(test)]
mod tests {
    #[test]
    fn decoders_hold_over_their_corpus() {
        mesh_core::fuzz::exercise(super::TARGETS);
    }
}
