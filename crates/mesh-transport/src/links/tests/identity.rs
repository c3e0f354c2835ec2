//! Who is let in, and who is thrown out.

use super::*;

#[tokio::test]
async fn strangers_are_refused_by_both_ends_and_the_rule_is_named() {
    let (ca, other_ca) = (ca(), DevCa::new("example.org").expect("a root"));
    let b = node(&ca, "b");
    // A stranger that trusts us, so that it is our end that refuses.
    let stranger = |request: &LeafRequest, ca: &DevCa, trust: &DevCa| {
        let mut material = ca.issue_request(request).expect("a leaf").material;
        material.trust_bundle.push(trust.root().clone());
        Identity::new(material, IdentityOptions::default()).expect("an identity")
    };
    let leaf = |uri: &str, starts_in_s, ends_in_s| LeafRequest {
        uris: vec![uri.to_owned()],
        starts_in_s,
        ends_in_s,
    };
    let cases = [
        (Rule::Chain, leaf("spiffe://example.org/mesh/demo/worker/s", -60, 600), &other_ca),
        (Rule::Cluster, leaf("spiffe://example.org/mesh/other/worker/s", -60, 600), &ca),
        (Rule::TrustDomain, leaf("spiffe://elsewhere.org/mesh/demo/worker/s", -60, 600), &ca),
        (Rule::Expired, leaf("spiffe://example.org/mesh/demo/worker/s", -600, -60), &ca),
        (Rule::NotYetValid, leaf("spiffe://example.org/mesh/demo/worker/s", 600, 1200), &ca),
    ];
    for (rule, request, issuer) in cases {
        let before = b.endpoint().metrics().refused_total(rule);
        let s = start(stranger(&request, issuer, &ca), |_| {});
        // b calls the stranger: b's verifier refuses.
        dial(&b, "s", &s);
        let error = refusal(&b).await;
        assert!(matches!(error, ConnectError::Identity(_)), "{rule}: {error}");
        assert!(error.to_string().contains(rule.as_str()), "{rule}: {error}");
        // The stranger calls b: whichever end refuses first, no link comes up.
        dial(&s, "b", &b);
        let error = refusal(&s).await;
        assert!(matches!(error, ConnectError::Identity(_)), "{rule}: {error}");
        assert!(b.endpoint().metrics().refused_total(rule) > before, "{rule} is counted");
        assert!(b.is_empty());
    }
}

#[tokio::test]
async fn the_wrong_node_at_an_address_is_refused() {
    let ca = ca();
    let (a, b) = (node(&ca, "a"), node(&ca, "b"));
    dial(&a, "c", &b);
    let error = refusal(&a).await;
    assert!(matches!(&error, ConnectError::Identity(text) if text.contains("we called c")), "{error}");
    assert!(b.is_empty());
}

#[tokio::test]
async fn rotating_certificates_keeps_the_link() {
    let ca = ca();
    let (a, b) = (node(&ca, "a"), node(&ca, "b"));
    linked(&a, "b", &b).await;
    for (links, name) in [(&a, "a"), (&b, "b")] {
        let renewed = ca.issue("demo", "worker", name, Duration::from_secs(600)).expect("a leaf");
        links.endpoint().identity().replace(renewed.material).expect("the same node");
    }
    a.send(&id("b"), Bytes::from_static(b"still here")).expect("taken");
    assert_eq!(&payload(&b).await.1[..], b"still here");
}

#[tokio::test]
async fn revocation_closes_a_live_link_at_once_and_keeps_it_closed() {
    let ca = ca();
    let (a, b) = (node(&ca, "a"), node(&ca, "b"));
    linked(&a, "b", &b).await;
    let begin = Instant::now();
    b.endpoint().identity().deny(BTreeSet::from([id("a")]));
    assert_eq!(down(&b).await, LinkDownReason::Revoked);
    let took = begin.elapsed();
    println!("revocation to LinkDown: {took:?}");
    assert!(took < Duration::from_millis(100), "{took:?}");
    assert_eq!(down(&a).await, LinkDownReason::Closed);
    dial(&a, "b", &b);
    assert!(matches!(refusal(&a).await, ConnectError::Identity(_)));
}

#[tokio::test]
async fn a_revocation_list_closes_a_live_link() {
    let ca = ca();
    let leaf = ca.issue("demo", "worker", "a", Duration::from_secs(600)).expect("a leaf");
    let own = ca.issue("demo", "worker", "b", Duration::from_secs(600)).expect("a leaf").material;
    let a = start(Identity::new(leaf.material, IdentityOptions::default()).expect("an identity"), |_| {});
    let b = start(Identity::new(own.clone(), IdentityOptions::default()).expect("an identity"), |_| {});
    linked(&a, "b", &b).await;
    let mut with_list = own;
    with_list.crls = vec![ca.revoke(&[leaf.serial]).expect("a list")];
    b.endpoint().identity().replace(with_list).expect("the same node");
    assert_eq!(down(&b).await, LinkDownReason::Revoked);
}

#[tokio::test]
async fn revocation_reaches_links_over_http2() {
    let ca = ca();
    let off = |config: &mut TransportConfig| config.http3.enabled = false;
    let a = start(ca.identity("demo", "worker", "a").expect("an identity"), off);
    let b = node(&ca, "b");
    linked(&a, "b", &b).await;
    b.endpoint().identity().deny(BTreeSet::from([id("a")]));
    assert_eq!(down(&b).await, LinkDownReason::Revoked);
    down(&a).await;
    dial(&a, "b", &b);
    assert!(matches!(refusal(&a).await, ConnectError::Identity(_)));
}
