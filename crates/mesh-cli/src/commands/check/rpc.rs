//! Real gRPC calls to nodes, over HTTP/3 and over HTTP/2.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use mesh::{
    core::{NodeId, Settings, SystemClock},
    transport::{
        Identity, TransportConfig,
        endpoint::Endpoint,
        rpc::{Channels, Lane, MESH, Policy, RpcMetrics, TRANSPORT_HEADER, Target, Transport},
    },
};
use serde_json::Value;
use tokio::task::JoinSet;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use super::{Outcome, Subject, local, network};
use crate::{commands::peers, failure::chain};

/// Nodes that are called; more would take long on a large cluster.
const NODES_CALLED_MAX: usize = 16;
/// Longest time to get a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time for an answer on it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time to tell the nodes that we are done.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// A node to call.
#[derive(Clone, Debug)]
struct Callee {
    node_id: NodeId,
    address: SocketAddr,
    /// Whether it says that it serves HTTP/3.
    http3: bool,
}

/// What came of calling a node.
#[derive(Debug)]
struct Answers {
    node_id: NodeId,
    /// `None` if it does not serve HTTP/3.
    http3: Option<Result<(), String>>,
    http2: Result<(), String>,
}

/// The outcome, and the transports over which every node answered.
pub(super) async fn calls(subject: &Subject) -> (Outcome, Vec<Transport>) {
    let (identity, callees) = match callees(subject).await {
        Ok(found) => found,
        Err(outcome) => return (outcome, Vec::new()),
    };
    let (endpoint, channels) = match caller(identity, &callees) {
        Ok(caller) => caller,
        Err(problem) => return (Outcome::skipped(problem), Vec::new()),
    };
    let mut calls = JoinSet::new();
    for callee in callees {
        let channels = channels.clone();
        calls.spawn(async move {
            let over_http3 = async {
                if callee.http3 { Some(call(&channels, &callee, Transport::Http3).await) } else { None }
            };
            let (http3, http2) = tokio::join!(over_http3, call(&channels, &callee, Transport::Http2));
            Answers { node_id: callee.node_id, http3, http2 }
        });
    }
    let mut answers = calls.join_all().await;
    endpoint.close();
    // Nodes that do not hear it find out by their own timeouts.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, endpoint.wait_idle()).await;
    answers.sort_by(|a, b| a.node_id.cmp(&b.node_id));
    judge(&answers)
}

/// The node that is looked at, as itself; the members, as the operator, if there is none.
async fn callees(subject: &Subject) -> Result<(Identity, Vec<Callee>), Outcome> {
    if let Some(loaded) = &subject.config
        && loaded.config.transport.bind.port() != 0
    {
        let transport = &loaded.config.transport;
        let (identity, _) = local::load(subject).await?;
        let address = network::reachable(transport.advertise.unwrap_or(transport.bind));
        let callee = Callee { node_id: identity.node_id(), address, http3: transport.http3.enabled };
        return Ok((identity, vec![callee]));
    }
    let edge = subject.edge.as_ref().map_err(|failure| Outcome::skipped(failure.message.clone()))?;
    let alive = [("state".to_owned(), "alive".to_owned())];
    let members = peers::all(edge, &alive).await.map_err(|failure| Outcome::skipped(failure.message))?;
    let callees: Vec<Callee> = members.iter().filter_map(callee).take(NODES_CALLED_MAX).collect();
    if callees.is_empty() {
        return Err(Outcome::skipped("the node lists no member with an address"));
    }
    Ok((edge.identity().clone(), callees))
}

fn callee(member: &Value) -> Option<Callee> {
    let transports = member["transports"].as_array().map(Vec::as_slice).unwrap_or_default();
    Some(Callee {
        node_id: member["node_id"].as_str()?.parse().ok()?,
        address: member["addresses"][0].as_str()?.parse().ok()?,
        http3: transports.iter().any(|transport| transport == Transport::Http3.as_str()),
    })
}

