//! How long a message takes: `cargo bench -p carillon-xmpp`.

use std::{hint::black_box, time::Instant};

use carillon_xmpp::{
    Element, Framing, Jid,
    extension::{
        carbons::{self, Direction},
        stanza_id,
    },
    stream::{Child, Event, Head, Limits, StanzaKind, TcpParser, WebSocketParser},
};

const HEADER: &str = "<stream:stream to='im.example.com' version='1.0' xml:lang='en' xmlns='jabber:client' \
     xmlns:stream='http://etherx.jabber.org/streams'>";
/// 366 bytes, as a client sends it.
const MESSAGE: &str = "<message type='chat' to='romeo@montague.example/garden' id='ae890ac5-2d0d-4ed7-8fdf-51b644e901a2' xml:lang='en'>\
     <body>Wherefore art thou, Romeo? Deny thy father &amp; refuse thy name</body>\
     <active xmlns='http://jabber.org/protocol/chatstates'/><request xmlns='urn:xmpp:receipts'/>\
     <origin-id xmlns='urn:xmpp:sid:0' id='ae890ac5-2d0d-4ed7-8fdf-51b644e901a'/></message>";
const ROUNDS: u32 = 300_000;

fn main() {
    assert_eq!(MESSAGE.len(), 366);
    let message = MESSAGE.as_bytes();
    let mut parser = open();
    measure("TCP, a message in each read", ROUNDS, || {
        let mut input = message;
        black_box(parser.feed(&mut input)).is_some()
    });
    let many = MESSAGE.repeat(32);
    let mut parser = open();
    let mut input = &b""[..];
    measure("TCP, 32 messages in each read", ROUNDS, || {
        if input.is_empty() {
            input = many.as_bytes();
        }
        black_box(parser.feed(&mut input)).is_some()
    });
    let mut parser = open();
    measure("TCP, a message in two reads", ROUNDS, || {
        let (mut first, mut second) = message.split_at(180);
        parser.feed(&mut first);
        black_box(parser.feed(&mut second)).is_some()
    });
    let mut parser = open();
    measure("TCP, byte by byte", ROUNDS / 10, || {
        message.iter().any(|byte| black_box(parser.feed(&mut &[*byte][..])).is_some())
    });
    let mut parser = WebSocketParser::new(Limits::default());
    parser.message(b"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>");
    let framed = MESSAGE.replacen("<message", "<message xmlns='jabber:client'", 1);
    measure("WebSocket", ROUNDS, || black_box(parser.message(framed.as_bytes())).is_some());
    let mut parser = open();
    let Some(Event::Stanza(stanza)) = parser.feed(&mut &*message) else { panic!("a stanza") };
    let mut out = String::new();
    measure("rendered for its recipients", ROUNDS, || {
        let routed = stanza.route("juliet@capulet.example/balcony", Framing::Tcp);
        out.clear();
        routed.write(Some("romeo@montague.example/garden"), &mut out);
        !black_box(&out).is_empty()
    });
    let id = [Element::new("stanza-id", "urn:xmpp:sid:0").with("id", "01J9").with("by", "romeo@montague.example")];
    measure("without its forged ids, with one behind", ROUNDS, || {
        let keep = |child: &Child<'_>| !stanza_id::is_forged(child, |by| by.domain() == "montague.example");
        !black_box(stanza.edited(keep, &id)).text().is_empty()
    });
    measure("in pieces", ROUNDS, || black_box(stanza.pieces(|_| true, true)).is_some());
    let pieces = stanza.pieces(|_| true, true).expect("a message");
    let from = "juliet@capulet.example/balcony";
    let head = Head { kind: StanzaKind::Message, from, id: stanza.id(), stanza_type: Some("chat"), lang: None };
    measure("rendered of pieces", ROUNDS, || {
        let routed = pieces.route(&head, &id, Framing::Tcp);
        out.clear();
        routed.write(Some("romeo@montague.example/garden"), &mut out);
        !black_box(&out).is_empty()
    });
    let account = Jid::new("romeo@montague.example").expect("an address");
    measure("as a carbon", ROUNDS, || {
        let inner = pieces.forwardable(&head, Some("romeo@montague.example"), &id);
        let carbon = carbons::carbon(Direction::Received, &account, Some("chat"), &inner, Framing::Tcp);
        !black_box(carbon.text(Some("romeo@montague.example/garden"))).is_empty()
    });
    measure("as a tree", ROUNDS, || black_box(stanza.element()).attribute("id").is_some());
}

/// A parser of an open stream.
fn open() -> TcpParser {
    let mut parser = TcpParser::new(Limits::default());
    assert!(parser.feed(&mut HEADER.as_bytes()).is_some());
    parser
}

/// Prints the best of five runs.
fn measure(what: &str, rounds: u32, mut round: impl FnMut() -> bool) {
    let mut run = || {
        let begin = Instant::now();
        assert!((0..rounds).all(|_| round()));
        begin.elapsed() / rounds
    };
    let best = (0..5).map(|_| run()).min().unwrap_or_default();
    println!("{what}: {best:?} each");
}
