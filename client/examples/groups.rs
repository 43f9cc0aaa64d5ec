//! Groups: making one, members and roles, messages with mentions, marks, and leaving.
//!
//! ```text
//! cargo run --example groups -- tcp://127.0.0.1:7410 alice "$(carillon token alice)" bob "$(carillon token bob)"
//! ```

pub(crate) mod common;

use carillon_client::{Change, Client};
use carillon_proto::{
    TimelineId,
    pb::client::{
        ChangeMembers, Content, CreateGroup, Direction, GroupSettings, Mentions, ReadMembers, Role,
        members_change::Kind,
    },
};
use common::{Result, User};

#[tokio::main]
#[allow(dead_code, reason = "the test of the examples calls the tour")]
async fn main() -> Result<()> {
    let (mut alice, mut bob) = common::two_users().await?;
    tour(&mut alice, &mut bob).await
}

pub(crate) async fn tour(alice: &mut User, bob: &mut User) -> Result<()> {
    // Without an id the service makes one up. Alice is the owner.
    let settings =
        GroupSettings { name: Some("Chess".to_owned()), earlier_history: Some(true), ..GroupSettings::default() };
    let new = CreateGroup { settings: Some(settings), members: Vec::new() };
    let group = alice.client.create_group(None, new).await?;
    let timeline = TimelineId::Group(group.clone());
    let to_group = Client::group(group.as_str());
    alice.client.send(to_group.clone(), Client::text("who plays?")).await?;

    // Bob comes to the group, and hears of it in his inbox. From then on its log is delivered to him.
    let members = |kind: Kind, role: Role| {
        let users = vec![bob.name.as_str().to_owned()];
        Change::Members(ChangeMembers { kind: kind.into(), users, role: role.into(), ..ChangeMembers::default() })
    };
    alice.client.change_group(&group, members(Kind::Added, Role::Unspecified)).await?;
    alice.client.change_group(&group, members(Kind::Role, Role::Admin)).await?;

    let mentions = Mentions { users: vec![bob.name.as_str().to_owned()], ..Mentions::default() };
    let content = Content { mentions: Some(Box::new(mentions)), ..Client::text("you too?") };
    let sent = alice.client.send(to_group.clone(), content).await?;
    let (of, position, _) = bob.receives(&sent).await?;
    assert_eq!(of, timeline);

    // He fetches messages from before he came.
    let page = bob.client.fetch(&timeline, Direction::Forward, 0, 10).await?;
    assert!(page.first < position.seq && page.complete);

    // One message mentions him, and he reads it.
    let list = bob.client.read_conversations(None).await?;
    let conversation = list.conversations.iter().find(|conversation| conversation.with == Some(to_group.clone()));
    assert_eq!(conversation.map(|conversation| conversation.mentions), Some(1));
    bob.client.move_marks(vec![(to_group.clone(), position)]).await?;

    // Members and roles, page by page.
    let read = ReadMembers { group: group.as_str().to_owned(), ..ReadMembers::default() };
    let page = alice.client.read_members(read).await?;
    assert!(page.complete && page.members.iter().any(|member| member.role() == Role::Admin));
    assert!(bob.client.read_groups(None, 100).await?.complete);

    // Only admins and owners write from now on.
    let announcements = GroupSettings { announcements: Some(true), ..GroupSettings::default() };
    bob.client.change_group(&group, Change::Set(announcements)).await?;
    let own = alice.client.read_group(&group).await?;
    assert_eq!(own.settings.and_then(|settings| settings.announcements), Some(true));

    let leave = ChangeMembers { kind: Kind::Left.into(), ..ChangeMembers::default() };
    bob.client.change_group(&group, Change::Members(leave)).await?;
    alice.client.change_group(&group, Change::Delete).await?;
    Ok(())
}
