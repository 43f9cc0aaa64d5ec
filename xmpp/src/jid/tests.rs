use carillon_proto::{DomainId, GroupId, UserId};
use proptest::prelude::*;

use super::*;

/// RFC 7622, section 3.5, table 1.
#[test]
fn the_legal_addresses_of_the_rfc_are_taken() {
    for (address, local, domain, resource) in [
        ("juliet@example.com", Some("juliet"), "example.com", None),
        ("juliet@example.com/foo", Some("juliet"), "example.com", Some("foo")),
        ("juliet@example.com/foo bar", Some("juliet"), "example.com", Some("foo bar")),
        ("juliet@example.com/foo@bar", Some("juliet"), "example.com", Some("foo@bar")),
        ("foo\\20bar@example.com", Some("foo\\20bar"), "example.com", None),
        ("fussball@example.com", Some("fussball"), "example.com", None),
        ("fu\u{df}ball@example.com", Some("fu\u{df}ball"), "example.com", None),
        ("\u{3c0}@example.com", Some("\u{3c0}"), "example.com", None),
        ("\u{3a3}@example.com/foo", Some("\u{3c3}"), "example.com", Some("foo")),
        ("\u{3c3}@example.com/foo", Some("\u{3c3}"), "example.com", Some("foo")),
        ("\u{3c2}@example.com/foo", Some("\u{3c2}"), "example.com", Some("foo")),
        ("king@example.com/\u{265a}", Some("king"), "example.com", Some("\u{265a}")),
        ("example.com", None, "example.com", None),
        ("example.com/foobar", None, "example.com", Some("foobar")),
        ("a.example.com/b@example.net", None, "a.example.com", Some("b@example.net")),
    ] {
        let jid = Jid::new(address).expect(address);
        assert_eq!((jid.local(), jid.domain(), jid.resource()), (local, domain, resource), "{address}");
        assert_eq!(Jid::new(jid.as_str()).as_ref(), Ok(&jid), "its normal form");
    }
}

/// RFC 7622, section 3.5, table 2. Its example 21, a symbol, is taken: ids of users have such ones.
#[test]
fn what_is_no_address_is_refused_by_its_part() {
    let (long, longer) = ("x".repeat(1023), "x".repeat(1024));
    for (address, part) in [
        ("\"juliet\"@example.com", InvalidJid::Local),
        ("foo bar@example.com", InvalidJid::Local),
        ("juliet@example.com/ foo", InvalidJid::Resource),
        ("@example.com/", InvalidJid::Local),
        ("henry\u{2163}@example.com", InvalidJid::Local),
        ("juliet@", InvalidJid::Domain),
        ("/foobar", InvalidJid::Domain),
        ("", InvalidJid::Domain),
        ("a@b/", InvalidJid::Resource),
        ("a@b/\u{7}", InvalidJid::Resource),
        ("a@b@c", InvalidJid::Domain),
        ("a&b@c", InvalidJid::Local),
        ("a:b@c", InvalidJid::Local),
        ("a@b c", InvalidJid::Domain),
        ("a@..", InvalidJid::Domain),
        ("a@[::g]", InvalidJid::Domain),
        ("a@[127.0.0.1]", InvalidJid::Domain),
        (&format!("{longer}@b"), InvalidJid::Local),
        (&format!("a@b/{longer}"), InvalidJid::Resource),
        (&format!("a@{long}"), InvalidJid::Domain),
        (&"x".repeat(20_000), InvalidJid::TooLong),
    ] {
        assert_eq!(Jid::new(address), Err(part), "{address}");
    }
    Jid::new(&format!("{long}@example.com/{long}")).expect("the longest parts");
    assert_eq!(Jid::bare_of("a@b/c"), Err(InvalidJid::NotBare));
    assert_eq!(InvalidJid::Local.stanza_condition(), StanzaCondition::JidMalformed);
    assert_eq!(InvalidJid::Domain.condition_of_to(), StreamCondition::HostUnknown);
    assert_eq!(InvalidJid::Domain.condition_of_from(), StreamCondition::InvalidFrom);
}

/// PRECIS takes a time in the square of the length, so a part is not normalised if it is too long as it is given.
#[test]
fn a_part_is_as_short_as_its_normal_form() {
    let wide = |length: usize| "\u{ff41}".repeat(length);
    let of_local = |length| Jid::of_parts(Some(&wide(length)), "b", None).map(|jid| jid.bare().len());
    assert_eq!((of_local(341), of_local(342)), (Ok(343), Err(InvalidJid::Local)));
    let spaces = |length: usize| format!("x{}", "\u{3000}".repeat(length));
    let of_resource = |length| Jid::of_parts(None, "b", Some(&spaces(length))).map(|jid| jid.as_str().len());
    assert_eq!((of_resource(340), of_resource(341)), (Ok(343), Err(InvalidJid::Resource)));
    assert_eq!(Jid::new("b").and_then(|jid| jid.with_resource(&spaces(341))), Err(InvalidJid::Resource));
}

