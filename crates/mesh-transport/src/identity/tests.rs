//! Who is accepted, who is not and why, and how both change at run time.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mesh_core::{ManualClock, NodeId, WallTime};
use rustls::pki_types::CertificateDer;

use super::*;
use crate::{
    ca::{DevCa, LEAF_LIFETIME, LeafRequest},
    tls::{IssuerPin, Rule},
};

const HOUR: Duration = Duration::from_secs(3600);

fn ca() -> DevCa {
    DevCa::new("example.org").expect("a root")
}

fn identity(ca: &DevCa, node_id: &str) -> Identity {
    ca.identity("demo", "worker", node_id).expect("an identity")
}

fn certificates(ca: &DevCa, cluster: &str, node_id: &str) -> Vec<CertificateDer<'static>> {
    ca.issue(cluster, "worker", node_id, HOUR).expect("a leaf").material.certificates
}

/// The rule that refuses these certificates.
fn rule(identity: &Identity, certificates: &[CertificateDer<'_>]) -> Rule {
    identity.recheck(certificates, PeerRole::Client).expect_err("must be refused").rule
}

#[test]
fn a_peer_of_the_same_cluster_is_known_by_its_certificate() {
    let ca = ca();
    let peer = identity(&ca, "a")
        .recheck(&certificates(&ca, "demo", "b"), PeerRole::Server)
        .expect("the same cluster");
    assert_eq!(peer.id.to_string(), "spiffe://example.org/mesh/demo/worker/b");
    assert_eq!(peer.certificate.not_after_s - peer.certificate.not_before_s, 3600 + 60);
    assert_eq!(peer.certificate.serial.len(), 32);
}

#[test]
fn each_kind_of_stranger_is_refused_by_its_rule() {
    let ca = ca();
    let a = identity(&ca, "a");
    let uri = |node: &str| format!("spiffe://example.org/mesh/demo/worker/{node}");
    let odd = |uris: Vec<String>, starts_in_s, ends_in_s| {
        let request = LeafRequest { uris, starts_in_s, ends_in_s };
        ca.issue_request(&request).expect("a leaf").material.certificates
    };
    let other_ca = DevCa::new("example.org").expect("a root");
    let other_domain = odd(vec!["spiffe://elsewhere.org/mesh/demo/worker/b".to_owned()], -60, 3600);

    assert_eq!(rule(&a, &certificates(&other_ca, "demo", "b")), Rule::Chain);
    assert_eq!(rule(&a, &certificates(&ca, "other", "b")), Rule::Cluster);
    assert_eq!(rule(&a, &other_domain), Rule::TrustDomain);
    assert_eq!(rule(&a, &odd(vec![uri("b")], -7200, -3600)), Rule::Expired);
    assert_eq!(rule(&a, &odd(vec![uri("b")], 3600, 7200)), Rule::NotYetValid);
    assert_eq!(rule(&a, &odd(vec![uri("b"), uri("c")], -60, 3600)), Rule::UriNames);
    assert_eq!(rule(&a, &odd(vec![], -60, 3600)), Rule::UriNames);
    assert_eq!(rule(&a, &odd(vec!["https://example.org/b".to_owned()], -60, 3600)), Rule::Name);
    assert_eq!(rule(&a, &[CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])]), Rule::Malformed);
    assert_eq!(rule(&a, &[]), Rule::Malformed);
    assert_eq!(a.metrics().refused_total(Rule::UriNames), 2);
}

#[test]
fn a_refusal_names_subject_rule_and_what_is_allowed() {
    let ca = ca();
    let refusal = identity(&ca, "a")
        .recheck(&certificates(&ca, "other", "b"), PeerRole::Client)
        .expect_err("another cluster");
    let text = refusal.to_string();
    assert!(text.contains("CN=b") && text.contains("cluster other") && text.contains("only demo"), "{text}");
}

#[test]
fn the_wrong_node_is_refused_even_with_a_good_certificate() {
    let ca = ca();
    let b: NodeId = "b".parse().expect("valid");
    let refusal = identity(&ca, "a")
        .recheck_peer(&certificates(&ca, "demo", "c"), PeerRole::Server, &b)
        .expect_err("c is not b");
    assert_eq!(refusal.rule, Rule::Peer);
}

#[test]
fn the_identitys_clock_decides_validity() {
    let ca = ca();
    let clock = ManualClock::default();
    let options = IdentityOptions { clock: Arc::new(clock.clone()), ..IdentityOptions::default() };
    let leaf = ca.issue("demo", "worker", "a", LEAF_LIFETIME).expect("a leaf");
    let a = Identity::new(leaf.material, options).expect("an identity");
    let peer = certificates(&ca, "demo", "b");

    clock.set_wall(SystemClock.wall());
    assert!(a.recheck(&peer, PeerRole::Client).is_ok());
    clock.advance(2 * HOUR);
    assert_eq!(rule(&a, &peer), Rule::Expired);
    clock.set_wall(WallTime(1_000_000_000_000));
    assert_eq!(rule(&a, &peer), Rule::NotYetValid);
}

