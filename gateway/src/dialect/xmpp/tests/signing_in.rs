//! SASL and resources.

use carillon_xmpp::sasl::ChannelBindings;

use super::*;

fn bind(resource: &str) -> String {
    format!("<iq id='b1' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>{resource}</bind></iq>")
}

fn asks(heard: &[Heard]) -> Vec<&'static str> {
    let name = |heard: &Heard| match heard {
        Heard::Ask(Ask::LookUp(_)) => "look up",
        Heard::Ask(Ask::Proven) => "proven",
        Heard::Ask(Ask::NotProven) => "not proven",
        Heard::Ask(Ask::SignIn(_)) => "sign in",
        _ => "other",
    };
    heard.iter().map(name).collect()
}

#[test]
fn by_plain_the_password_is_compared() {
    let mut play = Play::new(XmppTls::Outside);
    play.says(HEADER);
    assert_eq!(play.says(&plain("wrong")), failure("not-authorized"));
    assert_eq!(asks(&play.heard()), ["look up", "not proven"]);
    assert_eq!(play.says(&plain("pencil")), format!("<success {SASL}/>"));
    assert_eq!(asks(&play.heard()), ["look up", "proven"]);
    // Users without a password, and names that nobody can have.
    for user in ["romeo", "stra\u{df}e"] {
        let mut play = Play::new(XmppTls::Outside);
        play.says(HEADER);
        assert_eq!(play.says(&plain_as(user, "pencil")), failure("not-authorized"));
        assert_eq!(asks(&play.heard()).last(), Some(&"not proven"));
    }
    // By SCRAM a name that nobody can have is challenged as any other.
    let mut play = Play::new(XmppTls::Outside);
    play.says(HEADER);
    let scram = Scram { gs2: "n,,", binding: vec![], user: "stra\u{df}e" };
    let challenge = play.says(&scram.begins("SCRAM-SHA-256"));
    assert_eq!(play.says(&scram.proves(&challenge, "pencil")), failure("not-authorized"));
    assert_eq!(asks(&play.heard()), ["not proven"]);
}

#[test]
fn by_scram_the_client_proves_that_it_knows_the_password() {
    for (password, is_right) in [("pencil", true), ("wrong", false)] {
        let mut play = Play::new(XmppTls::Optional);
        play.says(HEADER);
        let scram = Scram { gs2: "n,,", binding: vec![], user: "juliet" };
        let challenge = play.says(&scram.begins("SCRAM-SHA-256"));
        assert!(challenge.starts_with(&format!("<challenge {SASL}>")), "{challenge}");
        let told = play.says(&scram.proves(&challenge, password));
        if is_right {
            assert!(told.starts_with(&format!("<success {SASL}>")), "{told}");
            assert_eq!(asks(&play.heard()), ["look up", "proven"]);
        } else {
            assert_eq!(told, failure("not-authorized"));
            assert_eq!(asks(&play.heard()), ["look up", "not proven"]);
        }
    }
}

#[test]
fn what_binds_to_the_connection_is_compared() {
    for (gs2, binding, mechanism, is_right) in [
        ("p=tls-exporter,,", vec![1; 32], "SCRAM-SHA-256-PLUS", true),
        ("p=tls-server-end-point,,", vec![2; 32], "SCRAM-SHA-256-PLUS", true),
        // Data of another connection: somebody is between client and server.
        ("p=tls-exporter,,", vec![3; 32], "SCRAM-SHA-256-PLUS", false),
        // The client could bind, and was not told that the server can.
        ("y,,", vec![], "SCRAM-SHA-256", false),
    ] {
        let mut play = Play::new(XmppTls::Required);
        play.dialog.secured(ChannelBindings { exporter: Some(vec![1; 32]), server_end_point: Some(vec![2; 32]) });
        play.says(HEADER);
        let scram = Scram { gs2, binding, user: "juliet" };
        let mut told = play.says(&scram.begins(mechanism));
        if told.contains("<challenge") {
            told = play.says(&scram.proves(&told, "pencil"));
        }
        assert_eq!(told.contains("<success"), is_right, "{gs2} {told}");
        assert_eq!(play.heard().contains(&Heard::Ask(Ask::Proven)), is_right);
    }
}

