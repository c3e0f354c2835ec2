//! Words that the server, the channel, the policy and the metrics share.

use std::{fmt, str::FromStr, sync::Arc};

use http::{HeaderMap, HeaderValue, header};
use mesh_core::PeerIdentity;

/// The response header that tells which transport carried a request, and why:
/// `h2;reason=race-lost`.
pub const TRANSPORT_HEADER: &str = "rpc-transport";
/// The response header that tells how the payload was encoded: `grpc+proto`.
pub const ENCODING_HEADER: &str = "rpc-encoding";
/// The request header by which a channel says why it uses its transport. Left
/// out if that is [`Reason::Negotiated`].
pub const REASON_HEADER: &str = "rpc-transport-reason";

/// A word that is not in a closed set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not known; known are {known}")]
pub struct UnknownWord {
    what: &'static str,
    value: String,
    known: &'static str,
}

/// A closed set of words with one spelling each, for settings, labels and headers.
macro_rules! words {
    ($(#[$doc:meta])* $type:ident, $what:literal, { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $type {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its one spelling, in settings, labels and headers.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = UnknownWord;
            fn from_str(value: &str) -> Result<Self, UnknownWord> {
                const KNOWN: &[&str] = &[$($word),+];
                match value {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownWord {
                        what: $what,
                        value: value.chars().take(60).collect(),
                        known: Self::KNOWN_WORDS,
                    }),
                }.inspect(|_| debug_assert!(KNOWN.contains(&value)))
            }
        }

        impl $type {
            const KNOWN_WORDS: &'static str = words!(@join $($word),+);
        }

        #[cfg(feature = "serde")]
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }

        #[cfg(feature = "serde")]
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let word = <std::borrow::Cow<'de, str>>::deserialize(from)?;
                word.parse().map_err(serde::de::Error::custom)
            }
        }
    };
    (@join $first:literal $(, $rest:literal)*) => { concat!($first $(, ", ", $rest)*) };
}

words! {
    /// What carries HTTP.
    Transport, "transport", {
        /// HTTP/3 over QUIC.
        Http3 = "h3",
        /// HTTP/2 over TCP and TLS.
        Http2 = "h2",
        /// HTTP/1.1 over TCP and TLS; the edge only.
        Http1 = "http/1.1",
    }
}

words! {
    /// How the payload is written.
    Encoding, "encoding", {
        /// gRPC with Protocol Buffers.
        GrpcProto = "grpc+proto",
        /// JSON.
        Json = "json",
        /// Bytes that only the two ends understand. Needs an access list.
        Raw = "raw",
    }
}

words! {
    /// Why a request travels as it does.
    Reason, "reason", {
        /// Both ends can, and it is the preferred way.
        Negotiated = "negotiated",
        /// HTTP/3 failed a short while ago and is being retried in the background.
        RememberedBroken = "remembered-broken",
        /// The other transport was ready first.
        RaceLost = "race-lost",
        /// The policy, or the lane, prefers this transport.
        Policy = "policy",
        /// The peer does not offer the preferred transport.
        PeerCapability = "peer-capability",
    }
}

words! {
    /// What kind of traffic a connection carries. Each lane has connections of its
    /// own, so that a snapshot can't delay a heartbeat.
    Lane, "lane", {
        /// Small requests of the control plane.
        Control = "control",
        /// Heartbeats and lease renewals.
        Heartbeat = "heartbeat",
        /// Snapshots and other large transfers. Prefers HTTP/2, which moves more
        /// bytes for the same processor time.
        Bulk = "bulk",
        /// Replication of entries: one long stream.
        Sync = "sync",
        /// Calls of the services that embed the node.
        User = "user",
    }
}

impl Encoding {
    /// The encoding that the content type of a request announces; `None` for one
    /// that no endpoint serves.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(header::CONTENT_TYPE)?.as_bytes();
        let essence = value.split(|&b| b == b';').next()?.trim_ascii();
        match essence {
            b"application/grpc" | b"application/grpc+proto" => Some(Self::GrpcProto),
            b"application/json" => Some(Self::Json),
            b"application/octet-stream" => Some(Self::Raw),
            _ => None,
        }
    }
}

/// The other end of the connection that a request came on. Handlers find it in the
/// extensions of every request, the same on every transport.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Who it is, by its verified certificate.
    pub identity: Arc<PeerIdentity>,
    /// What carries the request.
    pub transport: Transport,
    /// The protocol that TLS agreed on: `h3`, `h2`.
    pub alpn: &'static str,
    /// What ties a statement to the connection; `None` where the request came on one of somebody else's.
    pub exporter: Option<crate::ChannelExporter>,
}

/// Marks a request that may safely be sent more than once. Put it into the
/// extensions of a request, and the channel sends it again on another connection
/// when one breaks before the response began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idempotent;

/// The value of [`TRANSPORT_HEADER`].
pub(crate) fn transport_header(transport: Transport, reason: Reason) -> HeaderValue {
    macro_rules! table {
        ($($transport:ident $reason:ident $text:literal,)+) => {
            match (transport, reason) {
                $((Transport::$transport, Reason::$reason) => HeaderValue::from_static($text),)+
            }
        };
    }
    table! {
        Http3 Negotiated "h3;reason=negotiated",
        Http3 RememberedBroken "h3;reason=remembered-broken",
        Http3 RaceLost "h3;reason=race-lost",
        Http3 Policy "h3;reason=policy",
        Http3 PeerCapability "h3;reason=peer-capability",
        Http2 Negotiated "h2;reason=negotiated",
        Http2 RememberedBroken "h2;reason=remembered-broken",
        Http2 RaceLost "h2;reason=race-lost",
        Http2 Policy "h2;reason=policy",
        Http2 PeerCapability "h2;reason=peer-capability",
        Http1 Negotiated "http/1.1;reason=negotiated",
        Http1 RememberedBroken "http/1.1;reason=remembered-broken",
        Http1 RaceLost "http/1.1;reason=race-lost",
        Http1 Policy "http/1.1;reason=policy",
        Http1 PeerCapability "http/1.1;reason=peer-capability",
    }
}

/// Why the sender uses its transport, as its header says. A claim, good for
/// counting only; anything unknown counts as negotiated.
pub(crate) fn claimed_reason(headers: &HeaderMap) -> Reason {
    headers
        .get(REASON_HEADER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok())
        .unwrap_or(Reason::Negotiated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_outside_the_set_is_refused_with_the_set() {
        assert_eq!("h3".parse(), Ok(Transport::Http3));
        let refused = "spdy".parse::<Transport>().unwrap_err().to_string();
        assert_eq!(refused, "transport \"spdy\" is not known; known are h3, h2, http/1.1");
    }

    #[test]
    fn the_transport_header_spells_both_words() {
        for &transport in Transport::ALL {
            for &reason in Reason::ALL {
                let header = transport_header(transport, reason);
                assert_eq!(header, format!("{transport};reason={reason}"));
            }
        }
    }

    #[test]
    fn content_types_map_to_encodings() {
        let of = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
            Encoding::of(&headers)
        };
        assert_eq!(of("application/grpc"), Some(Encoding::GrpcProto));
        assert_eq!(of("application/json; charset=utf-8"), Some(Encoding::Json));
        assert_eq!(of("application/grpc-web"), None);
        assert_eq!(Encoding::of(&HeaderMap::new()), None);
    }
}
