use proptest::prelude::*;

use super::*;
use crate::{
    sasl::{ChannelBindings, Keys, Negotiation, bound},
    stream::Limits,
};

fn offer() -> Offer {
    Offer {
        host: "example.org".to_owned(),
        is_encrypted: true,
        bindings: ChannelBindings { exporter: Some(vec![7; 32]), server_end_point: Some(vec![8; 32]) },
        allowed: vec![Mechanism::ScramSha1, Mechanism::ScramSha1Plus, Mechanism::Plain],
    }
}

fn read(text: &str) -> Option<Result<Request2, SaslFailure>> {
    Request2::read(&Element::parse(text, &Limits::default()).expect("valid"))
}

fn authenticate(text: &str) -> Authenticate {
    match read(text) {
        Some(Ok(Request2::Authenticate(request))) => *request,
        other => panic!("{other:?}"),
    }
}

const USER: &str = "user@example.org";

fn user() -> Jid {
    Jid::new(USER).expect("an address")
}

/// XEP-0388, section 2.3, with what XEP-0386, XEP-0484, XEP-0480 and XEP-0198 add.
#[test]
fn a_client_asks_for_all_at_once() {
    let request = authenticate(
        "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='SCRAM-SHA-1-PLUS'>\
         <initial-response>\n cD10bHMtZXhwb3J0ZXIsLG49dXNlcixyPTEyQzRDRDVDLUUzOEUtNEE5OC04RjZELTE1QzM4RjUxQ0NDNg==\n</initial-response>\
         <user-agent id='D4565FA7-4d72-4749-b3d3-740edbf87770'><software>AwesomeXMPP</software><device>Kiva's\u{85} Phone</device></user-agent>\
         <bind xmlns='urn:xmpp:bind:0'><tag>AwesomeXMPP</tag></bind><fast xmlns='urn:xmpp:fast:0' invalidate='1'/>\
         <request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-ENDP'/>\
         <upgrade xmlns='urn:xmpp:sasl:upgrade:0'>UPGR-SCRAM-SHA-256</upgrade><upgrade xmlns='urn:xmpp:sasl:upgrade:0'>UPGR-SCRAM-SHA-256</upgrade>\
         <upgrade xmlns='urn:xmpp:sasl:upgrade:0'>UPGR-BLOOP2</upgrade>\
         <resume xmlns='urn:xmpp:sm:3' previd='124' h='3'/></authenticate>",
    );
    assert_eq!(request.mechanism, "SCRAM-SHA-1-PLUS");
    let data = request.data.as_deref().map(|data| String::from_utf8_lossy(data).into_owned());
    assert_eq!(data.as_deref(), Some("p=tls-exporter,,n=user,r=12C4CD5C-E38E-4A98-8F6D-15C38F51CCC6"));
    let agent = UserAgent {
        id: Some("d4565fa7-4d72-4749-b3d3-740edbf87770".to_owned()),
        software: Some("AwesomeXMPP".to_owned()),
        device: Some("Kiva's Phone".to_owned()),
    };
    assert_eq!(request.agent, Some(agent));
    assert_eq!(request.bind.as_ref().and_then(|bind| bind.tag.as_deref()), Some("AwesomeXMPP"));
    assert_eq!(
        (request.fast, request.wants_token),
        (Some(Fast { invalidates: true }), Some(TokenMechanism::ServerEndPoint))
    );
    assert_eq!(request.upgrades, [Hash::Sha256]);
    assert!(
        request.other("resume", ns::STREAM_MANAGEMENT).is_some_and(|resume| resume.attribute("previd") == Some("124"))
    );
    assert!(!format!("{:?}", Request2::Authenticate(Box::new(request))).contains("exporter"));
    let least = authenticate("<authenticate xmlns='urn:xmpp:sasl:2'/>");
    assert_eq!((least.mechanism.as_str(), &least.data, &least.agent), ("", &None, &None));
}

/// XEP-0388, section 2.3: "The contents of the 'id' attribute MUST be a UUID v4."
#[test]
fn an_installation_has_a_uuid_and_short_texts() {
    let agent = |id: &str, text: &str| {
        let text = format!(
            "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='x'><user-agent id='{id}'><device>{text}</device></user-agent></authenticate>"
        );
        authenticate(&text).agent.expect("an installation")
    };
    assert!(agent("d4565fa7-4d72-4749-b3d3-740edbf87770", "").id.is_some());
    for id in [
        "",
        "1",
        "d4565fa7-4d72-1749-b3d3-740edbf87770",
        "d4565fa7-4d72-4749-c3d3-740edbf87770",
        "d4565fa74d724749b3d3740edbf877700000",
        "g4565fa7-4d72-4749-b3d3-740edbf87770",
        "{d4565fa7-4d72-4749-b3d3-740edbf8777}",
    ] {
        assert_eq!(agent(id, "").id, None, "{id}");
    }
    assert_eq!(agent("", " \n").device, None);
    assert_eq!(agent("", &"é".repeat(200)).device.map(|device| device.chars().count()), Some(AGENT_CHARS));
}

