//! The cases: each line of the contract as a function that a provider passes or not.

mod audit;
mod concurrency;
mod expiry;
mod failover;
mod grants;
mod holders;
mod idempotency;
mod limits;
mod maintenance;
mod reading;
mod restart;
mod restore;
mod sessions;
mod slow_readers;
mod transactions;
mod watches;

use std::pin::Pin;

use super::{
    provider::Promise,
    trial::{Trial, Verdict},
};

type Run = for<'t> fn(&'t Trial) -> Pin<Box<dyn Future<Output = Verdict> + Send + 't>>;

/// One line of the contract.
pub struct Case {
    /// Its name, which tells a story.
    pub name: &'static str,
    /// What is promised.
    pub promise: &'static str,
    /// A provider that does not make one of these is not examined.
    pub needs: &'static [Promise],
    pub(super) run: Run,
}

/// All cases.
pub fn cases() -> &'static [Case] {
    CASES
}

const CASES: &[Case] = crate::__conformance! { @each table };

/// Makes one test of each case of the conformance suite, for the provider that a
/// [`ProviderFactory`](crate::testing::ProviderFactory) starts.
///
/// ```
/// # struct Factory;
/// # #[async_trait::async_trait]
/// # impl mesh_registry::testing::ProviderFactory for Factory {
/// #     fn provider(&self) -> &'static str { "none" }
/// #     async fn start(&self) -> Result<Box<dyn mesh_registry::testing::Provider>, mesh_core::BoxError> {
/// #         Err("nothing to start".into())
/// #     }
/// # }
/// mesh_registry::conformance_tests!(Factory);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! conformance_tests {
    ($factory:expr) => {
        $crate::__conformance! { @each tests $factory }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance {
    (@[table] $($module:ident::$name:ident [$($need:ident)*] $promise:literal;)*) => {
        &[$(Case {
            name: stringify!($name),
            promise: $promise,
            needs: &[$(Promise::$need),*],
            run: |trial| Box::pin($module::$name(trial)),
        }),*]
    };
    (@[tests $factory:expr] $($module:ident::$name:ident [$($need:ident)*] $promise:literal;)*) => {
        $(#[test]
        fn $name() {
            $crate::testing::run_case(stringify!($name), &$factory);
        })*
    };
    (@each $($what:tt)*) => {
        $crate::__conformance! { @[$($what)*]
            reading::a_read_returns_the_last_write_and_its_history []
                "a record has its value, the revisions of its last and its first write, and its writer";
            reading::a_read_names_a_revision_from_which_a_watch_misses_nothing []
                "a read has the revision at which it was true, and a watch after it gets all that follows";
            reading::a_stale_read_is_true_for_its_revision_and_catches_up []
                "a read that may be old says how old, is never ahead, and sees each write in the end";
            reading::a_scan_returns_what_its_prefix_covers_in_byte_order []
                "a scan returns the records under its prefix, and no others, ordered by the bytes of their keys";
            reading::a_scan_goes_on_page_by_page_without_loss_or_repetition []
                "pages that follow each other by their last key have each record once, and say whether more follow";
            reading::a_scan_of_no_or_too_many_records_is_refused []
                "a scan's limit is 1 to 10,000, and an error names it";
            reading::the_stores_own_keys_are_seen_only_by_who_asks_for_them []
                "keys that begin with ~ are under no prefix that does not begin with it";
            transactions::all_operations_happen_at_one_revision_or_none_does []
                "a transaction takes effect whole or not at all, at one revision";
            transactions::revisions_only_grow_and_all_keys_share_them []
                "each change has a higher revision than all before, whatever its key";
            transactions::revisions_grow_by_one [DenseRevisions]
                "revisions grow by one for each transaction that changed something";
            transactions::each_compare_holds_exactly_when_it_should []
                "revision, absence, presence and value are compared with what is there";
            transactions::the_first_compare_that_fails_is_named_with_what_is_there []
                "a conflict names its compare, the record found, and the revision at which it was looked at";
            transactions::an_old_holder_learns_that_it_is_fenced_before_anything_else []
                "fences are judged before other compares";
            transactions::a_gone_session_is_judged_after_the_compares_and_before_grants []
                "sessions are judged after all compares, and grants without a token after sessions";
            transactions::what_changes_nothing_takes_no_revision [DenseRevisions]
                "a transaction that changes nothing takes no revision and answers with the present one";
            transactions::deleting_nothing_is_no_error []
                "deleting a key that is not there succeeds";
            transactions::every_handle_sees_what_any_handle_wrote []
                "reads are linearizable whichever way they come in";
            limits::a_value_at_the_limit_is_kept_and_one_past_it_is_refused []
                "values have 512 KiB at most, and an error names value and limit";
            limits::a_transaction_past_its_bytes_is_refused_and_changes_nothing []
                "transactions have 1 MiB at most, and an error names value and limit";
            limits::a_transaction_past_its_items_is_refused []
                "transactions have 2,048 compares and 2,048 operations at most, and an error names value and limit";
            limits::a_transaction_of_as_many_items_as_allowed_is_applied [LargeTransactions]
                "transactions of 2,048 operations are applied whole";
            limits::a_key_of_the_longest_length_is_kept []
                "keys have up to 512 bytes of any text without control characters";
            limits::a_key_that_is_changed_twice_is_refused []
                "each key may appear in one operation only, and an error names it";
            limits::the_stores_own_keys_cannot_be_written []
                "keys that begin with ~ are the store's, and an error names the key";
            limits::sizes_are_judged_before_anything_else []
                "a transaction that breaks a limit is refused as such, whatever it compares, and is not remembered";
            idempotency::a_retry_is_answered_as_the_first_try_and_applies_once []
                "a retry gets the same revision and the same tokens, and changes nothing";
            idempotency::a_retry_succeeds_although_its_compares_no_longer_hold []
                "a retry of what took effect is told so, whatever happened since";
            idempotency::a_refusal_is_final_so_a_delayed_first_try_does_nothing []
                "once a sequence number was refused it never takes effect";
            idempotency::each_kind_of_refusal_is_replayed_as_itself []
                "a fence or a missing token that refused a transaction refuses its retry too";
            idempotency::outcomes_of_the_last_128_are_kept_and_older_ones_are_forgotten []
                "128 outcomes are kept for each session; an older number is answered with that, and does nothing";
            idempotency::a_retry_after_its_session_is_gone_is_told_so []
                "a transaction of a session that is gone does nothing";
            idempotency::numbers_of_two_sessions_have_nothing_to_do_with_each_other []
                "sequence numbers belong to their session";
            sessions::a_session_is_new_has_its_owner_and_counts_its_renewals []
                "a session has an id that was never used, an owner, a time to live and a count of renewals";
            sessions::a_time_to_live_out_of_range_is_refused []
                "the time to live is half a second to an hour, and an error names it and the range";
            sessions::closing_a_session_takes_its_records_at_one_revision []
                "the records of a session go with it at one revision";
            sessions::a_deletion_says_that_a_close_did_it [DeleteCause]
                "a watch is told whether a transaction or the end of a session deleted a record";
            sessions::a_session_that_is_gone_stays_gone []
                "a closed session can't be renewed, closed or used";
            sessions::a_record_goes_with_the_session_that_wrote_it_last []
                "a put moves a record into its session, out of it, or into another";
            expiry::a_session_that_is_not_renewed_ends_with_all_its_records []
                "a session that is not renewed ends, and its records go at one revision, not before its time";
            expiry::a_deletion_says_that_an_expiry_did_it [DeleteCause]
                "a watch is told that a session ran out";
            expiry::a_renewed_session_lives_on []
                "a session does not end before its time to live after its last answered renewal was sent";
            expiry::one_session_ends_and_another_lives []
                "sessions end each for itself";
            grants::a_grant_has_a_token_and_the_session_of_its_holder []
                "a granted record has a token and a session, and the outcome has all tokens in order";
            grants::tokens_grow_over_release_handover_close_and_expiry []
                "the tokens of a key only grow, whatever ended a grant";
            grants::what_is_granted_changes_only_with_its_token []
                "put, delete and grant of a granted record need a fence on it, and an error names its token";
            grants::a_put_keeps_token_and_session []
                "a put on a granted record changes its value and nothing else, and can't move it to another session";
            grants::a_released_key_is_free_for_everybody []
                "a released key can be written, deleted and granted like any other";
            grants::a_plain_record_becomes_a_grant_without_a_token []
                "granting a record that is not granted needs no fence";
            holders::a_handover_is_one_transaction_and_leaves_no_moment_without_holder []
                "a grant can be handed to another session in one transaction, with a higher token";
            holders::an_old_holder_is_fenced_after_handover_release_and_expiry []
                "a write that states a token which no longer holds is refused and told the one that does";
            holders::a_token_that_was_never_given_is_refused []
                "a fence holds for exactly the present token, not for a higher one";
            holders::a_handed_over_grant_goes_with_its_new_session []
                "the session of the old holder no longer takes the record with it";
            watches::a_watch_delivers_each_change_once_and_in_order []
                "every change under the prefix comes, in the order of revisions, once";
            watches::one_transaction_is_one_event_with_its_keys_in_order []
                "all changes of one transaction under the prefix come together, in key order";
            watches::a_watch_resumes_after_any_revision []
                "a watch after a revision gets exactly what followed it";
            watches::a_resume_over_more_than_the_bound_has_no_gap [LongResume]
                "a watch that resumes gets all that history has, and its bound is for what comes while it reads";
            watches::a_transaction_larger_than_the_bound_comes_whole []
                "a transaction of more changes than the bound comes whole to a reader that is not slow";
            watches::a_watch_from_now_begins_with_the_next_change []
                "a watch from now gets nothing that was before, and all that follows";
            watches::a_resume_from_before_a_compaction_is_a_gap_and_then_goes_on [Compaction]
                "what is forgotten is an explicit gap, and what follows it comes";
            watches::a_watch_from_a_revision_that_is_not_reached_is_a_gap_and_goes_on []
                "a watch after a revision that the store has not reached has a gap, and goes on from the present one";
            watches::an_idle_watch_is_told_where_it_stands_before_a_compaction [Compaction BookmarkBeforeCompaction]
                "a watch gets a bookmark before history is forgotten, and can resume from it";
            watches::audit_records_are_seen_only_by_who_watches_them []
                "the store's own keys are under no watch that does not name them";
            watches::many_watchers_all_get_everything []
                "the number of watchers changes nothing for any of them";
            watches::a_dropped_watch_does_not_disturb_others []
                "a watch that ends leaves the others as they are";
            slow_readers::a_slow_reader_gets_everything_or_is_told_what_is_missing []
                "a watch never loses a change silently";
            slow_readers::a_slow_reader_that_asks_for_the_latest_gets_the_present_state []
                "a coalescing watch ends with the newest change of each key";
            slow_readers::a_coalescing_watch_that_is_too_small_for_its_keys_has_a_gap []
                "a coalescing watch never loses the newest change of a key silently";
            slow_readers::a_reader_after_a_gap_reads_again_and_misses_nothing []
                "what is later than a gap follows it";
            audit::an_audit_record_has_the_revision_of_what_it_is_about []
                "the audit record is written by the transaction it is about, with who, what and why";
            audit::a_refused_transaction_leaves_no_audit_record []
                "nothing is audited that did not happen";
            audit::audit_records_are_trimmed_by_age_and_watchers_see_them_go []
                "audit records from before a moment can be deleted, later ones stay, and watches show it";
            audit::a_retry_is_audited_once []
                "a transaction that is applied once is audited once";
            maintenance::compacting_forgets_history_and_keeps_records [Compaction]
                "a compaction changes no record, and the status says how far it went";
            maintenance::compacting_past_the_present_does_no_harm [Compaction]
                "a compaction beyond the newest revision is not one of what is still to come";
            maintenance::the_status_tells_provider_revision_and_counts []
                "the status names the provider, its revision, and how many records and sessions there are";
            restore::a_restore_brings_back_the_records_of_the_snapshot [Snapshot Restore]
                "after a restore there is what the snapshot had, without what went with sessions";
            restore::a_restore_ends_sessions_and_outranks_every_token [Snapshot Restore]
                "a restore ends all sessions, and tokens after it are higher than any before";
            restore::watchers_are_told_of_a_restore [Snapshot Restore]
                "a watch over a restore has a gap, and so has one that resumes from before it";
            restore::a_damaged_snapshot_is_refused_and_changes_nothing [Snapshot Restore]
                "a snapshot that was altered or cut short is refused before anything changes";
            restart::everything_acknowledged_is_there_after_a_restart [Restart]
                "records, sessions and outcomes of retries survive the stop of all processes";
            restart::tokens_grow_over_a_restart [Restart]
                "the tokens of a key grow over a restart";
            restart::a_watch_resumes_over_a_restart [Restart]
                "a watch that resumes after a restart gets what it missed, once";
            concurrency::sixteen_count_together_and_no_count_is_lost []
                "of two writers that compare the same revision one succeeds";
            concurrency::a_mix_of_reads_and_writes_is_linearizable []
                "every call takes effect at one moment between its call and its return";
            concurrency::what_moves_between_keys_is_never_seen_twice_or_not_at_all []
                "transactions over several keys and scans are atomic";
            concurrency::of_sixteen_candidates_one_holds_at_a_time []
                "at most one holder for each token, and tokens only grow";
            concurrency::watches_are_complete_while_sixteen_write []
                "watches are ordered, complete and without repetition under load";
            failover::writes_go_on_after_the_leader_is_killed [Failover]
                "the death of the process that takes writes loses nothing acknowledged and applies nothing twice";
            failover::a_watch_resumes_over_a_failover [Failover]
                "a watch that resumes after a failover gets everything once";
            failover::a_renewed_session_survives_a_failover [Failover]
                "a session that is renewed in time does not end because the leader died";
        }
    };
}
