//! The way to a node, which can be cut: what is sent then is lost, and nobody is told.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Result;
use tokio::{net::UdpSocket, task::JoinSet};

/// Dropping it cuts the way for good.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    cut: Arc<AtomicBool>,
    _running: JoinSet<()>,
}

impl Relay {
    pub(super) async fn start(to: SocketAddr) -> Result<Self> {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
        let address = front.local_addr()?;
        let cut = Arc::new(AtomicBool::new(false));
        let mut running = JoinSet::new();
        let is_cut = Arc::clone(&cut);
        running.spawn(async move {
            let mut ways: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
            let mut back = JoinSet::new();
            let mut datagram = vec![0; 65_536];
            while let Ok((length, from)) = front.recv_from(&mut datagram).await {
                if is_cut.load(Ordering::Relaxed) {
                    continue;
                }
                let way = match ways.entry(from) {
                    Entry::Occupied(way) => way.into_mut(),
                    Entry::Vacant(way) => {
                        let Ok(socket) = UdpSocket::bind("127.0.0.1:0").await else { return };
                        let socket = way.insert(Arc::new(socket));
                        let (out, is_cut) = (Arc::clone(&front), Arc::clone(&is_cut));
                        back.spawn(answers(Arc::clone(socket), out, from, is_cut));
                        socket
                    }
                };
                // What does not get through is lost, as on any network.
                drop(way.send_to(&datagram[..length], to).await);
            }
        });
        Ok(Self { address, cut, _running: running })
    }

    pub(super) fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }
}

async fn answers(way: Arc<UdpSocket>, front: Arc<UdpSocket>, to: SocketAddr, is_cut: Arc<AtomicBool>) {
    let mut datagram = vec![0; 65_536];
    while let Ok(length) = way.recv(&mut datagram).await {
        if !is_cut.load(Ordering::Relaxed) {
            drop(front.send_to(&datagram[..length], to).await);
        }
    }
}
