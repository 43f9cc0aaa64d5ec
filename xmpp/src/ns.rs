//! Names of namespaces.

/// The content namespace of streams between a client and its server.
pub const CLIENT: &str = "jabber:client";
/// The content namespace of streams between servers.
pub const SERVER: &str = "jabber:server";
/// Stream headers, features and errors.
pub const STREAMS: &str = "http://etherx.jabber.org/streams";
/// The conditions of stream errors.
pub const STREAM_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-streams";
/// The conditions of stanza errors.
pub const STANZA_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
/// `<open/>` and `<close/>` of streams over WebSocket (RFC 7395).
pub const FRAMING: &str = "urn:ietf:params:xml:ns:xmpp-framing";
/// STARTTLS (RFC 6120, section 5).
pub const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
pub const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
/// SASL with other requests inline (XEP-0388).
pub const SASL2: &str = "urn:xmpp:sasl:2";
/// Tasks that make keys of SCRAM while signing in (XEP-0480).
pub const UPGRADE: &str = "urn:xmpp:sasl:upgrade:0";
/// The salt and the answer of such a task.
pub const SCRAM_UPGRADE: &str = "urn:xmpp:scram-upgrade:0";
/// Resources that are bound while signing in (XEP-0386).
pub const BIND2: &str = "urn:xmpp:bind:0";
/// Tokens for signing in again (XEP-0484).
pub const FAST: &str = "urn:xmpp:fast:0";
/// Stream management (XEP-0198).
pub const STREAM_MANAGEMENT: &str = "urn:xmpp:sm:3";
/// Announces channel bindings (XEP-0440).
pub const CHANNEL_BINDING: &str = "urn:xmpp:sasl-cb:0";
/// Conditions that belong to an application and that several servers share.
pub const APPLICATION_ERRORS: &str = "urn:xmpp:errors";
/// Resource binding (RFC 6120, section 7).
pub const BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";
/// Sessions of RFC 3921, which are established with the resource.
pub const SESSION: &str = "urn:ietf:params:xml:ns:xmpp-session";
/// Service discovery (XEP-0030).
pub const DISCO_INFO: &str = "http://jabber.org/protocol/disco#info";
pub const DISCO_ITEMS: &str = "http://jabber.org/protocol/disco#items";
/// XEP-0199
pub const PING: &str = "urn:xmpp:ping";
/// XEP-0092
pub const VERSION: &str = "jabber:iq:version";
/// XEP-0202
pub const TIME: &str = "urn:xmpp:time";
/// The namespace of `xml:lang`.
pub const XML: &str = "http://www.w3.org/XML/1998/namespace";
pub(crate) const XMLNS: &str = "http://www.w3.org/2000/xmlns/";
