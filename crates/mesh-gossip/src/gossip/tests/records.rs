//! What nodes pass on about each other: fields from versions to come, and loads.

use mesh_core::{Load, LoadReport};

use super::*;
use crate::wire::{plain, shared};

/// Two fields that this version has not heard of: 40, a number, and 41, text.
const FUTURE: &[u8] = &[0xc0, 0x02, 0x07, 0xca, 0x02, 0x03, b'n', b'e', b'w'];

/// Makes a node one of a version to come: it says more about itself than we know of.
fn from_the_future(net: &mut Net, i: usize, unknown: &[u8]) {
    let id = name(i);
    let core = &mut net.nodes.get_mut(&id).expect("known").core;
    core.table.update(&id, |record| record.unknown = shared(unknown));
}

fn unknown_of(net: &Net, observer: usize, subject: usize) -> Vec<u8> {
    let record = net.nodes[&name(observer)].core.table.get(&name(subject)).expect("a member");
    record.unknown.to_vec()
}

/// The descriptor of a member as a node would pass it on, in bytes.
fn passed_on(net: &Net, relay: usize, subject: usize) -> Vec<u8> {
    let update = net.nodes[&name(relay)].core.update_about(&name(subject), true).expect("a member");
    prost::Message::encode_to_vec(update.descriptor.as_ref().expect("a full update"))
}

#[test]
fn fields_of_a_newer_member_reach_everybody_through_older_relays() {
    let mut net = Net::cluster(3);
    let newer = 3;
    net.start(newer, &[0]);
    from_the_future(&mut net, newer, FUTURE);
    // A change makes it tell the whole record again; here a new run would do the same.
    net.command(newer, Command::SetMetadata { key: "zone".into(), value: Some("z".into()) }).expect("set");
    let id = name(newer);
    let now = net.now;
    net.nodes.get_mut(&id).expect("known").core.push(now, &id, true, None, 0);
    net.nodes.get_mut(&id).expect("known").core.table.update(&id, |r| {
        Arc::make_mut(&mut r.member).metadata_version += 1;
    });
    net.run(MS(1500));
    // Who joins later has it from an older node alone.
    net.start(4, &[1]);
    net.run(MS(3000));
    for observer in [0, 1, 2, 4] {
        assert_eq!(unknown_of(&net, observer, newer), FUTURE, "at {observer}");
        assert_eq!(passed_on(&net, observer, newer), passed_on(&net, newer, newer), "byte for byte");
    }
}

#[test]
fn unknown_changes_of_metadata_are_fetched_whole() {
    let mut net = Net::cluster(3);
    let id = name(2);
    from_the_future(&mut net, 2, FUTURE);
    let now = net.now;
    let core = &mut net.nodes.get_mut(&id).expect("known").core;
    // The newer version's delta says in a field of its own what changed.
    let held = core.local();
    core.table.update(&id, |r| Arc::make_mut(&mut r.member).metadata_version += 1);
    let delta = plain::MetadataDelta {
        node_id: id.to_string(),
        instance: held.instance.0,
        base_version: held.metadata_version,
        version: held.metadata_version + 1,
        ..plain::MetadataDelta::default()
    };
    core.push_delta(now, wire::Kept::with_unknown(delta, &[0xc0, 0x02, 0x01]), None);
    net.run(MS(2500));
    for observer in [0, 1] {
        assert_eq!(unknown_of(&net, observer, 2), FUTURE, "at {observer}");
        let version = net.nodes[&name(observer)].core.member(&id).expect("a member").metadata_version;
        assert_eq!(version, held.metadata_version + 1);
    }
}

#[test]
fn unknown_fields_of_a_word_stay_with_that_word() {
    let mut net = Net::cluster(2);
    let (subject, now) = (name(1), net.now);
    let core = &mut net.nodes.get_mut(&name(0)).expect("known").core;
    let held = core.member(&subject).expect("a member");
    let update = plain::Update {
        node_id: subject.to_string(),
        instance: held.instance.0,
        incarnation: held.incarnation.0 + 1,
        verified: true,
        ..plain::Update::default()
    };
    let word = wire::Word::parse(wire::Kept::with_unknown(update, FUTURE), 1024).expect("makes sense");
    core.take_word(now, &subject, word, members::Source::Own);
    assert_eq!(core.update_about(&subject, false).expect("a member").unknown, FUTURE);
    core.suspect(now, &subject, false);
    assert_eq!(core.update_about(&subject, false).expect("a member").unknown, [0u8; 0], "a word of our own");
}

