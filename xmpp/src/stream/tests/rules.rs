//! The rules of RFC 6120 for streams.

use super::*;
use crate::{Element, xml::scan::TAKEN};

fn condition(text: &str) -> Option<StreamCondition> {
    match events(text).pop() {
        Some(Event::Error(error)) => Some(error.condition),
        _ => None,
    }
}

#[test]
fn a_stream_is_opened_has_stanzas_and_is_closed() {
    let events = events(&format!("{HEADER} \r\n\t<presence/><iq id='1'/></stream:stream >anything"));
    let [Event::Opened(header), Event::Stanza(presence), Event::Stanza(iq), Event::Closed] = &*events else {
        panic!("{events:?}")
    };
    assert_eq!(
        (header.to.as_deref(), header.from.as_deref(), header.version()),
        (Some("im.example.com"), None, Some((1, 0)))
    );
    assert_eq!((header.lang.as_deref(), header.content_namespace()), (Some("en"), Some("jabber:client")));
    assert_eq!((presence.text(), presence.kind()), ("<presence/>", Some(StanzaKind::Presence)));
    assert_eq!((iq.text(), iq.kind(), iq.id()), ("<iq id='1'/>", Some(StanzaKind::Iq), Some("1")));
}

#[test]
fn a_stanza_has_what_routing_needs() {
    let text = "<message from=\"a@b\" to='romeo@example.net/x &amp; y' id='1&#x20;2' type='chat' xml:lang='de' x='1'>\
        <body>hi &lt; <b/></body><x xmlns='urn:x' to='no'><body/></x><p:y xmlns:p='urn:y'/><subject/></message>";
    let stanza = stanza(text).expect("valid");
    assert_eq!(stanza.text(), text);
    assert_eq!(
        (stanza.name(), stanza.namespace(), stanza.kind()),
        ("message", "jabber:client", Some(StanzaKind::Message))
    );
    assert_eq!((stanza.to(), stanza.from(), stanza.id()), (Some("romeo@example.net/x & y"), Some("a@b"), Some("1 2")));
    assert_eq!((stanza.stanza_type(), stanza.lang()), (Some("chat"), Some("de")));
    let children: Vec<_> = stanza.children().map(|child| (child.name, child.namespace, child.text)).collect();
    assert_eq!(
        children,
        [
            ("body", "jabber:client", "<body>hi &lt; <b/></body>"),
            ("x", "urn:x", "<x xmlns='urn:x' to='no'><body/></x>"),
            ("y", "urn:y", "<p:y xmlns:p='urn:y'/>"),
            ("subject", "jabber:client", "<subject/>"),
        ]
    );
    assert!(stanza.has_child("y", "urn:y") && !stanza.has_child("y", "urn:x"));
    assert_eq!(stanza.element().child("body", "jabber:client").map(Element::text).as_deref(), Some("hi < "));
    // Section 8.1.5: a stanza without a language has that of its stream.
    assert_eq!(super::stanza("<presence/>").expect("valid").lang(), Some("en"));
}

/// RFC 6120, section 11.1: "If an XMPP implementation receives characters matching such features over an XML stream, it MUST close the stream
/// with a stream error, which SHOULD be \<restricted-xml/\>".
#[test]
fn prohibited_features_end_the_stream() {
    for text in [
        "<!DOCTYPE x>",
        "<!-- c -->",
        "<?php ?>",
        "<a><!-- c --></a>",
        "<a><?php ?></a>",
        "<a><!DOCTYPE x></a>",
        "<a><!ENTITY x 'y'></a>",
        "<a>&nbsp;</a>",
        "<a b='&nbsp;'/>",
        "<![CDATA[x]]>",
    ] {
        assert_eq!(condition(&format!("{HEADER}{text}")), Some(StreamCondition::RestrictedXml), "{text}");
    }
    for text in ["<!DOCTYPE x [<!ENTITY a 'b'>]>", "<!-- c -->", "<?php ?>"] {
        assert_eq!(condition(text), Some(StreamCondition::RestrictedXml), "{text}");
    }
}