/// XEP-0388, section 2.2: the data is base64, and elements without it have none.
#[test]
fn elements_have_base64() {
    let response = |data: &str| read(&format!("<response xmlns='urn:xmpp:sasl:2'>{data}</response>"));
    let is = |data: &[u8]| Some(Ok(Request2::Response(data.to_vec().into())));
    assert_eq!((response("AQ=="), response("\nAQ==\n"), response("")), (is(&[1]), is(&[1]), is(&[])));
    for wrong in ["=", "AQ", "AR==", "A Q==", "!"] {
        assert_eq!(response(wrong), Some(Err(SaslFailure::IncorrectEncoding)), "{wrong}");
        let text = format!(
            "<authenticate xmlns='urn:xmpp:sasl:2'><initial-response>{wrong}</initial-response></authenticate>"
        );
        assert_eq!(read(&text), Some(Err(SaslFailure::IncorrectEncoding)), "{wrong}");
    }
    assert_eq!(read("<abort xmlns='urn:xmpp:sasl:2'><text>x</text></abort>"), Some(Ok(Request2::Abort)));
    assert_eq!(
        read("<next xmlns='urn:xmpp:sasl:2' task='UPGR-SCRAM-SHA-1'/>"),
        Some(Ok(Request2::Next("UPGR-SCRAM-SHA-1".to_owned())))
    );
    let task =
        read("<task-data xmlns='urn:xmpp:sasl:2'><hash xmlns='urn:xmpp:scram-upgrade:0'>AAAA</hash></task-data>");
    assert!(matches!(&task, Some(Ok(Request2::TaskData(_)))) && !format!("{task:?}").contains("AAAA"));
    for other in ["<success xmlns='urn:xmpp:sasl:2'/>", "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"] {
        assert_eq!(read(other), None, "{other}");
    }
}

/// XEP-0388, section 2.1: "MUST NOT be offered if not at least one mechanism can be provided". Section 3: "MUST only be used [...] after TLS
/// negotiation".
#[test]
fn the_features_are_those_that_the_connection_may_use() {
    let offer = offer();
    let features = Features {
        offer: &offer,
        bind: Some(&["urn:xmpp:carbons:2"]),
        resumes: true,
        fast: true,
        upgrades: &[Hash::Sha256],
    };
    assert_eq!(
        features.element().map(|element| element.to_string()).as_deref(),
        Some(
            "<authentication xmlns='urn:xmpp:sasl:2'><mechanism>SCRAM-SHA-1-PLUS</mechanism><mechanism>SCRAM-SHA-1</mechanism>\
             <mechanism>PLAIN</mechanism><inline><sm xmlns='urn:xmpp:sm:3'/>\
             <bind xmlns='urn:xmpp:bind:0'><inline><feature var='urn:xmpp:carbons:2'/></inline></bind>\
             <fast xmlns='urn:xmpp:fast:0'><mechanism>HT-SHA-256-EXPR</mechanism><mechanism>HT-SHA-256-ENDP</mechanism>\
             <mechanism>HT-SHA-256-NONE</mechanism></fast></inline>\
             <upgrade xmlns='urn:xmpp:sasl:upgrade:0'>UPGR-SCRAM-SHA-256</upgrade></authentication>"
        )
    );
    let few = Features { bind: None, resumes: false, fast: false, upgrades: &[], ..features };
    assert!(few.element().is_some_and(|element| element.child("inline", ns::SASL2).is_none()));
    let plain = Offer { is_encrypted: false, ..offer.clone() };
    let none = Offer { allowed: Vec::new(), ..offer.clone() };
    for offer in [&plain, &none] {
        assert_eq!(Features { offer, ..features }.element(), None);
    }
}

/// XEP-0474, section 6.3: the exchange of its example, whose proofs are of another state of the XEP. They are made here by RFC 5802.
#[test]
fn a_client_signs_in_and_sees_what_was_offered() {
    let offer = Offer { allowed: vec![Mechanism::ScramSha1, Mechanism::ScramSha1Plus], ..offer() };
    let mut negotiation = Negotiation::new(offer).with_from(Some(&user())).protected();
    let first = b"p=tls-exporter,a=user@example.org,n=user,r=12C4CD5C-E38E-4A98-8F6D-15C38F51CCC6";
    let step = negotiation.start("SCRAM-SHA-1-PLUS", Some(first), "a09117a6-ac50-4f2f-93f1-93799c2bddf6");
    assert_eq!(step, Step::Keys { user: user(), hash: Hash::Sha1 });
    assert_eq!(step.element2(), None);
    let salt = BASE64_STANDARD.decode("QSXCR+Q6sek8bf92").expect("base64");
    let keys = Keys::derive(Hash::Sha1, "pencil", &salt, 4096).expect("valid");
    let challenge = negotiation.keys(&user(), keys).element2().expect("a challenge");
    let server_first = String::from_utf8(BASE64_STANDARD.decode(challenge.text()).expect("base64")).expect("text");
    assert_eq!(
        server_first,
        "r=12C4CD5C-E38E-4A98-8F6D-15C38F51CCC6a09117a6-ac50-4f2f-93f1-93799c2bddf6,s=QSXCR+Q6sek8bf92,i=4096,h=G6k/rBLDqgOhRRaCuuatSDFkJ08="
    );
}

