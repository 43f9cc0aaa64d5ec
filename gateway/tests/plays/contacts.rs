//! Contacts and presence over real sockets.

use carillon_proto::pb::{
    client::{
        Code, ContactRequest, ContactSettings, Ping, Presence, ReadContacts, RemoveContact, SayToContact, SetPresence,
        Show, client_frame::Body, contact_request::Change, say_to_contact::Word, server_frame,
    },
    link::{ContactNews, FromRouter, Presences, SessionPresence, Signaled, change_contact, signaled::Notice},
    store::{Contact, contacts_read},
};

use crate::{
    client::StreamClient,
    plays::{World, eventually, world},
};

fn ask(request: u32, contact: &str, change: Change) -> Body {
    Body::Contact(ContactRequest { request, contact: contact.to_owned(), change: Some(change) })
}

fn say(word: Word, text: &str) -> Change {
    Change::Say(SayToContact { word: word.into(), text: text.to_owned() })
}

fn show(request: u32, show: Show) -> Body {
    Body::SetPresence(SetPresence { request, show: show.into(), ..SetPresence::default() })
}

async fn hears(client: &mut StreamClient) -> String {
    match client.hears().await {
        server_frame::Body::Pong(pong) => format!("pong {}", pong.nonce),
        server_frame::Body::Done(done) => format!("done {}", done.request),
        server_frame::Body::Refused(refused) => format!("refused {:?}", refused.code()),
        server_frame::Body::Contacts(contacts) => {
            let users: Vec<_> = contacts.contacts.into_iter().map(|contact| contact.user).collect();
            format!("contacts {} of {} {}", users.join(","), contacts.version, contacts.unchanged)
        }
        server_frame::Body::ContactNews(news) => {
            format!("news {} {}", news.version, news.contact.map_or_else(String::new, |contact| contact.user))
        }
        server_frame::Body::Presences(told) => {
            let told: Vec<_> = told.presences.iter().map(line).collect();
            told.join(",")
        }
        other => panic!("{other:?}"),
    }
}

fn line(told: &Presence) -> String {
    match told.last_seen_ms {
        0 => format!("{} {:?}", told.user, told.show()),
        seen => format!("{} last seen {seen}", told.user),
    }
}

impl World {
    /// The router tells this to all sessions of the user.
    pub(crate) async fn signals(&self, user: &str, what: Notice) {
        let store = self.store();
        let sessions =
            store.lock().sessions.values().filter(|session| session.user == user).cloned().collect::<Vec<_>>();
        let connections = sessions.iter().map(|session| session.connection).collect();
        let signals = vec![Signaled { connections, notice: Some(what), ..Signaled::default() }];
        self.router.says(FromRouter { signals, ..FromRouter::default() }).await;
    }
}

fn presences(user: &str, show: Show) -> Notice {
    let presence = Presence { user: user.to_owned(), show: show.into(), ..Presence::default() };
    Notice::Presences(Presences { presences: vec![presence], ..Presences::default() })
}

fn news(contact: &str, version: u64) -> Notice {
    let row = Some(Contact { listed: true, ..Contact::default() });
    Notice::ContactNews(Box::new(ContactNews { contact: contact.to_owned(), row, version, ..ContactNews::default() }))
}

#[tokio::test]
async fn requests_about_contacts_reach_the_router_as_they_were_asked() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    let set = ContactSettings { name: "Bob".to_owned(), labels: vec!["friends".to_owned()] };
    for (request, change) in [
        (1, Change::Set(set.clone())),
        (2, say(Word::Subscribe, "it's me")),
        (3, say(Word::Unsubscribed, "")),
        (4, Change::Remove(RemoveContact {})),
    ] {
        alice.says(ask(request, "bob", change)).await;
        assert_eq!(hears(&mut alice).await, format!("done {request}"));
    }
    let asked = world.store().lock().contact_changes.clone();
    let kinds: Vec<_> = asked.iter().map(|asked| (&*asked.user, &*asked.contact, asked.change.clone())).collect();
    assert!(kinds.iter().all(|(user, contact, _)| (*user, *contact) == ("alice", "bob")), "{kinds:?}");
    let Some(change_contact::Change::Set(stored)) = &kinds[0].2 else { panic!("{kinds:?}") };
    assert_eq!((&stored.name, &stored.labels), (&set.name, &set.labels));
    let Some(change_contact::Change::Say(stored)) = &kinds[1].2 else { panic!("{kinds:?}") };
    assert_eq!(stored.text, "it's me");
    world.end().await;
}

