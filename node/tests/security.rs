//! Who may talk to whom: TLS for clients, mutual TLS and the secret between nodes.

mod support;

use std::{fs, path::Path, time::Duration};

use carillon_client::{Client, ClientConfig, Credential, Trust};
use carillon_proto::{
    pb::{
        admin::{StatusRequest, admin_client::AdminClient},
        store::{NodeKind, RegisterRequest, registry_client::RegistryClient},
    },
    peer::{PeerSecurity, PeerTls},
    tasks::Tasks,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use support::service::{CLUSTER_SECRET, Carrier, Service};

const NAME: &str = "carillon.test";

struct Files {
    ca: String,
    certificate: String,
    key: String,
}

/// A certificate authority and a certificate of it, in PEM.
fn certificates() -> Files {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("authority");
    let key = KeyPair::generate().expect("key");
    let params = CertificateParams::new(vec![NAME.to_owned()]).expect("name");
    let certificate = params.signed_by(&key, &ca).expect("signed");
    Files { ca: ca.pem(), certificate: certificate.pem(), key: key.serialize_pem() }
}

impl Files {
    fn write(&self, folder: &Path) {
        for (name, text) in [("ca.pem", &self.ca), ("certificate.pem", &self.certificate), ("key.pem", &self.key)] {
            fs::write(folder.join(name), text).expect("written");
        }
    }

    fn security(&self, secret: &str) -> PeerSecurity {
        let tls = PeerTls {
            ca: self.ca.clone(),
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            server_name: Some(NAME.to_owned()),
        };
        PeerSecurity::new(secret, Some(tls)).expect("valid")
    }
}

/// Asks a storage node and a router for what only nodes of the cluster may have.
async fn may_enter(service: &Service, security: &PeerSecurity) -> bool {
    let (add, _) = security.auth();
    let storage = security.channel(&service.storage().to_string()).expect("channel");
    let request = RegisterRequest {
        kind: NodeKind::Router.into(),
        address: "127.0.0.1:9".into(),
        ttl_ms: 1000,
        nonce: vec![7; 16].into(),
    };
    let registered = RegistryClient::with_interceptor(storage, add.clone()).register(request).await;
    let router = security.channel(&service.router().to_string()).expect("channel");
    let told = AdminClient::with_interceptor(router, add).status(StatusRequest {}).await;
    assert_eq!(registered.is_ok(), told.is_ok(), "{registered:?} {told:?}");
    told.is_ok()
}

/// A message to oneself comes back.
fn works(service: &Service, configure: impl FnOnce(&mut ClientConfig)) {
    service.block_on(async {
        let tasks = Tasks::new();
        let token = Credential::Token(service.token("alice"));
        let mut config = ClientConfig::new(vec![service.address(Carrier::Tcp)], "alice", "d", token);
        configure(&mut config);
        let (client, _events) = Client::open(config, &tasks).expect("opens");
        client.connected(Duration::from_secs(20)).await.expect("signs in");
        client.send(Client::user("alice"), Client::text("note")).await.expect("accepted");
        tasks.finish(Duration::from_secs(5)).await;
    });
}

#[test]
fn without_the_secret_nobody_joins_or_asks() {
    let service = Service::shared();
    service.block_on(async {
        assert!(may_enter(service, &PeerSecurity::new(CLUSTER_SECRET, None).expect("valid")).await);
        assert!(!may_enter(service, &PeerSecurity::new("another-secret-1", None).expect("valid")).await);
    });
}

#[test]
fn with_mutual_tls_only_certificates_of_the_cluster_enter() {
    let (ours, theirs) = (certificates(), certificates());
    let folder = tempfile::tempdir().expect("folder");
    ours.write(folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let service = Service::start(&format!(
        "cluster.tls = {{ ca = {:?}, certificate = {:?}, key = {:?}, server_name = {NAME:?} }}",
        file("ca.pem"),
        file("certificate.pem"),
        file("key.pem"),
    ));
    works(&service, |_| {});
    service.block_on(async {
        assert!(may_enter(&service, &ours.security(CLUSTER_SECRET)).await);
        assert!(!may_enter(&service, &ours.security("another-secret-1")).await, "the secret counts, too");
        assert!(!may_enter(&service, &theirs.security(CLUSTER_SECRET)).await);
        assert!(!may_enter(&service, &PeerSecurity::new(CLUSTER_SECRET, None).expect("valid")).await);
    });
}

#[test]
fn clients_talk_over_tls() {
    let ours = certificates();
    let folder = tempfile::tempdir().expect("folder");
    ours.write(folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let service = Service::start(&format!(
        "gateway.tls = {{ certificate = {:?}, key = {:?} }}",
        file("certificate.pem"),
        file("key.pem"),
    ));
    for carrier in Carrier::ALL {
        works(&service, |config| {
            config.addresses = vec![service.secure_address(carrier)];
            config.connect.trust = Trust::ca(ours.ca.clone());
            config.connect.server_name = Some(NAME.to_owned());
        });
    }
}
