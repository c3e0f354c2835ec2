//! A certificate authority for development and tests.
//!
//! **Not for production.** Its root key lies unencrypted in memory and, after
//! [`DevCa::save`], on disk; it issues to whoever holds the object, checks
//! nothing, and its root cannot be rolled. It exists so that no test and no trial
//! ever needs a plaintext mode.

use std::{
    fmt, fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use mesh_core::{Clock, ClusterName, IdError, NodeId, Role, SpiffeId, SystemClock, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject,
};

use crate::{
    error::IdentityError,
    identity::{Identity, IdentityOptions, Material, der},
};

/// How long a development root lives.
const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * 86_400);
/// How long a development leaf lives, unless asked otherwise.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(30 * 86_400);
/// Certificates start this much earlier, for nodes whose clocks are a little behind.
const BACKDATED: Duration = Duration::from_secs(60);
/// What a root's subject starts with; its trust domain follows.
const ROOT_NAME: &str = "Mesh development CA of ";

/// Why the development authority could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// A part of the identity asked for is not a valid id.
    #[error("the identity asked for is not valid")]
    Id(#[from] IdError),
    /// Making a key or a certificate failed.
    #[error("cannot make a certificate")]
    Generate(#[from] rcgen::Error),
    /// A file could not be read or written.
    #[error("cannot {verb} {}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file does not hold a development root.
    #[error("{} is not usable: {problem}; remove the folder to start with a new root", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The identity made from a new certificate was refused.
    #[error("the new certificate is not usable")]
    Identity(#[from] IdentityError),
}

/// A development certificate authority: one root that signs leaves directly. Not for production.
pub struct DevCa {
    trust_domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl fmt::Debug for DevCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DevCa({})", self.trust_domain)
    }
}

/// A certificate and key for one node, with the root to trust. Its key is a secret.
#[derive(Clone, Debug)]
pub struct DevLeaf {
    /// Certificate, key and trust.
    pub material: Material,
    /// Its serial number, to revoke it by.
    pub serial: Vec<u8>,
}

/// What goes into a leaf. Tests use it to make bad ones.
#[derive(Clone, Debug)]
pub struct LeafRequest {
    /// The URI names; a good certificate has exactly one.
    pub uris: Vec<String>,
    /// Start of validity, relative to now; negative is in the past. In seconds.
    pub starts_in_s: i64,
    /// End of validity, relative to now. In seconds.
    pub ends_in_s: i64,
}

impl LeafRequest {
    /// A good leaf for one node.
    pub fn new(id: &SpiffeId, lifetime: Duration) -> Self {
        let seconds = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX / 2);
        let backdated = i64::try_from(BACKDATED.as_secs()).unwrap_or(0);
        Self { uris: vec![id.to_string()], starts_in_s: -backdated, ends_in_s: seconds }
    }
}

impl DevCa {
    /// Makes a new root for a trust domain. Not for production.
    ///
    /// # Errors
    ///
    /// [`CaError::Id`] if the trust domain is not valid.
    pub fn new(trust_domain: &str) -> Result<Self, CaError> {
        let trust_domain = TrustDomain::new(trust_domain)?;
        let key = KeyPair::generate()?;
        let params = root_params(&trust_domain);
        let root = params.self_signed(&key)?.der().clone();
        Ok(Self { trust_domain, issuer: Issuer::new(params, key), root })
    }

    /// The trust domain of every certificate it issues.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The root certificate.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// Issues a leaf with a fresh key.
    ///
    /// # Errors
    ///
    /// [`CaError::Id`] if a part of the name is not valid.
    pub fn issue(
        &self,
        cluster: &str,
        role: &str,
        node_id: &str,
        lifetime: Duration,
    ) -> Result<DevLeaf, CaError> {
        let id = SpiffeId {
            trust_domain: self.trust_domain.clone(),
            cluster: ClusterName::new(cluster)?,
            role: Role::new(role)?,
            node_id: NodeId::new(node_id)?,
        };
        self.issue_request(&LeafRequest::new(&id, lifetime))
    }

