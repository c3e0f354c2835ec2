//! The TLS server name of a node.
//!
//! Each node has a name of its own, for two reasons: the verifier learns from it
//! whom the caller expects, and sessions are remembered by name, so that one
//! node's ticket is not offered to all others.

use mesh_core::NodeId;
use rustls::pki_types::ServerName;

/// Below this label, a name holds a node id as it is.
const PLAIN: &str = ".node.mesh.internal";
/// Below this label, it holds one in hexadecimal, for ids that are no DNS name (`a..b`).
const HEX: &str = ".hex.mesh.internal";
/// Any node of the cluster: for seeds, whose id is not known.
const ANY: &str = "any.mesh.internal";

/// Whom a server name asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Any,
    Node(NodeId),
}

/// The name to call `peer` by; `None` for any node of the cluster.
///
/// Give this to the TLS client: the verifier accepts no other form, and a peer
/// with another node id is refused before our own certificate leaves.
pub fn server_name(peer: Option<&NodeId>) -> ServerName<'static> {
    let Some(peer) = peer else {
        return ServerName::try_from(ANY).expect("a constant that is a DNS name");
    };
    ServerName::try_from(format!("{peer}{PLAIN}")).unwrap_or_else(|_| {
        let hex: String = peer.as_str().bytes().map(|byte| format!("{byte:02x}")).collect();
        // A node id has at most 63 bytes, a label at most 63 characters.
        let labels: Vec<&str> =
            hex.as_bytes().chunks(62).map(|part| std::str::from_utf8(part).expect("hexadecimal")).collect();
        ServerName::try_from(format!("{}{HEX}", labels.join("."))).expect("labels of hexadecimal digits")
    })
}

/// Whom `name` asks for, or `None` if it is not one of ours.
pub(crate) fn expected(name: &ServerName<'_>) -> Option<Expected> {
    let ServerName::DnsName(name) = name else { return None };
    let name = name.as_ref();
    if name == ANY {
        return Some(Expected::Any);
    }
    if let Some(plain) = name.strip_suffix(PLAIN) {
        return plain.parse().ok().map(Expected::Node);
    }
    let hex = name.strip_suffix(HEX)?.replace('.', "");
    let bytes: Option<Vec<u8>> = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    String::from_utf8(bytes?).ok()?.parse().ok().map(Expected::Node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_id_has_a_name_that_leads_back_to_it() {
        let longest = "x".repeat(63);
        let dots = format!("a{}b", ".".repeat(61));
        for id in ["a", "worker-7.eu", "a..b", "a-.-b", "any", "7", &longest, &dots] {
            let id: NodeId = id.parse().expect("valid");
            assert_eq!(expected(&server_name(Some(&id))), Some(Expected::Node(id.clone())), "{id}");
        }
        assert_eq!(expected(&server_name(None)), Some(Expected::Any));
    }

    #[test]
    fn other_names_ask_for_nobody() {
        for name in ["localhost", "node.mesh.internal", "zz.hex.mesh.internal", "127.0.0.1"] {
            assert_eq!(expected(&ServerName::try_from(name).expect("a name")), None, "{name}");
        }
    }
}
