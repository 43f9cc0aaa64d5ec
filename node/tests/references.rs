//! Messages that refer to messages, by the command line and the client library, over two gateways.

mod support;

use std::{
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use carillon_client::{Client, ClientConfig, Credential, Event, Events, FetchError, SendError, Target};
use carillon_proto::{
    GroupId, TimelineId, UserId,
    pb::client::{
        Code, Content, CreateGroup, Direction, Entry, Envelope, Mentions, MessageState, Poll, ReactionCount,
        content::Body,
    },
    tasks::Tasks,
};
use support::cluster::Cluster;
use tokio::{
    runtime::Runtime,
    time::{sleep, timeout},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `carillon message` as this user at this gateway. Ok: its output; an error: its complaint.
fn message(cluster: &Cluster, gateway: usize, user: &str, args: &[&str]) -> Result<String, String> {
    cluster.as_user(gateway, user, "message", args)
}

struct Person {
    client: Client,
    events: Events,
    inbox: TimelineId,
    _tasks: Tasks,
}

impl Person {
    async fn enter(cluster: &Cluster, gateway: usize, user: &str) -> Self {
        let credential = Credential::Token(cluster.token(user));
        let config = ClientConfig::new(vec![cluster.addresses[gateway].clone()], user, "phone", credential);
        let tasks = Tasks::new();
        let (client, events) = Client::open(config, &tasks).expect("opens");
        client.connected(PATIENCE).await.expect("signs in");
        let inbox = TimelineId::Inbox(UserId::new(user).expect("valid"));
        Self { client, events, inbox, _tasks: tasks }
    }

    /// Waits for a message with such content.
    async fn hears(&mut self, wanted: impl Fn(&Body) -> bool) -> (Target, Envelope) {
        let hears = async {
            loop {
                if let Event::Delivered { timeline, position, envelope } = self.events.next().await.expect("it goes on")
                    && envelope.content.as_ref().and_then(|content| content.body.as_ref()).is_some_and(&wanted)
                {
                    return (Target::of(&timeline, position.seq, &envelope).expect("a message"), envelope);
                }
            }
        };
        timeout(PATIENCE, hears).await.expect("it comes")
    }

    /// The message as the user's own history has it now.
    async fn sees(&self, timeline: &TimelineId, id: &str) -> Entry {
        let page = self.client.fetch(timeline, Direction::Backward, 0, 0).await.expect("fetched");
        let is_it = |entry: &Entry| entry.envelope.as_ref().is_some_and(|envelope| envelope.id == id);
        page.entries.into_iter().find(is_it).expect("it is there")
    }

    /// Waits until so many unread messages of the group mention the user.
    async fn is_mentioned(&self, group: &str, times: u32) {
        let of_group = Some(Client::group(group));
        let counted = async {
            loop {
                let list = self.client.read_conversations(None).await.expect("read").conversations;
                if list.iter().any(|of| of.with == of_group && of.mentions == times) {
                    return;
                }
            }
        };
        timeout(PATIENCE, counted).await.unwrap_or_else(|_| panic!("{times} mentions in {group} are not counted"));
    }

    async fn state(&self, timeline: &TimelineId, id: &str) -> MessageState {
        self.sees(timeline, id).await.state.map(|state| *state).unwrap_or_default()
    }
}

fn said(state: &MessageState) -> &str {
    let edit = state.edit.as_ref().and_then(|edit| edit.content.as_ref()).and_then(|content| content.body.as_ref());
    match edit {
        Some(Body::Edit(edit)) => match edit.content.as_ref().and_then(|content| content.body.as_ref()) {
            Some(Body::Text(text)) => &text.body,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn code(error: SendError) -> Code {
    match error {
        SendError::Refused(refusal) => refusal.code,
        other => panic!("{other}"),
    }
}

/// Whatever the blocked user makes of messages is answered as always, and the other one sees nothing of it.
#[test]
fn what_who_is_blocked_makes_of_messages_is_answered_as_always_and_seen_by_nobody_else() {
    let cluster = Cluster::start();
    let runtime = Runtime::new().expect("runtime");
    runtime.block_on(async {
        let mut alice = Person::enter(&cluster, 0, "alice").await;
        let mut bob = Person::enter(&cluster, 1, "bob").await;
        let text = |of: &Envelope| match of.content.as_ref().and_then(|content| content.body.as_ref()) {
            Some(Body::Text(text)) => text.body.clone(),
            other => panic!("{other:?}"),
        };
        alice.client.send(Client::user("bob"), Client::text("of alice")).await.expect("accepted");
        let (of_alice, _) = bob.hears(|_| true).await;
        let sent = bob.client.send(Client::user("alice"), Client::text("of bob")).await.expect("accepted");
        let (_, heard) = alice.hears(|_| true).await;
        let Entry { envelope, .. } = bob.sees(&bob.inbox, &sent.message_id).await;
        let of_bob = Target::of(&bob.inbox, 0, &envelope.expect("it has one")).expect("a message");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let at_ms = (now + Duration::from_secs(5)).as_millis() as u64;
        bob.client.schedule(Client::user("alice"), Client::text("later"), at_ms).await.expect("kept");
        alice.client.block(&UserId::new("bob").expect("valid")).await.expect("blocked");

        bob.client.edit(&of_bob, Client::text("edited")).await.expect("accepted as always");
        bob.client.react(&of_alice, &["x"]).await.expect("accepted as always");
        bob.client.pin(&of_alice).await.expect("accepted as always");
        let not_his = bob.client.edit(&of_alice, Client::text("not his")).await.expect_err("refused as always");
        assert_eq!(code(not_his), Code::Forbidden);
        let not_his = bob.client.recall(&of_alice, false).await.expect_err("refused as always");
        assert_eq!(code(not_his), Code::Forbidden);
        assert_eq!(code(bob.client.vote(&of_alice, &[0]).await.expect_err("it is no poll")), Code::Invalid);
        bob.client.recall(&of_bob, false).await.expect("accepted as always");
        let recalled = bob.client.edit(&of_bob, Client::text("late")).await.expect_err("refused as always");
        assert_eq!(code(recalled), Code::NotFound);
        let is_sent = async {
            while !bob.client.scheduled().await.expect("read").messages.is_empty() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, is_sent).await.expect("what was scheduled is sent");
        let own = bob.state(&bob.inbox, &sent.message_id).await;
        assert!(own.recall.is_some(), "{own:?}");

        alice.client.unblock(&UserId::new("bob").expect("valid")).await.expect("unblocked");
        bob.client.send(Client::user("alice"), Client::text("after")).await.expect("accepted");
        let (_, taken_back) = alice.hears(|_| true).await;
        let body = taken_back.content.as_ref().and_then(|content| content.body.as_ref());
        assert!(matches!(body, Some(Body::Recall(_))), "{taken_back:?}");
        let (_, next) = alice.hears(|_| true).await;
        assert_eq!([text(&heard), text(&next)], ["of bob", "after"], "nothing but the recall between them");
        let page = alice.client.fetch(&alice.inbox, Direction::Backward, 0, 0).await.expect("fetched");
        for Entry { envelope, state, .. } in page.entries {
            let (envelope, state) = (envelope.expect("an envelope"), state.map(|state| *state).unwrap_or_default());
            let is_recalled = envelope.id == heard.id;
            assert_eq!((state.recall.is_some(), envelope.erased), (is_recalled, is_recalled), "{envelope:?}");
            assert_eq!(MessageState { recall: None, ..state }, MessageState::default());
            assert!(!is_recalled || text(&envelope).is_empty(), "{envelope:?}");
        }
    });
}

#[test]
fn both_users_see_what_became_of_a_direct_message() {
    let cluster = Cluster::start();
    let runtime = Runtime::new().expect("runtime");
    runtime.block_on(async {
        let mut alice = Person::enter(&cluster, 0, "alice").await;
        let mut bob = Person::enter(&cluster, 1, "bob").await;
        let sent = alice.client.send(Client::user("bob"), Client::text("hallo")).await.expect("accepted");
        let id = sent.message_id;
        let (of_bob, _) = bob.hears(|body| matches!(body, Body::Text(_))).await;
        // At once: alice's own inbox may get the message later than bob.
        bob.client.react(&of_bob, &["👍", "🎉"]).await.expect("accepted");
        let (_, reaction) = alice.hears(|body| matches!(body, Body::Reaction(_))).await;
        assert_eq!(reaction.sender, "bob");
        let edited = message(&cluster, 1, "alice", &["edit", &id, "hello"]).expect("edited");
        assert!(edited.starts_with("accepted"), "{edited}");
        bob.hears(|body| matches!(body, Body::Edit(_))).await;
        bob.client.pin(&of_bob).await.expect("accepted");
        let reactions = ["👍", "🎉"].map(|emoji| ReactionCount { emoji: emoji.to_owned(), users: 1 }).to_vec();
        for (person, own) in [(&alice, 0), (&bob, 2)] {
            let state = person.state(&person.inbox, &id).await;
            assert_eq!((said(&state), state.edits, state.pinned), ("hello", 1, true));
            assert_eq!((&state.reactions, state.own_reactions.len()), (&reactions, own));
        }
        let shown = message(&cluster, 0, "bob", &["show", &id]).expect("shown");
        assert!(
            shown.contains("alice: hallo") && shown.contains("edited 1 times") && shown.contains("pinned"),
            "{shown}"
        );

        let pinned = message(&cluster, 1, "alice", &["pinned", "--with", "bob"]).expect("shown");
        assert!(pinned.lines().count() == 1 && pinned.contains("alice to bob: hello"), "as it is now: {pinned}");

        let refused = bob.client.edit(&of_bob, Client::text("hi")).await.expect_err("it is not his");
        assert_eq!(code(refused), Code::Forbidden);
        let refused = alice.client.edits(&alice.inbox, 1, 0).await.expect_err("not by default");
        assert!(matches!(&refused, FetchError::Refused(refusal) if refusal.code == Code::Forbidden), "{refused}");

        message(&cluster, 0, "alice", &["recall", "--erase", &id]).expect("recalled");
        bob.hears(|body| matches!(body, Body::Recall(_))).await;
        for person in [&alice, &bob] {
            let entry = person.sees(&person.inbox, &id).await;
            let state = entry.state.expect("it was recalled");
            assert_eq!(state.recall.expect("recalled").sender, "alice");
            assert_eq!((state.edit, state.reactions, state.pinned), (None, vec![], false));
            let envelope = entry.envelope.expect("stands");
            assert!(envelope.erased && envelope.content == Some(Client::text("")), "{envelope:?}");
        }
        let refused = bob.client.react(&of_bob, &["👍"]).await.expect_err("it is gone");
        assert_eq!(code(refused), Code::NotFound);
        let page = bob.client.fetch(&bob.inbox, Direction::Forward, 0, 0).await.expect("fetched");
        let text = format!("{:?}", page.entries);
        assert!(!text.contains("hallo") && !text.contains("\"hello\""), "{text}");
    });
}

#[test]
fn a_group_votes_and_its_admin_takes_messages_back() {
    let cluster = Cluster::start();
    let runtime = Runtime::new().expect("runtime");
    runtime.block_on(async {
        let alice = Person::enter(&cluster, 0, "alice").await;
        let mut bob = Person::enter(&cluster, 1, "bob").await;
        let club = GroupId::new("club").expect("valid");
        let new = CreateGroup { members: vec!["bob".to_owned()], ..CreateGroup::default() };
        alice.client.create_group(Some(&club), new).await.expect("made");
        let timeline = TimelineId::Group(club);
        let poll = Poll {
            question: "Where?".to_owned(),
            options: vec!["here".to_owned(), "there".to_owned()],
            ..Poll::default()
        };
        let asked = alice.client.send(Client::group("club"), Client::poll(poll)).await.expect("accepted").message_id;
        let (poll, _) = bob.hears(|body| matches!(body, Body::Poll(_))).await;
        bob.client.vote(&poll, &[1]).await.expect("accepted");
        message(&cluster, 0, "alice", &["--group", "club", "vote", &asked, "0"]).expect("voted");
        message(&cluster, 1, "alice", &["--group", "club", "vote", &asked, "1"]).expect("voted otherwise");
        let refused = bob.client.vote(&poll, &[0, 1]).await.expect_err("one is chosen");
        assert_eq!(code(refused), Code::Invalid);
        let tally = bob.state(&timeline, &asked).await.poll.expect("votes");
        assert_eq!((tally.votes, tally.voters, tally.own), (vec![0, 2], 2, vec![1]));

        let answer = poll.answered_by(Client::text("there, for the view"), "Where?");
        let said = bob.client.send(Client::group("club"), answer).await.expect("accepted").message_id;
        let entry = alice.sees(&timeline, &said).await;
        let Some(Content { reply_to: Some(reply), .. }) = entry.envelope.as_ref().and_then(|said| said.content.clone())
        else {
            panic!("{entry:?}");
        };
        assert_eq!((reply.message.expect("named").id, &*reply.quote), (asked.clone(), "Where?"));
        let refused = bob.client.pin(&poll).await.expect_err("for admins");
        assert_eq!(code(refused), Code::Forbidden);
        message(&cluster, 1, "alice", &["--group", "club", "pin", &asked]).expect("pinned");
        assert!(bob.state(&timeline, &asked).await.pinned);
        let pinned = message(&cluster, 0, "bob", &["--group", "club", "pinned"]).expect("shown");
        assert!(pinned.lines().count() == 1 && pinned.contains("Where?"), "{pinned}");
        let refused = message(&cluster, 1, "bob", &["--group", "club", "recall", &asked]).expect_err("hers");
        assert!(refused.contains("refused"), "{refused}");
        message(&cluster, 1, "alice", &["--group", "club", "recall", &said]).expect("recalled");
        let recall = bob.state(&timeline, &said).await.recall.expect("recalled");
        assert_eq!(recall.sender, "alice");

        // A mention is counted on every device, and no longer when it is taken back or read.
        let mentions = Mentions { users: vec!["bob".to_owned()], ..Mentions::default() };
        let content = Content { mentions: Some(Box::new(mentions)), ..Client::text("and you, bob?") };
        let mention = alice.client.send(Client::group("club"), content.clone()).await.expect("accepted").message_id;
        bob.is_mentioned("club", 1).await;
        let mut list = Command::new(env!("CARGO_BIN_EXE_carillon"));
        list.args(["conversation", "--as", "bob", "--url", &cluster.addresses[0].to_string(), "list", "--json"]);
        let output = list.env("CARILLON_TOKEN", cluster.token("bob")).output().expect("it runs");
        let shown = String::from_utf8(output.stdout).expect("text");
        assert!(shown.contains(r#""mentions":1"#), "{shown}");
        message(&cluster, 1, "alice", &["--group", "club", "recall", &mention]).expect("recalled");
        bob.is_mentioned("club", 0).await;
        let shown = bob.sees(&timeline, &mention).await.envelope.expect("stands");
        assert!(shown.erased && shown.content == Some(Client::text("")), "{shown:?}");
        message(&cluster, 1, "alice", &["--group", "club", "recall", "--erase", &mention]).expect("can still be named");
        alice.client.send(Client::group("club"), content).await.expect("accepted");
        bob.is_mentioned("club", 1).await;
        bob.client.send(Client::group("club"), Client::text("yes")).await.expect("accepted");
        bob.is_mentioned("club", 0).await;
    });
}

#[test]
fn commands_continue_a_thread_mention_and_send_on() {
    let cluster = Cluster::start();
    let runtime = Runtime::new().expect("runtime");
    runtime.block_on(async {
        let mut alice = Person::enter(&cluster, 0, "alice").await;
        let mut bob = Person::enter(&cluster, 1, "bob").await;
        let mut carol = Person::enter(&cluster, 0, "carol").await;
        let club = GroupId::new("club").expect("valid");
        let new = CreateGroup { members: vec!["bob".to_owned()], ..CreateGroup::default() };
        alice.client.create_group(Some(&club), new).await.expect("made");
        let timeline = TimelineId::Group(club);
        let is = |wanted: &'static str| move |body: &Body| matches!(body, Body::Text(text) if text.body == wanted);

        let first = alice.client.send(Client::group("club"), Client::text("tea?")).await.expect("accepted").message_id;
        alice.sees(&timeline, &first).await;
        let answer = ["send", "club", "at five", "--reply-to", &first, "--thread", &first, "--mention", "bob"];
        let answer = [&answer[..], &["--mention-here", "--expires", "1h"]].concat();
        cluster.as_user(1, "alice", "group", &answer).expect("sent");
        let (_, heard) = bob.hears(is("at five")).await;
        let content = heard.content.expect("says something");
        let reply = content.reply_to.and_then(|reply| reply.message).expect("answers");
        assert_eq!((reply.id.as_str(), content.thread.expect("in a thread").id.as_str()), (&*first, &*first));
        assert_eq!(
            *content.mentions.expect("mentions"),
            Mentions { users: vec!["bob".into()], all: false, here: true }
        );
        assert_eq!(heard.expires_at_ms, heard.time_ms + 3_600_000);
        let refused = message(&cluster, 0, "bob", &["--group", "club", "forward", &heard.id, "--to", "carol"]);
        assert!(refused.is_err_and(|why| why.contains("can't be forwarded")), "it expires");

        let edits = |options: &[&str]| {
            let edit = ["--group", "club", "edit", &first, "coffee?"];
            message(&cluster, 1, "alice", &[&edit[..], options].concat()).expect("edited")
        };
        let mentioned = async |state: MessageState| match state.edit.and_then(|edit| edit.content?.body) {
            Some(Body::Edit(edit)) => edit.content.and_then(|content| content.mentions),
            other => panic!("{other:?}"),
        };
        for (options, users, all) in [
            (&["--mention", "bob", "--mention-all"][..], &["bob"][..], true),
            (&[], &["bob"], true),
            (&["--mention-all"], &[], true),
            (&["--no-mentions"], &[], false),
        ] {
            edits(options);
            let mentions = mentioned(alice.state(&timeline, &first).await).await.unwrap_or_default();
            let users = users.iter().map(|user| (*user).to_owned()).collect();
            assert_eq!(*mentions, Mentions { users, all, here: false }, "{options:?}");
        }
        message(&cluster, 0, "bob", &["--group", "club", "forward", &first, "--to", "carol"]).expect("sent on");
        let (_, heard) = carol.hears(is("coffee?")).await;
        let from = heard.content.and_then(|content| content.forwarded_from).expect("by whom it is");
        assert_eq!((&*heard.sender, &*from.sender, from.id), ("bob", "alice", first));
        message(&cluster, 0, "carol", &["forward", &heard.id, "--to", "alice"]).expect("sent on");
        let (_, heard) = alice.hears(is("coffee?")).await;
        let from = heard.content.and_then(|content| content.forwarded_from).expect("by whom it is");
        assert_eq!((&*heard.sender, &*from.sender), ("carol", "alice"), "by the first name");
    });
}
