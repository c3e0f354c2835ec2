//! Checks of files: the data directory, the key, the certificate.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use mesh::{
    LoadedConfig,
    core::{Clock, PeerIdentity, SystemClock},
    transport::{
        Identity,
        identity::{FileSource, IdentityOptions, IdentitySource, Material},
        tls::PeerRole,
    },
};

use super::{Outcome, Subject};
use crate::failure::chain;

/// A certificate with less than this part of its life left should have been renewed.
const RENEWAL_PART: u64 = 3;

pub(super) fn data_directory(loaded: &LoadedConfig) -> Outcome {
    let folder = &loaded.config.node.data_dir;
    let hint = "choose another node.data_dir, or change the folder's owner";
    if !folder.exists() {
        // The node makes it; what matters is that it may.
        let parent =
            folder.ancestors().skip(1).find(|parent| parent.is_dir() || parent.as_os_str().is_empty());
        let parent = match parent {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        return match writable(parent) {
            Ok(()) => Outcome::ok(format!("{} does not exist yet and can be made", folder.display())),
            Err(error) => Outcome::failed(format!("{} can't be made: {error}", folder.display()), hint),
        };
    }
    if let Err(error) = writable(folder) {
        return Outcome::failed(format!("{} can't be written: {error}", folder.display()), hint);
    }
    match mode(folder) {
        Some(mode) if mode & 0o077 != 0 => Outcome::warning(
            format!("{} has mode {mode:03o}, so that others can look into it", folder.display()),
            format!("chmod 700 {}", folder.display()),
        ),
        _ => Outcome::ok(folder.display().to_string()),
    }
}

/// Whether a file can be made in a folder; it is removed again.
fn writable(folder: &Path) -> std::io::Result<()> {
    tempfile::tempfile_in(folder).map(|_| ())
}

#[cfg(unix)]
fn mode(path: &Path) -> Option<u32> {
    let metadata = fs::metadata(path).ok()?;
    Some(std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777)
}

#[cfg(not(unix))]
fn mode(_: &Path) -> Option<u32> {
    None
}

pub(super) fn key(loaded: &LoadedConfig) -> Outcome {
    let path = files(loaded).key;
    if let Err(error) = fs::File::open(&path) {
        return Outcome::failed(
            format!("{} can't be read: {error}", path.display()),
            "put the node's key there, or set transport.tls.key",
        );
    }
    match mode(&path) {
        Some(mode) if mode & 0o077 != 0 => Outcome::failed(
            format!("{} has mode {mode:03o}, so that others can read it; nodes refuse that", path.display()),
            format!("chmod 600 {}", path.display()),
        ),
        _ => Outcome::ok(path.display().to_string()),
    }
}

pub(super) async fn certificate(subject: &Subject) -> Outcome {
    let (identity, _) = match load(subject).await {
        Ok(loaded) => loaded,
        Err(outcome) => return outcome,
    };
    let local = identity.local();
    validity(&local, SystemClock.wall().0 / 1000)
}

/// Whether a certificate is valid at a time, in seconds since the Unix epoch.
fn validity(identity: &PeerIdentity, now_s: u64) -> Outcome {
    let certificate = &identity.certificate;
    let whose = &identity.id;
    if now_s < certificate.not_before_s {
        let starts_in = human(certificate.not_before_s - now_s);
        return Outcome::failed(
            format!("the certificate of {whose} becomes valid in {starts_in}"),
            "check this machine's clock, or wait",
        );
    }
    let Some(left) = certificate.not_after_s.checked_sub(now_s).filter(|left| *left > 0) else {
        let ago = human(now_s - certificate.not_after_s);
        return Outcome::failed(format!("the certificate of {whose} ended {ago} ago"), "issue a new one");
    };
    let life = certificate.not_after_s.saturating_sub(certificate.not_before_s);
    let text = format!("the certificate of {whose} is valid for another {}", human(left));
    if left < life / RENEWAL_PART {
        return Outcome::warning(text, "renew it; the node takes the new files without a restart");
    }
    Outcome::ok(text)
}

fn human(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

pub(super) async fn trust(subject: &Subject) -> Outcome {
    let (identity, material) = match load(subject).await {
        Ok(loaded) => loaded,
        Err(outcome) => return outcome,
    };
    match identity.recheck(&material.certificates, PeerRole::Client) {
        Ok(peer) => {
            Outcome::ok(format!("{} is signed by one of {} roots", peer.id, material.trust_bundle.len()))
        }
        Err(refusal) => Outcome::failed(
            format!("other nodes will refuse this certificate: {refusal}"),
            "use a certificate and a trust bundle of the same authority",
        ),
    }
}

/// The node's identity; the operator's, if no node is looked at.
pub(super) async fn load(subject: &Subject) -> Result<(Identity, Material), Outcome> {
    let source = match (&subject.config, &subject.edge) {
        (Some(loaded), _) => files(loaded).source(),
        (None, Ok(edge)) => {
            let context = edge.context();
            let (certificate, key) = (context.certificate.clone(), context.key.clone());
            Files { certificate, key, trust_bundle: context.trust_bundle.clone() }.source()
        }
        (None, Err(failure)) => return Err(Outcome::skipped(failure.message.clone())),
    };
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Outcome::failed(chain(error), "put certificate, key and trust bundle (PEM) where the settings say")
    };
    let material = source.load().await.map_err(|error| failed(&error))?;
    let identity =
        Identity::new(material.clone(), IdentityOptions::default()).map_err(|error| failed(&error))?;
    Ok((identity, material))
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
    trust_bundle: PathBuf,
}

impl Files {
    fn source(self) -> FileSource {
        FileSource::new(self.certificate, self.key, self.trust_bundle, None, Duration::from_secs(3600))
    }
}

/// The same files that the node takes.
fn files(loaded: &LoadedConfig) -> Files {
    let [certificate, key, trust_bundle] = loaded.config.identity_files();
    Files { certificate, key, trust_bundle }
}

#[cfg(test)]
mod tests {
    use mesh::core::CertificateInfo;

    use super::*;

    #[test]
    fn a_certificate_is_early_well_late_or_over() {
        let identity = PeerIdentity {
            id: "spiffe://example.org/mesh/prod/worker/w-1".parse().expect("an id"),
            certificate: CertificateInfo { serial: "0a".into(), not_before_s: 1000, not_after_s: 4000 },
        };
        let texts: Vec<String> =
            [940, 1000, 3500, 4060].map(|now| format!("{:?}", validity(&identity, now))).into();
        insta::assert_snapshot!(texts.join("\n"), @r#"
        Outcome { status: Failed, detail: "the certificate of spiffe://example.org/mesh/prod/worker/w-1 becomes valid in 1m", hint: "check this machine's clock, or wait" }
        Outcome { status: Ok, detail: "the certificate of spiffe://example.org/mesh/prod/worker/w-1 is valid for another 50m", hint: "" }
        Outcome { status: Warning, detail: "the certificate of spiffe://example.org/mesh/prod/worker/w-1 is valid for another 8m 20s", hint: "renew it; the node takes the new files without a restart" }
        Outcome { status: Failed, detail: "the certificate of spiffe://example.org/mesh/prod/worker/w-1 ended 1m ago", hint: "issue a new one" }
        "#);
    }
}