#[test]
fn a_deny_list_takes_effect_and_can_be_lifted() {
    let ca = ca();
    let a = identity(&ca, "a");
    let changes = a.subscribe();
    let peer = certificates(&ca, "demo", "b");
    a.deny(BTreeSet::from(["b".parse().expect("valid")]));
    assert_eq!(rule(&a, &peer), Rule::Denied);
    assert!(changes.has_changed().expect("alive"));
    a.deny(BTreeSet::new());
    assert!(a.recheck(&peer, PeerRole::Client).is_ok());
    assert_eq!(*changes.borrow(), TrustEpoch(2));
}

#[test]
fn a_revocation_list_refuses_its_serials_and_no_other() {
    let ca = ca();
    let own = ca.issue("demo", "worker", "a", HOUR).expect("a leaf");
    let (b, c) = (ca.issue("demo", "worker", "b", HOUR), ca.issue("demo", "worker", "c", HOUR));
    let (b, c) = (b.expect("a leaf"), c.expect("a leaf"));
    let a = Identity::new(own.material.clone(), IdentityOptions::default()).expect("an identity");
    let mut with_list = own.material;
    with_list.crls = vec![ca.revoke(&[b.serial]).expect("a list")];
    a.replace(with_list).expect("the same node");
    assert_eq!(rule(&a, &b.material.certificates), Rule::Revoked);
    assert!(a.recheck(&c.material.certificates, PeerRole::Client).is_ok());
}

#[test]
fn only_pinned_issuers_are_accepted() {
    let (ca, other) = (ca(), DevCa::new("example.org").expect("a root"));
    let mut material = ca.issue("demo", "worker", "a", HOUR).expect("a leaf").material;
    material.trust_bundle.push(other.root().clone());
    let pin = IssuerPin::of_certificate(ca.root()).expect("a certificate");
    let options = IdentityOptions { pins: BTreeSet::from([pin]), ..IdentityOptions::default() };
    let a = Identity::new(material, options).expect("an identity");
    assert!(a.recheck(&certificates(&ca, "demo", "b"), PeerRole::Client).is_ok());
    assert_eq!(rule(&a, &certificates(&other, "demo", "b")), Rule::PinnedIssuer);
}

#[test]
fn a_new_certificate_must_be_for_the_same_node() {
    let ca = ca();
    let a = identity(&ca, "a");
    let before = a.local().certificate.serial.clone();
    let renewed = ca.issue("demo", "worker", "a", HOUR).expect("a leaf").material;
    a.replace(renewed).expect("a renewal");
    assert_ne!(a.local().certificate.serial, before);
    let stranger = ca.issue("demo", "worker", "b", HOUR).expect("a leaf").material;
    let error = a.replace(stranger).expect_err("another node");
    assert!(matches!(error, IdentityError::Changed { .. }), "{error}");
}

#[test]
fn a_renewal_does_not_count_as_a_change_of_trust() {
    let ca = ca();
    let a = identity(&ca, "a");
    a.replace(ca.issue("demo", "worker", "a", HOUR).expect("a leaf").material).expect("a renewal");
    assert_eq!(*a.subscribe().borrow(), TrustEpoch(0));
}

#[tokio::test]
async fn files_are_followed_and_a_bad_change_is_survived() {
    let ca = ca();
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    ca.issue("demo", "worker", "a", HOUR).expect("a leaf").save(folder.path()).expect("saved");
    let interval = Duration::from_millis(10);
    let source = FileSource::new(path("node.pem"), path("node.key"), path("roots.pem"), None, interval);
    let (identity, _watch) =
        Identity::from_source(Arc::new(source), IdentityOptions::default()).await.expect("an identity");
    let first = identity.local().certificate.serial.clone();

    std::fs::write(path("node.pem"), "not a certificate").expect("written");
    ca.issue("demo", "worker", "a", HOUR).expect("a leaf").save(folder.path()).expect("saved");
    tokio::time::timeout(Duration::from_secs(20), async {
        while identity.local().certificate.serial == first {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the new certificate is picked up");
}

#[tokio::test]
async fn bad_files_are_named_with_the_problem() {
    let ca = ca();
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    ca.issue("demo", "worker", "a", HOUR).expect("a leaf").save(folder.path()).expect("saved");
    let source = FileSource::new(path("node.pem"), path("node.key"), path("roots.pem"), None, HOUR);
    assert!(source.load().await.is_ok());

    std::fs::write(path("roots.pem"), "").expect("written");
    let text = source.load().await.expect_err("no roots").to_string();
    assert!(text.contains("roots.pem") && text.contains("trust bundle"), "{text}");

    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(path("node.key"), open).expect("changed");
        let text = source.load().await.expect_err("a key for all to read").to_string();
        assert!(text.contains("0644") && text.contains("chmod 600"), "{text}");
    }
}

#[test]
fn a_development_root_survives_saving_and_loading() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = DevCa::load_or_create(folder.path(), "example.org").expect("made");
    let again = DevCa::load_or_create(folder.path(), "ignored.org").expect("loaded");
    assert_eq!(again.trust_domain().as_str(), "example.org");
    let a = identity(&first, "a");
    assert!(a.recheck(&certificates(&again, "demo", "b"), PeerRole::Client).is_ok());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(folder.path().join("root.key")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
