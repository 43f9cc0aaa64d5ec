//! Headers, features, STARTTLS, and how streams end.

use carillon_xmpp::sasl::ChannelBindings;

use super::*;

const STARTTLS: &str = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";

/// RFC 6120, section 4.3.2: "the receiving entity MUST send a \<features/\> child element". Section 5.4.1: "the \<starttls/\> element MUST
/// contain an empty \<required/\> child element". Section 6.3.4: "it MUST NOT advertise that mechanism".
#[test]
fn before_tls_that_is_required_nothing_else_is_offered() {
    let mut play = Play::new(XmppTls::Required);
    let told = play.says(HEADER);
    assert!(told.starts_with("<?xml version='1.0'?><stream:stream from='im.example.com' id='"), "{told}");
    assert!(
        told.ends_with(
            "<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls></stream:features>"
        ),
        "{told}"
    );
    assert_eq!(play.says(&plain("pencil")), failure("encryption-required"));
    assert_eq!(play.heard(), []);
}

/// RFC 6120, section 5.4.3.3: the features within TLS "MUST NOT include the STARTTLS feature". Section 5.4.2.3: "the receiving entity MUST return
/// a \<proceed/\> element".
#[test]
fn inside_tls_all_mechanisms_are_offered_with_what_binds_them() {
    let mut play = Play::new(XmppTls::Required);
    let first = play.says(HEADER);
    assert_eq!(play.says(STARTTLS), "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    assert_eq!(play.heard(), [Heard::StartTls]);
    play.dialog.secured(ChannelBindings { exporter: Some(vec![1; 32]), server_end_point: Some(vec![2; 32]) });
    let told = play.says(HEADER);
    assert!(!told.contains("starttls"), "{told}");
    for offered in ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN"] {
        assert!(told.contains(&format!("<mechanism>{offered}</mechanism>")), "{told}");
    }
    assert!(
        told.contains("<channel-binding type='tls-exporter'/><channel-binding type='tls-server-end-point'/>"),
        "{told}"
    );
    // "it MUST generate a new stream ID instead of reusing the old stream ID"
    let id = |told: &str| told.split("id='").nth(1).and_then(|rest| rest.split('\'').next()).map(str::to_owned);
    assert_ne!(id(&first), id(&told));
    // RFC 6120, section 5.4.2.2: "the receiving entity MUST return a <failure/> element".
    assert_eq!(play.says(STARTTLS), "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:stream>");
    assert!(matches!(play.heard()[..], [Heard::Fault(Code::Invalid, _)]));
}

#[test]
fn where_tls_is_optional_no_password_is_shown_without_it() {
    let mut play = Play::new(XmppTls::Optional);
    let told = play.says(HEADER);
    assert!(told.contains("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"), "{told}");
    assert!(told.contains("SCRAM-SHA-256<") && !told.contains("PLAIN") && !told.contains("PLUS"), "{told}");
    assert_eq!(play.says(&plain("pencil")), failure("encryption-required"));
}

#[test]
fn behind_a_proxy_that_ends_tls_there_is_no_starttls_and_nothing_binds() {
    let mut play = Play::new(XmppTls::Outside);
    let told = play.says(HEADER);
    assert!(told.contains("SCRAM-SHA-256<") && told.contains("PLAIN") && !told.contains("PLUS"), "{told}");
    assert!(!told.contains("starttls"), "{told}");
    assert_eq!(play.says(STARTTLS), "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:stream>");
}

