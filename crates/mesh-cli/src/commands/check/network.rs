//! Checks of ports, UDP and seeds.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use mesh::LoadedConfig;
use tokio::net::lookup_host;

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
        ("transport.edge.bind", transport.edge.bind, false),
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
    let (mut good, mut bad) = (0, Vec::new());
    for seed in seeds {
        if seed.starts_with('_') {
            bad.push(format!("{seed} is the name of an SRV record, which this build does not look up"));
            continue;
        }
        match lookup_host(seed.as_str()).await {
            Err(error) => bad.push(format!("{seed} does not resolve: {error}")),
            Ok(found) => match answers(found.collect()).await {
                true => good += 1,
                false => bad.push(format!("{seed} does not answer")),
            },
        }
    }
    let hint = "correct gossip.seeds, start those nodes, or let UDP and TCP through";
    match (good, bad.is_empty()) {
        (_, true) => Outcome::ok(format!("{good} of {} answer", seeds.len())),
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
