//! A node that is late with everything does less at a time.

use super::*;

fn target(i: usize) -> LinkTarget {
    LinkTarget { node_id: Some(name(i)), address: format!("127.0.0.1:{}", 1000 + i).parse().expect("valid") }
}

fn effects(core: &mut Gossip) -> Vec<Effect> {
    std::iter::from_fn(|| core.poll_effect()).collect()
}

fn connects(core: &mut Gossip) -> usize {
    effects(core).iter().filter(|effect| matches!(effect, Effect::Connect(_))).count()
}

/// A node of a calm cluster, and the time.
fn one_of_six(late: u32) -> (Gossip, Instant) {
    let mut net = Net::cluster(6);
    net.run(MS(5_000));
    let mut core = net.nodes.remove(&name(0)).expect("known").core;
    for _ in 0..late {
        core.prober.forgive(net.now, MS(200));
    }
    (core, net.now)
}

#[test]
fn it_opens_one_link_at_a_time_and_pauses_after_silence() {
    let silence = |core: &mut Gossip, now, i| {
        let failed = DatagramEvent::ConnectFailed { target: target(i), error: ConnectError::Timeout };
        core.handle(now, Input::Link(failed)).expect("valid");
    };
    let (mut core, now) = one_of_six(4);
    (20..24).for_each(|i| core.dial(now, target(i)));
    assert_eq!(connects(&mut core), 1);
    silence(&mut core, now, 20);
    assert_eq!(connects(&mut core), 0, "it pauses");
    core.tend_links(now + MS(400));
    assert_eq!(connects(&mut core), 1, "and goes on");
    silence(&mut core, now + MS(400), 21);
    core.tend_links(now + MS(600));
    assert_eq!(connects(&mut core), 0, "the second pause is longer");

    let (mut core, now) = one_of_six(0);
    (20..24).for_each(|i| core.dial(now, target(i)));
    assert_eq!(connects(&mut core), 2);
    silence(&mut core, now, 20);
    assert_eq!(connects(&mut core), 1, "silence alone is no reason to pause");
}

#[test]
fn it_asks_once_more_before_it_checks_a_link() {
    for late in [0, 4] {
        let (mut core, now) = one_of_six(late);
        let subject = core.subjects().next().expect("it has subjects").clone();
        core.probe_now(now, &subject);
        let (mut asked, mut checked_after) = (0, None);
        for ms in 0..5_000 {
            core.run_probes(now + MS(ms));
            for effect in effects(&mut core) {
                match effect {
                    Effect::Transmit { to, .. } if to == subject => asked += 1,
                    Effect::Connect(target) if target.node_id.as_ref() == Some(&subject) => {
                        checked_after.get_or_insert(asked);
                    }
                    _ => {}
                }
            }
        }
        let expected = if late > 0 { 3 } else { 2 };
        assert_eq!(checked_after, Some(expected), "probes before the link was checked, {late} times late");
    }
}
