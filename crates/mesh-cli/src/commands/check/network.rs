//! Checks of ports, UDP and seeds.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
};

use mesh::{LoadedConfig, gossip::lookup_seed};

use super::{
    Outcome, Subject,
    probe::{self, Answer},
};
use crate::commands::peers;

/// Members whose UDP is asked; more would take long on a large cluster.
const MEMBERS_ASKED_MAX: usize = 16;

/// Each port is free for us, or something answers on it.
pub(super) async fn ports(loaded: &LoadedConfig) -> Outcome {
    let transport = &loaded.config.transport;
    let mut seen = Vec::new();
    for (setting, address, udp) in [
        ("transport.bind", transport.bind, transport.http3.enabled),
        ("transport.edge.bind", transport.edge.bind, transport.edge.http3),
    ] {
        if address.port() == 0 {
            seen.push(format!("{setting}: any free port"));
            continue;
        }
        let free = TcpListener::bind(address)
            .map(drop)
            .and_then(|()| if udp { UdpSocket::bind(address).map(drop) } else { Ok(()) });
        match free {
            Ok(()) => seen.push(format!("{setting}: {address} is free")),
            Err(error) => match probe::tcp(reachable(address)).await {
                Answer::Answered => seen.push(format!("{setting}: {address} answers")),
                _ => {
                    return Outcome::failed(
                        format!("{setting} ({address}) can't be used, and nobody answers there: {error}"),
                        "choose another address or port, or stop who holds it",
                    );
                }
            },
        }
    }
    Outcome::ok(seen.join("; "))
}

/// An address to call for one that is listened on.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => ([127, 0, 0, 1], v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (std::net::Ipv6Addr::LOCALHOST, v6.port()).into(),
        other => other,
    }
}

/// QUIC answers at the node's own address, or at those of the members if no node is looked at.
pub(super) async fn udp(subject: &Subject) -> Outcome {
    let addresses = match (&subject.config, &subject.edge) {
        (Some(loaded), _) if loaded.config.transport.bind.port() != 0 => {
            vec![reachable(loaded.config.transport.advertise.unwrap_or(loaded.config.transport.bind))]
        }
        (_, Ok(edge)) => {
            let alive = [("state".to_owned(), "alive".to_owned())];
            match peers::all(edge, &alive).await {
                Ok(members) => members
                    .iter()
                    .filter_map(|member| member["addresses"][0].as_str()?.parse().ok())
                    .take(MEMBERS_ASKED_MAX)
                    .collect(),
                Err(failure) => return Outcome::skipped(failure.message),
            }
        }
        (_, Err(failure)) => return Outcome::skipped(failure.message.clone()),
    };
    let mut silent = Vec::new();
    for address in &addresses {
        match probe::quic(*address).await {
            Ok(Answer::Answered) => {}
            Ok(answer) => silent.push(format!("{address} ({})", word(&answer))),
            Err(error) => return Outcome::skipped(format!("no UDP socket: {error}")),
        }
    }
    if silent.is_empty() {
        return Outcome::ok(format!("{} of {} addresses answer", addresses.len(), addresses.len()));
    }
    Outcome::failed(
        format!("QUIC does not answer at {}", silent.join(", ")),
        "start the node, or let UDP through to that port; until then links run over HTTP/2",
    )
}

/// At least one seed answers.
pub(super) async fn seeds(loaded: &LoadedConfig) -> Outcome {
    let seeds = &loaded.config.gossip.seeds;
    if seeds.is_empty() {
        return Outcome::ok(
            "none are set: the node starts a cluster, or finds it by the members it remembers",
        );
    }
    let mut found = Vec::new();
    for seed in seeds {
        let reach = match lookup_seed(seed).await {
            Err(error) => Err(error),
            Ok(addresses) => Ok(answers(addresses).await),
        };
        found.push((seed.as_str(), reach));
    }
    judge(&found)
}

/// What was found out about each seed: whether somebody answers there, or why it has no address.
fn judge(found: &[(&str, io::Result<bool>)]) -> Outcome {
    let mut hint = "correct gossip.seeds, start those nodes, or let UDP and TCP through".to_owned();
    let (mut good, mut bad) = (0, Vec::new());
    for (seed, reach) in found {
        match reach {
            Ok(true) => good += 1,
            Ok(false) => bad.push(format!("{seed} does not answer")),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                bad.push(format!(
                    "{seed} is the name of an SRV record, which this build (without the feature srv) does not look \
                     up, not here and not as a node"
                ));
                hint = format!(
                    "look it up yourself (dig +short SRV {seed}) and put host:port of its targets into \
                     gossip.seeds, or use a build with the feature srv"
                );
            }
            Err(error) => bad.push(format!("{seed} does not resolve: {error}")),
        }
    }
    match (good, bad.is_empty()) {
        (_, true) => Outcome::ok(format!("{good} of {} answer", found.len())),
        (0, false) => Outcome::failed(bad.join("; "), hint),
        (_, false) => Outcome::warning(bad.join("; "), hint),
    }
}

async fn answers(addresses: Vec<SocketAddr>) -> bool {
    for address in addresses {
        if probe::quic(address).await.is_ok_and(|answer| answer == Answer::Answered)
            || probe::tcp(address).await == Answer::Answered
        {
            return true;
        }
    }
    false
}

fn word(answer: &Answer) -> &'static str {
    match answer {
        Answer::Answered => "answered",
        Answer::Refused => "nobody listens",
        Answer::Silent => "no answer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_this_build_does_not_look_up_comes_with_the_way_to_do_it() {
        let srv = "_mesh._udp.example.org";
        let unsupported = || (srv, Err(io::Error::from(io::ErrorKind::Unsupported)));
        insta::assert_snapshot!(format!("{:?}", judge(&[unsupported()])), @r#"Outcome { status: Failed, detail: "_mesh._udp.example.org is the name of an SRV record, which this build (without the feature srv) does not look up, not here and not as a node", hint: "look it up yourself (dig +short SRV _mesh._udp.example.org) and put host:port of its targets into gossip.seeds, or use a build with the feature srv" }"#);
        let unknown = ("nowhere:1", Err(io::Error::other("no such host")));
        insta::assert_snapshot!(format!("{:?}", judge(&[("n1:1", Ok(true)), unknown, ("n2:1", Ok(false))])), @r#"Outcome { status: Warning, detail: "nowhere:1 does not resolve: no such host; n2:1 does not answer", hint: "correct gossip.seeds, start those nodes, or let UDP and TCP through" }"#);
        assert_eq!(judge(&[("n1:1", Ok(true)), ("n2:1", Ok(true))]), Outcome::ok("2 of 2 answer"));
    }
}
