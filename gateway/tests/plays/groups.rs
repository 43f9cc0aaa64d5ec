//! Groups over real sockets.

use carillon_proto::pb::client::{
    ChangeMembers, Code, CreateGroup, DeleteGroup, GroupRequest, Recipient, Send, client_frame::Body,
    group_change::What, group_request::Change, members_change::Kind, recipient::To, server_frame, timeline::Owner,
};

use crate::{
    client::{StreamClient, send},
    plays::{World, eventually, world},
};

fn ask(client_id: &str, group: &str, change: Change) -> Body {
    Body::Group(GroupRequest { client_id: client_id.to_owned(), group: group.to_owned(), change: Some(change) })
}

fn members(kind: Kind, users: &[&str]) -> Change {
    let users = users.iter().map(|user| (*user).to_owned()).collect();
    Change::Members(ChangeMembers { kind: kind.into(), users, ..ChangeMembers::default() })
}

fn create(members: &[&str]) -> Change {
    let members = members.iter().map(|user| (*user).to_owned()).collect();
    Change::Create(CreateGroup { settings: None, members })
}

fn write(client_id: &str, group: &str) -> Body {
    let Body::Send(message) = send(client_id, "") else { unreachable!("a send") };
    Body::Send(Send { to: Some(Recipient { to: Some(To::Group(group.to_owned())) }), ..message })
}

/// The client's next frame, in short: `club 3 m1` is message `m1` at position 3 of the group `club`; of its inbox it has only the changes.
async fn hears(client: &mut StreamClient) -> String {
    match client.hears().await {
        server_frame::Body::Deliver(deliver) => {
            let envelope = deliver.envelope.expect("an envelope");
            let what = match envelope.change.and_then(|change| change.what) {
                Some(What::Created(_)) => "created".to_owned(),
                Some(What::Members(members)) => format!("{:?} {}", members.kind(), members.users.join(",")),
                Some(What::Set(_)) => "set".to_owned(),
                Some(What::Deleted(_)) => "deleted".to_owned(),
                None => envelope.client_id,
            };
            let owner = match deliver.timeline.and_then(|timeline| timeline.owner).expect("a timeline") {
                Owner::Inbox(_) => "inbox".to_owned(),
                Owner::Group(group) => group,
            };
            format!("{owner} {} {what}", deliver.position.expect("a position").seq)
        }
        server_frame::Body::Accepted(accepted) => format!("accepted {}", accepted.client_id),
        server_frame::Body::Refused(refused) => format!("refused {:?}", refused.code()),
        server_frame::Body::Timelines(told) => {
            let state = &told.timelines[0];
            format!("from {}", state.delivered_from)
        }
        other => panic!("{other:?}"),
    }
}

/// The next `count` things that it hears, sorted: those of different timelines have no order.
async fn hear(client: &mut StreamClient, count: usize) -> Vec<String> {
    let mut heard = Vec::new();
    for _ in 0..count {
        heard.push(hears(client).await);
    }
    heard.sort();
    heard
}

fn follows(world: &World, group: &str) -> bool {
    world.store().lock().followed.values().any(|groups| groups.contains(group))
}

#[tokio::test]
async fn who_is_in_a_group_from_the_beginning_gets_all_of_it() {
    let world = world(|_| {}).await;
    let (mut alice, mut bob) = (world.client("alice", "phone").await, world.client("bob", "phone").await);
    alice.says(ask("c1", "club", create(&["bob"]))).await;
    assert_eq!(hear(&mut alice, 4).await, ["accepted c1", "club 1 created", "from 0", "inbox 1 created"]);
    assert_eq!(hear(&mut bob, 3).await, ["club 1 created", "from 0", "inbox 1 created"]);
    bob.says(write("m1", "club")).await;
    assert_eq!(hears(&mut bob).await, "accepted m1");
    assert_eq!(hears(&mut alice).await, "club 2 m1");
    alice.says(ask("c1", "club", create(&["bob"]))).await;
    assert_eq!(hears(&mut alice).await, "accepted c1", "a repeat");
    alice.says(ask("c2", "club", create(&[]))).await;
    assert_eq!(hears(&mut alice).await, format!("refused {:?}", Code::Exists));
    world.end().await;
}