/// Somebody on the way could put stanzas behind `<starttls/>`, which would count as encrypted.
#[test]
fn nothing_but_white_space_may_follow_starttls() {
    // go-sendxmpp ends its lines.
    let mut play = Play::new(XmppTls::Required);
    play.says(HEADER);
    assert_eq!(play.says(&format!("{STARTTLS}\r\n")), "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    assert_eq!((play.heard(), play.unheard.len()), (vec![Heard::StartTls], 0));
    for behind in ["<iq/>", "\n<iq/>", "x", HEADER] {
        let mut play = Play::new(XmppTls::Required);
        play.says(HEADER);
        let told = play.says(&format!("{STARTTLS}{behind}"));
        assert_eq!(told, "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:stream>", "{behind:?}");
        assert!(matches!(play.heard()[..], [Heard::Fault(Code::Invalid, _)]));
    }
}

/// RFC 6120, section 4.9.1.2: "If the error is triggered by the initial stream header, the receiving entity MUST still send the opening
/// \<stream\> tag".
#[test]
fn a_wrong_header_is_answered_by_one_and_an_error() {
    for (from, to, condition) in [
        ("to='im.example.com'", "to='example.org'", "host-unknown"),
        ("to='im.example.com'", "to='juliet@im.example.com'", "host-unknown"),
        ("to='im.example.com'", "to='im.example.com/x'", "host-unknown"),
        ("to='im.example.com'", "to='@'", "host-unknown"),
        ("to='im.example.com'", "to='conference.im.example.com'", "host-unknown"),
        ("to='im.example.com'", "", "improper-addressing"),
        ("version='1.0' xmlns", "xmlns", "unsupported-version"),
        ("version='1.0' xmlns", "version='0.9' xmlns", "unsupported-version"),
        ("xmlns='jabber:client'", "xmlns='jabber:server'", "invalid-namespace"),
        ("xmlns='jabber:client'", "", "invalid-namespace"),
        ("http://etherx.jabber.org/streams", "urn:x", "invalid-namespace"),
        ("<?xml version='1.0'?>", "<!DOCTYPE x>", "restricted-xml"),
        ("<?xml version='1.0'?>", "GET / HTTP/1.1", "not-well-formed"),
    ] {
        let mut play = Play::new(XmppTls::Required);
        let told = play.says(&HEADER.replace(from, to));
        assert!(told.starts_with("<?xml version='1.0'?><stream:stream from='im.example.com' id='"), "{told}");
        ends_with(&told, condition);
        assert!(matches!(play.heard()[..], [Heard::Fault(Code::Invalid, _)]), "{condition}");
        assert_eq!(play.says("<iq/>"), "", "nothing is said behind the end");
    }
    let mut play = Play::new(XmppTls::Required);
    let told = play.says(&HEADER.replace("version='1.0' xmlns", "version='1.1' xmlns"));
    assert!(told.contains("version='1.0'") && told.contains("<stream:features>"), "{told}");
}

/// RFC 6120, section 4.9.3.12: "the receiving entity MUST NOT process the offending data before sending the stream error".
#[test]
fn nothing_is_done_for_whom_nobody_knows() {
    for stanza in ["<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>", "<presence/>", "<message to='a@b'/>"] {
        let mut play = Play::new(XmppTls::Outside);
        play.says(HEADER);
        let told = play.says(stanza);
        ends_with(&told, "not-authorized");
        assert!(!told.contains("<iq"), "{told}");
    }
    for other in
        ["<enable xmlns='urn:xmpp:sm:3'/>", "<x xmlns='urn:x'/>", "<foo xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"]
    {
        let mut play = Play::new(XmppTls::Outside);
        play.says(HEADER);
        ends_with(&play.says(other), "unsupported-stanza-type");
    }
}

/// RFC 6120, section 4.4: the other party sends "a reciprocal closing stream tag".
#[test]
fn a_stream_that_its_client_closes_is_closed() {
    let mut play = Play::new(XmppTls::Outside);
    play.says(HEADER);
    assert_eq!(play.says("</stream:stream>"), "</stream:stream>");
    assert_eq!(play.heard(), [Heard::Closed]);
    let mut play = Play::new(XmppTls::Outside);
    assert!(play.says(&HEADER.replace("streams'>", "streams'/>")).ends_with("</stream:stream>"), "an empty document");
    assert_eq!(play.heard(), [Heard::Closed]);
    // The client closes its stream by an error.
    let error = "<stream:error><undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>";
    let mut beginner = Play::new(XmppTls::Outside);
    beginner.says(HEADER);
    for mut play in [beginner, Play::bound()] {
        assert_eq!(play.says(&format!("{error}</stream:stream>")), "</stream:stream>");
        assert_eq!(play.heard(), [Heard::Closed]);
        assert_eq!(play.bye(Code::SignedOut), "");
    }
    // A client with a resource gets the closing tag when its session has ended.
    let mut play = Play::bound();
    assert_eq!(play.says("</stream:stream>"), "");
    assert_eq!(play.heard(), [Heard::Closed]);
    assert_eq!(play.bye(Code::SignedOut), "</stream:stream>");
}

#[test]
fn the_limits_of_bytes_and_elements_hold_before_the_sign_in_and_grow_with_it() {
    let long = |bytes: usize| format!("<iq type='get' id='1'><q xmlns='urn:x'>{}</q></iq>", "x".repeat(bytes));
    let mut play = Play::new(XmppTls::Outside);
    play.says(HEADER);
    ends_with(&play.says(&format!("<auth {SASL} mechanism='PLAIN'>{}</auth>", "A".repeat(65_536))), "policy-violation");
    let mut play = Play::bound();
    assert!(play.says(&long(200_000)).contains("<service-unavailable"));
    ends_with(&play.says(&long(300_000)), "policy-violation");

    let mut play = Play::new(XmppTls::Outside);
    play.signs_in("pencil");
    let ping = "<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>";
    // The sign-in took an element.
    for _ in 0..11 {
        assert!(play.says(ping).contains("result"), "the server itself may be asked before");
    }
    ends_with(&play.says(ping), "policy-violation");
}

#[test]
fn who_sends_too_much_is_read_later() {
    let mut play = Play::bound();
    let ping = "<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>";
    let answers = |told: &str| told.matches("type='result'").count();
    assert_eq!(answers(&play.says(&ping.repeat(900))), 500);
    assert!(!play.unheard.is_empty());
    let until = play.dialog.paused_until(play.now).expect("a pause");
    assert!(until > play.now.instant);
    play.now.instant += std::time::Duration::from_secs(1);
    assert_eq!(answers(&play.says("")), 100);
    play.now.instant += std::time::Duration::from_secs(10);
    assert_eq!(answers(&play.says("")), 300, "nothing is lost");
    assert_eq!(play.dialog.paused_until(play.now), None);
}

#[test]
fn spaces_and_whole_elements_are_signs_of_life_and_parts_are_not() {
    let mut play = Play::bound();
    let mut hears = |mut bytes: &[u8]| play.dialog.hear(&mut bytes, play.now);
    assert_eq!(hears(b" "), Some(Heard::Alive));
    assert_eq!(hears(b"<iq type='get' id='1'>"), None);
    assert_eq!(hears(b"<ping xmlns='urn:xmpp:ping'/>"), None);
    assert_eq!(hears(b"</iq>"), Some(Heard::Alive));
    assert_eq!(hears(b""), None);
    // Also of a client that is read later, or a loud client would count as silent.
    let flood = "<presence type='unavailable'/>".repeat(600);
    let mut rest = flood.as_bytes();
    assert_eq!(play.dialog.hear(&mut rest, play.now), Some(Heard::Alive));
    assert!(!rest.is_empty());
    assert_eq!(play.dialog.hear(&mut rest, play.now), None, "nothing else was heard");
}
