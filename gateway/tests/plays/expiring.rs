//! Messages that are shown for a time only, over real sockets.

use std::time::Duration;

use bytes::Bytes;
use carillon_proto::{
    now_ms,
    pb::{
        client::{
            Code, Content, Direction, Edit, Envelope, Fetch, Media, MessageRef, Page, Pin, Recipient, ReplyTo,
            Schedule, Send, Text, Timeline, client_frame::Body, content, recipient::To, server_frame, timeline::Owner,
        },
        store::header::Kind,
    },
};
use prost::Message as _;

use crate::{
    client::{JsonClient, SECRET, StreamClient},
    media,
    plays::{World, world},
};

const ID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
const YEAR_MS: u64 = 366 * 24 * 3_600_000;

fn text(body: &str) -> Content {
    Content { body: Some(content::Body::Text(Text { body: body.to_owned() })), ..Content::default() }
}

fn to_bob() -> Option<Recipient> {
    Some(Recipient { to: Some(To::User("bob".to_owned())) })
}

fn send(client_id: &str, content: Content, expires_after_ms: u64) -> Body {
    let (client_id, to) = (client_id.to_owned(), to_bob());
    Body::Send(Send { client_id, to, content: Some(content), expires_after_ms, ..Send::default() })
}

fn of_alice(expires_at_ms: u64) -> MessageRef {
    let (sender, sender_device) = ("alice".to_owned(), "phone".to_owned());
    MessageRef { id: ID.to_owned(), sender, sender_device, client_id: ID.to_owned(), seq: 0, expires_at_ms }
}

fn edit(expires_at_ms: u64, body: &str) -> Content {
    let edit = Edit { target: Some(of_alice(expires_at_ms)), content: Some(Box::new(text(body))) };
    Content { body: Some(content::Body::Edit(Box::new(edit))), ..Content::default() }
}

fn said(envelope: Option<&Envelope>) -> String {
    match envelope.and_then(|envelope| envelope.content.as_ref()).and_then(|content| content.body.as_ref()) {
        Some(content::Body::Text(text)) => text.body.clone(),
        Some(content::Body::Edit(edit)) => {
            let content = edit.content.as_deref().cloned();
            format!("edit: {}", said(Some(&Envelope { content, ..Envelope::default() })))
        }
        other => panic!("{other:?}"),
    }
}

async fn hears(client: &mut StreamClient) -> String {
    match client.hears().await {
        server_frame::Body::Deliver(deliver) => {
            let envelope = deliver.envelope.expect("an envelope");
            format!("delivered {} {:?} {}", envelope.erased, said(Some(&envelope)), envelope.expires_at_ms)
        }
        server_frame::Body::Accepted(accepted) => format!("accepted {}", accepted.client_id),
        server_frame::Body::Refused(refused) => format!("{:?}: {}", refused.code(), refused.reason),
        server_frame::Body::ScheduledChanged(changed) => format!("scheduled {}", changed.id),
        other => panic!("{other:?}"),
    }
}

async fn page(client: &mut StreamClient, fetch: Fetch) -> Page {
    let timeline = Some(Timeline { owner: Some(Owner::Inbox("bob".to_owned())) });
    let fetch = Fetch { request: 9, timeline, direction: Direction::Forward.into(), ..fetch };
    loop {
        client.says(Body::Fetch(fetch.clone())).await;
        match client.hears().await {
            server_frame::Body::Page(page) => return page,
            // A fetch too many a second.
            server_frame::Body::Refused(refused) if refused.retry => {
                tokio::time::sleep(Duration::from_millis(refused.retry_after_ms.into())).await;
            }
            other => panic!("{other:?}"),
        }
    }
}

impl World {
    /// Puts a message of alice into bob's inbox, without a push.
    fn has(&self, content: Content, expires_at_ms: u64) {
        let envelope = Envelope {
            id: ID.to_owned(),
            sender: "alice".to_owned(),
            to: to_bob(),
            time_ms: 1,
            content: Some(content),
            expires_at_ms,
            ..Envelope::default()
        };
        let envelope = Bytes::from(envelope.encode_to_vec());
        self.store().lock().inboxes.entry("bob".to_owned()).or_default().push(envelope);
    }
}