/// RFC 6120, section 11.3: "An XMPP entity MUST NOT accept data that is not XML-well-formed; instead it MUST close the stream over which the data
/// was received with a \<not-well-formed/\> stream error". "An XMPP entity MUST NOT accept data that is not namespace-well-formed".
#[test]
fn what_is_not_well_formed_ends_the_stream() {
    for text in [
        "<a></b>",
        "<a/ >x</a>",
        "<a b=c/>",
        "<a b/>",
        "<a b='1' b='2'/>",
        "<a b='1'c='2'/>",
        "<a b='<'/>",
        "<a b='&'/>",
        "<a>&</a>",
        "<a>& amp;</a>",
        "<a>&#0;</a>",
        "<a>&#xffff;</a>",
        "<a>]]></a>",
        "<a>\u{1}</a>",
        "<a b='\u{ffff}'/>",
        "<1a/>",
        "<a:b:c xmlns:a='x'/>",
        "<:a/>",
        "<a:/>",
        "<>x</>",
        "</>",
        "</other:stream>",
        "<a></a b='1'>",
        // Namespaces.
        "<p:a/>",
        "<a p:b='1'/>",
        "<a xmlns:p=''/>",
        "<a xmlns:p='x' xmlns:q='x' p:b='1' q:b='2'/>",
        "<a xmlns:xml='x'/>",
        "<a xmlns:p='http://www.w3.org/XML/1998/namespace'/>",
        "<a xmlns='http://www.w3.org/2000/xmlns/'/>",
        "<a xmlns:xmlns='x'/>",
        "<xmlns:a/>",
        "<a><b xmlns:p='x'/><p:c/></a>",
    ] {
        assert_eq!(condition(&format!("{HEADER}{text}")), Some(StreamCondition::NotWellFormed), "{text}");
    }
    for text in [
        "x",
        "\u{feff}<?xml version='1.0'?>",
        "</a>",
        "<?xml version='1.0'?><?xml version='1.0'?>",
        "<?xml version='2.0'?>",
    ] {
        assert_eq!(condition(text), Some(StreamCondition::NotWellFormed), "{text}");
    }
    for text in [
        "<a xmlns:p='x' xmlns:q='x' p:b='1' q:c='2' b='3'/>",
        "<xml:a/>",
        "<a xml:b='1'/>",
        "<a xmlns='x'><b xmlns=''/></a>",
        "<a b='>' c = \"'\" d='&#x10FFFF;'>\u{85}\u{10ffff}]] >&#13;</a >",
        "<é.1-·/>",
        "<a>\u{feff}</a>",
    ] {
        assert_eq!(condition(&format!("{HEADER}{text}")), None, "{text}");
    }
}

/// Well-formed, and refused by what many clients read XML with.
#[test]
fn what_would_end_the_streams_of_others_ends_this_one() {
    for text in [
        "<\u{10000}/>",
        "<a \u{37f}='1'/>",
        "<a\u{feff}/>",
        "<a xmlns:\u{10000}='x'/>",
        "<a xmlns='a b'/>",
        "<a xmlns='a&#10;b'/>",
        "<a><b xmlns:c='a}b'/></a>",
        "<a xmlns='a|b'/>",
    ] {
        assert_eq!(condition(&format!("{HEADER}{text}")), Some(StreamCondition::PolicyViolation), "{text}");
    }
    assert_eq!(condition(&format!("{HEADER}<a xmlns='a&amp;&apos;b'>\u{10000}</a>")), None);
}

/// RFC 6120, section 11.6: "If one party to an XML stream detects that the other party has attempted to send XML data with an encoding other than
/// UTF-8, it MUST close the stream with a stream error, which SHOULD be \<unsupported-encoding/\>".
#[test]
fn other_encodings_end_the_stream() {
    assert_eq!(condition("<?xml version='1.0' encoding='ISO-8859-1'?>"), Some(StreamCondition::UnsupportedEncoding));
    for bytes in [
        &b"<a>\xff</a>"[..],
        b"<a>\xed\xa0\x80</a>",
        b"<a>\xc0\xaf</a>",
        b"<a b='\xf4\x90\x80\x80'/>",
        b"<a>\xe2\x82</a>",
    ] {
        let whole = [HEADER.as_bytes(), bytes].concat();
        for parts in [1, usize::MAX] {
            let last = events_in(parts, &whole, &Limits::default()).pop();
            let is_refused =
                matches!(&last, Some(Event::Error(error)) if error.condition == StreamCondition::UnsupportedEncoding);
            assert!(is_refused, "{bytes:?}: {last:?}");
        }
    }
}

