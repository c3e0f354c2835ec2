//! Every case can fail: for each there is a provider that breaks it.

use std::time::Duration;

use super::{
    super::{suite::examine, *},
    bent::{Bend, BentFactory},
};

/// For each bend, cases that it must break.
const BENDS: &[(Bend, &[&str])] = &[
    (Bend::CreatedForgotten, &["a_read_returns_the_last_write_and_its_history"]),
    (Bend::ReadAhead, &["a_read_names_a_revision_from_which_a_watch_misses_nothing"]),
    (Bend::StaleForEver, &["a_stale_read_is_true_for_its_revision_and_catches_up"]),
    (
        Bend::ScanReversed,
        &[
            "a_scan_returns_what_its_prefix_covers_in_byte_order",
            "a_scan_goes_on_page_by_page_without_loss_or_repetition",
        ],
    ),
    (Bend::ScanAll, &["a_scan_returns_what_its_prefix_covers_in_byte_order"]),
    (Bend::ScanWithoutMore, &["a_scan_goes_on_page_by_page_without_loss_or_repetition"]),
    (Bend::ScanAnyLimit, &["a_scan_of_no_or_too_many_records_is_refused"]),
    (Bend::ScanShowsOwn, &["the_stores_own_keys_are_seen_only_by_who_asks_for_them"]),
    (
        Bend::LostOperation,
        &["all_operations_happen_at_one_revision_or_none_does", "deleting_nothing_is_no_error"],
    ),
    (Bend::OutcomeRevisionOld, &["revisions_only_grow_and_all_keys_share_them", "a_retry_is_audited_once"]),
    (Bend::ExtraRevisions, &["revisions_grow_by_one", "what_changes_nothing_takes_no_revision"]),
    (Bend::ValueCompareIgnored, &["each_compare_holds_exactly_when_it_should"]),
    (Bend::ConflictIndexZero, &["the_first_compare_that_fails_is_named_with_what_is_there"]),
    (Bend::FenceLast, &["an_old_holder_learns_that_it_is_fenced_before_anything_else"]),
    (Bend::SessionsFirst, &["a_gone_session_is_judged_after_the_compares_and_before_grants"]),
    (Bend::DeleteNothingFails, &["deleting_nothing_is_no_error"]),
    (
        Bend::StaleReads,
        &["every_handle_sees_what_any_handle_wrote", "a_mix_of_reads_and_writes_is_linearizable"],
    ),
    (
        Bend::LimitsUnnamed,
        &[
            "a_value_at_the_limit_is_kept_and_one_past_it_is_refused",
            "a_transaction_past_its_bytes_is_refused_and_changes_nothing",
            "a_transaction_past_its_items_is_refused",
            "a_key_that_is_changed_twice_is_refused",
            "the_stores_own_keys_cannot_be_written",
        ],
    ),
    (Bend::ValueLow, &["a_value_at_the_limit_is_kept_and_one_past_it_is_refused"]),
    (Bend::ItemsLow, &["a_transaction_of_as_many_items_as_allowed_is_applied"]),
    (Bend::KeyShort, &["a_key_of_the_longest_length_is_kept"]),
    (Bend::RemembersInvalid, &["sizes_are_judged_before_anything_else"]),
    (Bend::SequencesShared, &["numbers_of_two_sessions_have_nothing_to_do_with_each_other"]),
    (Bend::RenewalsStuck, &["a_session_is_new_has_its_owner_and_counts_its_renewals"]),
    (Bend::TtlClamped, &["a_time_to_live_out_of_range_is_refused"]),
    (Bend::CauseUnknown, &["a_deletion_says_that_a_close_did_it", "a_deletion_says_that_an_expiry_did_it"]),
    (Bend::CloseTwice, &["a_session_that_is_gone_stays_gone"]),
    (
        Bend::EndTooEarly,
        &["a_session_that_is_not_renewed_ends_with_all_its_records", "a_renewed_session_lives_on"],
    ),
    (Bend::NoTokens, &["a_grant_has_a_token_and_the_session_of_its_holder"]),
    (Bend::TokenHidden, &["a_put_keeps_token_and_session"]),
    (Bend::PlainKeepsUnfenced, &["a_released_key_is_free_for_everybody"]),
    (Bend::GrantNeedsAbsence, &["a_plain_record_becomes_a_grant_without_a_token"]),
    (
        Bend::WatchDrops,
        &[
            "a_watch_delivers_each_change_once_and_in_order",
            "many_watchers_all_get_everything",
            "a_resume_over_more_than_the_bound_has_no_gap",
            "a_slow_reader_gets_everything_or_is_told_what_is_missing",
            "a_slow_reader_that_asks_for_the_latest_gets_the_present_state",
            "watches_are_complete_while_sixteen_write",
        ],
    ),
    (
        Bend::WatchRepeats,
        &["a_watch_delivers_each_change_once_and_in_order", "watches_are_complete_while_sixteen_write"],
    ),
    (
        Bend::WatchSplits,
        &[
            "one_transaction_is_one_event_with_its_keys_in_order",
            "a_transaction_larger_than_the_bound_comes_whole",
            "closing_a_session_takes_its_records_at_one_revision",
        ],
    ),
    (
        Bend::ResumeOffByOne,
        &[
            "a_watch_resumes_after_any_revision",
            "a_watch_resumes_over_a_restart",
            "a_watch_resumes_over_a_failover",
        ],
    ),
    (Bend::NowReplays, &["a_watch_from_now_begins_with_the_next_change"]),
    (
        Bend::GapSwallowed,
        &[
            "a_resume_from_before_a_compaction_is_a_gap_and_then_goes_on",
            "a_watch_from_a_revision_that_is_not_reached_is_a_gap_and_goes_on",
            "a_slow_reader_gets_everything_or_is_told_what_is_missing",
            "a_coalescing_watch_that_is_too_small_for_its_keys_has_a_gap",
            "a_reader_after_a_gap_reads_again_and_misses_nothing",
            "watchers_are_told_of_a_restore",
        ],
    ),
    (Bend::NoBookmarks, &["an_idle_watch_is_told_where_it_stands_before_a_compaction"]),
    (Bend::WatchShowsOwn, &["audit_records_are_seen_only_by_who_watches_them"]),
    (Bend::WatchersFew, &["many_watchers_all_get_everything"]),
    (Bend::DropDisturbs, &["a_dropped_watch_does_not_disturb_others"]),
    (Bend::AuditMissing, &["an_audit_record_has_the_revision_of_what_it_is_about"]),
    (Bend::AuditOfRefused, &["a_refused_transaction_leaves_no_audit_record", "a_retry_is_audited_once"]),
    (Bend::TrimAll, &["audit_records_are_trimmed_by_age_and_watchers_see_them_go"]),
    (Bend::CompactNothing, &["compacting_forgets_history_and_keeps_records"]),
    (Bend::CompactTheFuture, &["compacting_past_the_present_does_no_harm"]),
    (Bend::StatusWrong, &["the_status_tells_provider_revision_and_counts"]),
    (
        Bend::RestoreNothing,
        &[
            "a_restore_brings_back_the_records_of_the_snapshot",
            "a_restore_ends_sessions_and_outranks_every_token",
            "watchers_are_told_of_a_restore",
        ],
    ),
    (Bend::RestoreUnchecked, &["a_damaged_snapshot_is_refused_and_changes_nothing"]),
    (Bend::RestartForgetsTokens, &["tokens_grow_over_a_restart"]),
    (Bend::RestartLosesTheLast, &["everything_acknowledged_is_there_after_a_restart"]),
    (Bend::RevisionCompareIgnored, &["sixteen_count_together_and_no_count_is_lost"]),
    (Bend::ScanTorn, &["what_moves_between_keys_is_never_seen_twice_or_not_at_all"]),
    (Bend::FailoverLosesTheLast, &["writes_go_on_after_the_leader_is_killed"]),
    (Bend::FailoverEndsSessions, &["a_renewed_session_survives_a_failover"]),
];

