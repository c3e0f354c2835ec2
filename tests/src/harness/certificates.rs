//! Certificates for nodes, operators, and those who should be turned away.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use mesh_core::{Clock, SystemClock};
use mesh_transport::ca::{DevCa, DevLeaf, LEAF_LIFETIME, LeafRequest, pem};

/// Certificates of the development CA start so much before they are issued, in seconds.
const BACKDATED_S: i64 = -60;

/// The authority of one cluster.
#[derive(Debug)]
pub struct Authority {
    ca: DevCa,
    cluster: String,
}

impl Authority {
    /// A new root for a cluster of a trust domain.
    ///
    /// # Errors
    ///
    /// A name is not valid.
    pub fn new(trust_domain: &str, cluster: &str) -> Result<Self> {
        Ok(Self { ca: DevCa::new(trust_domain)?, cluster: cluster.to_owned() })
    }

    /// A good certificate.
    ///
    /// # Errors
    ///
    /// A name is not valid.
    pub fn issue(&self, role: &str, name: &str) -> Result<DevLeaf> {
        self.issue_for(&self.cluster, role, name)
    }

    /// A certificate for any cluster.
    ///
    /// # Errors
    ///
    /// A name is not valid.
    pub fn issue_for(&self, cluster: &str, role: &str, name: &str) -> Result<DevLeaf> {
        Ok(self.ca.issue(cluster, role, name, LEAF_LIFETIME)?)
    }

    /// A certificate whose time is over since an hour.
    ///
    /// # Errors
    ///
    /// A name is not valid.
    pub fn issue_expired(&self, role: &str, name: &str) -> Result<DevLeaf> {
        Ok(self.ca.issue_request(&self.request(role, name, -7200, -3600))?)
    }

    /// A good certificate that looks as if it was issued so much later than those of now, though it
    /// is valid already.
    ///
    /// # Errors
    ///
    /// A name is not valid.
    pub fn issue_later(&self, role: &str, name: &str, later: Duration) -> Result<DevLeaf> {
        let later_s = i64::try_from(later.as_secs())?;
        Ok(self.ca.issue_request(&self.request(role, name, BACKDATED_S + later_s, 86_400))?)
    }

    fn request(&self, role: &str, name: &str, starts_in_s: i64, ends_in_s: i64) -> LeafRequest {
        let uri = format!("spiffe://{}/mesh/{}/{role}/{name}", self.ca.trust_domain(), self.cluster);
        LeafRequest { uris: vec![uri], starts_in_s, ends_in_s }
    }

    /// The root, as PEM.
    pub fn root_pem(&self) -> String {
        pem("CERTIFICATE", self.ca.root())
    }

    /// Writes a revocation list of these certificates, whole or not at all.
    ///
    /// # Errors
    ///
    /// The file can't be written.
    pub fn write_revocations(&self, leaves: &[&DevLeaf], path: &Path) -> Result<()> {
        let serials: Vec<Vec<u8>> = leaves.iter().map(|leaf| leaf.serial.clone()).collect();
        let list = pem("X509 CRL", &self.ca.revoke(&serials)?);
        let new = path.with_extension(format!("new-{}", SystemClock.now().as_nanos()));
        fs::write(&new, list)
            .and_then(|()| fs::rename(&new, path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}