/// RFC 7622, section 3.2: a dot at the end "MUST be stripped". Section 3.2.1: "each A-label MUST be converted to a U-label".
#[test]
fn one_address_has_one_normal_form() {
    for (given, normal) in [
        ("Juliet@Example.COM./Balcony", "juliet@example.com/Balcony"),
        ("JÖRG@xn--bcher-kva.example", "jörg@bücher.example"),
        ("jo\u{308}rg@BÜCHER.example", "jörg@bücher.example"),
        ("ａｌｉｃｅ@b", "alice@b"),
        ("a@127.0.0.1", "a@127.0.0.1"),
        ("a@[2001:DB8::0:1]", "a@[2001:db8::1]"),
        ("a@b/x\u{a0}y\u{3000}e\u{301}", "a@b/x y \u{e9}"),
        ("a@b/\u{ff21}", "a@b/\u{ff21}"),
    ] {
        assert_eq!(Jid::new(given).map(|jid| jid.to_string()), Ok(normal.to_owned()), "{given}");
    }
    let full = Jid::new("a@b/c").expect("valid");
    assert_eq!((full.bare(), full.is_bare(), full.to_bare().is_bare()), ("a@b", false, true));
    assert_eq!(full.to_bare().with_resource("d/e").map(|jid| jid.to_string()), Ok("a@b/d/e".to_owned()));
    assert_eq!(full.with_resource(""), Err(InvalidJid::Resource));
}

#[test]
fn users_and_groups_have_addresses() {
    let hosts = Hosts::new(DomainId::new("example.org").expect("valid"));
    let address = |text: &str| hosts.addressee(&Jid::new(text).expect(text));
    let user = |id: &str| Ok(Addressee::User(UserId::new(id).expect(id)));
    let group = |id: &str| Ok(Addressee::Group(GroupId::new(id).expect(id)));
    for (text, expected) in [
        ("alice@example.org", user("alice")),
        ("Alice@EXAMPLE.org/phone", user("alice")),
        ("jörg@acme.example", user("jörg@acme.example")),
        ("\u{265a}@example.org", user("\u{265a}")),
        ("team@conference.example.org/alice", group("team")),
        ("team@conference.acme.example", group("team@acme.example")),
        ("example.org", Err(NotOurs::NoLocal)),
        ("conference.example.org/x", Err(NotOurs::NoLocal)),
        // No two users have ids that look alike: this is that of `strasse`.
        ("straße@example.org", Err(NotOurs::Name)),
        (&format!("{}@example.org", "x".repeat(129)), Err(NotOurs::Name)),
        ("a@[::1]", Err(NotOurs::Domain)),
    ] {
        assert_eq!(address(text), expected, "{text}");
    }
    assert_eq!(NotOurs::Name.stanza_condition(), StanzaCondition::ServiceUnavailable);
    assert_eq!(NotOurs::Domain.stanza_condition(), StanzaCondition::RemoteServerNotFound);
    for (id, text) in [("alice", "alice@example.org"), ("alice@acme.example", "alice@acme.example")] {
        assert_eq!(hosts.of_user(&UserId::new(id).expect(id)).as_str(), text);
    }
    for (id, text) in [("team", "team@conference.example.org"), ("team@acme.example", "team@conference.acme.example")] {
        assert_eq!(hosts.of_group(&GroupId::new(id).expect(id)).as_str(), text);
    }
    assert_eq!((device("phone").is_some(), device(&"x".repeat(65)).is_some()), (true, false));
}

proptest! {
    #[test]
    fn an_address_in_its_normal_form_stays_as_it_is(text in "\\PC{0,12}@?[a-zA-ZäÖß0-9.\\[\\]:-]{0,12}/?\\PC{0,8}", bytes: String) {
        for given in [&*text, &*bytes] {
            if let Ok(jid) = Jid::new(given) {
                prop_assert_eq!(Jid::new(jid.as_str()), Ok(jid.clone()));
                prop_assert_eq!(Jid::of_parts(jid.local(), jid.domain(), jid.resource()), Ok(jid.clone()));
                prop_assert!([jid.local().unwrap_or("x"), jid.domain(), jid.resource().unwrap_or("x")].iter().all(|part| fits(part)));
            }
        }
    }

    #[test]
    fn every_user_and_group_is_at_its_address(name in "\\PC{1,8}", domain in prop::option::of("[a-z]{1,5}\\.(example|bücher)")) {
        let hosts = Hosts::new(DomainId::new("example.org").expect("valid"));
        let text = domain.map_or(name.clone(), |domain| format!("{name}@{domain}"));
        if let Ok(user) = UserId::normalised(&text) {
            let jid = hosts.of_user(&user);
            prop_assert_eq!(Jid::new(jid.as_str()), Ok(jid.clone()));
            prop_assert_eq!(hosts.addressee(&jid), Ok(Addressee::User(user.clone())));
            let group = GroupId::new(user.as_str()).expect("the same rules");
            let jid = hosts.of_group(&group);
            prop_assert_eq!(Jid::new(jid.as_str()), Ok(jid.clone()));
            prop_assert_eq!(hosts.addressee(&jid), Ok(Addressee::Group(group)));
        }
    }
}
