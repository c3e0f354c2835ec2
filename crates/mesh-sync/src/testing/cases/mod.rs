//! The contract of a store, as cases.

mod inserting;
mod metadata;
mod pruning;
mod reading;
mod reopening;

use super::workbench::Workbench;

/// One promise, and how to find out whether it is kept.
#[derive(Debug)]
pub struct Case {
    /// Its name, as that of a test.
    pub name: &'static str,
    /// What is promised.
    pub promise: &'static str,
    /// Whether the store has to be there again after it was closed.
    pub needs_closing: bool,
    pub(super) run: fn(&Workbench),
}

macro_rules! cases {
    ($($module:ident::$name:ident $promise:literal $($closing:ident)?),* $(,)?) => {
        const CASES: &[Case] = &[$(Case {
            name: stringify!($name),
            promise: $promise,
            needs_closing: cases!(@ $($closing)?),
            run: $module::$name,
        }),*];
    };
    (@) => { false };
    (@ closing) => { true };
}

cases! {
    inserting::an_entry_comes_out_with_the_bytes_that_went_in "the bytes of an entry never change",
    inserting::each_entry_of_a_batch_gets_its_own_outcome "an entry spoils nobody else's outcome",
    inserting::arrivals_are_numbered_without_a_gap_over_batches "a cursor by arrival misses nothing",
    inserting::an_entry_waits_for_its_parents "a replica is closed under parents",
    inserting::a_stamp_that_is_not_above_a_parents_is_rejected "the order of items has parents first",
    inserting::a_number_given_twice_is_kept_and_reported "equivocation is kept and reported",
    inserting::a_head_tells_up_to_where_nothing_is_missing "a confirmation covers no gap",
    inserting::counts_and_set_hash_depend_on_the_set_alone "equal sets have equal roots",
    inserting::datasets_are_apart "a dataset knows nothing of another",
    metadata::metadata_is_written_with_the_batch "a cursor moves with what it stands for",
    metadata::what_is_too_large_is_refused_and_nothing_is_written "a refused write changes nothing",
    reading::items_are_listed_in_order_between_bounds "ranges have what lies in them",
    reading::a_scan_in_pages_gives_everything_once_and_parents_first "bulk can be resumed anywhere",
    reading::arrivals_are_listed_from_a_number "a cursor gives what is new",
    reading::an_authors_entries_are_listed_from_a_number "an author's entries can be found",
    reading::the_vector_is_listed_in_pages "every author is in the vector once",
    reading::a_reader_sees_whole_batches "a commit is seen as a whole or not at all",
    reading::writers_of_one_dataset_take_turns "writers at once lose nothing",
    pruning::what_is_pruned_is_gone_and_refused "nothing that was pruned comes back",
    pruning::watermarks_only_rise "an older prune undoes nothing",
    pruning::a_new_store_takes_children_of_what_was_pruned_elsewhere "a store can begin after a prune",
    pruning::a_prune_of_thousands_leaves_the_rest "a prune takes what it should and no more",
    pruning::names_that_nothing_builds_on_are_forgotten "what was pruned takes no room for ever",
    metadata::a_checkpoint_is_kept_and_a_prune_drops_it "a checkpoint is never about what is gone",
    reopening::everything_is_there_after_opening_again "what was acknowledged is durable" closing,
    reopening::a_store_is_opened_once "two can't write to one store" closing,
}

/// All cases.
pub fn cases() -> &'static [Case] {
    CASES
}