#[test]
fn an_attempt_that_is_malformed_is_no_guess() {
    for (text, cause) in [
        (format!("<auth {SASL} mechanism='PLAIN'>!</auth>"), "incorrect-encoding"),
        (format!("<auth {SASL} mechanism='DIGEST-MD5'/>"), "invalid-mechanism"),
        (format!("<auth {SASL} mechanism='SCRAM-SHA-1'>AAAA</auth>"), "invalid-mechanism"),
        (format!("<auth {SASL} mechanism='SCRAM-SHA-256-PLUS'>AAAA</auth>"), "invalid-mechanism"),
        (format!("<auth {SASL} mechanism='PLAIN'>AAAA</auth>"), "malformed-request"),
        (format!("<response {SASL}>AAAA</response>"), "malformed-request"),
        // RFC 6120, section 6.4.4: "the receiving entity MUST return a <failure/> element [...] containing an <aborted/> child element".
        (format!("<abort {SASL}/>"), "aborted"),
    ] {
        let mut play = Play::new(XmppTls::Outside);
        play.says(HEADER);
        assert_eq!(play.says(&text), failure(cause), "{text}");
        assert_eq!(play.heard(), [], "{text}");
    }
}

/// RFC 6120, section 6.4.5: "If the initiating entity exceeds the number of retries, the receiving entity MUST close the stream".
#[test]
fn after_five_wrong_passwords_the_stream_ends() {
    let mut play = Play::new(XmppTls::Outside);
    play.says(HEADER);
    for _ in 0..4 {
        assert_eq!(play.says(&plain("wrong")), failure("not-authorized"));
    }
    let told = play.says(&plain("wrong"));
    assert!(told.starts_with(&failure("not-authorized")), "{told}");
    ends_with(&told, "policy-violation");
    let heard = play.heard();
    assert_eq!(heard.iter().filter(|heard| **heard == Heard::Ask(Ask::NotProven)).count(), 5, "each of them counts");
    assert!(matches!(heard.last(), Some(Heard::Fault(Code::Invalid, _))));
}

#[test]
fn a_session_that_ends_within_sasl_says_so_in_its_words() {
    let mut play = Play::new(XmppTls::Outside);
    play.says(HEADER);
    // The keys do not come.
    let mut input = plain("pencil").into_bytes();
    input.extend(b"<iq/>");
    let mut rest = &input[..];
    assert!(matches!(play.dialog.hear(&mut rest, play.now), Some(Heard::Ask(Ask::LookUp(_)))));
    let told = play.bye(Code::RateLimited);
    assert!(told.starts_with(&failure("temporary-auth-failure")), "{told}");
    ends_with(&told, "policy-violation");
    assert_eq!(play.bye(Code::RateLimited), "", "it ends once");
}

/// RFC 6120, section 6.4.6: the new header is answered by one. The client stays at its domain, and is who it has proven to be.
#[test]
fn the_stream_after_the_sign_in_is_of_the_same_user() {
    for (from, to, condition) in [
        ("to='im.example.com'", "to='im.example.com' from='romeo@im.example.com'", "invalid-from"),
        ("to='im.example.com'", "to='im.example.com' from='@'", "invalid-from"),
        ("to='im.example.com'", "to='example.org'", "host-unknown"),
    ] {
        let mut play = Play::new(XmppTls::Outside);
        play.says(HEADER);
        play.says(&plain("pencil"));
        let told = play.says(&HEADER.replace(from, to));
        assert!(told.starts_with("<?xml version='1.0'?><stream:stream "), "{told}");
        ends_with(&told, condition);
    }
    let mut play = Play::new(XmppTls::Outside);
    play.says(HEADER);
    play.says(&plain("pencil"));
    let told = play.says(&HEADER.replace("version='1.0' xmlns", "from='Juliet@im.example.com/x' version='1.0' xmlns"));
    assert!(told.contains("to='juliet@im.example.com'"), "{told}");
    // RFC 6120, section 7.4: "the server MUST include a <bind/> element".
    let session = "<session xmlns='urn:ietf:params:xml:ns:xmpp-session'><optional/></session>";
    let features =
        format!("<stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>{session}</stream:features>");
    assert!(told.ends_with(&features), "{told}");
}