#[tokio::test]
async fn the_service_is_told_how_long_a_message_is_shown_and_wrong_times_are_refused() {
    let world = world(|config| config.edit_window_s = 0).await;
    let mut alice = world.client("alice", "phone").await;
    for (number, after_ms) in [5_000, YEAR_MS, 0].into_iter().enumerate() {
        alice.says(send(&format!("m{number}"), text("hi"), after_ms)).await;
        assert_eq!(hears(&mut alice).await, format!("accepted m{number}"));
    }
    assert_eq!(world.store().lock().expires_after_ms, [5_000, YEAR_MS, 0]);
    for after_ms in [1, 4_999, YEAR_MS + 1, u64::MAX] {
        alice.says(send("wrong", text("hi"), after_ms)).await;
        let refused = hears(&mut alice).await;
        assert!(refused.starts_with("Invalid") && refused.contains("5 seconds to 366 days"), "{refused}");
    }
    // An edit ends with its message.
    alice.says(send(ID, text("hi"), 60_000)).await;
    assert_eq!(hears(&mut alice).await, format!("accepted {ID}"));
    alice.says(send("e1", edit(0, "otherwise"), 60_000)).await;
    let refused = hears(&mut alice).await;
    assert!(refused.starts_with("Invalid") && refused.contains("an edit ends with its message"), "{refused}");
    alice.says(send("e2", edit(77, "otherwise"), 0)).await;
    assert_eq!(hears(&mut alice).await, "accepted e2");
    let headers = world.store().lock().headers.clone();
    let of_edit = headers.iter().find(|header| header.kind() == Kind::Edit).expect("it came");
    assert_eq!(of_edit.expires_at_ms, 77);
    // A quote would outlive the message.
    let reply = |expires_at_ms, quote: &str| {
        let reply_to = ReplyTo { message: Some(of_alice(expires_at_ms)), quote: quote.to_owned() };
        Content { reply_to: Some(Box::new(reply_to)), ..text("yes") }
    };
    alice.says(send("r1", reply(77, "hi"), 0)).await;
    let refused = hears(&mut alice).await;
    assert!(refused.starts_with("Invalid") && refused.contains("reply_to.quote"), "{refused}");
    for (client_id, content) in [("r2", reply(77, "")), ("r3", reply(0, "hi"))] {
        alice.says(send(client_id, content, 0)).await;
        assert_eq!(hears(&mut alice).await, format!("accepted {client_id}"));
    }
    let schedule = |request, expires_after_ms| {
        let (client_id, content) = (format!("s{request}"), Some(text("later")));
        Body::Schedule(Schedule { request, client_id, to: to_bob(), content, at_ms: now_ms(), expires_after_ms })
    };
    alice.says(schedule(1, 5_000)).await;
    assert_eq!(hears(&mut alice).await, "scheduled 1");
    assert_eq!(world.store().lock().scheduled[0].expires_after_ms, 5_000);
    alice.says(schedule(2, 4_000)).await;
    assert!(hears(&mut alice).await.starts_with("Invalid"));
    world.end().await;
}

#[tokio::test]
async fn nothing_of_an_expired_message_is_given_out_whatever_the_store_still_has() {
    let world = world(|config| config.edit_history = true).await;
    let (past, future) = (now_ms() - 1, now_ms() + 3_600_000);
    world.has(text("secret"), past);
    world.has(edit(past, "secret too"), past);
    world.has(text("open"), future);
    world.has(text("lasting"), 0);
    let mut bob = world.client("bob", "phone").await;
    let delivered = [(true, "", past), (true, "", past), (false, "open", future), (false, "lasting", 0)];
    for (erased, text, at_ms) in delivered {
        assert_eq!(hears(&mut bob).await, format!("delivered {erased} {text:?} {at_ms}"));
    }
    let entries = page(&mut bob, Fetch::default()).await.entries;
    let shown: Vec<String> = entries.iter().map(|entry| said(entry.envelope.as_ref())).collect();
    assert_eq!(shown, ["", "", "open", "lasting"]);
    assert_eq!(entries[0].state, None, "its last edit would say it");
    for edit in page(&mut bob, Fetch { edits_of: 1, ..Fetch::default() }).await.entries {
        assert_eq!(said(edit.envelope.as_ref()), "");
    }
    let mut json =
        JsonClient::connect(world.gateway.ws_address().expect("on"), Some("carillon.v1.json")).await.expect("connects");
    let claims = serde_json::json!({"sub": "bob", "exp": 4_000_000_000_u64});
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).expect("signs");
    json.says(&serde_json::json!({"signIn": {"device": "web", "token": token}}).to_string()).await;
    assert!(json.hears().await.get("signedIn").is_some());
    let first = json.hears().await;
    let envelope = &first["deliver"]["envelope"];
    assert_eq!(
        (&envelope["erased"], &envelope["content"]),
        (&true.into(), &serde_json::json!({"text": {}})),
        "{first}"
    );
    world.end().await;
}

