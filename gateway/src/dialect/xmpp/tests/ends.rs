//! The ends of sessions.

use super::*;

#[test]
fn every_end_has_its_condition_before_the_closing_tag() {
    for (code, condition) in [
        (Code::Replaced, "conflict"),
        (Code::ShuttingDown, "system-shutdown"),
        (Code::TimedOut, "connection-timeout"),
        (Code::TooSlow, "resource-constraint"),
        (Code::Overloaded, "resource-constraint"),
        (Code::Unauthenticated, "not-authorized"),
        (Code::Invalid, "policy-violation"),
        (Code::Unavailable, "internal-server-error"),
        (Code::Internal, "internal-server-error"),
    ] {
        let mut play = Play::bound();
        ends_with(&play.bye(code), condition);
        assert_eq!(play.says("<iq/>"), "");
        assert_eq!(play.bye(code), "", "an end is told once");
    }
    assert_eq!(Play::bound().bye(Code::SignedOut), "</stream:stream>");
}

/// RFC 6120, section 4.9.1.2: "the receiving entity MUST still send the opening \<stream\> tag".
#[test]
fn a_client_that_has_said_nothing_is_told_in_a_stream_of_its_own() {
    let mut play = Play::new(XmppTls::Required);
    let told = play.bye(Code::TimedOut);
    assert!(told.starts_with("<?xml version='1.0'?><stream:stream from='im.example.com' id='"), "{told}");
    ends_with(&told, "connection-timeout");
    // Between two streams of a client a stream is opened, too.
    let mut play = Play::new(XmppTls::Outside);
    play.says(HEADER);
    play.says(&plain("pencil"));
    let told = play.bye(Code::TimedOut);
    assert!(told.starts_with("<?xml version='1.0'?><stream:stream "), "{told}");
}

#[test]
fn whom_there_is_no_place_for_is_told_in_a_whole_stream() {
    let now = Now { instant: Instant::now(), unix_ms: START_MS };
    let told = refusal(service(XmppTls::Required), Seed::new([1; 32]), "there is no place", now);
    let told = String::from_utf8(told).expect("text");
    assert!(told.starts_with("<?xml version='1.0'?><stream:stream from='im.example.com' id='"), "{told}");
    ends_with(&told, "resource-constraint");
    assert!(told.contains(">there is no place</text>"), "{told}");
}

/// docs/adr/0038-xmpp.md, section 1.
#[test]
fn an_idle_dialog_is_small() {
    assert!(size_of::<TcpDialog>() <= 1536, "{} bytes", size_of::<TcpDialog>());
    let play = Play::bound();
    assert_eq!(play.dialog.kept_bytes(), 0, "no buffers are kept");
}
