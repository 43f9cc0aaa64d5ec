//! Who may connect to whom: TLS for clients, mutual TLS and the secret between nodes.

mod support;

use std::time::Duration;

use carillon_client::{Client, ClientConfig, Credential, Trust};
use carillon_proto::{
    pb::{
        admin::{StatusRequest, admin_client::AdminClient},
        store::{NodeKind, RegisterRequest, Release, registry_client::RegistryClient},
    },
    peer::{PeerSecurity, PeerTls, Tier},
    tasks::Tasks,
};
use support::{
    certificates::{Files, NAME},
    service::{CLUSTER_SECRET, Carrier, Service},
};

fn security(files: &Files, secret: &str) -> PeerSecurity {
    let tls = PeerTls {
        ca: files.ca.clone(),
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        server_name: Some(NAME.to_owned()),
    };
    PeerSecurity::from_secret(Tier::Router, secret, Some(tls)).expect("valid")
}

/// Asks a storage node and a router for what only nodes of the cluster may get.
async fn may_enter(service: &Service, security: &PeerSecurity) -> bool {
    let operator = security.of_tier(Tier::Operator).expect("derived");
    let storage = security.channel(&service.storage().to_string()).expect("channel");
    let request = RegisterRequest {
        kind: NodeKind::Router.into(),
        address: "127.0.0.1:9".into(),
        ttl_ms: 1000,
        nonce: vec![7; 16].into(),
        release: Some(Release::own()),
        ..RegisterRequest::default()
    };
    let registered = RegistryClient::with_interceptor(storage, security.token()).register(request).await;
    let router = security.channel(&service.router().to_string()).expect("channel");
    let told = AdminClient::with_interceptor(router, operator.token()).status(StatusRequest {}).await;
    assert_eq!(registered.is_ok(), told.is_ok(), "{registered:?} {told:?}");
    told.is_ok()
}

/// Checks that a message to oneself comes back.
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
        assert!(
            may_enter(service, &PeerSecurity::from_secret(Tier::Router, CLUSTER_SECRET, None).expect("valid")).await
        );
        assert!(
            !may_enter(service, &PeerSecurity::from_secret(Tier::Router, "another-secret-1", None).expect("valid"))
                .await
        );
    });
}

#[test]
fn with_mutual_tls_only_certificates_of_the_cluster_enter() {
    let (ours, theirs) = (Files::new(), Files::new());
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
        assert!(may_enter(&service, &security(&ours, CLUSTER_SECRET)).await);
        assert!(!may_enter(&service, &security(&ours, "another-secret-1")).await, "the secret counts, too");
        assert!(!may_enter(&service, &security(&theirs, CLUSTER_SECRET)).await);
        assert!(
            !may_enter(&service, &PeerSecurity::from_secret(Tier::Router, CLUSTER_SECRET, None).expect("valid")).await
        );
    });
}

#[test]
fn clients_talk_over_tls() {
    let ours = Files::new();
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