    /// Issues whatever is asked for, bad leaves included.
    ///
    /// # Errors
    ///
    /// [`CaError::Generate`] if a URI is not ASCII or the times are out of range.
    pub fn issue_request(&self, request: &LeafRequest) -> Result<DevLeaf, CaError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let name = request.uris.first().and_then(|uri| uri.rsplit('/').next()).unwrap_or("nobody");
        params.distinguished_name.push(DnType::CommonName, name);
        for uri in &request.uris {
            params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
        }
        let serial = new_serial();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = date_time_ymd(1970, 1, 1) + from_now(request.starts_in_s);
        params.not_after = date_time_ymd(1970, 1, 1) + from_now(request.ends_in_s);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let material = Material {
            certificates: vec![certificate.der().clone()],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            trust_bundle: vec![self.root.clone()],
            crls: Vec::new(),
        };
        Ok(DevLeaf { material, serial })
    }

    /// Issues a leaf for 30 days and makes an identity of it.
    ///
    /// # Errors
    ///
    /// As [`issue`](Self::issue).
    pub fn identity(&self, cluster: &str, role: &str, node_id: &str) -> Result<Identity, CaError> {
        let leaf = self.issue(cluster, role, node_id, LEAF_LIFETIME)?;
        Ok(Identity::new(leaf.material, IdentityOptions::default())?)
    }

    /// A revocation list with these serial numbers, valid for a week.
    ///
    /// # Errors
    ///
    /// [`CaError::Generate`].
    pub fn revoke(&self, serials: &[Vec<u8>]) -> Result<CertificateRevocationListDer<'static>, CaError> {
        let now = from_now(0);
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(1970, 1, 1) + now,
            next_update: date_time_ymd(1970, 1, 1) + now + Duration::from_secs(7 * 86_400),
            crl_number: SerialNumber::from_slice(&now.as_secs().to_be_bytes()),
            issuing_distribution_point: None,
            revoked_certs: serials
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from_slice(serial),
                    revocation_time: date_time_ymd(1970, 1, 1) + now,
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.der().clone())
    }

    /// Writes `root.pem` and `root.key` (mode 0600) into a folder, which is made if needed.
    ///
    /// # Errors
    ///
    /// [`CaError::File`]; nothing existing is overwritten.
    pub fn save(&self, folder: &Path) -> Result<(), CaError> {
        make_folder(folder)?;
        write_new(&folder.join("root.key"), self.issuer.key().serialize_pem().as_bytes(), 0o600)?;
        write_new(&folder.join("root.pem"), pem("CERTIFICATE", &self.root).as_bytes(), 0o644)
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    ///
    /// [`CaError::File`] or [`CaError::Content`], with the file.
    pub fn load(folder: &Path) -> Result<Self, CaError> {
        let (certificate_path, key_path) = (folder.join("root.pem"), folder.join("root.key"));
        let content = |path: &Path, problem: String| CaError::Content { path: path.to_owned(), problem };
        let root = CertificateDer::from_pem_slice(&read(&certificate_path)?)
            .map_err(|error| content(&certificate_path, error.to_string()))?;
        let subject = der::fields(&root).unwrap_or_default().subject;
        let trust_domain = subject
            .strip_prefix("CN=")
            .and_then(|name| name.strip_prefix(ROOT_NAME))
            .ok_or_else(|| content(&certificate_path, format!("its subject is {subject:?}")))?;
        let trust_domain = TrustDomain::new(trust_domain)?;
        let key_pem = String::from_utf8(read(&key_path)?)
            .map_err(|_| content(&key_path, "it is not PEM text".to_owned()))?;
        let key = KeyPair::from_pem(&key_pem).map_err(|error| content(&key_path, error.to_string()))?;
        Ok(Self { issuer: Issuer::new(root_params(&trust_domain), key), trust_domain, root })
    }

    /// Reads the root in a folder, or makes one there.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load) and [`save`](Self::save).
    pub fn load_or_create(folder: &Path, trust_domain: &str) -> Result<Self, CaError> {
        if folder.join("root.pem").exists() {
            return Self::load(folder);
        }
        let ca = Self::new(trust_domain)?;
        ca.save(folder)?;
        Ok(ca)
    }
}

impl DevLeaf {
    /// Writes `node.pem`, `node.key` (mode 0600) and `roots.pem` into a folder, which is made if
    /// needed. What is there is replaced, each file whole.
    ///
    /// # Errors
    ///
    /// [`CaError::File`].
    pub fn save(&self, folder: &Path) -> Result<(), CaError> {
        make_folder(folder)?;
        let all = |certificates: &[CertificateDer<'_>]| -> String {
            certificates.iter().map(|certificate| pem("CERTIFICATE", certificate)).collect()
        };
        // The key first: a reader between the two renames sees a pair that does not match, and tries again.
        replace(
            &folder.join("node.key"),
            pem("PRIVATE KEY", self.material.key.secret_der()).as_bytes(),
            0o600,
        )?;
        replace(&folder.join("node.pem"), all(&self.material.certificates).as_bytes(), 0o644)?;
        replace(&folder.join("roots.pem"), all(&self.material.trust_bundle).as_bytes(), 0o644)
    }
}

/// PEM text (RFC 7468) of a DER value.
pub fn pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let word =
                group.iter().enumerate().fold(0u32, |w, (at, &byte)| w | u32::from(byte) << (16 - 8 * at));
            for at in 0..4 {
                let digit = ALPHABET[(word >> (18 - 6 * at) & 63) as usize];
                text.push(if at <= group.len() { digit as char } else { '=' });
            }
        }
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

fn root_params(trust_domain: &TrustDomain) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{ROOT_NAME}{trust_domain}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date_time_ymd(1970, 1, 1) + from_now(-(BACKDATED.as_secs() as i64));
    params.not_after = date_time_ymd(1970, 1, 1) + from_now(ROOT_LIFETIME.as_secs() as i64);
    params
}

/// The time since the Unix epoch, this many seconds from now.
fn from_now(seconds: i64) -> Duration {
    let now = i64::try_from(SystemClock.wall().0 / 1000).unwrap_or(i64::MAX / 2);
    Duration::from_secs(u64::try_from(now.saturating_add(seconds)).unwrap_or(0))
}

/// Sixteen random bytes, positive and without a leading zero, so that DER keeps them as they are.
fn new_serial() -> Vec<u8> {
    let mut serial = vec![0; 16];
    aws_lc_rs::rand::fill(&mut serial).expect("the operating system gives random bytes");
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}

fn make_folder(folder: &Path) -> Result<(), CaError> {
    fs::create_dir_all(folder).map_err(file_error("make the folder", folder))
}

fn read(path: &Path) -> Result<Vec<u8>, CaError> {
    fs::read(path).map_err(file_error("read", path))
}

fn write_new(path: &Path, body: &[u8], mode: u32) -> Result<(), CaError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = options.open(path).map_err(file_error("make", path))?;
    file.write_all(body).and_then(|()| file.sync_all()).map_err(file_error("write", path))
}

fn replace(path: &Path, body: &[u8], mode: u32) -> Result<(), CaError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let _ = fs::remove_file(&temporary);
    write_new(&temporary, body, mode)?;
    fs::rename(&temporary, path).map_err(file_error("replace", path))
}

fn file_error(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CaError {
    let path = path.to_owned();
    move |source| CaError::File { verb, path, source }
}