/// RFC 6120, section 7.6.1: "it MUST return an IQ stanza of type "result" to the client, which MUST include a \<jid/\> child element".
#[test]
fn a_resource_is_that_of_the_client_or_one_that_the_service_chooses() {
    let mut chosen = Vec::new();
    for (wanted, expected) in [
        ("<resource>balcony</resource>", Some("balcony")),
        ("<resource>a&amp;b</resource>", Some("a&amp;b")),
        ("", None),
        ("<resource/>", None),
        // No resource can be so (RFC 6120, section 7.7.2.1), and no device.
        ("<resource> x</resource>", None),
        (&format!("<resource>{}</resource>", "x".repeat(65)), None),
    ] {
        let mut play = Play::new(XmppTls::Outside);
        play.dialog = TcpDialog::new(service(XmppTls::Outside), Seed::new([chosen.len() as u8; 32]), play.now);
        play.signs_in("pencil");
        play.heard.clear();
        let told = play.says(&bind(wanted));
        let jid = told.split("<jid>juliet@im.example.com/").nth(1).and_then(|rest| rest.split('<').next());
        let jid = jid.unwrap_or_else(|| panic!("no resource: {told}")).to_owned();
        assert!(told.starts_with(&format!("<iq type='result' id='b1' to='juliet@im.example.com/{jid}'>")), "{told}");
        match expected {
            Some(expected) => assert_eq!(jid, expected),
            None => {
                assert_eq!(jid.len(), 8, "{jid}");
                assert!(!chosen.contains(&jid));
            }
        }
        let device = jid.replace("&amp;", "&");
        let ask = SignInAsk { device, credential: Some(Credential::Proven), holds: true, ..SignInAsk::default() };
        assert_eq!(play.heard(), [Heard::Ask(Ask::SignIn(Box::new(ask)))]);
        chosen.push(jid);
        // RFC 6120, section 7.6.2.2: "the server MUST return a <not-allowed/> stanza error".
        let again = play.says(&bind(""));
        assert!(again.contains("id='b1'") && again.contains("<not-allowed "), "{again}");
    }
}

/// RFC 6120, section 7.6.2.1: "the server MUST return a \<resource-constraint/\> stanza error".
#[test]
fn who_gets_no_session_has_an_answer_to_its_request() {
    for (code, condition, end) in [
        (Code::Overloaded, "resource-constraint", "resource-constraint"),
        (Code::Unauthenticated, "not-authorized", "not-authorized"),
        (Code::Unavailable, "internal-server-error", "internal-server-error"),
        (Code::ShuttingDown, "internal-server-error", "system-shutdown"),
    ] {
        let mut play = Play::new(XmppTls::Outside);
        play.signs_in("pencil");
        let input = bind("");
        let mut rest = input.as_bytes();
        assert!(matches!(play.dialog.hear(&mut rest, play.now), Some(Heard::Ask(Ask::SignIn(_)))));
        let told = play.bye(code);
        assert!(told.starts_with("<iq type='error' id='b1'"), "{told}");
        assert!(told.contains(&format!("<{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>")), "{told}");
        ends_with(&told, end);
    }
}

/// RFC 6120, section 7.1: "the server MUST NOT process the stanza and MUST close the stream with a \<not-authorized/\> stream error".
#[test]
fn without_a_resource_only_the_server_and_the_own_account_are_spoken_to() {
    for stanza in [
        "<message to='romeo@im.example.com'/>",
        "<presence/>",
        "<iq type='get' id='1' to='romeo@im.example.com'><ping xmlns='urn:xmpp:ping'/></iq>",
    ] {
        let mut play = Play::new(XmppTls::Outside);
        play.signs_in("pencil");
        ends_with(&play.says(stanza), "not-authorized");
    }
    let mut play = Play::new(XmppTls::Outside);
    play.signs_in("pencil");
    let told = play.says("<iq type='get' id='1' to='im.example.com'><ping xmlns='urn:xmpp:ping'/></iq>");
    assert_eq!(told, "<iq type='result' id='1' to='juliet@im.example.com' from='im.example.com'/>");
}
