#![no_main]
//! Addresses, and the users and groups of them.

use carillon_proto::{DomainId, UserId};
use carillon_xmpp::{
    Jid,
    jid::{Addressee, Hosts, MAX_PART_BYTES},
};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let hosts = Hosts::new(DomainId::new("example.org").expect("valid"));
    if let Ok(jid) = Jid::new(text) {
        assert_eq!(Jid::new(jid.as_str()).as_ref(), Ok(&jid), "{text:?}");
        assert_eq!(Jid::of_parts(jid.local(), jid.domain(), jid.resource()).as_ref(), Ok(&jid), "{text:?}");
        for part in [jid.local(), Some(jid.domain()), jid.resource()].into_iter().flatten() {
            assert!((1..=MAX_PART_BYTES).contains(&part.len()), "{text:?}");
        }
        match hosts.addressee(&jid) {
            Ok(Addressee::User(user)) => assert_eq!(hosts.of_user(&user).as_str(), jid.bare()),
            Ok(Addressee::Group(group)) => assert_eq!(hosts.of_group(&group).as_str(), jid.bare()),
            Err(_) => {}
        }
    }
    if let Ok(user) = UserId::new(text)
        && !user.domain().is_some_and(|domain| domain.starts_with("conference.") || domain == "example.org")
    {
        let jid = hosts.of_user(&user);
        assert_eq!(Jid::new(jid.as_str()).as_ref(), Ok(&jid), "{text:?}");
        assert_eq!(hosts.addressee(&jid), Ok(Addressee::User(user)));
    }
});