#[tokio::test]
async fn what_is_no_valid_request_about_contacts_is_refused_here() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    let label = |label: &str| ContactSettings { labels: vec![label.to_owned()], ..ContactSettings::default() };
    let twice = ContactSettings { labels: vec!["a".to_owned(), "a".to_owned()], ..ContactSettings::default() };
    let status = SetPresence { show: Show::Away.into(), status: "x".repeat(1025), ..SetPresence::default() };
    let loud = SetPresence { show: Show::Away.into(), priority: 128, ..SetPresence::default() };
    for wrong in [
        ask(1, "alice", say(Word::Subscribe, "")),
        ask(1, "", say(Word::Subscribe, "")),
        ask(1, "bob", say(Word::Unspecified, "")),
        ask(1, "bob", say(Word::Subscribed, "text")),
        ask(1, "bob", say(Word::Subscribe, &"x".repeat(1025))),
        ask(1, "bob", Change::Set(label(""))),
        ask(1, "bob", Change::Set(label(&"x".repeat(129)))),
        ask(1, "bob", Change::Set(twice)),
        Body::Contact(ContactRequest { request: 1, contact: "bob".to_owned(), change: None }),
        Body::SetPresence(status),
        Body::SetPresence(loud),
        Body::SetPresence(SetPresence { show: 99, ..SetPresence::default() }),
    ] {
        alice.says(wrong.clone()).await;
        assert_eq!(hears(&mut alice).await, format!("refused {:?}", Code::Invalid), "{wrong:?}");
    }
    assert!(world.store().lock().contact_changes.is_empty());
    world.end().await;
}

#[tokio::test]
async fn a_connection_is_told_of_the_list_when_it_has_read_it_and_of_others_when_it_shows_something() {
    let world = world(|_| {}).await;
    let row = contacts_read::Row { contact: "bob".to_owned(), row: Some(Contact::default()) };
    world.store().lock().contacts.insert("alice".to_owned(), (7, vec![row]));
    let (mut phone, mut tablet) = (world.client("alice", "phone").await, world.client("alice", "tablet").await);
    phone.says(Body::ReadContacts(ReadContacts { request: 1, ..ReadContacts::default() })).await;
    assert_eq!(hears(&mut phone).await, "contacts bob of 7 false");
    phone.says(Body::ReadContacts(ReadContacts { request: 2, version: 7, ..ReadContacts::default() })).await;
    assert_eq!(hears(&mut phone).await, "contacts  of 7 true");
    tablet.says(show(1, Show::Online)).await;
    assert_eq!(hears(&mut tablet).await, "done 1");
    world.signals("alice", news("carol", 8)).await;
    world.signals("alice", presences("bob", Show::Away)).await;
    assert_eq!(hears(&mut phone).await, "news 8 carol");
    assert_eq!(hears(&mut tablet).await, "bob Away");
    tablet.says(show(2, Show::Unspecified)).await;
    assert_eq!(hears(&mut tablet).await, "done 2");
    world.signals("alice", presences("bob", Show::Online)).await;
    world.signals("alice", news("carol", 9)).await;
    assert_eq!(hears(&mut phone).await, "news 9 carol");
    tablet.says(Body::Ping(Ping { nonce: 3 })).await;
    assert_eq!(hears(&mut tablet).await, "pong 3", "nothing before it");
    world.end().await;
}

#[tokio::test]
async fn what_a_connection_shows_goes_along_when_it_is_announced_to_another_router() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    alice.says(show(1, Show::DoNotDisturb)).await;
    assert_eq!(hears(&mut alice).await, "done 1");
    let world = world.with_another_router().await;
    let store = world.store();
    eventually("its presence is announced", || {
        store.lock().announced_presences.iter().any(|presence| presence.show() == Show::DoNotDisturb)
    })
    .await;
    world.end().await;
}

