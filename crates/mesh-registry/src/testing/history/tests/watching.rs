use super::*;

fn changed(k: &str, value: Option<&'static str>) -> Changed {
    Changed { key: key(k), value: value.map(Into::into), session: false }
}

fn commit(revision: Option<u64>, changes: &[(&str, Option<&'static str>)]) -> Commit {
    let changes = changes.iter().map(|(k, value)| changed(k, *value)).collect();
    Commit { call: Moment::at(revision.unwrap_or(1)), revision: revision.map(Revision), changes }
}

fn change(revision: u64, k: &str, value: Option<&'static str>) -> Change {
    match value {
        None => Change::Deleted { key: key(k), cause: DeleteCause::Written },
        Some(value) => Change::Put(Record {
            key: key(k),
            value: value.into(),
            revision: Revision(revision),
            created_revision: Revision(1),
            last_writer: "n1".parse().expect("a node id"),
            session: None,
            token: None,
        }),
    }
}

fn event(revision: u64, changes: &[(&str, Option<&'static str>)]) -> WatchEvent {
    let changes = changes.iter().map(|(k, value)| change(revision, k, *value)).collect();
    WatchEvent::Changes { revision: Revision(revision), changes }
}

fn watched(events: impl IntoIterator<Item = WatchEvent>) -> Watched {
    let events = events.into_iter().enumerate().map(|(n, e)| (Moment::at(100 + n as u64), e)).collect();
    Watched {
        name: "w".to_owned(),
        prefix: Prefix::all(),
        after: Some(Revision(0)),
        since: Moment::at(0),
        latest: false,
        events,
    }
}

fn four() -> Vec<Commit> {
    vec![
        commit(Some(1), &[("a", Some("1")), ("b", Some("1"))]),
        commit(Some(2), &[("a", Some("2"))]),
        commit(Some(3), &[("a", None)]),
        commit(Some(4), &[("b", Some("4"))]),
    ]
}

fn events() -> Vec<WatchEvent> {
    vec![
        event(1, &[("a", Some("1")), ("b", Some("1"))]),
        event(2, &[("a", Some("2"))]),
        event(3, &[("a", None)]),
        event(4, &[("b", Some("4"))]),
    ]
}

#[track_caller]
fn faulty(commits: &[Commit], watched: Watched, problem: &str) {
    let fault = check_watches(commits, &[watched]).expect_err("a fault").to_string();
    assert!(fault.contains(problem), "{fault}");
}

#[test]
fn a_faithful_watch_is_accepted_whole_resumed_and_with_a_gap() {
    assert_eq!(check_watches(&four(), &[watched(events())]), Ok(()));
    let mut resumed = watched(events().split_off(2));
    resumed.after = Some(Revision(2));
    assert_eq!(check_watches(&four(), &[watched(events()[..2].to_vec()), resumed]), Ok(()));
    let gap = WatchEvent::Gap { from: Revision(1), to: Revision(3) };
    assert_eq!(check_watches(&four(), &[watched([gap, event(4, &[("b", Some("4"))])])]), Ok(()));
}

#[test]
fn loss_repetition_disorder_and_invention_are_found() {
    let without = |n: usize| {
        let mut events = events();
        events.remove(n);
        watched(events)
    };
    for n in 0..3 {
        faulty(&four(), without(n), "did not come");
    }
    let mut torn = events();
    torn[0] = event(1, &[("a", Some("1"))]);
    faulty(&four(), watched(torn), "did not come");
    let mut twice = events();
    twice.insert(2, twice[1].clone());
    faulty(&four(), watched(twice), "revision 2 came");
    let mut swapped = events();
    swapped.swap(1, 2);
    faulty(&four(), watched(swapped), "revision 2 came");
    let mut bent = events();
    bent[1] = event(2, &[("a", Some("9"))]);
    faulty(&four(), watched(bent), "was sent");
    let mut invented = events();
    invented.push(event(5, &[("c", Some("5"))]));
    faulty(&four(), watched(invented), "which nobody wrote");
    let unordered = [event(1, &[("b", Some("1")), ("a", Some("1"))])];
    faulty(&four(), watched(unordered), "not in key order");
    let marked = [WatchEvent::Bookmark { revision: Revision(4) }];
    faulty(&four(), watched(marked), "did not come");
    let mut early = watched(events());
    early.events[3].0 = Moment::at(2);
    faulty(&four(), early, "was sent");
}

#[test]
fn an_unknown_outcome_may_come_or_not_but_for_all_watches_alike() {
    let mut commits = four();
    commits.push(commit(None, &[("c", Some("perhaps"))]));
    let mut with = events();
    with.push(event(5, &[("c", Some("perhaps"))]));
    let mut later = with.clone();
    later.push(WatchEvent::Bookmark { revision: Revision(5) });
    let mut without = events();
    without.push(WatchEvent::Bookmark { revision: Revision(5) });
    assert_eq!(check_watches(&commits, &[watched(with.clone())]), Ok(()));
    assert_eq!(check_watches(&commits, &[watched(without.clone())]), Ok(()));
    for order in [[with.clone(), without.clone()], [without, with.clone()]] {
        assert!(check_watches(&commits, &order.map(watched)).is_err());
    }
    let mut twice = with;
    twice.push(event(6, &[("c", Some("perhaps"))]));
    faulty(&commits, watched(twice), "which nobody wrote");
}

#[test]
fn a_coalescing_watch_may_drop_what_is_replaced_and_nothing_else() {
    let latest = |events| Watched { latest: true, ..watched(events) };
    let short = vec![event(3, &[("a", None)]), event(4, &[("b", Some("4"))])];
    assert_eq!(check_watches(&four(), &[latest(short.clone())]), Ok(()));
    faulty(&four(), watched(short.clone()), "did not come");
    faulty(&four(), latest(vec![short[1].clone()]), "did not come");
}

#[test]
fn records_of_sessions_may_vanish_and_others_may_not() {
    let mut commits = four();
    let ended = |k| WatchEvent::Changes {
        revision: Revision(5),
        changes: vec![Change::Deleted { key: key(k), cause: DeleteCause::SessionExpired }],
    };
    let with = |k| watched(events().into_iter().chain([ended(k)]));
    faulty(&commits, with("b"), "which nobody wrote");
    commits[0].changes[1].session = true;
    assert_eq!(check_watches(&commits, &[with("b")]), Ok(()));
}
