//! What gossip links cost: memory of an idle link (both ends), processor time of a payload.
//!
//! `cargo run --release --example link_cost --features ca -- [nodes] [seconds]`
//! makes a full mesh of that many nodes in one process, on the loopback interface.

use std::{error::Error, fs, sync::Arc, time::Duration};

use mesh_core::{Clock as _, DatagramEvent, Datagrams as _, LinkTarget, Settings as _, SystemClock};
use mesh_transport::{TransportConfig, ca::DevCa, endpoint::Endpoint, links::Links};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let count: usize = arguments.next().map_or(Ok(40), |text| text.parse())?;
    let seconds: u64 = arguments.next().map_or(Ok(5), |text| text.parse())?;

    let ca = DevCa::new("example.org")?;
    let nodes: Vec<Arc<Links>> = (0..count)
        .map(|at| {
            let identity = ca.identity("demo", "worker", &format!("n{at:03}"))?;
            let mut config = TransportConfig::loopback();
            config.links.connect_timeout = Duration::from_secs(60);
            config.links.head_start = Duration::from_secs(20);
            let config = config.validate().map_err(|problems| format!("{problems:?}"))?;
            Ok(Arc::new(Links::new(Endpoint::bind(config, identity, None)?)?))
        })
        .collect::<Result<_>>()?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let empty = resident_kib()?;
    println!("{count} nodes without links: {} KiB, {} KiB each", empty, empty / count);

    let received = Arc::new(std::sync::atomic::AtomicU64::new(0));
    for node in &nodes {
        let (node, received) = (Arc::clone(node), Arc::clone(&received));
        tokio::spawn(async move {
            while let Ok(event) = node.recv().await {
                match event {
                    DatagramEvent::Received { .. } => {
                        received.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                    DatagramEvent::ConnectFailed { target, error } => println!("{target:?}: {error}"),
                    _ => {}
                }
            }
        });
    }
    let (begin, cpu) = (SystemClock.now(), cpu_ms()?);
    let links = count * (count - 1) / 2;
    for (at, from) in nodes.iter().enumerate() {
        for (to_at, to) in nodes.iter().enumerate().skip(at + 1) {
            let node_id = Some(format!("n{to_at:03}").parse()?);
            from.connect(LinkTarget { node_id, address: to.local_address() });
        }
        while from.len() < count - 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let took = SystemClock.now().since(begin);
    println!(
        "{links} links in {took:?}, {:.2} ms of processor each",
        (cpu_ms()? - cpu) as f64 / links as f64
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    let full = resident_kib()?;
    println!("idle link, both ends: {:.1} KiB", (full - empty) as f64 / links as f64);

    let cpu = cpu_ms()?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    println!("idle: {:.3} ms/s for each node", (cpu_ms()? - cpu) as f64 / (seconds as f64 * count as f64));

    // Gossip's usual load: a small payload now and then, on cold links.
    let (cpu, before) = (cpu_ms()?, received.load(std::sync::atomic::Ordering::Relaxed));
    let ids: Vec<_> =
        (0..count).map(|at| format!("n{at:03}").parse()).collect::<std::result::Result<_, _>>()?;
    let mut interval = tokio::time::interval(Duration::from_millis(5));
    let mut sent = 0u64;
    for round in 0..seconds * 200 {
        interval.tick().await;
        for (at, node) in nodes.iter().enumerate() {
            let to = (at + 1 + round as usize % (count - 1)) % count;
            sent += u64::from(node.send(&ids[to], vec![1; 200].into()).is_ok());
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let got = received.load(std::sync::atomic::Ordering::Relaxed) - before;
    let each = (cpu_ms()? - cpu) as f64 * 1000.0 / sent as f64;
    println!("{sent} payloads of 200 bytes sent, {got} received, {each:.1} us of processor each, both ends");
    Ok(())
}

fn resident_kib() -> Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
}

/// User and system time of this process.
fn cpu_ms() -> Result<u64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(')').next().ok_or("no name")?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    Ok((fields[11].parse::<u64>()? + fields[12].parse::<u64>()?) * 10)
}
