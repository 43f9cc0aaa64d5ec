//! The line in which the user types: drafts, notices about what is wrong, and names of members.

use carillon_proto::{
    GroupId,
    pb::client::{GroupChange, MembersChange, Mentions, group_change::What, members_change::Kind},
};

use super::*;

fn control(play: &mut Play, char: char) {
    play.model.handle(NOW_MS, Input::Key(KeyEvent::new(KeyCode::Char(char), KeyModifiers::CONTROL)));
}

#[test]
fn a_refused_command_stays_to_be_mended_and_its_notice_goes_when_it_is_no_longer_true() {
    let mut play = Play::connected(Some("bob"));
    for mend in [false, true] {
        assert_eq!(play.types("/reply a long answer"), []);
        assert_eq!(play.model.line.lines(), ["/reply a long answer"]);
        assert!(play.screen().0.contains("there is no message for that"));
        if mend {
            play.delivered(3, "bob", "alice", "a question");
        } else {
            control(&mut play, 'u');
        }
        assert!(!play.screen().0.contains("there is no message for that"), "{}", play.screen().0);
    }
    let acts = play.sends("");
    let [Act::Send { content, .. }] = &acts[..] else { panic!("{acts:?}") };
    assert_eq!(content.reply_to.as_ref().map(|reply| &*reply.quote), Some("a question"));
    assert_eq!(play.model.line.lines(), [""]);
    // News stay.
    play.answered(Answer::Told("cat.png: 15 bytes".to_owned()));
    play.delivered(4, "bob", "alice", "another one");
    control(&mut play, 'u');
    assert!(play.screen().0.contains("cat.png: 15 bytes"));
}

/// The open group `club` with these members.
fn in_group(members: &[&str]) -> Play {
    let mut play = Play::connected(Some("bob"));
    let club = GroupId::new("club").expect("valid");
    assert!(play.types("/group club").contains(&Act::ReadMembers(club.clone())));
    let members = members.iter().map(|member| (*member).to_owned()).collect();
    play.answered(Answer::Members(club, members));
    play
}

fn is_members_read(act: &Act) -> bool {
    matches!(act, Act::ReadMembers(_))
}

fn mentions(acts: &[Act]) -> Option<Mentions> {
    let content = match acts {
        [Act::Send { content, .. } | Act::Later { content, .. }] => content,
        [Act::Refer { about: About::Edit(content), .. }] => content,
        acts => panic!("{acts:?}"),
    };
    content.mentions.as_deref().cloned()
}

fn users(names: &[&str]) -> Option<Mentions> {
    Some(Mentions { users: names.iter().map(|name| (*name).to_owned()).collect(), ..Mentions::default() })
}

#[test]
fn members_who_are_named_are_mentioned_in_a_group_only() {
    let mut play = in_group(&["alice", "bob", "bodo", "carol"]);
    assert_eq!(mentions(&play.sends("@Bob and @carol: tea?")), users(&["bob", "carol"]));
    assert_eq!(mentions(&play.sends("/later 5 @bob tea!")), users(&["bob"]));
    assert_eq!(mentions(&play.sends("me@bob and @alice")), None);
    let mut play = Play::connected(Some("bob"));
    assert_eq!(mentions(&play.sends("@bob: tea?")), None);
}

#[test]
fn an_edit_keeps_the_mentions_unless_it_names_others() {
    let mut play = in_group(&["alice", "bob", "carol"]);
    let timeline = TimelineId::Group(GroupId::new("club").expect("valid"));
    let all = Mentions { all: true, ..Mentions::default() };
    let content = Content { mentions: Some(Box::new(all.clone())), ..carillon_client::Client::text("tea at four") };
    let to = Some(carillon_client::Client::group("club"));
    let envelope = Envelope { content: Some(content), to, ..envelope(3, "alice", "club", "") };
    play.hears(Event::Delivered { timeline: timeline.clone(), position: at(3), envelope });
    assert_eq!(mentions(&play.sends("/edit tea at five")), Some(all));
    assert_eq!(mentions(&play.sends("/edit tea at five, @carol")), users(&["carol"]));
    // One that this device has sent.
    assert_eq!(mentions(&play.sends("@bob?")), users(&["bob"]));
    let (client_id, message_id) = (format!("t-{}", play.model.sent), format!("{:026}", 5));
    play.hears(Event::Sent { timeline, position: at(5), client_id, message_id, time_ms: NOW_MS, expires_at_ms: 0 });
    assert_eq!(mentions(&play.sends("/edit bob?")), users(&["bob"]));
}

