//! An XMPP client, one element at a time.

use std::{net::SocketAddr, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use carillon_proto::credentials::ClientKeys;
use carillon_xmpp::stream::{Event, Limits, TcpParser};
use rustls::ProtocolVersion;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const HEADER: &str = "<?xml version='1.0'?><stream:stream to='im.example.com' version='1.0' \
                                 xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>";
const SASL: &str = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'";

pub(super) struct XmppClient {
    io: Io,
    parser: TcpParser,
    got: Vec<u8>,
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl XmppClient {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        Self::over(Io::Plain(TcpStream::connect(address).await.expect("connects")))
    }

    fn over(io: Io) -> Self {
        Self { io, parser: TcpParser::new(Limits::default()), got: Vec::new() }
    }

    /// Begins TLS.
    pub(super) async fn shakes(self, connector: &TlsConnector) -> Self {
        let Io::Plain(stream) = self.io else { panic!("it is inside TLS already") };
        let name = "im.example.com".try_into().expect("a name");
        let shaken = timeout(PATIENCE, connector.connect(name, stream)).await.expect("in time");
        Self::over(Io::Tls(Box::new(shaken.expect("shakes hands"))))
    }

    /// Sends the words of a proxy in front.
    pub(super) async fn behind(mut self, header: &str) -> Self {
        self.says(header).await;
        self
    }

    pub(super) async fn says(&mut self, text: &str) {
        self.says_bytes(text.as_bytes()).await.expect("writes");
    }

    pub(super) async fn says_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.io {
            Io::Plain(stream) => stream.write_all(bytes).await,
            Io::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    /// Opens a stream, and returns the features of the server.
    pub(super) async fn opens(&mut self) -> String {
        self.parser = TcpParser::new(Limits::default());
        self.says(HEADER).await;
        match self.event().await {
            Some(Event::Opened(header)) => assert_eq!(header.from.as_deref(), Some("im.example.com")),
            other => panic!("not a header: {other:?}"),
        }
        self.hears().await
    }

    /// The next element.
    pub(super) async fn hears(&mut self) -> String {
        match self.event().await {
            Some(Event::Stanza(stanza)) => stanza.text().to_owned(),
            other => panic!("not an element: {other:?}"),
        }
    }

    /// The next event of the server's stream; `None` at the end of the connection.
    pub(super) async fn event(&mut self) -> Option<Event> {
        loop {
            let mut rest = &self.got[..];
            let event = self.parser.feed(&mut rest);
            self.got = rest.to_vec();
            if event.is_some() {
                return event;
            }
            let mut more = [0; 4096];
            let read = async {
                match &mut self.io {
                    Io::Plain(stream) => stream.read(&mut more).await,
                    Io::Tls(stream) => stream.read(&mut more).await,
                }
            };
            let count = timeout(PATIENCE, read).await.expect("something in time").expect("reads");
            if count == 0 {
                return None;
            }
            self.got.extend_from_slice(&more[..count]);
        }
    }

    /// The stream ends by this error.
    pub(super) async fn ends_by(&mut self, condition: &str) {
        loop {
            match self.event().await {
                Some(Event::Stanza(error)) => {
                    assert!(error.text().contains(&format!("<{condition} ")), "not {condition}: {}", error.text());
                    break;
                }
                // A header of the server comes before, if the client's header could not be read.
                Some(Event::Opened(_)) => {}
                other => panic!("not {condition}: {other:?}"),
            }
        }
        self.is_closed().await;
    }

    /// The server closes its stream, and then the connection once the client has.
    pub(super) async fn is_closed(&mut self) {
        assert_eq!(self.event().await, Some(Event::Closed));
        match &mut self.io {
            Io::Plain(stream) => stream.shutdown().await.expect("closes"),
            // The server has sent its close_notify.
            Io::Tls(stream) => {
                let _ = stream.shutdown().await;
            }
        }
        assert_eq!(self.event().await, None);
    }

    pub(super) async fn signs_in_by_plain(&mut self, password: &str) -> String {
        let data = BASE64_STANDARD.encode(format!("\0juliet\0{password}"));
        self.says(&format!("<auth {SASL} mechanism='PLAIN'>{data}</auth>")).await;
        self.hears().await
    }

    /// `gs2`: as `n,,`; `binding`: the data of the channel binding.
    pub(super) async fn signs_in_by_scram(&mut self, gs2: &str, binding: &[u8], password: &str) -> String {
        let mechanism = if gs2.starts_with("p=") { "SCRAM-SHA-256-PLUS" } else { "SCRAM-SHA-256" };
        let bare = "n=juliet,r=0123456789";
        let first = BASE64_STANDARD.encode(format!("{gs2}{bare}"));
        self.says(&format!("<auth {SASL} mechanism='{mechanism}'>{first}</auth>")).await;
        let told = self.hears().await;
        let Some(challenge) = data_of(&told, "challenge") else { return told };
        let field = |name: &str| challenge.split(',').find_map(|field| field.strip_prefix(name)).expect("a field");
        let salt = BASE64_STANDARD.decode(field("s=")).expect("base64");
        let keys = ClientKeys::derive(password, &salt, field("i=").parse().expect("a number")).expect("derives");
        let bound = BASE64_STANDARD.encode([gs2.as_bytes(), binding].concat());
        let without_proof = format!("c={bound},r={}", field("r="));
        let message = format!("{bare},{challenge},{without_proof}");
        let proof = BASE64_STANDARD.encode(keys.proof(message.as_bytes()));
        let response = BASE64_STANDARD.encode(format!("{without_proof},p={proof}"));
        self.says(&format!("<response {SASL}>{response}</response>")).await;
        let told = self.hears().await;
        if let Some(verdict) = data_of(&told, "success") {
            let signature = BASE64_STANDARD.decode(verdict.strip_prefix("v=").expect("a verdict")).expect("base64");
            assert!(keys.accepts(message.as_bytes(), &signature), "the server knows the password, too");
        }
        told
    }

    /// Opens the stream anew, and gets a resource: the client's own one, or one of the server.
    pub(super) async fn binds(&mut self, resource: &str) -> String {
        assert!(self.opens().await.contains("<bind "));
        let resource = if resource.is_empty() { String::new() } else { format!("<resource>{resource}</resource>") };
        self.says(&format!(
            "<iq id='b' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>{resource}</bind></iq>"
        ))
        .await;
        let told = self.hears().await;
        let jid = told.split("<jid>").nth(1).and_then(|rest| rest.split('<').next());
        jid.unwrap_or_else(|| panic!("no resource: {told}")).to_owned()
    }

    /// Sends a ping, which the server answers.
    pub(super) async fn pings(&mut self) {
        self.says("<iq type='get' id='p' to='im.example.com'><ping xmlns='urn:xmpp:ping'/></iq>").await;
        let told = self.hears().await;
        assert!(told.starts_with("<iq type='result' id='p'"), "{told}");
    }

    /// The data of `tls-exporter` for this connection; `None` with TLS 1.2.
    pub(super) fn exporter(&self) -> Option<Vec<u8>> {
        let Io::Tls(stream) = &self.io else { return None };
        let (_, connection) = stream.get_ref();
        if connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
            return None;
        }
        connection.export_keying_material(vec![0; 32], b"EXPORTER-Channel-Binding", Some(b"")).ok()
    }

    /// The protocol that was agreed on by ALPN.
    pub(super) fn alpn(&self) -> Option<Vec<u8>> {
        let Io::Tls(stream) = &self.io else { return None };
        stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec)
    }
}

/// The data of an element of SASL.
fn data_of(told: &str, name: &str) -> Option<String> {
    let data = told.strip_prefix(&format!("<{name} "))?.split_once('>')?.1.split_once('<')?.0;
    Some(String::from_utf8(BASE64_STANDARD.decode(data).expect("base64")).expect("text"))
}
