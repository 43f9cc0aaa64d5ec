//! Stanzas of a client with a resource.

use super::*;

fn iq(kind: &str, to: &str, payload: &str) -> String {
    let to = if to.is_empty() { String::new() } else { format!(" to='{to}'") };
    format!("<iq type='{kind}' id='q&amp;1'{to}>{payload}</iq>")
}

const PING: &str = "<ping xmlns='urn:xmpp:ping'/>";
const INFO: &str = "<query xmlns='http://jabber.org/protocol/disco#info'/>";
const ITEMS: &str = "<query xmlns='http://jabber.org/protocol/disco#items'/>";

/// RFC 6120, section 8.2.3: "The response MUST preserve the 'id' attribute of the request".
#[test]
fn the_server_and_the_account_answer_what_they_know() {
    let mut play = Play::bound();
    let result = |from: &str, payload: &str| {
        let from = if from.is_empty() { String::new() } else { format!(" from='{from}'") };
        let head = format!("<iq type='result' id='q&amp;1' to='juliet@im.example.com/x'{from}");
        if payload.is_empty() { format!("{head}/>") } else { format!("{head}>{payload}</iq>") }
    };
    let version = env!("CARGO_PKG_VERSION");
    for (request, expected) in [
        (iq("get", "", PING), result("", "")),
        (iq("get", "im.example.com", PING), result("im.example.com", "")),
        (iq("get", "Juliet@IM.example.com", PING), result("juliet@im.example.com", "")),
        (iq("get", "im.example.com", ITEMS), result("im.example.com", ITEMS)),
        (iq("set", "", "<session xmlns='urn:ietf:params:xml:ns:xmpp-session'/>"), result("", "")),
        (
            iq("get", "im.example.com", "<query xmlns='jabber:iq:version'/>"),
            result(
                "im.example.com",
                &format!("<query xmlns='jabber:iq:version'><name>Carillon</name><version>{version}</version></query>"),
            ),
        ),
        (
            iq("get", "im.example.com", "<time xmlns='urn:xmpp:time'/>"),
            result(
                "im.example.com",
                "<time xmlns='urn:xmpp:time'><tzo>+00:00</tzo><utc>2027-01-15T08:00:00Z</utc></time>",
            ),
        ),
    ] {
        assert_eq!(play.says(&request), expected, "{request}");
    }
    let info = play.says(&iq("get", "im.example.com", INFO));
    assert!(info.contains("<identity category='server' type='im' name='Carillon'/>"), "{info}");
    let account = play.says(&iq("get", "", INFO));
    assert!(account.contains("<identity category='account' type='registered' name='Carillon'/>"), "{account}");
    assert_eq!(play.heard(), []);
}

/// A client that asks for what is announced gets no error.
#[test]
fn what_is_announced_works() {
    let mut play = Play::bound();
    for of in ["im.example.com", ""] {
        let info = play.says(&iq("get", of, INFO));
        let features: Vec<_> =
            info.split("<feature var='").skip(1).filter_map(|rest| rest.split('\'').next()).collect();
        assert!(!features.is_empty(), "{info}");
        for feature in features {
            let name = match feature {
                "urn:xmpp:ping" => "ping",
                "urn:xmpp:time" => "time",
                _ => "query",
            };
            let told = play.says(&iq("get", of, &format!("<{name} xmlns='{feature}'/>")));
            assert!(told.starts_with("<iq type='result'"), "{of} {feature}: {told}");
        }
    }
}

