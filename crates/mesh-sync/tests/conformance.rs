//! Every store of this crate keeps the contract.
#![cfg(feature = "testing")]

use std::sync::Arc;

use mesh_sync::{
    store::{Datasets, MemoryStore, StoreError},
    store_conformance_tests,
    testing::{Place, StoreFactory},
};

struct Memory;
struct InMemory(Arc<MemoryStore>);

impl StoreFactory for Memory {
    fn store(&self) -> &'static str {
        "memory"
    }
    fn place(&self) -> Box<dyn Place> {
        Box::new(InMemory(Arc::new(MemoryStore::in_memory())))
    }
}

impl Place for InMemory {
    fn open(&self) -> Result<Arc<dyn Datasets>, StoreError> {
        Ok(self.0.clone())
    }
    fn survives_closing(&self) -> bool {
        false
    }
}

store_conformance_tests!(memory, Memory);

#[cfg(feature = "fjall")]
mod on_fjall {
    use mesh_sync::store::{FjallOptions, FjallStore};

    use super::*;

    struct Fjall;
    struct Folder(tempfile::TempDir);

    impl StoreFactory for Fjall {
        fn store(&self) -> &'static str {
            "fjall"
        }
        fn place(&self) -> Box<dyn Place> {
            Box::new(Folder(tempfile::tempdir().expect("a folder")))
        }
    }

    impl Place for Folder {
        fn open(&self) -> Result<Arc<dyn Datasets>, StoreError> {
            Ok(Arc::new(FjallStore::in_folder(self.0.path(), FjallOptions::default())?))
        }
    }

    store_conformance_tests!(fjall, Fjall);
}

#[cfg(feature = "redb")]
mod on_redb {
    use mesh_sync::store::RedbStore;

    use super::*;

    struct Redb;
    struct Folder(tempfile::TempDir);

    impl StoreFactory for Redb {
        fn store(&self) -> &'static str {
            "redb"
        }
        fn place(&self) -> Box<dyn Place> {
            Box::new(Folder(tempfile::tempdir().expect("a folder")))
        }
    }

    impl Place for Folder {
        fn open(&self) -> Result<Arc<dyn Datasets>, StoreError> {
            Ok(Arc::new(RedbStore::in_file(self.0.path().join("entries.redb"))?))
        }
    }

    store_conformance_tests!(redb, Redb);
}
