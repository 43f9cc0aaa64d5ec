use super::*;
use crate::{
    Element,
    extension::{
        caps::{legacy::verification, set::input},
        form::{Field, FieldType, Form, FormType},
    },
    stream::Limits,
};

/// XEP-0390, section 4.5.1.
const SIMPLE: &[&str] = &[
    "http://jabber.org/protocol/si",
    "http://jabber.org/protocol/bytestreams",
    "http://jabber.org/protocol/chatstates",
    "http://jabber.org/protocol/disco#info",
    "http://jabber.org/protocol/disco#items",
    "urn:xmpp:ping",
    "jabber:iq:time",
    "jabber:iq:privacy",
    "jabber:iq:version",
    "http://jabber.org/protocol/rosterx",
    "urn:xmpp:time",
    "jabber:x:oob",
    "http://jabber.org/protocol/ibb",
    "http://jabber.org/protocol/si/profile/file-transfer",
    "urn:xmpp:receipts",
    "jabber:iq:roster",
    "jabber:iq:last",
];

/// XEP-0390, section 4.5.2.
const COMPLEX: &[&str] = &[
    "games:board",
    "http://jabber.org/protocol/activity",
    "http://jabber.org/protocol/activity+notify",
    "http://jabber.org/protocol/bytestreams",
    "http://jabber.org/protocol/chatstates",
    "http://jabber.org/protocol/commands",
    "http://jabber.org/protocol/disco#info",
    "http://jabber.org/protocol/disco#items",
    "http://jabber.org/protocol/evil",
    "http://jabber.org/protocol/feature-neg",
    "http://jabber.org/protocol/geoloc",
    "http://jabber.org/protocol/geoloc+notify",
    "http://jabber.org/protocol/ibb",
    "http://jabber.org/protocol/iqibb",
    "http://jabber.org/protocol/mood",
    "http://jabber.org/protocol/mood+notify",
    "http://jabber.org/protocol/rosterx",
    "http://jabber.org/protocol/si",
    "http://jabber.org/protocol/si/profile/file-transfer",
    "http://jabber.org/protocol/tune",
    "http://www.facebook.com/xmpp/messages",
    "http://www.xmpp.org/extensions/xep-0084.html#ns-metadata+notify",
    "jabber:iq:avatar",
    "jabber:iq:browse",
    "jabber:iq:dtcp",
    "jabber:iq:filexfer",
    "jabber:iq:ibb",
    "jabber:iq:inband",
    "jabber:iq:jidlink",
    "jabber:iq:last",
    "jabber:iq:oob",
    "jabber:iq:privacy",
    "jabber:iq:roster",
    "jabber:iq:time",
    "jabber:iq:version",
    "jabber:x:data",
    "jabber:x:event",
    "jabber:x:oob",
    "urn:xmpp:avatar:metadata+notify",
    "urn:xmpp:ping",
    "urn:xmpp:receipts",
    "urn:xmpp:time",
];

fn info(inside: &str) -> Info {
    let text = format!("<query xmlns='http://jabber.org/protocol/disco#info'>{inside}</query>");
    Info::read(&Element::parse(&text, &Limits::default()).expect("valid"), None).expect("an answer")
}

fn features(names: &[&str]) -> String {
    names.iter().map(|name| format!("<feature var='{name}'/>")).collect()
}

fn software(fields: &str) -> String {
    format!(
        "<x xmlns='jabber:x:data' type='result'><field var='FORM_TYPE' type='hidden'>\
         <value>urn:xmpp:dataforms:softwareinfo</value></field>{fields}</x>"
    )
}

fn field(var: &str, values: &[&str]) -> String {
    let values: String = values.iter().map(|value| format!("<value>{value}</value>")).collect();
    format!("<field var='{var}'>{values}</field>")
}

const CAPS: &[&str] = &[
    "http://jabber.org/protocol/muc",
    "http://jabber.org/protocol/disco#info",
    "http://jabber.org/protocol/disco#items",
    "http://jabber.org/protocol/caps",
];