/// Something to call from: a port of our own, which offers nothing to others.
fn caller(identity: Identity, callees: &[Callee]) -> Result<(Endpoint, Channels), String> {
    let near = callees.iter().all(|callee| callee.address.ip().is_loopback());
    let six = callees.iter().any(|callee| callee.address.is_ipv6());
    let from: IpAddr = match (near, six) {
        (true, false) => Ipv4Addr::LOCALHOST.into(),
        (false, false) => Ipv4Addr::UNSPECIFIED.into(),
        // Reaches IPv4 as well.
        (_, true) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut config = TransportConfig { bind: SocketAddr::new(from, 0), ..TransportConfig::default() };
    config.channel.connect_timeout = CONNECT_TIMEOUT;
    // HTTP/3 alone is asked for, so that HTTP/2 must not step in.
    config.http3.head_start = CONNECT_TIMEOUT * 2;
    let wrong = |problems: Vec<_>| problems.first().map_or_else(String::new, ToString::to_string);
    let policy = config.policy_config().validate().map_err(wrong)?;
    let channel_config = config.channel_config().validate().map_err(wrong)?;
    let endpoint = Endpoint::bind(config.validate().map_err(wrong)?, identity, None)
        .map_err(|error| format!("no port to call from: {}", chain(&error)))?;
    let guard = Policy::new(&policy, Arc::new(SystemClock))
        .endpoint(None, MESH)
        .map_err(|error| error.to_string())?;
    let metrics = RpcMetrics::new(endpoint.metrics().clone());
    let channels = Channels::new(Arc::new(endpoint.clone()), guard, channel_config, metrics);
    Ok((endpoint, channels))
}

/// Asks a node for its health over one transport. Any status is an answer: whether the node
/// is ready is another check.
async fn call(channels: &Channels, callee: &Callee, over: Transport) -> Result<(), String> {
    let target = Target {
        http3: Some(over == Transport::Http3),
        ..Target::new(callee.node_id.clone(), callee.address)
    };
    let mut health = HealthClient::new(channels.open(target, Lane::Control));
    let answer =
        tokio::time::timeout(CONNECT_TIMEOUT + ANSWER_TIMEOUT, health.check(HealthCheckRequest::default()));
    let answer = match answer.await {
        Ok(Ok(answer)) => answer,
        Ok(Err(status)) => return Err(status.message().to_owned()),
        Err(_) => return Err(format!("no answer within {ANSWER_TIMEOUT:?}")),
    };
    // What the server saw, not what we believe.
    let header = answer.metadata().get(TRANSPORT_HEADER).and_then(|value| value.to_str().ok());
    match header.and_then(|header| header.split(';').next()) {
        Some(carried) if carried == over.as_str() => Ok(()),
        Some(carried) => Err(format!("the answer came over {carried}")),
        None => Err("the answer does not say what carried it".to_owned()),
    }
}

fn judge(answers: &[Answers]) -> (Outcome, Vec<Transport>) {
    let all = answers.len();
    let mut transports = Vec::new();
    if answers.iter().all(|answer| matches!(answer.http3, Some(Ok(())))) {
        transports.push(Transport::Http3);
    }
    if answers.iter().all(|answer| answer.http2.is_ok()) {
        transports.push(Transport::Http2);
    }
    let (mut silent, mut only_http2, mut only_http3, mut without) = (vec![], vec![], vec![], vec![]);
    for Answers { node_id, http3, http2 } in answers {
        match (http3, http2) {
            (Some(Ok(())), Ok(())) => {}
            (None, Ok(())) => without.push(node_id.to_string()),
            (Some(Err(problem)), Ok(())) => only_http2.push(format!("{node_id} ({problem})")),
            (Some(Ok(())), Err(problem)) => only_http3.push(format!("{node_id} ({problem})")),
            (_, Err(problem)) => silent.push(format!("{node_id} ({problem})")),
        }
    }
    let outcome = if !silent.is_empty() {
        Outcome::failed(
            format!("no gRPC answer from {}", silent.join(", ")),
            "start the node; if it runs, its log says whom it refuses and why",
        )
    } else if !only_http2.is_empty() {
        Outcome::warning(
            format!("only HTTP/2 works with {}", only_http2.join(", ")),
            "let UDP through to that port, both ways; calls go over HTTP/2 until then",
        )
    } else if !only_http3.is_empty() {
        Outcome::warning(
            format!("only HTTP/3 works with {}", only_http3.join(", ")),
            "let TCP through to that port; calls have nothing to fall back to until then",
        )
    } else if !without.is_empty() {
        Outcome::ok(format!("{all} of {all} answer; HTTP/3 is off at {}", without.join(", ")))
    } else {
        Outcome::ok(format!("{all} of {all} answer over HTTP/3 and over HTTP/2"))
    };
    (outcome, transports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(node: &str, http3: Option<Result<(), &str>>, http2: Result<(), &str>) -> Answers {
        let owned = |result: Result<(), &str>| result.map_err(str::to_owned);
        let node_id = node.parse().expect("a node id");
        Answers { node_id, http3: http3.map(owned), http2: owned(http2) }
    }

    #[test]
    fn it_is_told_when_only_http2_works() {
        let good = || answers("a", Some(Ok(())), Ok(()));
        let cases = [
            vec![good(), answers("b", Some(Ok(())), Ok(()))],
            vec![good(), answers("b", Some(Err("no way")), Ok(()))],
            vec![good(), answers("b", Some(Ok(())), Err("no way"))],
            vec![good(), answers("b", None, Ok(()))],
            vec![good(), answers("b", Some(Err("no way")), Err("refused"))],
        ];
        let lines: Vec<String> = cases.iter().map(|case| format!("{:?}", judge(case))).collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        (Outcome { status: Ok, detail: "2 of 2 answer over HTTP/3 and over HTTP/2", hint: "" }, [Http3, Http2])
        (Outcome { status: Warning, detail: "only HTTP/2 works with b (no way)", hint: "let UDP through to that port, both ways; calls go over HTTP/2 until then" }, [Http2])
        (Outcome { status: Warning, detail: "only HTTP/3 works with b (no way)", hint: "let TCP through to that port; calls have nothing to fall back to until then" }, [Http3])
        (Outcome { status: Ok, detail: "2 of 2 answer; HTTP/3 is off at b", hint: "" }, [Http2])
        (Outcome { status: Failed, detail: "no gRPC answer from b (refused)", hint: "start the node; if it runs, its log says whom it refuses and why" }, [])
        "#);
    }
}