#[tokio::test]
async fn a_connection_that_shows_nothing_may_hear_what_others_show_and_when_they_were_last_there() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    let hears_only = |request| SetPresence { request, hears: true, status: "secret".into(), ..SetPresence::default() };
    alice.says(Body::SetPresence(hears_only(1))).await;
    assert_eq!(hears(&mut alice).await, "done 1");
    let shown = world.store().lock().presences.clone();
    let expected = SessionPresence { hears: true, number: 1, ..SessionPresence::default() };
    assert_eq!(shown, [("alice".to_owned(), Some(expected.clone()))]);
    let gone = Presence { user: "bob".into(), last_seen_ms: 120_000, ..Presence::default() };
    world.signals("alice", Notice::Presences(Presences { presences: vec![gone], ..Presences::default() })).await;
    assert_eq!(hears(&mut alice).await, "bob last seen 120000");
    // Another router hears of it as the first one did.
    let world = world.with_another_router().await;
    let store = world.store();
    eventually("it is announced", || store.lock().announced_presences.contains(&expected)).await;
    alice.says(show(2, Show::Unspecified)).await;
    assert_eq!(hears(&mut alice).await, "done 2");
    world.signals("alice", presences("bob", Show::Online)).await;
    alice.says(Body::Ping(Ping { nonce: 3 })).await;
    assert_eq!(hears(&mut alice).await, "pong 3", "nothing before it");
    world.end().await;
}

#[tokio::test]
async fn presences_are_gathered_and_what_is_written_anyway_and_an_answer_bring_them_along() {
    let world = world(|config| config.presence_interval_ms = 60_000).await;
    let mut alice = world.client("alice", "phone").await;
    alice.says(Body::ReadContacts(ReadContacts { request: 1, ..ReadContacts::default() })).await;
    assert_eq!(hears(&mut alice).await, "contacts  of 0 true");
    alice.says(show(2, Show::Online)).await;
    assert_eq!(hears(&mut alice).await, "done 2");
    world.signals("alice", presences("bob", Show::Online)).await;
    assert_eq!(hears(&mut alice).await, "bob Online", "soon, after a quiet time");
    for shown in [Show::Away, Show::Online, Show::ExtendedAway] {
        world.signals("alice", presences("bob", shown)).await;
        world.signals("alice", presences("carol", shown)).await;
    }
    alice.says(Body::Ping(Ping { nonce: 3 })).await;
    assert_eq!(hears(&mut alice).await, "pong 3", "nothing before it");
    world.signals("alice", presences("bob", Show::DoNotDisturb)).await;
    world.signals("alice", news("dave", 8)).await;
    assert_eq!(hears(&mut alice).await, "bob DoNotDisturb,carol ExtendedAway", "the latest of each");
    assert_eq!(hears(&mut alice).await, "news 8 dave");
    world.signals("alice", presences("bob", Show::Away)).await;
    let told = Presence { user: "dave".to_owned(), show: Show::Online.into(), ..Presence::default() };
    let answer = Presences { presences: vec![told], asked: true, ..Presences::default() };
    world.signals("alice", Notice::Presences(answer)).await;
    assert_eq!(hears(&mut alice).await, "bob Away,dave Online");
    world.end().await;
}

/// Longer than what one frame holds.
#[tokio::test]
async fn many_presences_come_in_several_frames() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    alice.says(show(1, Show::Online)).await;
    assert_eq!(hears(&mut alice).await, "done 1");
    let status = "x".repeat(1000);
    let told = (0..40).map(|n| Presence { user: format!("user{n}"), status: status.clone(), ..Presence::default() });
    let answer = Presences { presences: told.collect(), asked: true, ..Presences::default() };
    world.signals("alice", Notice::Presences(answer)).await;
    let (mut heard, mut frames) = (Vec::new(), 0);
    while heard.len() < 40 {
        let server_frame::Body::Presences(told) = alice.hears().await else { panic!("something else") };
        let bytes: usize = told.presences.iter().map(|told| told.status.len()).sum();
        assert!(bytes <= 16 * 1024, "{bytes}");
        heard.extend(told.presences.into_iter().map(|told| told.user));
        frames += 1;
    }
    assert_eq!((heard, frames), ((0..40).map(|n| format!("user{n}")).collect(), 3));
    world.end().await;
}