#[tokio::test]
async fn an_expired_message_is_not_among_the_pinned_ones_whatever_the_store_still_has() {
    let world = world(|_| {}).await;
    world.has(text("secret"), now_ms() - 1);
    world.has(text("open"), now_ms() + 3_600_000);
    // All have one id here, so this one is about all of them.
    let pin = Pin { target: Some(of_alice(0)), unpin: false };
    world.has(Content { body: Some(content::Body::Pin(pin)), ..Content::default() }, 0);
    let mut bob = world.client("bob", "phone").await;
    for _ in 0..3 {
        assert!(matches!(bob.hears().await, server_frame::Body::Deliver(_)));
    }
    let pinned_in = Some(Recipient { to: Some(To::User("alice".to_owned())) });
    let entries = page(&mut bob, Fetch { pinned_in, ..Fetch::default() }).await.entries;
    assert_eq!(entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [2, 3]);
    world.end().await;
}

#[tokio::test]
async fn a_message_is_whole_until_its_time_and_gone_from_then_on() {
    let world = world(|_| {}).await;
    let expires_at_ms = now_ms() + 3_000;
    world.has(text("secret"), expires_at_ms);
    let mut bob = world.client("bob", "phone").await;
    let delivered = hears(&mut bob).await;
    // On a machine that has much to do it may be over by now.
    let whole = format!("delivered false \"secret\" {expires_at_ms}");
    assert!(delivered == whole || now_ms() >= expires_at_ms, "{delivered}");
    loop {
        let before_ms = now_ms();
        let entries = page(&mut bob, Fetch::default()).await.entries;
        let envelope = entries[0].envelope.clone().expect("an envelope");
        if envelope.erased {
            assert!(now_ms() >= expires_at_ms, "too early");
            assert_eq!((said(Some(&envelope)), envelope.expires_at_ms), (String::new(), expires_at_ms));
            break;
        }
        assert!(before_ms < expires_at_ms && said(Some(&envelope)) == "secret", "too late");
    }
    let mut tablet = world.client("bob", "tablet").await;
    assert_eq!(hears(&mut tablet).await, format!("delivered true \"\" {expires_at_ms}"));
    world.end().await;
}

#[tokio::test]
async fn the_file_of_an_expired_message_can_not_be_had_and_urls_end_with_their_message() {
    const BYTES: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR and so on";
    let play = media::play(|_| {}).await;
    let (mut alice, mut bob) = (play.world.client("alice", "a").await, play.world.client("bob", "b").await);
    let place = media::slot(&mut alice, BYTES.len()).await;
    assert_eq!(media::http(play.http, "PUT", &place.url, &[], BYTES).await.status, 201);
    let image = || {
        let media = Media { id: place.id.clone(), ..Media::default() };
        Content { body: Some(content::Body::Image(media)), ..Content::default() }
    };
    let soon = now_ms() + 60_000;
    play.world.has(image(), now_ms() - 1);
    play.world.has(image(), soon);
    play.world.has(image(), 0);
    let inbox = || Owner::Inbox("bob".to_owned());
    assert_eq!(media::url(&mut bob, &place.id, Some((inbox(), 1))).await, Err(Code::NotFound));
    let url = media::url(&mut bob, &place.id, Some((inbox(), 2))).await.expect("may read it");
    assert_eq!(url.expires_ms, soon);
    assert_eq!(media::http(play.http, "GET", &url.url, &[], b"").await.body, BYTES);
    let lasting = media::url(&mut bob, &place.id, Some((inbox(), 3))).await.expect("may read it");
    assert!(lasting.expires_ms > soon);
    play.world.end().await;
}
