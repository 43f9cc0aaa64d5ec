//! Contacts, presence, chat states, conversations with drafts and marks, message requests, blocking and reports.
//!
//! ```text
//! cargo run --example people -- tcp://127.0.0.1:7410 alice "$(carillon token alice)" bob "$(carillon token bob)"
//! ```

pub(crate) mod common;

use carillon_client::{Client, ContactChange, Event};
use carillon_proto::pb::client::{
    Audience, ChatState, ConversationSettings, MessageRequest, ReportReason, RequestAnswer, SetPrivacy, Show,
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

    // Bob wants to know strangers before they write to him as others do.
    let set = SetPrivacy { write: Some(Audience::Requests.into()), ..SetPrivacy::default() };
    bob.client.set_privacy(set).await?;
    let sent = alice.client.send(to_bob.clone(), Client::text("do you remember me?")).await?;
    let (_, position, _) = bob.receives(&sent).await?;
    let requests = bob.client.message_requests().await?;
    assert_eq!(requests.len(), 1);
    let accepted = bob.client.answer_request(&alice.name, RequestAnswer::Accept).await?;
    assert_eq!(accepted.map(|conversation| conversation.request()), Some(MessageRequest::Unspecified));

    // Contacts: Alice asks to see Bob's presence, and he lets her.
    alice.client.contacts().await?;
    bob.client.contacts().await?;
    let name = alice.name.as_str().to_owned();
    alice.client.change_contact(&bob.name, ContactChange::Subscribe("it's me".to_owned())).await?;
    bob.event(|event| matches!(event, Event::Contact(contact) if contact.user == name && contact.asks).then_some(()))
        .await?;
    bob.client.change_contact(&alice.name, ContactChange::Accept).await?;

    // Presence is shown by a connection, and told to those who may see it.
    alice.client.show(Show::Online, "", 0).await?;
    bob.client.show(Show::Away, "at lunch", 0).await?;
    let name = bob.name.as_str().to_owned();
    let status = alice.event(|event| match event {
        Event::Presence(presence) if presence.user == name && presence.show() == Show::Away => {
            Some(presence.status.clone())
        }
        _ => None,
    });
    assert_eq!(status.await?, "at lunch");

    // A client that has asked for conversations is told what others are doing there.
    alice.client.read_conversations(None).await?;
    bob.client.set_chat_state(&alice.name, ChatState::Composing).await?;
    let name = bob.name.as_str().to_owned();
    alice.event(|event| matches!(event, Event::ChatState(notice) if notice.from == name).then_some(())).await?;

    // Drafts are kept for the user's other devices, and so are marks of what was read.
    let draft = ConversationSettings { draft: Some("of course I".to_owned()), ..ConversationSettings::default() };
    bob.client.set_conversation(to_alice.clone(), draft).await?;
    let moved = bob.client.move_marks(vec![(to_alice.clone(), position)]).await?;
    let draft = moved.first().and_then(|conversation| conversation.settings.as_ref()?.draft.clone());
    assert_eq!(draft.as_deref(), Some("of course I"));

    // Alice sees that he has read it.
    let id = sent.message_id.clone();
    let mut marks = alice.client.read_marks(None, vec![bob.name.as_str().to_owned()]).await?;
    if marks.pop().is_none_or(|mark| mark.read_id != id) {
        alice
            .event(|event| match event {
                Event::Marks(told) => told.marks.iter().any(|mark| mark.read_id == id).then_some(()),
                _ => None,
            })
            .await?;
    }

    // Moderators get a copy of what is reported. Nobody else is told, nor who is blocked.
    bob.client.report(to_alice, vec![position.seq], ReportReason::Other, "an example").await?;
    bob.client.block(&alice.name).await?;
    assert_eq!(bob.client.privacy().await?.blocked, [alice.name.as_str()]);
    alice.client.send(to_bob, Client::text("this is accepted, and does not arrive")).await?;
    bob.client.unblock(&alice.name).await?;
    Ok(())
}
