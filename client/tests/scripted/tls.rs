//! Which certificates the client trusts.

use std::{sync::Arc, time::Duration};

use crate::gateway::{Gateway, config};
use carillon_client::{Client, ClientConfig, Trust};
use carillon_proto::tasks::Tasks;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// An authority, as PEM, and a gateway with a certificate from it for chat.example.
fn certified() -> (String, ServerConfig) {
    let mut authority = CertificateParams::new(Vec::new()).expect("valid");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("key")).expect("signed");
    let key = KeyPair::generate().expect("key");
    let gateway = CertificateParams::new(vec!["chat.example".to_owned()]).expect("valid");
    let certificate = gateway.signed_by(&key, &authority).expect("signed");
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("certificate");
    (authority.pem(), config)
}

fn trusting(gateway: &Gateway, ca: &str, name: &str) -> ClientConfig {
    let mut config = config(&[gateway]);
    config.connect.trust = Trust::ca(ca.to_owned());
    config.connect.server_name = Some(name.to_owned());
    config
}

#[tokio::test]
async fn a_gateway_with_a_certificate_of_the_given_authority_is_trusted() {
    let (ca, server) = certified();
    let gateway = Gateway::start_tls(server).await;
    let (client, _events) = crate::gateway::open(trusting(&gateway, &ca, "chat.example"));
    let (_peer, _) = gateway.accept_signed_in(3).await;
    client.connected(Duration::from_secs(20)).await.expect("signed in");
}

#[tokio::test]
async fn a_connection_takes_up_the_session_of_the_one_before() {
    let (ca, server) = certified();
    let gateway = Gateway::start_tls(server).await;
    let (client, _events) = crate::gateway::open(trusting(&gateway, &ca, "chat.example"));
    let (first, _) = gateway.accept_signed_in(3).await;
    assert!(!first.resumed);
    client.connected(Duration::from_secs(20)).await.expect("signed in");
    drop(first);
    let (second, _) = gateway.accept_signed_in(3).await;
    assert!(second.resumed);
}

#[tokio::test]
async fn no_other_certificate_is() {
    let ((ca, server), (other, _)) = (certified(), certified());
    let gateway = Gateway::start_tls(server).await;
    for (ca, name) in [(&other, "chat.example"), (&ca, "another.example")] {
        let settings = trusting(&gateway, ca, name);
        let connecting = carillon_client::Connection::connect(&settings.addresses[0], &settings.connect);
        let (connected, _refused) = tokio::join!(connecting, gateway.refuse());
        let error = connected.err().expect("refused").to_string();
        assert!(error.contains("certificate"), "{error}");
    }
}

#[tokio::test]
async fn what_is_no_authority_is_refused_at_once() {
    let (_, server) = certified();
    let gateway = Gateway::start_tls(server).await;
    for ca in ["", "not PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let settings = trusting(&gateway, ca, "chat.example");
        assert!(Client::open(settings, &Tasks::new()).is_err(), "{ca:?}");
    }
}
