//! How to find out whether a store keeps its promises.
//!
//! [`conformance`] runs every [`Case`] of the contract of [`EntryStore`](crate::store::EntryStore) against a store
//! and returns a [`Report`]. A store is brought in by a [`StoreFactory`]:
//!
//! ```
//! use std::sync::Arc;
//! use mesh_sync::{
//!     store::{Datasets, MemoryStore, StoreError},
//!     testing::{Place, StoreFactory, run_case},
//! };
//!
//! struct Memory;
//! struct Here(Arc<MemoryStore>);
//!
//! impl StoreFactory for Memory {
//!     fn store(&self) -> &'static str {
//!         "memory"
//!     }
//!     fn place(&self) -> Box<dyn Place> {
//!         Box::new(Here(Arc::new(MemoryStore::in_memory())))
//!     }
//! }
//!
//! impl Place for Here {
//!     fn open(&self) -> Result<Arc<dyn Datasets>, StoreError> {
//!         Ok(self.0.clone())
//!     }
//!     fn survives_closing(&self) -> bool {
//!         false
//!     }
//! }
//!
//! run_case("an_entry_comes_out_with_the_bytes_that_went_in", &Memory);
//! ```
//!
//! In a test binary, [`store_conformance_tests!`](crate::store_conformance_tests) makes one test of each case.
//! What needs a process to be killed or a file to be torn is not here: see `tests/crash.rs` of this crate.

mod cases;
mod suite;
mod workbench;

pub use cases::{Case, cases};
pub use suite::{Line, Report, Verdict, conformance, run_case};
pub use workbench::{Place, StoreFactory, Workbench};

/// Makes a test of each case: `store_conformance_tests!(name_of_a_module, expression_of_a_factory);`.
#[macro_export]
macro_rules! store_conformance_tests {
    ($module:ident, $factory:expr) => {
        $crate::store_conformance_tests!(@ $module, $factory,
            an_entry_comes_out_with_the_bytes_that_went_in
            each_entry_of_a_batch_gets_its_own_outcome
            arrivals_are_numbered_without_a_gap_over_batches
            an_entry_waits_for_its_parents
            a_stamp_that_is_not_above_a_parents_is_rejected
            a_number_given_twice_is_kept_and_reported
            a_head_tells_up_to_where_nothing_is_missing
            counts_and_set_hash_depend_on_the_set_alone
            datasets_are_apart
            metadata_is_written_with_the_batch
            what_is_too_large_is_refused_and_nothing_is_written
            items_are_listed_in_order_between_bounds
            a_scan_in_pages_gives_everything_once_and_parents_first
            arrivals_are_listed_from_a_number
            an_authors_entries_are_listed_from_a_number
            the_vector_is_listed_in_pages
            a_reader_sees_whole_batches
            writers_of_one_dataset_take_turns
            what_is_pruned_is_gone_and_refused
            watermarks_only_rise
            a_new_store_takes_children_of_what_was_pruned_elsewhere
            a_prune_of_thousands_leaves_the_rest
            names_that_nothing_builds_on_are_forgotten
            a_checkpoint_is_kept_and_a_prune_drops_it
            everything_is_there_after_opening_again
            a_store_is_opened_once
        );
    };
    (@ $module:ident, $factory:expr, $($case:ident)*) => {
        mod $module {
            #[allow(unused_imports)]
            use super::*;

            #[test]
            fn every_case_has_a_test() {
                let names: Vec<&str> = $crate::testing::cases().iter().map(|case| case.name).collect();
                assert_eq!(names, [$(stringify!($case)),*]);
            }

            $(
                #[test]
                fn $case() {
                    $crate::testing::run_case(stringify!($case), &$factory);
                }
            )*
        }
    };
}