/// Cases that a bug planted in the state must break.
#[cfg(feature = "planted-bugs")]
const BUGS: &[(crate::PlantedBug, &[&str])] = &[
    (
        crate::PlantedBug::SkipFence,
        &[
            "an_old_holder_is_fenced_after_handover_release_and_expiry",
            "a_token_that_was_never_given_is_refused",
        ],
    ),
    (
        crate::PlantedBug::GrantTwice,
        &["what_is_granted_changes_only_with_its_token", "of_sixteen_candidates_one_holds_at_a_time"],
    ),
    (
        crate::PlantedBug::ReuseToken,
        &[
            "tokens_grow_over_release_handover_close_and_expiry",
            "a_handover_is_one_transaction_and_leaves_no_moment_without_holder",
            "of_sixteen_candidates_one_holds_at_a_time",
        ],
    ),
    (
        crate::PlantedBug::ApplyRetries,
        &[
            "a_retry_is_answered_as_the_first_try_and_applies_once",
            "a_retry_succeeds_although_its_compares_no_longer_hold",
            "a_refusal_is_final_so_a_delayed_first_try_does_nothing",
            "each_kind_of_refusal_is_replayed_as_itself",
            "outcomes_of_the_last_128_are_kept_and_older_ones_are_forgotten",
            "a_retry_after_its_session_is_gone_is_told_so",
            "writes_go_on_after_the_leader_is_killed",
        ],
    ),
    (
        crate::PlantedBug::LeaveRecordsOfSessions,
        &[
            "closing_a_session_takes_its_records_at_one_revision",
            "a_record_goes_with_the_session_that_wrote_it_last",
            "a_session_that_is_not_renewed_ends_with_all_its_records",
            "one_session_ends_and_another_lives",
            "a_handed_over_grant_goes_with_its_new_session",
        ],
    ),
];

