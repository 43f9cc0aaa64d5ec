//! Contacts and presence over real routers, with a store in memory.

use carillon_proto::pb::{
    client::{Code, Show},
    link::{
        self, ChangeContact, SessionPresence, SetPresence, Signaled, change_contact::Change,
        router_reply::Result as Reply, router_request::Op, signaled::Notice,
    },
    store::{Contact, Said, SayToContact, Word},
};

use crate::support::{Cluster, Gateway, session};

/// Signs in alice and bob at the routers that own them. Returns where.
async fn sign_in(cluster: &Cluster, links: &mut [Gateway]) -> [usize; 2] {
    let at = ["alice", "bob"].map(|user| {
        let owner = cluster.ring().owner(user).expect("has an owner").address.to_string();
        (0..links.len()).find(|router| cluster.address(*router) == owner).expect("is a router")
    });
    for (user, at) in ["alice", "bob"].into_iter().zip(at) {
        let opened = session(user, "phone", &links[at], if user == "alice" { 1 } else { 2 });
        let opened = links[at].ask(Op::OpenSession(link::OpenSession { session: Some(opened) })).await;
        assert!(matches!(opened, Reply::SessionOpened(_)));
    }
    at
}

fn asks(contact: &str) -> Op {
    let say = SayToContact { word: Word::Subscribe.into(), text: "hi".into(), peer: None };
    let (user, contact) = ("alice".into(), contact.to_owned());
    Op::ChangeContact(Box::new(ChangeContact { user, incarnation: 0, contact, change: Some(Change::Say(say)) }))
}

/// The next change of a list that sessions are told: whose it is, who the contact is, and the row.
async fn news(link: &mut Gateway) -> (String, String, Contact) {
    let news = link.until(|message| {
        let at = message.signals.iter().position(|signal| matches!(signal.notice, Some(Notice::ContactNews(_))))?;
        message.signals.remove(at).notice
    });
    let Notice::ContactNews(news) = news.await else { panic!("something else") };
    (news.user.expect("set").user, news.contact, news.row.expect("a row"))
}

/// Until the router has heard of the level.
async fn changes(link: &mut Gateway, op: Op) -> Reply {
    loop {
        match link.ask(op.clone()).await {
            Reply::Refusal(refusal) if refusal.code() == Code::Unsupported => tokio::task::yield_now().await,
            reply => return reply,
        }
    }
}

#[tokio::test]
async fn a_request_reaches_the_contact_at_another_router_and_one_to_nobody_is_refused() {
    let cluster = Cluster::start(2, &["alice", "bob"]).await;
    let mut links = cluster.one_gateway_at_each().await;
    let [alices, bobs] = sign_in(&cluster, &mut links).await;
    cluster.store.has_groups();
    assert!(matches!(changes(&mut links[alices], asks("bob")).await, Reply::Done(_)));
    let row = cluster.store.contact("alice", "bob").expect("a row");
    assert!(row.asked && row.untold.is_empty(), "{row:?}");
    if alices != bobs {
        let (user, contact, row) = news(&mut links[bobs]).await;
        assert_eq!((&*user, &*contact, row.asks), ("bob", "alice", true));
    }
    let Reply::Refusal(refusal) = changes(&mut links[alices], asks("nobody")).await else { panic!("not refused") };
    assert_eq!(refusal.code(), Code::NotFound);
    assert_eq!(cluster.store.contact("alice", "nobody"), None);
    cluster.stop().await;
}

/// A router has stored what alice says, and has died before bob was told.
#[tokio::test]
async fn what_a_router_has_not_told_is_told_by_the_worker_of_the_shard() {
    let cluster = Cluster::start(2, &["alice", "bob"]).await;
    let mut links = cluster.one_gateway_at_each().await;
    let [_, bobs] = sign_in(&cluster, &mut links).await;
    cluster.store.has_groups();
    let untold = vec![Said { number: 1, word: Word::Subscribe.into(), ..Said::default() }];
    cluster.store.has_contact("alice", "bob", Contact { asked: true, listed: true, untold, ..Contact::default() });
    let (user, contact, row) = news(&mut links[bobs]).await;
    assert_eq!((&*user, &*contact, row.asks), ("bob", "alice", true));
    let is_noted = || cluster.store.contact("alice", "bob").is_some_and(|row| row.untold.is_empty());
    cluster.wait_until("it is noted", is_noted).await;
    cluster.stop().await;
}

#[tokio::test]
async fn presence_goes_from_owner_to_owner_and_is_answered_to_who_asks_later() {
    let cluster = Cluster::start(2, &["alice", "bob"]).await;
    let mut links = cluster.one_gateway_at_each().await;
    let [alices, bobs] = sign_in(&cluster, &mut links).await;
    cluster.store.has_groups();
    for (user, contact) in [("alice", "bob"), ("bob", "alice")] {
        cluster.store.has_contact(user, contact, Contact { to: true, from: true, listed: true, ..Contact::default() });
    }
    let shows = |user: &str, connection, show: Show| {
        let presence = Some(SessionPresence { show: show.into(), ..SessionPresence::default() });
        Op::SetPresence(SetPresence { user: user.into(), connection, presence, again: false })
    };
    assert!(matches!(changes(&mut links[alices], shows("alice", 1, Show::Away)).await, Reply::Done(_)));
    assert!(matches!(changes(&mut links[bobs], shows("bob", 2, Show::Online)).await, Reply::Done(_)));
    for (at, sees, show) in [(bobs, "alice", Show::Away), (alices, "bob", Show::Online)] {
        // Both may be told in one message, if one router owns both users.
        let is_seen = |signal: &Signaled| match &signal.notice {
            Some(Notice::Presences(told)) => {
                told.presences.iter().any(|presence| presence.user == sees && presence.show() == show)
            }
            _ => false,
        };
        links[at].until(|message| message.signals.iter().any(is_seen).then_some(())).await;
    }
    cluster.stop().await;
}
