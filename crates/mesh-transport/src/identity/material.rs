//! What an identity is made of, before it is checked.

use std::fmt;

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject};

use crate::error::IdentityError;

/// A certificate chain, its key, and whom we trust.
pub struct Material {
    /// Our certificate first, then the intermediates up to (not including) the root.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The key of our certificate.
    pub key: PrivateKeyDer<'static>,
    /// The certificates of the roots that we trust.
    pub trust_bundle: Vec<CertificateDer<'static>>,
    /// Revocation lists; may be empty.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
}

impl Material {
    /// Reads the parts from PEM text. `crls` may be empty.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Material`] names the part that is missing or malformed.
    ///
    /// ```no_run
    /// use mesh_transport::identity::Material;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let read = std::fs::read;
    /// let material = Material::from_pem(&read("node.pem")?, &read("node.key")?, &read("roots.pem")?, b"")?;
    /// # Ok(()) }
    /// ```
    pub fn from_pem(
        certificates: &[u8],
        key: &[u8],
        trust_bundle: &[u8],
        crls: &[u8],
    ) -> Result<Self, IdentityError> {
        let certificates = many("certificate", certificates)?;
        let trust_bundle = many("trust bundle", trust_bundle)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| problem("private key", &error))?;
        let crls = CertificateRevocationListDer::pem_slice_iter(crls)
            .collect::<Result<_, _>>()
            .map_err(|error| problem("revocation list", &error))?;
        Ok(Self { certificates, key, trust_bundle, crls })
    }
}

fn many(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| problem(what, &error))?;
    if found.is_empty() {
        return Err(problem(what, &"it holds no PEM block of kind CERTIFICATE"));
    }
    Ok(found)
}

fn problem(what: &'static str, problem: &dyn fmt::Display) -> IdentityError {
    IdentityError::Material { what, problem: problem.to_string() }
}

impl Clone for Material {
    fn clone(&self) -> Self {
        Self {
            certificates: self.certificates.clone(),
            key: self.key.clone_key(),
            trust_bundle: self.trust_bundle.clone(),
            crls: self.crls.clone(),
        }
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material")
            .field("certificates", &self.certificates.len())
            .field("key", &"(secret)")
            .field("trust_bundle", &self.trust_bundle.len())
            .field("crls", &self.crls.len())
            .finish()
    }
}