#[test]
fn a_record_with_too_much_unknown_is_refused_and_nothing_else() {
    let with = |bytes: usize| {
        let update = plain::Update { node_id: "n9".into(), ..plain::Update::default() };
        wire::Word::parse(wire::Kept::with_unknown(update, &vec![0; bytes]), 1 << 16)
    };
    assert!(with(4096).is_some());
    assert!(with(4097).is_none());
}

fn load_of(net: &Net, observer: usize, subject: usize) -> Option<LoadReport> {
    net.nodes[&name(observer)].core.member(&name(subject)).and_then(|m| m.load.clone())
}

fn busy(cpu: u16) -> Load {
    Load::default().with_cpu_permille(cpu).with_custom("shards", u64::from(cpu) * 2)
}

#[test]
fn loads_reach_neighbours_in_turn_and_everybody_soon() {
    let mut net = Net::cluster(12);
    net.run(MS(5000));
    for i in 0..12 {
        net.command(i, Command::SetLoad(busy(i as u16))).expect("valid");
    }
    let said = net.now;
    // Four rings: each neighbour has its turn.
    net.run(MS(4500));
    for observer in 0..12 {
        let core = &net.nodes[&name(observer)].core;
        let missing: Vec<&NodeId> =
            core.subjects().filter(|s| core.member(s).is_none_or(|m| m.load.is_none())).collect();
        assert!(missing.len() <= core.subjects().count() / 2, "{observer} lacks {missing:?}");
    }
    net.run(MS(20_000));
    for observer in 0..12 {
        for subject in 0..12 {
            let report = load_of(&net, observer, subject).unwrap_or_else(|| panic!("{observer}: {subject}"));
            assert_eq!(report.load, busy(subject as u16));
            assert!(report.said_at >= said, "it is not older than it is");
        }
    }
}

#[test]
fn a_newer_load_replaces_the_older_everywhere_and_an_empty_one_takes_it_back() {
    let mut net = Net::cluster(4);
    for cpu in [100, 200, 300] {
        net.command(1, Command::SetLoad(busy(cpu))).expect("valid");
        net.run(MS(700));
    }
    net.run(MS(6000));
    for observer in 0..4 {
        assert_eq!(load_of(&net, observer, 1).map(|r| r.load), Some(busy(300)), "at {observer}");
    }
    net.command(1, Command::SetLoad(Load::default())).expect("valid");
    net.run(MS(6000));
    for observer in 0..4 {
        assert_eq!(load_of(&net, observer, 1), None, "at {observer}");
    }
}

#[test]
fn the_load_of_an_earlier_run_is_forgotten() {
    let mut net = Net::cluster(3);
    net.command(2, Command::SetLoad(busy(900))).expect("valid");
    net.run(MS(4000));
    assert!(load_of(&net, 0, 2).is_some());
    net.kill(2);
    net.run(MS(8000));
    assert_eq!(load_of(&net, 0, 2), None, "the dead are not busy");
    net.start(2, &[0]);
    net.run(MS(8000));
    assert_eq!(load_of(&net, 0, 2), None, "the new run has not said");
}

#[test]
fn a_load_out_of_bounds_is_refused_at_the_writer_and_from_a_peer() {
    let mut net = Net::cluster(2);
    let refused = net.command(0, Command::SetLoad(Load::default().with_cpu_permille(1001)));
    assert!(refused.expect_err("over the whole").to_string().contains("cpu_permille is 1001"));
    let now = net.now;
    let core = &mut net.nodes.get_mut(&name(0)).expect("known").core;
    let before = core.counters().refused_malformed;
    let instance = core.member(&name(1)).expect("a member").instance;
    let load = plain::Load { sequence: 1, cpu_permille: Some(5000), ..plain::Load::default() };
    core.take_load(now, &name(1), instance, load.into());
    assert_eq!(core.counters().refused_malformed, before + 1);
    assert_eq!(core.member(&name(1)).expect("a member").load, None);
}

#[test]
fn a_rumour_of_a_load_ends_with_the_members_own_word() {
    let mut net = Net::cluster(3);
    net.command(1, Command::SetLoad(busy(10))).expect("valid");
    net.run(MS(4000));
    let now = net.now;
    let core = &mut net.nodes.get_mut(&name(0)).expect("known").core;
    let run = core.member(&name(1)).expect("a member").instance.0 as u32;
    let lie = plain::Load { sequence: u64::MAX, cpu_permille: Some(999), ..plain::Load::default() };
    let sample = plain::LoadSample { node_id: "n1".into(), run, age_ms: 0, load: Some(lie.into()) };
    core.take_load_sample(now, &name(2), sample.into());
    assert_eq!(load_of(&net, 0, 1).map(|r| r.load.cpu_permille), Some(Some(999)));
    net.run(MS(6000));
    assert_eq!(load_of(&net, 0, 1).map(|r| r.load), Some(busy(10)));
}
