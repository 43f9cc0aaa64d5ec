//! XMPP clients over real sockets.

mod client;
mod patience;
mod sign_in;

use std::{fs, sync::Arc};

use carillon_gateway::{GatewayConfig, TlsConfig, XmppConfig, XmppTls};
use carillon_proto::{credentials::new_credentials, pb::store::Account};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

use crate::plays::{World, world};
use client::{HEADER, XmppClient};

/// A gateway with a certificate, where `juliet` has the password `pencil`.
struct Stage {
    world: World,
    certificate: CertificateDer<'static>,
    _folder: TempDir,
}

impl Stage {
    async fn new(tls: XmppTls) -> Self {
        Self::with(tls, |_| {}).await
    }

    async fn with(tls: XmppTls, change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let made = rcgen::generate_simple_self_signed(vec!["im.example.com".to_owned()]).expect("certificate");
        let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        fs::write(&certificate, made.cert.pem()).expect("writes");
        fs::write(&key, made.signing_key.serialize_pem()).expect("writes");
        let world = world(|config| {
            config.tls = Some(TlsConfig { certificate, key });
            config.xmpp = XmppConfig {
                enabled: true,
                domain: "im.example.com".to_owned(),
                listen: "127.0.0.1:0".to_owned(),
                tls_listen: "127.0.0.1:0".to_owned(),
                tls,
                ..XmppConfig::default()
            };
            change(config);
        })
        .await;
        let scram = new_credentials("pencil").expect("valid");
        let account = Account { scram: Some(scram), generation: 3, ..Account::default() };
        world.store().lock().accounts.insert("juliet".to_owned(), account);
        let certificate = CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).expect("PEM");
        Self { world, certificate, _folder: folder }
    }

    async fn plain(&self) -> XmppClient {
        XmppClient::connect(self.world.gateway.xmpp_address().expect("on")).await
    }

    /// Inside TLS from the first byte on.
    async fn direct(&self, alpn: &[&str]) -> XmppClient {
        let client = XmppClient::connect(self.world.gateway.xmpp_tls_address().expect("on")).await;
        client.shakes(&self.connector(alpn, true)).await
    }

    async fn starttls(&self) -> XmppClient {
        let mut client = self.plain().await;
        assert!(client.opens().await.contains("<required/>"));
        client.says("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await;
        assert_eq!(client.hears().await, "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
        client.shakes(&self.connector(&[], true)).await
    }

    fn connector(&self, alpn: &[&str], may_be_new: bool) -> TlsConnector {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a root");
        let versions: &[_] =
            if may_be_new { &[&rustls::version::TLS13, &rustls::version::TLS12] } else { &[&rustls::version::TLS12] };
        let mut config =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_protocol_versions(versions)
                .expect("versions")
                .with_root_certificates(roots)
                .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }

    async fn end(self) {
        self.world.end().await;
    }
}