#[tokio::test]
async fn a_banned_user_hears_nothing_after_the_ban_and_the_last_one_here_ends_the_following() {
    let world = world(|_| {}).await;
    let (mut alice, mut bob) = (world.client("alice", "phone").await, world.client("bob", "phone").await);
    alice.says(ask("c1", "club", create(&["bob"]))).await;
    hear(&mut alice, 4).await;
    hear(&mut bob, 3).await;
    alice.says(ask("c2", "club", members(Kind::Banned, &["bob"]))).await;
    assert_eq!(hear(&mut alice, 2).await, ["accepted c2", "club 2 Banned bob"]);
    alice.says(write("m1", "club")).await;
    assert_eq!(hears(&mut alice).await, "accepted m1");
    bob.says(write("m2", "club")).await;
    let mut heard = hear(&mut bob, 2).await;
    // The group and the inbox both tell of the ban; whichever is first ends it.
    if heard.contains(&"club 2 Banned bob".to_owned()) {
        heard.extend(hear(&mut bob, 1).await);
    }
    assert!(
        heard.contains(&"inbox 2 Banned bob".to_owned()) && heard.contains(&"refused Forbidden".to_owned()),
        "{heard:?}"
    );
    bob.says(send("m3", "carol")).await;
    assert_eq!(hears(&mut bob).await, "accepted m3", "and nothing of the group before");
    alice.says(ask("c3", "club", members(Kind::Left, &[]))).await;
    assert_eq!(hear(&mut alice, 3).await, ["accepted c3", "club 4 Left alice", "inbox 2 Left alice"]);
    eventually("the router is told that nobody follows it", || !follows(&world, "club")).await;
    world.end().await;
}

#[tokio::test]
async fn a_newcomer_gets_the_group_from_the_change_on() {
    let world = world(|_| {}).await;
    let (mut alice, mut bob) = (world.client("alice", "phone").await, world.client("bob", "phone").await);
    alice.says(ask("c1", "club", create(&[]))).await;
    hear(&mut alice, 4).await;
    alice.says(write("m1", "club")).await;
    assert_eq!(hears(&mut alice).await, "accepted m1");
    bob.says(ask("c1", "club", members(Kind::Joined, &[]))).await;
    assert_eq!(hear(&mut bob, 4).await, ["accepted c1", "club 3 Joined bob", "from 2", "inbox 1 Joined bob"]);
    assert_eq!(hears(&mut alice).await, "club 3 Joined bob");
    alice.says(write("m2", "club")).await;
    assert_eq!(hears(&mut bob).await, "club 4 m2");
    world.end().await;
}

#[tokio::test]
async fn a_device_that_was_away_gets_what_it_missed() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    alice.says(ask("c1", "club", create(&["bob"]))).await;
    hear(&mut alice, 4).await;
    for id in ["m1", "m2"] {
        alice.says(write(id, "club")).await;
        assert_eq!(hears(&mut alice).await, format!("accepted {id}"));
    }
    let mut bob = world.client("bob", "phone").await;
    let heard = hear(&mut bob, 5).await;
    assert_eq!(heard, ["club 1 created", "club 2 m1", "club 3 m2", "from 0", "inbox 1 created"]);
    alice.says(write("m3", "club")).await;
    assert_eq!(hears(&mut bob).await, "club 4 m3");
    world.end().await;
}

#[tokio::test]
async fn a_lost_push_of_a_group_is_read_when_the_router_tells_of_it() {
    let world = world(|_| {}).await;
    let (mut alice, mut bob) = (world.client("alice", "phone").await, world.client("bob", "phone").await);
    alice.says(ask("c1", "club", create(&["bob"]))).await;
    hear(&mut alice, 4).await;
    hear(&mut bob, 3).await;
    let followed = std::mem::take(&mut world.store().lock().followed);
    alice.says(write("m1", "club")).await;
    assert_eq!(hears(&mut alice).await, "accepted m1");
    world.store().lock().followed = followed;
    alice.says(write("m2", "club")).await;
    assert_eq!(hears(&mut alice).await, "accepted m2");
    assert_eq!((hears(&mut bob).await, hears(&mut bob).await), ("club 2 m1".to_owned(), "club 3 m2".to_owned()));
    world.end().await;
}

#[tokio::test]
async fn a_deleted_group_ends_with_its_deletion() {
    let world = world(|_| {}).await;
    let mut alice = world.client("alice", "phone").await;
    alice.says(ask("c1", "club", create(&[]))).await;
    hear(&mut alice, 4).await;
    alice.says(ask("c2", "club", Change::Delete(DeleteGroup {}))).await;
    assert_eq!(hear(&mut alice, 2).await, ["accepted c2", "club 2 deleted"]);
    eventually("the router is told that nobody follows it", || !follows(&world, "club")).await;
    world.end().await;
}

#[tokio::test]
async fn a_router_that_forgets_is_told_again_which_groups_are_followed() {
    let world = world(|_| {}).await;
    let (mut alice, mut bob) = (world.client("alice", "phone").await, world.client("bob", "phone").await);
    alice.says(ask("c1", "club", create(&["bob"]))).await;
    hear(&mut alice, 4).await;
    hear(&mut bob, 3).await;
    let world = world.with_another_router().await;
    eventually("the new router knows", || follows(&world, "club")).await;
    alice.says(write("m1", "club")).await;
    assert_eq!(hears(&mut alice).await, "accepted m1");
    assert_eq!(hears(&mut bob).await, "club 2 m1");
    world.end().await;
}
