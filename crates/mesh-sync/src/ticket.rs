//! What a new node needs to join a dataset, as a text that people pass on.
//!
//! ```text
//! mesh:?ds=<dataset>&pr=<transport>:<address>&pr=…
//! ```
//!
//! A ticket is no secret and proves nothing: it says where to ask. Access is decided by whoever is asked.

use std::{fmt, str::FromStr};

use crate::{
    entry::{DatasetId, NameError},
    state::{ADDRESS_BYTES_MAX, ADDRESSES_MAX},
};

/// The longest ticket, in bytes.
pub const TICKET_BYTES_MAX: usize = 4096;
const TRANSPORT_BYTES_MAX: usize = 16;

/// Where a peer is: how to speak with it, and the address in that transport's own form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TicketPeer {
    transport: String,
    address: String,
}

impl TicketPeer {
    /// An address of a transport, as `grpc` and `node-1.example:7700`.
    ///
    /// # Errors
    ///
    /// [`TicketError::Peer`] tells what is allowed.
    pub fn new(transport: &str, address: &str) -> Result<Self, TicketError> {
        let outer = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let problem = if transport.is_empty() || transport.len() > TRANSPORT_BYTES_MAX {
            "its transport must have 1 to 16 characters"
        } else if !transport.bytes().all(|byte| outer(byte) || byte == b'-' || byte == b'+') {
            "its transport may have a-z, 0-9, '-' and '+'"
        } else if address.is_empty() || address.len() > ADDRESS_BYTES_MAX {
            "its address must have 1 to 255 characters"
        } else if !address.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:/[]%@".contains(&byte)) {
            "its address may have letters, digits and -._~:/[]%@"
        } else {
            return Ok(Self { transport: transport.to_owned(), address: address.to_owned() });
        };
        Err(TicketError::Peer { value: shown(&format!("{transport}:{address}")), problem })
    }

    /// How to speak with it.
    pub fn transport(&self) -> &str {
        &self.transport
    }

    /// Where it is.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl FromStr for TicketPeer {
    type Err = TicketError;

    fn from_str(value: &str) -> Result<Self, TicketError> {
        let (transport, address) = value.split_once(':').ok_or_else(|| TicketError::Peer {
            value: shown(value),
            problem: "it must be of the form <transport>:<address>",
        })?;
        Self::new(transport, address)
    }
}

impl fmt::Display for TicketPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.transport, self.address)
    }
}

/// What is needed to join a dataset.
///
/// ```
/// use mesh_sync::ticket::Ticket;
///
/// let ticket: Ticket = "mesh:?ds=notes&pr=grpc:node-1.example:7700&pr=http:10.0.0.2:80".parse()?;
/// assert_eq!(ticket.dataset().as_str(), "notes");
/// assert_eq!(ticket.peers()[0].address(), "node-1.example:7700");
/// assert_eq!(ticket.to_string(), "mesh:?ds=notes&pr=grpc:node-1.example:7700&pr=http:10.0.0.2:80");
///
/// let error = "mesh:?ds=notes&pr=nowhere".parse::<Ticket>().unwrap_err();
/// assert!(error.to_string().contains("<transport>:<address>"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    dataset: DatasetId,
    peers: Vec<TicketPeer>,
}

/// Why a text is no ticket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// It is longer than any ticket.
    #[error("the ticket has {bytes} bytes, at most {TICKET_BYTES_MAX} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It is something else.
    #[error("{value:?} is no ticket; one looks like mesh:?ds=<dataset>&pr=<transport>:<address>")]
    Form {
        /// How it starts.
        value: String,
    },
    /// A part is unknown. It may be of a newer program.
    #[error("the ticket has the unknown part {value:?}; known are ds and pr")]
    Unknown {
        /// The part.
        value: String,
    },
    /// There must be one dataset.
    #[error("the ticket names {found} datasets, it must name one")]
    Datasets {
        /// How many there are.
        found: usize,
    },
    /// The dataset's name is not valid.
    #[error("the ticket's dataset is not valid")]
    Dataset(#[from] NameError),
    /// There are no peers, or too many.
    #[error("the ticket has {found} peers, 1 to {ADDRESSES_MAX} are allowed")]
    Peers {
        /// How many there are.
        found: usize,
    },
    /// A peer is there twice.
    #[error("the ticket has the peer {peer} twice")]
    Twice {
        /// Which.
        peer: TicketPeer,
    },
    /// A peer is not valid.
    #[error("the peer {value:?} is not valid: {problem}")]
    Peer {
        /// What was found.
        value: String,
        /// What is wrong.
        problem: &'static str,
    },
}

/// The part of a refused value that an error repeats.
fn shown(value: &str) -> String {
    value.chars().take(80).collect()
}