/// XEP-0388, section 2.3: "If the stream's from attribute (if present) does not match the non-empty authorization string, the server MUST fail the
/// authentication".
#[test]
fn whoever_is_named_by_the_stream_is_who_signs_in() {
    let start = |from: Option<&str>, mechanism: &str, message: &[u8]| {
        let from = from.map(|from| Jid::new(from).expect("an address"));
        let offer = Offer { allowed: Mechanism::ALL.to_vec(), ..offer() };
        Negotiation::new(offer).with_from(from.as_ref()).start(mechanism, Some(message), "nonce")
    };
    let invalid = Step::Failure(SaslFailure::InvalidAuthzid);
    for (mechanism, with, without) in [
        ("PLAIN", &b"user@example.org\0user\0pencil"[..], &b"\0user\0pencil"[..]),
        ("SCRAM-SHA-256", b"n,a=user@example.org,n=user,r=0123456789", b"n,,n=user,r=0123456789"),
    ] {
        for from in [None, Some(USER), Some("user@example.org/x")] {
            assert!(!matches!(start(from, mechanism, with), Step::Failure(_)), "{mechanism} {from:?}");
        }
        assert_eq!(start(Some("eve@example.org"), mechanism, with), invalid, "{mechanism}");
        assert!(!matches!(start(Some("eve@example.org"), mechanism, without), Step::Failure(_)), "{mechanism}");
    }
    let eve = Jid::new("eve@example.org").expect("an address");
    let mut negotiation = Negotiation::new(Offer { allowed: Mechanism::ALL.to_vec(), ..offer() }).with_from(Some(&eve));
    negotiation.start("OAUTHBEARER", Some(b"n,a=user@example.org,\x01auth=Bearer t\x01\x01"), "nonce");
    assert_eq!(negotiation.token(Some(user())), invalid);
}

/// XEP-0388, sections 2.5 and 2.6; XEP-0386, section 3.2; XEP-0480, section 3.
#[test]
fn answers_are_those_of_the_xeps() {
    let verdict = b"v=msVHs/BzIOHDqXeVH7EmmDu9id8=";
    let text = "<additional-data>dj1tc1ZIcy9CeklPSERxWGVWSDdFbW1EdTlpZDg9</additional-data>";
    assert_eq!(
        success(Some(verdict), &user(), []).to_string(),
        format!(
            "<success xmlns='urn:xmpp:sasl:2'>{text}<authorization-identifier>user@example.org</authorization-identifier></success>"
        )
    );
    let full = user().with_resource("AwesomeXMPP~4232f4d4").expect("an address");
    assert_eq!(
        success(None, &full, [bound([])]).to_string(),
        "<success xmlns='urn:xmpp:sasl:2'><authorization-identifier>user@example.org/AwesomeXMPP~4232f4d4</authorization-identifier>\
         <bound xmlns='urn:xmpp:bind:0'/></success>"
    );
    assert_eq!(
        continued(Some(verdict), Upgrade::task(Hash::Sha256)).to_string(),
        format!("<continue xmlns='urn:xmpp:sasl:2'>{text}<tasks><task>UPGR-SCRAM-SHA-256</task></tasks></continue>")
    );
    let element = |step: Step| step.element2().map(|element| element.to_string());
    assert_eq!(
        element(Step::Failure(SaslFailure::Aborted)).as_deref(),
        Some("<failure xmlns='urn:xmpp:sasl:2'><aborted xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/></failure>")
    );
    assert_eq!(
        element(Step::Challenge(vec![1])).as_deref(),
        Some("<challenge xmlns='urn:xmpp:sasl:2'>AQ==</challenge>")
    );
    assert_eq!(element(Step::Challenge(Vec::new())).as_deref(), Some("<challenge xmlns='urn:xmpp:sasl:2'/>"));
    assert_eq!(element(Step::Success { user: user(), data: None }), None);
}

proptest! {
    #[test]
    fn no_request_panics_and_what_is_kept_is_short(id in "\\PC{0,40}", text: String, data in "[A-Za-z0-9+/= ]{0,12}", name in 0..5usize) {
        let name = ["authenticate", "response", "next", "task-data", "abort"][name];
        let agent = Element::new("user-agent", ns::SASL2).with("id", id).with_child(Element::new("software", ns::SASL2).with_text(&text));
        let element = Element::new(name, ns::SASL2).with("task", text.clone()).with_child(agent).with_child(Element::new("initial-response", ns::SASL2).with_text(data));
        match Request2::read(&element) {
            Some(Ok(Request2::Authenticate(request))) => {
                let agent = request.agent.expect("there");
                prop_assert!(agent.software.is_none_or(|software| software.chars().count() <= AGENT_CHARS && !software.contains(char::is_control)));
            }
            Some(Ok(Request2::Next(task))) => prop_assert!(task.chars().count() <= TASK_CHARS),
            Some(_) => {}
            None => prop_assert!(false, "an element of the namespace"),
        }
    }
}