async fn outcome(name: &str, factory: &dyn ProviderFactory) -> Outcome {
    let case = cases().iter().find(|case| case.name == name);
    let case = case.unwrap_or_else(|| panic!("there is no case {name}"));
    examine(case, factory).await.0
}

fn bent(bend: Bend) -> BentFactory {
    // What never comes is waited for.
    BentFactory { patience: Duration::from_secs(1), ..BentFactory::new(bend) }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bend_breaks_its_cases() {
    let mut kept = Vec::new();
    for (bend, names) in BENDS {
        for name in *names {
            match outcome(name, &bent(*bend)).await {
                Outcome::Broken(how) => println!("{bend:?} breaks {name}: {how}"),
                other => kept.push(format!("{bend:?} does not break {name}: {other:?}")),
            }
        }
    }
    assert!(kept.is_empty(), "{}", kept.join("\n"));
}

#[cfg(feature = "planted-bugs")]
#[tokio::test(flavor = "multi_thread")]
async fn each_planted_bug_breaks_its_cases() {
    let mut kept = Vec::new();
    for (bug, names) in BUGS {
        for name in *names {
            let factory = BentFactory { bug: Some(*bug), ..bent(Bend::Straight) };
            match outcome(name, &factory).await {
                Outcome::Broken(how) => println!("{bug:?} breaks {name}: {how}"),
                other => kept.push(format!("{bug:?} does not break {name}: {other:?}")),
            }
        }
    }
    assert!(kept.is_empty(), "{}", kept.join("\n"));
}

#[cfg(feature = "planted-bugs")]
#[test]
fn every_case_is_broken_by_something() {
    let mut broken: std::collections::BTreeSet<&str> =
        BENDS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    broken.extend(BUGS.iter().flat_map(|(_, names)| names.iter().copied()));
    let whole: Vec<&str> =
        cases().iter().map(|case| case.name).filter(|name| !broken.contains(name)).collect();
    assert!(whole.is_empty(), "nothing breaks {whole:?}");
}

mod straight {
    use super::*;

    // With a restart and a failover of a kind, so that those cases are run here too.
    crate::conformance_tests!(BentFactory::new(Bend::Straight));
}
