//! The pieces in which bytes come make no difference.

use proptest::prelude::*;

use super::*;

/// A right or wrong element of a client.
fn part() -> impl Strategy<Value = String> {
    let scram = Scram { gs2: "n,,", binding: vec![], user: "juliet" };
    let fixed = [
        HEADER.to_owned(),
        "</stream:stream>".to_owned(),
        plain("pencil"),
        plain("wrong"),
        plain_as("stra\u{df}e", "pencil"),
        scram.begins("SCRAM-SHA-256"),
        format!("<response {SASL}>AAAA</response>"),
        format!("<abort {SASL}/>"),
        "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>".to_owned(),
        "<iq id='b' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>".to_owned(),
        "<iq id='1' type='get'><ping xmlns='urn:xmpp:ping'/></iq>".to_owned(),
        "<iq id='1' type='get' to='a@b'><query xmlns='jabber:iq:roster'/></iq>".to_owned(),
        "<message to='romeo@im.example.com'><body>&amp;</body></message>".to_owned(),
        "<presence/>".to_owned(),
        " \n".to_owned(),
        "<x xmlns='urn:x'/>".to_owned(),
        "<a>".to_owned(),
    ];
    prop_oneof![20 => prop::sample::select(fixed.to_vec()), 1 => "[<>/ a-c='\"&;!?]{0,12}"]
}

/// The beginning of a stream, up to the resource or not as far.
fn beginning() -> impl Strategy<Value = String> {
    let bind = "<iq id='b' type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>";
    let whole = [HEADER, &plain("pencil"), HEADER, bind].concat();
    prop_oneof![1 => Just(String::new()), 1 => Just(HEADER.to_owned()), 2 => Just(whole)]
}

fn tls() -> impl Strategy<Value = XmppTls> {
    prop::sample::select(vec![XmppTls::Required, XmppTls::Optional, XmppTls::Outside])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_pieces_in_which_bytes_come_make_no_difference(
        tls in tls(),
        beginning in beginning(),
        parts in prop::collection::vec(part(), 0..10),
        cuts in prop::collection::vec(1..200usize, 0..40),
    ) {
        let text = beginning + &parts.concat();
        // Bytes behind `<starttls/>` belong to TLS if they come later, and are refused if they are there.
        prop_assume!(!text.contains("<starttls"));
        let mut whole = Play::new(tls);
        let told = whole.says(&text);
        let mut pieces = Play::new(tls);
        let (mut rest, mut told_in_pieces) = (text.as_bytes(), String::new());
        for cut in cuts.into_iter().chain([usize::MAX]) {
            let (piece, behind) = rest.split_at(cut.min(rest.len()));
            rest = behind;
            pieces.bytes(piece);
            told_in_pieces.push_str(&pieces.told());
        }
        prop_assert_eq!(told, told_in_pieces);
        prop_assert_eq!(whole.heard(), pieces.heard());
    }
}