#[test]
fn tab_completes_the_name_of_a_member_and_a_change_of_the_group_is_followed() {
    let mut play = in_group(&["alice", "bob", "bodo", "carol"]);
    let tab = |play: &mut Play, typed: &str| {
        play.model.line.clear();
        typed.chars().for_each(|char| drop(play.presses(KeyCode::Char(char))));
        play.presses(KeyCode::Tab);
        play.model.line.lines().join("\n")
    };
    assert_eq!(tab(&mut play, "hello @ca"), "hello @carol ");
    assert_eq!(tab(&mut play, "@b"), "@bo");
    assert_eq!(tab(&mut play, "@bo"), "@bo");
    assert!(play.screen().0.contains("@bob @bodo"), "{}", play.screen().0);
    assert_eq!(tab(&mut play, "@alice"), "@alice", "nobody mentions herself");
    assert!(play.screen().0.contains("no member has this name"));
    play.model.line.clear();
    for (seq, kind, named) in [(3, Kind::Added, "bodil"), (4, Kind::Left, "bob"), (5, Kind::Banned, "bodo")] {
        let change = MembersChange { kind: kind.into(), users: vec![named.to_owned()], ..MembersChange::default() };
        let change = Some(Box::new(GroupChange { what: Some(What::Members(change)) }));
        let to = Some(carillon_client::Client::group("club"));
        let timeline = TimelineId::Group(GroupId::new("club").expect("valid"));
        let envelope = Envelope { change, to, content: None, ..envelope(seq, "bob", "club", "") };
        assert!(!play.hears(Event::Delivered { timeline, position: at(seq), envelope }).iter().any(is_members_read));
    }
    assert_eq!(tab(&mut play, "@b"), "@bodil ");
    // In a conversation with one user it goes on to the next conversation.
    let mut play = Play::connected(Some("bob"));
    play.lists(vec![conversation(carillon_client::Client::user("carol"), 0, 0, ConversationSettings::default())]);
    tab(&mut play, "@b");
    assert_eq!(play.model.open, Some(With::User(user("carol"))));
}

#[test]
fn wrong_commands_stay_to_be_mended_and_help_is_there() {
    let mut play = Play::connected(Some("bob"));
    assert_eq!(play.types("/dance"), []);
    assert_eq!(play.model.line.lines(), ["/dance"]);
    assert!(play.screen().0.contains("/dance is no command"));
    let mut play = Play::connected(None);
    assert_eq!(play.types("to nobody"), []);
    play.model.line.clear();
    play.types("/help");
    assert!(play.screen().0.contains("/group GROUP"));
    play.presses(KeyCode::Esc);
    assert!(!play.screen().0.contains("talks in a group"), "{}", play.screen().0);
    assert_eq!(play.types("/quit"), [Act::Quit]);
}

#[test]
fn a_draft_follows_the_user() {
    let mut play = Play::connected(Some("bob"));
    play.presses(KeyCode::Char('h'));
    let acts = play.types("ey");
    let hey = carillon_client::Client::text("hey");
    assert!(matches!(&acts[..], [Act::Send { content, .. }] if *content == hey), "{acts:?}");
    "wait".chars().for_each(|char| drop(play.presses(KeyCode::Char(char))));
    play.delivered(3, "carol", "alice", "hi");
    let acts = play.presses(KeyCode::Tab);
    let draft = |text: &str| ConversationSettings { draft: Some(text.to_owned()), ..ConversationSettings::default() };
    assert!(acts.contains(&Act::Set(With::User(user("bob")), draft("wait"))), "{acts:?}");
    assert!(play.screen().0.contains("bob…"), "{}", play.screen().0);
    play.presses(KeyCode::Tab);
    assert_eq!(play.model.line.lines(), ["wait"]);
    // Another device has gone on with it.
    let bob = carillon_client::Client::user("bob");
    play.lists(vec![conversation(bob, 0, 0, draft("wait a minute"))]);
    assert_eq!(play.model.line.lines(), ["wait a minute"]);
    let acts = play.presses(KeyCode::Enter);
    assert!(acts.contains(&Act::Set(With::User(user("bob")), draft(""))), "{acts:?}");
}
