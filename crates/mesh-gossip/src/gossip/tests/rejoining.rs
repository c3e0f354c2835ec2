//! How often those who are lost are dialled.

use super::*;

impl Net {
    /// Dials by these nodes, of others than these, in so much time.
    fn dials_across(&mut self, side: &[usize], time: Duration) -> usize {
        let side: BTreeSet<NodeId> = side.iter().map(|i| name(*i)).collect();
        self.dials.clear();
        self.run(time);
        let out = |target: &LinkTarget| target.node_id.as_ref().is_none_or(|peer| !side.contains(peer));
        self.dials.iter().filter(|(from, target)| side.contains(from) && out(target)).count()
    }
}

#[test]
fn each_side_of_a_partition_dials_two_lost_members_a_second_for_ever() {
    for near in [1, 2, 5] {
        let mut net = Net::cluster(10);
        net.split = (0..near).map(name).collect();
        net.run(MS(600_000));
        let (one, other): (Vec<usize>, Vec<usize>) = (0..10).partition(|i| *i < near);
        for side in [one, other] {
            let dials = net.dials_across(&side, MS(20_000));
            assert!((40..=100).contains(&dials), "{side:?} dialled {dials} times in 20 s");
        }
    }
}

#[test]
fn a_member_whose_certificate_is_refused_is_dialled_less_and_less_but_for_ever() {
    let mut net = Net::cluster(6);
    // The others hear of the revocation, and it loses its links.
    net.blocked.insert(name(5));
    net.run(MS(30_000));
    assert_eq!(net.state(0, 5), Some(MemberState::Dead));
    net.blocked.clear();
    net.revoked.insert(name(5));
    let others = [0, 1, 2, 3, 4];
    let first = net.dials_across(&others, MS(600_000));
    assert!((4..=40).contains(&first), "{first} dials in the first ten minutes");
    net.run(MS(1_200_000));
    let later = net.dials_across(&others, MS(3_600_000));
    assert!((6..=60).contains(&later), "{later} dials in an hour");
    let alone = net.dials_across(&[5], MS(3_600_000));
    assert!((6..=60).contains(&alone), "the lost member itself dialled {alone} times in an hour");

    net.revoked.clear();
    net.run(MS(900_000));
    assert_eq!(net.state(0, 5), Some(MemberState::Alive), "a new certificate is all it takes");
}