/// XEP-0115, section 5.3.
fn psi() -> String {
    let form = [
        field("os", &["Mac"]),
        field("os_version", &["10.5.1"]),
        field("ip_version", &["ipv6", "ipv4"]),
        field("software_version", &["0.11"]),
        field("software", &["Psi"]),
    ];
    "<identity xml:lang='en' category='client' name='Psi 0.11' type='pc'/>\
     <identity xml:lang='el' category='client' name='Ψ 0.11' type='pc'/>"
        .to_owned()
        + &features(CAPS)
        + &software(&form.concat())
}

/// XEP-0115, sections 5.2 and 5.3.
#[test]
fn the_strings_of_0115_are_those_of_its_examples() {
    let exodus = info(&("<identity category='client' name='Exodus 0.9.1' type='pc'/>".to_owned() + &features(CAPS)));
    let s = "client/pc//Exodus 0.9.1<http://jabber.org/protocol/caps<http://jabber.org/protocol/disco#info<\
             http://jabber.org/protocol/disco#items<http://jabber.org/protocol/muc<";
    assert_eq!(verification(&exodus).as_deref(), Ok(s));
    let caps = Legacy::of(&exodus, "http://code.google.com/p/exodus", Algorithm::Sha1).expect("well-formed");
    assert_eq!(caps.ver, "QgayPKawpkPSDYmwT/WM94uAlu0=");
    assert_eq!(caps.query_node(), "http://code.google.com/p/exodus#QgayPKawpkPSDYmwT/WM94uAlu0=");
    let text = "<c xmlns='http://jabber.org/protocol/caps' hash='sha-1' node='http://code.google.com/p/exodus' \
                ver='QgayPKawpkPSDYmwT/WM94uAlu0='/>";
    assert_eq!(caps.element().to_string(), text);
    assert_eq!(Legacy::read(&caps.element()).as_ref(), Some(&caps));
    assert_eq!(caps.verify(&exodus), Ok(()));
    let psi = info(&psi());
    assert_eq!(
        Legacy::of(&psi, "n", Algorithm::Sha1).map(|caps| caps.ver).as_deref(),
        Ok("q07IKJEyjvHSyhy//CH0CxmKi8w=")
    );
    assert_eq!(caps.verify(&psi), Err(Mismatch::Hash));
    assert_eq!(Legacy { hash: "md5".to_owned(), ..caps }.verify(&exodus), Err(Mismatch::Algorithm));
    assert_eq!(
        Legacy::read(&Element::new("c", "http://jabber.org/protocol/caps").with("node", "x").with("ver", "0.9")),
        None
    );
    assert_eq!(Legacy::read(&Element::new("c", "urn:xmpp:caps")), None);
}

/// XEP-0115, section 5.4: "consider the entire response to be ill-formed"; "ignore the form but continue processing".
#[test]
fn an_ill_formed_answer_stands_behind_no_hash() {
    let identity = "<identity category='client' type='pc' name='x'/>";
    for inside in [
        identity.repeat(2),
        features(&["a", "b", "a"]),
        software("").repeat(2),
        "<x xmlns='jabber:x:data' type='result'><field var='FORM_TYPE' type='hidden'><value>a</value><value>b</value></field></x>"
            .to_owned(),
        // The string would be that of another answer.
        features(&["a&lt;b"]),
        "<identity category='client' type='pc' name='x&lt;urn:y'/>".to_owned(),
        software(&field("os", &["a&lt;b"])),
    ] {
        assert_eq!(verification(&info(&inside)), Err(Mismatch::IllFormed), "{inside}");
    }
    let plain = verification(&info(&features(&["a"]))).expect("well-formed");
    for ignored in [
        "<x xmlns='jabber:x:data' type='result'><field var='FORM_TYPE'><value>a</value></field></x>",
        "<x xmlns='jabber:x:data' type='result'><field var='a'><value>a</value></field></x>",
        "<other xmlns='urn:x'/>",
    ] {
        assert_eq!(verification(&info(&(features(&["a"]) + ignored))).as_ref(), Ok(&plain), "{ignored}");
    }
}