#[test]
fn every_other_request_has_one_answer_with_its_id() {
    let mut play = Play::bound();
    for (request, condition) in [
        (iq("get", "", "<query xmlns='jabber:iq:roster'/>"), "service-unavailable"),
        (iq("set", "im.example.com", PING), "service-unavailable"),
        (iq("get", "romeo@im.example.com", PING), "service-unavailable"),
        (iq("get", "juliet@im.example.com/x", PING), "service-unavailable"),
        (iq("get", "im.example.com/x", PING), "service-unavailable"),
        (iq("get", "room@conference.im.example.com", PING), "service-unavailable"),
        (iq("get", "conference.im.example.com", PING), "service-unavailable"),
        (iq("get", "romeo@example.org", PING), "remote-server-not-found"),
        (iq("get", "example.org", PING), "remote-server-not-found"),
        (iq("get", "@", PING), "jid-malformed"),
        (
            iq("get", "im.example.com", "<query xmlns='http://jabber.org/protocol/disco#info' node='x'/>"),
            "item-not-found",
        ),
        (iq("get", "", "<query xmlns='http://jabber.org/protocol/disco#items' node='x'/>"), "item-not-found"),
        // RFC 6120, section 8.2.3: "MUST return a <bad-request/> stanza error".
        (iq("fetch", "", PING), "bad-request"),
        (iq("get", "", ""), "bad-request"),
        (iq("get", "", &PING.repeat(2)), "bad-request"),
    ] {
        let told = play.says(&request);
        assert!(told.contains("id='q&amp;1'") && told.contains("type='error'"), "{request}: {told}");
        assert!(
            told.contains(&format!("<{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>")),
            "{request}: {told}"
        );
        assert_eq!(told.matches("<iq ").count(), 1, "{told}");
    }
    assert!(play.says(&format!("<iq type='get'>{PING}</iq>")).contains("<bad-request "), "an id is needed");
    // RFC 6120, section 8.2.3: it "MUST NOT respond to the stanza by sending a further IQ response".
    for answer in
        [iq("result", "", ""), iq("error", "", "<error type='cancel'/>"), iq("result", "romeo@example.org", "")]
    {
        assert_eq!(play.says(&answer), "", "{answer}");
    }
}

#[test]
fn messages_and_presence_are_refused_as_long_as_they_are_not_served() {
    let mut play = Play::bound();
    for (stanza, condition) in [
        ("<message id='m' to='romeo@im.example.com'><body>hi</body></message>", "feature-not-implemented"),
        ("<message id='m'><body>hi</body></message>", "feature-not-implemented"),
        ("<message id='m' to='romeo@example.org'/>", "remote-server-not-found"),
        ("<message id='m' to='@'/>", "jid-malformed"),
        ("<presence id='m'/>", "feature-not-implemented"),
        ("<presence id='m' type='subscribe' to='romeo@im.example.com'/>", "feature-not-implemented"),
    ] {
        let told = play.says(stanza);
        assert!(told.contains("id='m'") && told.contains("type='error'"), "{stanza}: {told}");
        assert!(told.contains(&format!("<{condition} ")), "{stanza}: {told}");
    }
    // RFC 6120, section 8.3.1: "MUST NOT respond to the stanza with a further error stanza". And who was never shown as available is not.
    for stanza in [
        "<message type='error' to='romeo@im.example.com'/>",
        "<presence type='error'/>",
        "<presence type='unavailable'/>",
    ] {
        assert_eq!(play.says(stanza), "", "{stanza}");
    }
    assert_eq!(play.heard(), []);
}

#[test]
fn nobody_speaks_as_somebody_else() {
    for from in ["romeo@im.example.com", "juliet@im.example.com/y", "@", "im.example.com"] {
        let mut play = Play::bound();
        ends_with(&play.says(&format!("<iq type='get' id='1' from='{from}'>{PING}</iq>")), "invalid-from");
    }
    let mut play = Play::bound();
    for from in ["juliet@im.example.com/x", "juliet@im.example.com"] {
        assert!(play.says(&format!("<iq type='get' id='1' from='{from}'>{PING}</iq>")).contains("result"), "{from}");
    }
}

#[test]
fn a_client_is_asked_for_a_sign_of_life_by_a_ping() {
    let mut play = Play::bound();
    play.dialog.ping();
    let asked = "<iq type='get' id='ping-1' from='im.example.com' to='juliet@im.example.com/x'><ping xmlns='urn:xmpp:ping'/></iq>";
    assert_eq!(play.told(), asked);
    play.dialog.ping();
    assert!(play.told().contains("id='ping-2'"));
    // A client that has not signed in gets no ping: it has a deadline.
    let mut play = Play::new(XmppTls::Outside);
    play.says(HEADER);
    play.dialog.ping();
    assert_eq!(play.told(), "");
}
