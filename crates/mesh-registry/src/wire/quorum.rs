//! What voters vouch for, between its Rust types and its messages.

use super::generated as wire;
use crate::quorum::{Ballot, Lead, Witness};

impl From<Lead> for wire::Lead {
    fn from(lead: Lead) -> Self {
        let Lead { group, ballot: Ballot { term, voter }, sets } = lead;
        let sets = sets.into_iter().map(|voters| wire::VoterSet { voters }).collect();
        Self { group, term, voter, sets }
    }
}

impl From<wire::Lead> for Lead {
    fn from(lead: wire::Lead) -> Self {
        let wire::Lead { group, term, voter, sets } = lead;
        let sets = sets.into_iter().map(|set| set.voters).collect();
        Self { group, ballot: Ballot { term, voter }, sets }
    }
}

impl From<Witness> for wire::WitnessReply {
    fn from(witness: Witness) -> Self {
        let Witness { group, voter, promised } = witness;
        Self { group, voter, promised_term: promised.term, promised_voter: promised.voter }
    }
}

impl From<wire::WitnessReply> for Witness {
    fn from(reply: wire::WitnessReply) -> Self {
        let promised = Ballot { term: reply.promised_term, voter: reply.promised_voter };
        Self { group: reply.group, voter: reply.voter, promised }
    }
}