impl Ticket {
    /// A ticket for a dataset, with peers to ask, best first.
    ///
    /// # Errors
    ///
    /// [`TicketError`], if there are no peers, too many, or one twice.
    pub fn new(dataset: DatasetId, peers: Vec<TicketPeer>) -> Result<Self, TicketError> {
        if peers.is_empty() || peers.len() > ADDRESSES_MAX {
            return Err(TicketError::Peers { found: peers.len() });
        }
        if let Some((_, peer)) = peers.iter().enumerate().find(|(at, peer)| peers[..*at].contains(peer)) {
            return Err(TicketError::Twice { peer: peer.clone() });
        }
        let ticket = Self { dataset, peers };
        match ticket.to_string().len() {
            bytes if bytes > TICKET_BYTES_MAX => Err(TicketError::TooLong { bytes }),
            _ => Ok(ticket),
        }
    }

    /// The dataset.
    pub const fn dataset(&self) -> &DatasetId {
        &self.dataset
    }

    /// Whom to ask, one after the other.
    pub fn peers(&self) -> &[TicketPeer] {
        &self.peers
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(value: &str) -> Result<Self, TicketError> {
        if value.len() > TICKET_BYTES_MAX {
            return Err(TicketError::TooLong { bytes: value.len() });
        }
        let parts = value.strip_prefix("mesh:?").ok_or_else(|| TicketError::Form { value: shown(value) })?;
        let (mut datasets, mut peers) = (Vec::new(), Vec::new());
        for part in parts.split('&') {
            match part.split_once('=') {
                Some(("ds", name)) => datasets.push(DatasetId::new(name)?),
                Some(("pr", peer)) => peers.push(peer.parse()?),
                _ => return Err(TicketError::Unknown { value: shown(part) }),
            }
        }
        let found = datasets.len();
        match datasets.pop() {
            Some(dataset) if found == 1 => Self::new(dataset, peers),
            _ => Err(TicketError::Datasets { found }),
        }
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mesh:?ds={}", self.dataset)?;
        self.peers.iter().try_for_each(|peer| write!(f, "&pr={peer}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_ticket_is_refused_with_the_reason() {
        let many = format!("mesh:?ds=a{}", (0..17).map(|n| format!("&pr=grpc:h:{n}")).collect::<String>());
        let long = format!("mesh:?ds=a&pr=grpc:{}", "x".repeat(TICKET_BYTES_MAX));
        for (text, part) in [
            ("", "is no ticket"),
            ("http://x", "is no ticket"),
            ("mesh:ds=a&pr=grpc:h", "is no ticket"),
            ("MESH:?ds=a&pr=grpc:h", "is no ticket"),
            ("mesh:?", "unknown part"),
            ("mesh:?ds=a&pr=grpc:h&x=1", "unknown part \"x=1\""),
            ("mesh:?ds=a&&pr=grpc:h", "unknown part"),
            ("mesh:?pr=grpc:h", "names 0 datasets"),
            ("mesh:?ds=a&ds=b&pr=grpc:h", "names 2 datasets"),
            ("mesh:?ds=A&pr=grpc:h", "dataset is not valid"),
            ("mesh:?ds=a", "has 0 peers"),
            ("mesh:?ds=a&pr=grpc", "<transport>:<address>"),
            ("mesh:?ds=a&pr=:h", "1 to 16 characters"),
            ("mesh:?ds=a&pr=GRPC:h", "a-z"),
            ("mesh:?ds=a&pr=grpc:", "1 to 255 characters"),
            ("mesh:?ds=a&pr=grpc:h h", "letters, digits"),
            ("mesh:?ds=a&pr=grpc:h&pr=grpc:h", "grpc:h twice"),
            (&many, "has 17 peers"),
            (&long, "at most 4096"),
        ] {
            let error = text.parse::<Ticket>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(
            name in "[a-z]([a-z0-9._-]{0,20}[a-z0-9])?",
            peers in prop::collection::btree_set(("[a-z+-]{1,16}", "[a-zA-Z0-9:/\\[\\]%@~._-]{1,40}"), 1..16),
        ) {
            let peers = peers.iter().map(|(transport, address)| TicketPeer::new(transport, address));
            let peers = peers.collect::<Result<Vec<_>, _>>().expect("valid");
            let ticket = Ticket::new(DatasetId::new(name).expect("valid"), peers).expect("valid");
            prop_assert_eq!(ticket.to_string().parse::<Ticket>(), Ok(ticket));
        }

        #[test]
        fn no_text_makes_reading_panic(text in "(mesh:\\?)?[a-z=&:ä%]{0,60}") {
            if let Ok(ticket) = text.parse::<Ticket>() {
                prop_assert_eq!(ticket.to_string().len(), text.len());
            }
        }
    }
}
