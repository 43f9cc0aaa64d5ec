//! Messages and what is said about them: replies, forwarding, mentions, edits, reactions, pins, polls, recalls, messages that expire,
//! history, and messages for later.
//!
//! ```text
//! cargo run --example messages -- tcp://127.0.0.1:7410 alice "$(carillon token alice)" bob "$(carillon token bob)"
//! ```

pub(crate) mod common;

use std::time::Duration;

use carillon_client::{Client, ScheduledChange, Target};
use carillon_proto::{
    now_ms,
    pb::client::{Content, Direction, Envelope, ForwardedFrom, Poll, content::Body, scheduled_message::State},
};
use common::{Result, User};

#[tokio::main]
#[allow(dead_code, reason = "the test of the examples calls the tour")]
async fn main() -> Result<()> {
    let (mut alice, mut bob) = common::two_users().await?;
    tour(&mut alice, &mut bob).await
}

pub(crate) async fn tour(alice: &mut User, bob: &mut User) -> Result<()> {
    let (to_alice, to_bob) = (Client::user(alice.name.as_str()), Client::user(bob.name.as_str()));

    // A message is accepted when it is on disk, and is delivered to each device of both users.
    let sent = alice.client.send(to_bob.clone(), Client::text("lunch at one?")).await?;
    let (inbox, position, envelope) = bob.receives(&sent).await?;
    let question = Target::of(&inbox, position.seq, &envelope).ok_or("it is a message")?;

    // Bob answers it, and reacts to it. What he quotes is his word alone.
    let answer = question.answered_by(Client::text("yes"), "lunch at one?");
    let sent = bob.client.send(to_alice.clone(), answer).await?;
    let (_, _, answer) = alice.receives(&sent).await?;
    let replies_to = answer.content.as_ref().and_then(|content| content.reply_to.as_ref());
    assert!(replies_to.is_some_and(|reply| reply.message == Some(question.message.clone())));
    let sent = bob.client.react(&question, &["👍"]).await?;
    alice.receives(&sent).await?;

    // Alice says it otherwise. She names her message as it stands in her own inbox.
    let (own_inbox, own) = (alice.inbox(), last_text(alice, "lunch at one?").await?);
    let mine = Target::of(&own_inbox, own.0, &own.1).ok_or("it is a message")?;
    let sent = alice.client.edit(&mine, Client::text("lunch at two?")).await?;
    let (_, _, edit) = bob.receives(&sent).await?;
    assert!(matches!(edit.content.and_then(|content| content.body), Some(Body::Edit(_))));

    // Both may pin. What is pinned is read from the service.
    let sent = bob.client.pin(&question).await?;
    alice.receives(&sent).await?;
    let pinned = bob.client.pinned(&bob.inbox(), to_alice.clone(), 0).await?;
    assert_eq!(pinned.entries.len(), 1);

    // Bob forwards the question to himself: what he keeps there are his saved messages.
    let from = ForwardedFrom { sender: envelope.sender.clone(), id: envelope.id.clone(), time_ms: envelope.time_ms };
    let saved = Content { forwarded_from: Some(Box::new(from)), ..Client::text("lunch at one?") };
    bob.client.send(Client::user(bob.name.as_str()), saved).await?;

    // A poll is a message, and a vote is one about it.
    let options = vec!["pasta".to_owned(), "salad".to_owned()];
    let poll = Poll { question: "what?".to_owned(), options, ..Poll::default() };
    let sent = alice.client.send(to_bob.clone(), Client::poll(poll)).await?;
    let (inbox, position, envelope) = bob.receives(&sent).await?;
    let poll = Target::of(&inbox, position.seq, &envelope).ok_or("it is a message")?;
    let sent = bob.client.vote(&poll, &[1]).await?;
    alice.receives(&sent).await?;

    // Pages of history bring what has become of each message.
    let page = alice.client.fetch(&alice.inbox(), Direction::Backward, 0, 50).await?;
    let states = page.entries.iter().filter_map(|entry| entry.state.as_ref());
    let told: Vec<_> = states.map(|state| (state.edits, state.reactions.len(), state.poll.is_some())).collect();
    assert!(told.contains(&(1, 1, false)) && told.contains(&(0, 0, true)), "{told:?}");

    // Taken back, also from the service.
    let sent = alice.client.recall(&mine, true).await?;
    bob.receives(&sent).await?;

    // Shown for a minute: `expires_at_ms` says until when.
    let sent = alice.client.send_expiring(to_bob.clone(), Client::text("4711"), Duration::from_secs(60)).await?;
    let (_, _, envelope) = bob.receives(&sent).await?;
    assert_eq!(envelope.expires_at_ms, sent.time_ms + 60_000);

    // For later, and changed before it is sent.
    let tomorrow = now_ms() + 24 * 3_600_000;
    let id = alice.client.schedule(to_bob, Client::text("happy birthday"), tomorrow).await?;
    let change = ScheduledChange::Set { content: Some(Client::text("happy birthday, Bob")), at_ms: None };
    alice.client.change_scheduled(id, change).await?;
    let list = alice.client.scheduled().await?;
    assert!(list.messages.iter().any(|message| message.id == id && message.state() == State::Waiting));
    alice.client.change_scheduled(id, ScheduledChange::Cancel).await?;
    Ok(())
}

/// Position and envelope of the last message in the own inbox that says this.
async fn last_text(user: &User, text: &str) -> Result<(u64, Envelope)> {
    let page = user.client.fetch(&user.inbox(), Direction::Backward, 0, 50).await?;
    let said = Client::text(text);
    let found = page.entries.into_iter().find_map(|entry| {
        let envelope = entry.envelope?;
        let body = envelope.content.as_ref().and_then(|content| content.body.as_ref());
        (body == said.body.as_ref()).then_some((entry.seq, envelope))
    });
    found.ok_or_else(|| "no such message".into())
}
