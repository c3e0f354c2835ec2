//! Seeds by SRV record (RFC 2782): where the nodes of a cluster are, kept by DNS.

use std::{io, net::SocketAddr};

use hickory_resolver::{TokioResolver, proto::rr::RData};

/// Addresses that come of one record set, so that a huge zone stays bounded.
const ADDRESSES_MAX: usize = 64;

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

/// Looks the service up with the system's resolver.
pub(crate) async fn lookup(name: &str) -> io::Result<Vec<SocketAddr>> {
    let resolver = TokioResolver::builder_tokio().map_err(failed)?.build().map_err(failed)?;
    lookup_with(&resolver, name).await
}

/// Targets in order of priority, each resolved to its addresses. One that fails is passed over.
async fn lookup_with(resolver: &TokioResolver, name: &str) -> io::Result<Vec<SocketAddr>> {
    let answer = resolver.srv_lookup(name).await.map_err(failed)?;
    let mut targets: Vec<_> = answer
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) => Some((srv.priority, srv.target.clone(), srv.port)),
            _ => None,
        })
        .collect();
    targets.sort();
    let mut addresses = Vec::new();
    for (_, target, port) in targets {
        if let Ok(found) = resolver.lookup_ip(target).await {
            addresses.extend(found.iter().map(|ip| SocketAddr::new(ip, port)));
        }
        if addresses.len() >= ADDRESSES_MAX {
            break;
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use hickory_resolver::{
        config::{ConnectionConfig, NameServerConfig, ResolverConfig},
        net::runtime::TokioRuntimeProvider,
        proto::{
            op::{Message, OpCode},
            rr::{
                Name, Record, RecordType,
                rdata::{A, SRV},
            },
        },
    };
    use tokio::net::UdpSocket;

    use super::*;

    /// Answers every question for SRV with two targets, and every target with an address.
    async fn serve(socket: UdpSocket) -> io::Result<()> {
        let mut buffer = [0; 1500];
        loop {
            let (size, from) = socket.recv_from(&mut buffer).await?;
            let Ok(question) = Message::from_vec(&buffer[..size]) else { continue };
            let mut answer = Message::response(question.metadata.id, OpCode::Query);
            for query in &question.queries {
                answer.add_query(query.clone());
                let name = query.name().clone();
                match query.query_type() {
                    RecordType::SRV => {
                        for (priority, port, target) in
                            [(20, 7002, "b.mesh.test."), (10, 7001, "a.mesh.test.")]
                        {
                            let target = Name::from_ascii(target).map_err(failed)?;
                            let data = RData::SRV(SRV::new(priority, 0, port, target));
                            answer.add_answer(Record::from_rdata(name.clone(), 60, data));
                        }
                    }
                    RecordType::A => {
                        answer.add_answer(Record::from_rdata(name, 60, RData::A(A::new(127, 0, 0, 9))));
                    }
                    _ => {}
                }
            }
            socket.send_to(&answer.to_vec().map_err(failed)?, from).await?;
        }
    }

    #[tokio::test]
    async fn a_service_name_gives_the_addresses_of_its_targets_by_priority() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("bound");
        let server = tokio::spawn(serve(socket));
        let mut connection = ConnectionConfig::udp();
        connection.port = address.port();
        let name_server = NameServerConfig::new(address.ip(), true, vec![connection]);
        let config = ResolverConfig::from_name_servers(vec![name_server]);
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let resolver = resolver.build().expect("a resolver");
        let found = lookup_with(&resolver, "_mesh._udp.mesh.test.").await.expect("an answer");
        let expected: Vec<SocketAddr> =
            ["127.0.0.9:7001", "127.0.0.9:7002"].iter().map(|a| a.parse().expect("valid")).collect();
        assert_eq!(found, expected);
        server.abort();
    }
}