/// RFC 6120, section 4.8.1: "If this rule is violated, the entity that receives the offending stream header MUST close the stream with a stream
/// error, which SHOULD be \<invalid-namespace/\>".
#[test]
fn a_header_is_that_of_a_stream() {
    for (text, refused) in [
        ("<stream:stream xmlns:stream='urn:wrong' xmlns='jabber:client'>", StreamCondition::InvalidNamespace),
        ("<stream>", StreamCondition::InvalidNamespace),
        ("<stream:stream>", StreamCondition::NotWellFormed),
        ("<s:features xmlns:s='http://etherx.jabber.org/streams'>", StreamCondition::BadFormat),
        ("<s:stream a='1' a='2' xmlns:s='http://etherx.jabber.org/streams'>", StreamCondition::NotWellFormed),
    ] {
        assert_eq!(condition(text), Some(refused), "{text}");
    }
    // Section 4.8.5: the prefix is usually `stream`, and section 4.8.2 has headers without one.
    for (open, close) in [
        ("<s:stream xmlns:s='http://etherx.jabber.org/streams' xmlns='jabber:client'>", "</s:stream>"),
        ("<stream xmlns='http://etherx.jabber.org/streams'\n>", "</stream\t>"),
    ] {
        let events = events(&format!(" {open}<a xmlns='jabber:client'/>{close}"));
        assert!(matches!(&*events, [Event::Opened(_), Event::Stanza(_), Event::Closed]), "{events:?}");
    }
    let empty = events("<stream xmlns='http://etherx.jabber.org/streams'/><a/>");
    assert!(matches!(&*empty, [Event::Opened(_), Event::Closed]), "{empty:?}");
}

/// RFC 6120, section 4.7.5: "The major and minor numbers MUST be treated as separate integers". "Leading zeros (e.g., "XMPP 6.01") MUST be ignored
/// by recipients".
#[test]
fn versions_are_two_numbers() {
    let version = |text: &str| Header { version: Some(text.to_owned()), ..Header::default() }.version();
    assert_eq!([version("1.0"), version("2.13"), version("06.01")], [Some((1, 0)), Some((2, 13)), Some((6, 1))]);
    for wrong in ["", "1", "1.", ".1", "1.0.0", "a.b", "+1.0", "1. 0", "70000.0"] {
        assert_eq!(version(wrong), None, "{wrong}");
    }
    assert!(version("2.13") > version("2.4"));
}

/// The last event of a stream that is bound by `limits`, which is the same however the bytes come.
fn last_by(text: &str, limits: &Limits) -> Option<StreamCondition> {
    let header = "<s:stream xmlns='jabber:client' xmlns:s='http://etherx.jabber.org/streams'>";
    let whole = format!("{header}{text}");
    let all = [usize::MAX, 7, 1].map(|parts| events_in(parts, whole.as_bytes(), limits));
    assert!(all[0] == all[1] && all[1] == all[2], "{text}: {all:?}");
    match all[0].last() {
        Some(Event::Error(error)) => Some(error.condition),
        _ => None,
    }
}

/// RFC 6120, section 4.7.4: "the value of the 'xml:lang' attribute MUST conform to the NMTOKEN datatype" and "MUST conform to the language
/// identifier format".
#[test]
fn a_language_that_is_none_goes_into_no_stanza() {
    let long = ["abcdefgh"; 8].join("-");
    for (lang, expected) in
        [("de-CH", Some("de-CH")), ("", None), ("a b", None), ("de-", None), ("&apos;", None), (&*long, None)]
    {
        let header =
            format!("<s:stream xmlns='jabber:client' xmlns:s='http://etherx.jabber.org/streams' xml:lang='{lang}'>");
        let events = events(&format!("{header}<presence/>"));
        let [Event::Opened(header), Event::Stanza(stanza)] = &*events else { panic!("{events:?}") };
        assert_eq!((header.lang.as_deref(), stanza.lang()), (expected, expected), "{lang}");
        assert_eq!(stanza.route("a@b/c", Framing::Tcp).text(None).contains("xml:lang"), expected.is_some(), "{lang}");
    }
}