/// XEP-0390, section 4.5.
#[test]
fn the_hashes_of_0390_are_those_of_its_examples() {
    let simple = info(&("<identity category='client' name='BombusMod' type='mobile'/>".to_owned() + &features(SIMPLE)));
    let set = HashSet::of(&simple, &[Algorithm::Sha256]).expect("well-formed");
    assert_eq!(
        set.element().to_string(),
        "<c xmlns='urn:xmpp:caps'><hash xmlns='urn:xmpp:hashes:2' algo='sha-256'>kzBZbkqJ3ADrj7v08reD1qcWUwNGHaidNUgD7nHpiw8=</hash></c>"
    );
    let form = [
        field("software", &["Tkabber"]),
        field("software_version", &["0.11.1-svn-20111216-mod (Tcl/Tk 8.6b2)"]),
        field("os", &["Windows"]),
        field("os_version", &["XP"]),
    ];
    let inside = "<identity category='client' name='Tkabber' type='pc' xml:lang='en'/>\
                  <identity category='client' name='Ткаббер' type='pc' xml:lang='ru'/>"
        .to_owned()
        + &features(COMPLEX)
        + &software(&form.concat());
    let complex = info(&inside);
    let begin = b"games:board\x1fhttp://jabber.org/protocol/activity\x1f";
    assert_eq!(&input(&complex).expect("well-formed")[..begin.len()], begin);
    // As it comes, with a function that is not known.
    let text = "<c xmlns='urn:xmpp:caps'><hash xmlns='urn:xmpp:hashes:2' algo='sha-256'>u79ZroNJbdSWhdSp311mddz44oHHPsEBntQ5b1jqBSY=</hash>\
                <hash xmlns='urn:xmpp:hashes:2' algo='sha3-256'>XpUJzLAc93258sMECZ3FJpebkzuyNXDzRNwQog8eycg=</hash></c>";
    let set = HashSet::read(&Element::parse(text, &Limits::default()).expect("valid")).expect("a set");
    assert_eq!(set.query_node().as_deref(), Some("urn:xmpp:caps#sha-256.u79ZroNJbdSWhdSp311mddz44oHHPsEBntQ5b1jqBSY="));
    assert_eq!((set.verify(&complex), set.verify(&simple)), (Ok(()), Err(Mismatch::Hash)));
    assert_eq!(HashSet::read(&set.element()), Some(set));
}

/// XEP-0390, section 4.1: "abort with an error". Section 4.2: functions "which MUST NOT be supported".
#[test]
fn only_strong_hashes_of_well_formed_answers_count() {
    for other in [
        "<other xmlns='urn:x'/>",
        "<x xmlns='jabber:x:data' type='result'><field var='a'><value>a</value></field></x>",
        "<x xmlns='jabber:x:data' type='result'><item><field var='a'/></item></x>",
    ] {
        assert_eq!(input(&info(other)), Err(Mismatch::IllFormed), "{other}");
    }
    let answer = info(&features(&["a"]));
    let all = HashSet::of(&answer, Algorithm::ALL).expect("well-formed");
    assert_eq!(all.verify(&answer), Ok(()));
    assert!(all.query_node().is_some_and(|node| node.starts_with("urn:xmpp:caps#sha-512.")));
    let weak = HashSet::of(&answer, &[Algorithm::Sha1]).expect("well-formed");
    assert_eq!((weak.query_node(), weak.verify(&answer)), (None, Err(Mismatch::Algorithm)));
    assert_eq!(HashSet::read(&Element::new("c", "http://jabber.org/protocol/caps")), None);
    // Two answers that have one string in XEP-0115 have two here.
    let one = Info { features: vec!["a".to_owned(), "b".to_owned()], ..Info::default() };
    let form = Form::of(FormType::Result, "a").with_field(Field::new(FieldType::TextSingle, "b"));
    let other = Info { forms: vec![form], ..Info::default() };
    assert_eq!(verification(&one), verification(&other));
    assert_ne!(input(&one), input(&other));
}
