//! Dials that cross each other.

use super::*;

#[tokio::test]
async fn dialling_at_once_leaves_one_link_and_no_link_down() {
    let ca = ca();
    for round in 0..10 {
        let (a, b) = (node(&ca, "a"), node(&ca, "b"));
        dial(&a, "b", &b);
        dial(&b, "a", &a);
        assert_eq!(up(&a).await.2, Direction::Outbound, "round {round}: the lower id's attempt survives");
        assert_eq!(up(&b).await.2, Direction::Inbound, "round {round}");
        for (from, to, name) in [(&a, &b, "b"), (&b, &a, "a")] {
            from.send(&id(name), Bytes::from_static(b"hello")).expect("taken");
            assert_eq!(&payload(to).await.1[..], b"hello", "round {round}");
        }
        assert_eq!((a.len(), b.len()), (1, 1), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_storm_of_dials_and_closes_every_pair_has_one_link_that_works() {
    let ca = ca();
    let names = ["a", "b", "c", "d"];
    let nodes: Vec<Arc<Links>> = names.iter().map(|name| Arc::new(node(&ca, name))).collect();
    let mut storm = Vec::new();
    for (at, from) in nodes.iter().enumerate() {
        let (from, nodes) = (Arc::clone(from), nodes.clone());
        storm.push(tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(at as u64);
            for _ in 0..300 {
                let to = random.usize(..names.len());
                if to == at {
                    continue;
                }
                match random.u8(..4) {
                    0 => from.disconnect(&id(names[to])),
                    _ => dial(&from, names[to], &nodes[to]),
                }
                for _ in 0..random.u8(..40) {
                    tokio::task::yield_now().await;
                }
                while timeout(Duration::ZERO, from.recv()).await.is_ok() {}
            }
        }));
    }
    for part in storm {
        part.await.expect("no panic");
    }
    // Each asks once more for all others, and goes on asking while it is told that a link went down.
    for (at, from) in nodes.iter().enumerate() {
        for (to, node) in nodes.iter().enumerate().filter(|(to, _)| *to != at) {
            dial(from, names[to], node);
        }
    }
    timeout(PATIENCE, async {
        loop {
            for (at, from) in nodes.iter().enumerate() {
                while let Ok(Ok(event)) = timeout(Duration::from_millis(1), from.recv()).await {
                    let peer = match event {
                        DatagramEvent::LinkDown { peer, .. } => peer,
                        DatagramEvent::ConnectFailed { target, .. } => target.node_id.expect("named"),
                        _ => continue,
                    };
                    let to = names.iter().position(|name| *name == peer.as_str()).expect("one of them");
                    assert_ne!(at, to);
                    dial(from, names[to], &nodes[to]);
                }
            }
            if nodes.iter().all(|node| node.len() == names.len() - 1) && echo_all(&nodes, &names).await {
                return;
            }
        }
    })
    .await
    .expect("they settle");
}

/// Whether each pair can talk in both directions, right now.
async fn echo_all(nodes: &[Arc<Links>], names: &[&str]) -> bool {
    for (at, from) in nodes.iter().enumerate() {
        for (to, node) in nodes.iter().enumerate().filter(|(to, _)| *to != at) {
            if from.send(&id(names[to]), Bytes::copy_from_slice(names[at].as_bytes())).is_err() {
                return false;
            }
            let received = timeout(Duration::from_secs(1), async {
                loop {
                    match node.recv().await {
                        Ok(DatagramEvent::Received { from, payload, .. }) => {
                            assert_eq!(from.node_id().as_str().as_bytes(), &payload[..]);
                            if from.node_id().as_str() == names[at] {
                                return true;
                            }
                        }
                        Ok(DatagramEvent::LinkDown { .. }) | Err(_) => return false,
                        Ok(_) => {}
                    }
                }
            });
            if !received.await.unwrap_or(false) {
                return false;
            }
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crossing_dials_never_show_a_link_going_down() {
    let ca = ca();
    let identities: Vec<_> =
        ["a", "b"].iter().map(|name| ca.identity("demo", "worker", name).expect("an identity")).collect();
    for round in 0..60u64 {
        let (a, b) = (start(identities[0].clone(), |_| {}), start(identities[1].clone(), |_| {}));
        let (target_a, target_b) = (target("a", a.local_address()), target("b", b.local_address()));
        let (a, b) = (Arc::new(a), Arc::new(b));
        let late = |links: &Arc<Links>, target: LinkTarget, turns: u64| {
            let links = Arc::clone(links);
            tokio::spawn(async move {
                // Each turn lets the other dial get on by a step or two.
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
                links.connect(target);
            })
        };
        // One of them up to thousands of turns later, so that the dials cross at every stage.
        let tasks =
            [late(&a, target_b, round % 2 * round * 100), late(&b, target_a, (round + 1) % 2 * round * 100)];
        for task in tasks {
            task.await.expect("no panic");
        }
        up(&a).await;
        up(&b).await;
        for number in 0..20u8 {
            for (from, to) in [(&a, "b"), (&b, "a")] {
                from.send(&id(to), vec![number].into()).expect("the link stays");
            }
            // The next ones wait for these, so that they spread over the time in which links settle.
            for links in [&a, &b] {
                loop {
                    match event(links).await {
                        DatagramEvent::Received { payload, .. } => {
                            assert_eq!(payload[..], [number], "round {round}");
                            break;
                        }
                        DatagramEvent::LinkUp { .. } => {}
                        other => panic!("round {round}: {other:?}"),
                    }
                }
            }
        }
        for links in [&a, &b] {
            assert_eq!(links.len(), 1, "round {round}");
        }
    }
}
