//! The suite that every provider passes, on real engines.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use mesh_core::{BoxError, Settings, store::VersionedStore};
use tokio::sync::Mutex;

use crate::testing::{Limits, Promise, Provider, ProviderFactory};

fn missing(package: &str, programs: &[PathBuf]) -> Option<String> {
    super::program("conformance", package, programs).is_none().then(|| format!("install {package}"))
}

#[cfg(feature = "etcd")]
mod etcd {
    use std::time::Duration;

    use super::*;
    use crate::{
        etcd::{EtcdConfig, EtcdStore},
        servers::etcd::{Etcd, candidates},
    };

    /// etcd with so many members.
    struct Etcds(usize);

    struct Running {
        etcd: Mutex<Etcd>,
        /// The first uses all members, the others one each.
        stores: Vec<EtcdStore>,
    }

    #[async_trait]
    impl ProviderFactory for Etcds {
        fn provider(&self) -> &'static str {
            "etcd"
        }

        fn limits(&self) -> Limits {
            let limits = Limits {
                // What etcd grants with an election timeout of a quarter of a second.
                ttl_min: Duration::from_secs(1),
                ..Limits::default()
            };
            let limits = limits
                .without(Promise::DenseRevisions, "revisions are of the whole etcd, which others use too")
                .without(Promise::Restore, "etcd can't replace a whole prefix at once; restore etcd itself")
                .remark("writes without idempotency key that are sent while its leader dies are answered only when etcd gives up, after 5 s and twice its election timeout")
                .remark("a session whose owner and etcd's leader die together lives up to twice as long")
                .remark("a history that only the store itself compacts");
            match self.0 {
                1 => limits.without(Promise::Failover, "there is one member"),
                _ => limits,
            }
        }

        fn missing(&self) -> Option<String> {
            missing("etcd-server", &candidates())
        }

        async fn start(&self) -> Result<Box<dyn Provider>, BoxError> {
            let etcd = Etcd::of_members_for_any_transaction("conformance", self.0).await;
            let etcd = etcd.ok_or("etcd is not installed")?;
            let mut stores = vec![etcd.store("mesh").await];
            for endpoint in etcd.config().endpoints {
                let config = EtcdConfig { endpoints: vec![endpoint], ..etcd.config() };
                let config = config.validate().map_err(|problems| format!("{problems:?}"))?;
                stores.push(EtcdStore::open(config).await?);
            }
            Ok(Box::new(Running { etcd: Mutex::new(etcd), stores }))
        }
    }

    #[async_trait]
    impl Provider for Running {
        fn store(&self) -> Arc<dyn VersionedStore> {
            Arc::new(self.stores[0].clone())
        }

        fn handles(&self) -> Vec<Arc<dyn VersionedStore>> {
            self.stores.iter().map(|store| Arc::new(store.clone()) as Arc<dyn VersionedStore>).collect()
        }

        async fn restart(&self) -> Result<(), BoxError> {
            let mut etcd = self.etcd.lock().await;
            etcd.kill_all();
            etcd.restart().await;
            Ok(())
        }

        async fn kill_leader(&self) -> Result<(), BoxError> {
            for (index, store) in self.stores.iter().skip(1).enumerate() {
                if store.is_at_the_leader().await? {
                    self.etcd.lock().await.kill(index);
                    return Ok(());
                }
            }
            Err("no member leads".into())
        }

        async fn revive(&self) -> Result<(), BoxError> {
            self.etcd.lock().await.restart().await;
            Ok(())
        }
    }

    crate::conformance_tests!(Etcds(1));

    mod three_members {
        use super::Etcds;
        use crate::testing::run_case;

        #[test]
        fn writes_go_on_after_the_leader_is_killed() {
            run_case("writes_go_on_after_the_leader_is_killed", &Etcds(3));
        }

        #[test]
        fn a_watch_resumes_over_a_failover() {
            run_case("a_watch_resumes_over_a_failover", &Etcds(3));
        }

        #[test]
        fn a_renewed_session_survives_a_failover() {
            run_case("a_renewed_session_survives_a_failover", &Etcds(3));
        }
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use super::*;
    use crate::{
        postgres::PostgresStore,
        servers::postgres::{Postgres, candidates},
    };

    struct Databases;

    struct Running {
        postgres: Mutex<Postgres>,
        stores: [PostgresStore; 2],
    }

    #[async_trait]
    impl ProviderFactory for Databases {
        fn provider(&self) -> &'static str {
            "postgres"
        }

        fn limits(&self) -> Limits {
            Limits::default()
                .without(Promise::Failover, "one server; what a standby takes over is PostgreSQL's own")
                .remark("what was acknowledged last, after a failover without synchronous replication")
                .remark("that sessions end while no node has the store open")
        }

        fn missing(&self) -> Option<String> {
            missing("postgresql", &candidates())
        }

        async fn start(&self) -> Result<Box<dyn Provider>, BoxError> {
            let postgres = Postgres::start("conformance").await.ok_or("PostgreSQL is not installed")?;
            let stores = [postgres.store("mesh").await, postgres.store("mesh").await];
            Ok(Box::new(Running { postgres: Mutex::new(postgres), stores }))
        }
    }

    #[async_trait]
    impl Provider for Running {
        fn store(&self) -> Arc<dyn VersionedStore> {
            Arc::new(self.stores[0].clone())
        }

        fn handles(&self) -> Vec<Arc<dyn VersionedStore>> {
            self.stores.iter().map(|store| Arc::new(store.clone()) as Arc<dyn VersionedStore>).collect()
        }

        async fn restart(&self) -> Result<(), BoxError> {
            let mut postgres = self.postgres.lock().await;
            postgres.kill();
            postgres.restart().await;
            Ok(())
        }
    }

    crate::conformance_tests!(Databases);
}
