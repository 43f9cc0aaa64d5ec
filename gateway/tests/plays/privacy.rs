//! Privacy settings and blocked users, over real sockets.

use carillon_proto::pb::{
    client::{
        Audience, Code, Ping, PrivacyRequest, ReadPrivacy, SetPrivacy, client_frame::Body, privacy_news,
        privacy_request::Change, server_frame,
    },
    link::{PrivacyNews, change_privacy, privacy_news::What, signaled::Notice},
    store::{self, BlockedUser},
};

use crate::{client::StreamClient, plays::world};

fn ask(request: u32, change: Change) -> Body {
    Body::Privacy(PrivacyRequest { request, change: Some(change) })
}

fn audience(audience: Audience) -> Option<i32> {
    Some(audience.into())
}

async fn hears(client: &mut StreamClient) -> String {
    match client.hears().await {
        server_frame::Body::Pong(pong) => format!("pong {}", pong.nonce),
        server_frame::Body::Done(done) => format!("done {}", done.request),
        server_frame::Body::Refused(refused) => format!("refused {:?}", refused.code()),
        server_frame::Body::Privacy(privacy) => {
            let write = privacy.settings.expect("some").write();
            format!("{} of {}: {write:?}, blocked {}", privacy.request, privacy.version, privacy.blocked.join(","))
        }
        server_frame::Body::PrivacyNews(news) => match news.what.expect("something") {
            privacy_news::What::Settings(settings) => format!("news {}: {:?}", news.version, settings.write()),
            privacy_news::What::Blocked(user) => format!("news {}: {user} is blocked", news.version),
            privacy_news::What::Unblocked(user) => format!("news {}: {user} is not blocked", news.version),
        },
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn requests_about_privacy_reach_the_router_as_they_were_asked() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    let set = SetPrivacy {
        write: audience(Audience::Contacts),
        presence: audience(Audience::Nobody),
        last_seen: audience(Audience::Nobody),
        ..SetPrivacy::default()
    };
    for (request, change) in
        [(1, Change::Set(set)), (2, Change::Block("bob".into())), (3, Change::Unblock("carol".into()))]
    {
        alice.says(ask(request, change)).await;
        assert_eq!(hears(&mut alice).await, format!("done {request}"));
    }
    let asked = world.store().lock().privacy_changes.clone();
    let kinds: Vec<_> = asked.iter().map(|asked| (&*asked.user, asked.change.clone().expect("some"))).collect();
    let stored = store::SetPrivacy {
        write: audience(Audience::Contacts),
        presence: audience(Audience::Nobody),
        last_seen: audience(Audience::Nobody),
        ..store::SetPrivacy::default()
    };
    let expected = [
        change_privacy::Change::Set(stored),
        change_privacy::Change::Block("bob".into()),
        change_privacy::Change::Unblock("carol".into()),
    ];
    assert_eq!(kinds, expected.map(|change| ("alice", change)));
    world.end().await;
}

#[tokio::test]
async fn what_is_no_valid_request_about_privacy_is_refused_here() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    for wrong in [
        ask(1, Change::Block("alice".into())),
        ask(1, Change::Block(String::new())),
        ask(1, Change::Unblock("\u{7}".into())),
        ask(1, Change::Set(SetPrivacy { groups: Some(5), ..SetPrivacy::default() })),
        ask(1, Change::Set(SetPrivacy { presence: audience(Audience::Everyone), ..SetPrivacy::default() })),
        ask(1, Change::Set(SetPrivacy { last_seen: audience(Audience::Everyone), ..SetPrivacy::default() })),
        ask(1, Change::Set(SetPrivacy { groups: audience(Audience::Requests), ..SetPrivacy::default() })),
        ask(1, Change::Set(SetPrivacy { read_marks: audience(Audience::Requests), ..SetPrivacy::default() })),
        Body::Privacy(PrivacyRequest { request: 1, change: None }),
    ] {
        alice.says(wrong.clone()).await;
        assert_eq!(hears(&mut alice).await, format!("refused {:?}", Code::Invalid), "{wrong:?}");
    }
    assert!(world.store().lock().privacy_changes.is_empty());
    world.end().await;
}

#[tokio::test]
async fn a_connection_is_told_of_changes_when_it_has_read_what_there_was() {
    let world = world(|_| {}).await;
    let settings = Some(store::PrivacySettings { write: Audience::Contacts.into(), ..Default::default() });
    let blocked = vec![BlockedUser { user: "bob".into(), incarnation: 5 }];
    world.store().lock().privacy.insert("alice".into(), store::Privacy { version: 7, settings, blocked });
    let (mut phone, mut tablet) = (world.client("alice", "phone").await, world.client("alice", "tablet").await);
    phone.says(Body::ReadPrivacy(ReadPrivacy { request: 1 })).await;
    assert_eq!(hears(&mut phone).await, "1 of 7: Contacts, blocked bob");
    let news =
        |version, what| Notice::PrivacyNews(Box::new(PrivacyNews { before: version - 1, version, what: Some(what) }));
    world.signals("alice", news(8, What::Blocked("carol".into()))).await;
    world.signals("alice", news(9, What::Unblocked("bob".into()))).await;
    world.signals("alice", news(10, What::Settings(store::PrivacySettings::default()))).await;
    for told in ["news 8: carol is blocked", "news 9: bob is not blocked", "news 10: Unspecified"] {
        assert_eq!(hears(&mut phone).await, told);
    }
    tablet.says(Body::Ping(Ping { nonce: 3 })).await;
    assert_eq!(hears(&mut tablet).await, "pong 3", "nothing before it");
    world.end().await;
}
