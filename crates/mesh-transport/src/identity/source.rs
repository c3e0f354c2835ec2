//! Where an identity comes from: files, or whatever a user plugs in.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;

use super::Material;
use crate::error::IdentityError;

/// Gives a node its certificate, key and trust bundle, and says when they change.
///
/// Files are one source ([`FileSource`]); a workload API or a secret store is another.
///
/// # Contract
///
/// * `load` yields parts that belong together: the key is that of the first certificate.
/// * `changed` completes when `load` may yield something else than it did last,
///   and not earlier than that without a pause: a spurious wake costs one `load`.
/// * Both are cancel safe.
#[async_trait]
pub trait IdentitySource: Send + Sync + 'static {
    /// The identity as it is now.
    ///
    /// # Errors
    ///
    /// [`IdentityError`]; the caller keeps what it has.
    async fn load(&self) -> Result<Material, IdentityError>;

    /// Waits until [`load`](Self::load) may yield something else.
    async fn changed(&self);
}

/// An identity in PEM files, looked at again in an interval.
#[derive(Debug)]
pub struct FileSource {
    certificate: PathBuf,
    key: PathBuf,
    trust_bundle: PathBuf,
    crl: Option<PathBuf>,
    interval: Duration,
    loaded: Mutex<Option<Fingerprint>>,
}

/// What tells a changed file without reading it: its time and its size.
type Fingerprint = Vec<Option<(SystemTime, u64)>>;

/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

impl FileSource {
    /// These files, looked at every `interval`.
    pub fn new(
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        trust_bundle: impl Into<PathBuf>,
        crl: Option<PathBuf>,
        interval: Duration,
    ) -> Self {
        Self {
            certificate: certificate.into(),
            key: key.into(),
            trust_bundle: trust_bundle.into(),
            crl,
            interval,
            loaded: Mutex::new(None),
        }
    }

    fn fingerprint(&self) -> Fingerprint {
        let look = |path: &Path| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        [&self.certificate, &self.key, &self.trust_bundle]
            .into_iter()
            .chain(&self.crl)
            .map(|path| look(path))
            .collect()
    }

    fn read_all(&self) -> Result<Material, IdentityError> {
        check_private(&self.key)?;
        let certificate = read("certificate", &self.certificate)?;
        let key = read("private key", &self.key)?;
        let trust_bundle = read("trust bundle", &self.trust_bundle)?;
        let crl = self.crl.as_deref().map(|path| read("revocation list", path)).transpose()?;
        Material::from_pem(&certificate, &key, &trust_bundle, &crl.unwrap_or_default())
            .map_err(|error| self.name_file(error))
    }

    /// Puts the path into an error that knows only the part.
    fn name_file(&self, error: IdentityError) -> IdentityError {
        let IdentityError::Material { what, problem } = error else { return error };
        let path = match what {
            "certificate" => &self.certificate,
            "private key" => &self.key,
            "trust bundle" => &self.trust_bundle,
            _ => self.crl.as_ref().unwrap_or(&self.trust_bundle),
        };
        IdentityError::Content { what, path: path.clone(), problem }
    }
}

#[async_trait]
impl IdentitySource for FileSource {
    async fn load(&self) -> Result<Material, IdentityError> {
        // The fingerprint is taken first: a file that changes while it is read is then read again.
        let fingerprint = self.fingerprint();
        let material = self.read_all();
        *self.loaded.lock().expect("no panic while held") = Some(fingerprint);
        material
    }

    async fn changed(&self) {
        loop {
            tokio::time::sleep(self.interval).await;
            let now = self.fingerprint();
            if self.loaded.lock().expect("no panic while held").as_ref() != Some(&now) {
                return;
            }
        }
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, IdentityError> {
    let error = |source| IdentityError::Read { what, path: path.to_owned(), source };
    let length = fs::metadata(path).map_err(error)?.len();
    if length > FILE_BYTES_MAX {
        let problem = format!("it has {length} bytes, at most {FILE_BYTES_MAX} are read");
        return Err(IdentityError::Content { what, path: path.to_owned(), problem });
    }
    fs::read(path).map_err(error)
}

/// Refuses a key that others can read.
fn check_private(path: &Path) -> Result<(), IdentityError> {
    let error =
        |source: io::Error| IdentityError::Read { what: "private key", path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(error)?;
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Permissions { path: path.to_owned(), mode });
        }
    }
    #[cfg(not(unix))]
    let _ = metadata;
    Ok(())
}
