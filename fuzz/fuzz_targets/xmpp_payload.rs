#![no_main]
//! An element as the payloads that a server reads, and two texts as the pieces of a message. The number is the place of its body.

use carillon_xmpp::{
    Element, Framing,
    extension::{
        caps::{Algorithm, HashSet, Legacy},
        date_time, delay,
        disco::Info,
        form::{Field, FieldType, Form, FormType},
        page::{Page, PageRequest},
    },
    sasl::Request2,
    stream::{Declaration, Head, Limits, Pieces, StanzaKind},
};

libfuzzer_sys::fuzz_target!(|given: (&str, &str, usize)| {
    let (text, other, body_at) = given;
    if let Some(ms) = date_time::parse(text) {
        assert_eq!(date_time::parse(&date_time::format(ms)), Some(ms));
    }
    if let Ok(element) = Element::parse(text, &Limits::default()) {
        read(&element);
    }
    let Ok(pieces) = Pieces::checked(text, other, Some("a & b"), body_at, &Limits::default()) else { return };
    let head = Head { kind: StanzaKind::Message, from: "a@b", id: Some("1"), stanza_type: None, lang: None };
    let default = [Declaration { prefix: String::new(), uri: "jabber:client".into() }];
    let limits = Limits { attributes: 200, elements: 20_000, bytes: 300_000, ..Limits::default() };
    for (framing, around) in [(Framing::Tcp, &default[..]), (Framing::WebSocket, &[])] {
        let routed = pieces.route(&head, &[Element::new("n", "urn:n")], framing).text(Some("c@d"));
        let seen = Element::parse_in(&routed, around, &limits).expect("one well-formed message");
        assert!(seen.is("message", "jabber:client") && seen.attribute("from") == Some("a@b"));
        assert!(seen.children().any(|child| child.is("body", "jabber:client") && child.text() == "a & b"));
        assert!(seen.children().last().is_some_and(|child| child.is("n", "urn:n")));
    }
});

fn read(element: &Element) {
    let _ = (Request2::read(element), delay::stamp(element));
    if let Some(Ok(request)) = PageRequest::read(element) {
        assert_eq!(PageRequest::read(&request.element()), Some(Ok(request)));
    }
    if let Some(Ok(page)) = Page::read(element) {
        let _ = Page::read(&page.element());
    }
    if let Some(Ok(form)) = Form::read(element) {
        assert_eq!(Form::read(&form.element()), Some(Ok(form.clone())));
        let offered = Form::of(FormType::Form, "urn:x")
            .with_field(Field::new(FieldType::JidMulti, "a"))
            .with_field(Field::new(FieldType::ListMulti, "b").with_choice("c", "d"));
        let _ = offered.submission(&form);
    }
    if let Ok(info) = Info::read(element, Some("en")) {
        for algorithm in Algorithm::ALL {
            if let Ok(caps) = Legacy::of(&info, "n", *algorithm) {
                assert_eq!(caps.verify(&info), Ok(()));
            }
        }
        if let Ok(set) = HashSet::of(&info, &[Algorithm::Sha256]) {
            assert_eq!(set.verify(&info), Ok(()));
        }
    }
}