#[test]
fn what_is_too_large_ends_the_stream() {
    let limits = Limits { bytes: 100, depth: 3, elements: 10, attributes: 4, name_bytes: 40, namespaces: 5 };
    let sized = |length: usize| format!("<a>{}</a>", "x".repeat(length - 7));
    let named = |length: usize| format!("<{}/>", "n".repeat(length));
    let valued = |length: usize| format!("<a xmlns='{}'/>", "n".repeat(length));
    for fits in [
        &*sized(100),
        &format!("{0}{0}{0}", sized(100)),
        "<a><a><a/></a><a><a></a></a></a>",
        &format!("<a>{}</a>", "<a/>".repeat(9)),
        "<a b='1' c='2' d='3' xmlns='4'/>",
        &named(40),
        &valued(40),
        "<a xmlns:a='1' xmlns:b='1' xmlns:c='1'><a xmlns:d='1' xmlns:e='1'/><a xmlns:d='1'/></a>",
    ] {
        assert_eq!(last_by(fits, &limits), None, "{fits}");
    }
    for (too_much, text) in [
        ("bytes", &*sized(101)),
        ("bytes of what is not finished", &format!("<a {}", " ".repeat(98))),
        ("elements", &format!("<a>{}</a>", "<a/>".repeat(10))),
        ("depth", "<a><a><a><a/></a></a></a>"),
        ("attributes", "<a b='1' c='2' d='3' e='4' xmlns='5'/>"),
        ("bytes of a name", &named(41)),
        ("bytes of a namespace", &valued(41)),
        ("namespaces", "<a xmlns:a='1' xmlns:b='1' xmlns:c='1'><a xmlns:d='1' xmlns:e='1' xmlns:f='1'/></a>"),
    ] {
        assert_eq!(last_by(text, &limits), Some(StreamCondition::PolicyViolation), "{too_much}");
    }
    // The header, too.
    let header = format!("<stream a='{}' xmlns='http://etherx.jabber.org/streams'>", "x".repeat(100));
    assert_eq!(events_in(1, header.as_bytes(), &limits).len(), 1);
    // White space between stanzas is nothing.
    assert_eq!(last_by(&" ".repeat(1000), &limits), None);
}

#[test]
fn limits_change_with_the_next_stanza() {
    let mut parser = TcpParser::new(Limits { bytes: 200, ..Limits::default() });
    let long = format!("<a>{}</a>", "x".repeat(300));
    let whole = format!("{HEADER}{long}");
    let mut input = whole.as_bytes();
    assert!(matches!(parser.feed(&mut input), Some(Event::Opened(_))));
    parser.set_limits(Limits { bytes: 400, ..Limits::default() });
    assert!(matches!(parser.feed(&mut input), Some(Event::Stanza(stanza)) if stanza.text() == long));
    assert_eq!((parser.buffered(), parser.feed(&mut input)), (0, None));
}

#[test]
fn what_is_behind_an_event_stays_with_the_caller() {
    let whole = format!("{HEADER}<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>\u{16}\u{3}");
    let mut input = whole.as_bytes();
    let mut parser = TcpParser::new(Limits::BEFORE_AUTHENTICATION);
    assert!(matches!(parser.feed(&mut input), Some(Event::Opened(_))));
    assert!(matches!(parser.feed(&mut input), Some(Event::Stanza(stanza)) if stanza.name() == "starttls"));
    assert_eq!(input, b"\x16\x03");
}

#[test]
fn every_byte_of_a_stanza_is_looked_at_once_however_slowly_it_comes() {
    let text = format!("<a>{}</a>", "<b c='d'>x</b>".repeat(9000));
    let mut parser = TcpParser::new(Limits::default());
    assert!(matches!(parser.feed(&mut HEADER.as_bytes()), Some(Event::Opened(_))));
    let before = TAKEN.get();
    let mut events: Vec<_> = text.as_bytes().iter().filter_map(|byte| parser.feed(&mut &[*byte][..])).collect();
    assert_eq!(TAKEN.get() - before, text.len());
    assert!(matches!(events.pop(), Some(Event::Stanza(stanza)) if stanza.text() == text) && events.is_empty());
}
