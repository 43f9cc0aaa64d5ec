//! Keys, events and answers, and what is on the screen then.

mod files;
mod lines;
mod windows;

use carillon_client::{ConversationList, Event, ListVersion, State};
use carillon_proto::{
    Epoch, Position, TimelineId, UserId,
    pb::client::{
        ChatState, ChatStateNotice, Content, Conversation, ConversationSettings, Edit, Entry, Envelope, Marks,
        MessageRequest, MessageState, Page, Presence, ReactionCount, Recipient, ReportReason, RequestAnswer, Show,
        SignedIn, UserMark, content::Body,
    },
};
use chrono::{DateTime, NaiveDateTime};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use proptest::prelude::*;
use ratatui::{Terminal, backend::TestBackend};

use crate::{
    act::{Act, Answer},
    command::About,
    model::{Input, Model},
    screen,
    thread::With,
};

const NOW_MS: u64 = 1_795_383_840_000;

fn utc(time_ms: u64) -> NaiveDateTime {
    DateTime::from_timestamp_millis(time_ms as i64).expect("a time").naive_utc()
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("valid")
}

fn inbox() -> TimelineId {
    TimelineId::Inbox(user("alice"))
}

fn at(seq: u64) -> Position {
    Position { epoch: Epoch(7), seq }
}

fn envelope(id: u64, sender: &str, to: &str, text: &str) -> Envelope {
    Envelope {
        id: format!("{id:026}"),
        sender: sender.to_owned(),
        to: Some(carillon_client::Client::user(to)),
        time_ms: NOW_MS + id * 60_000,
        content: Some(carillon_client::Client::text(text)),
        ..Envelope::default()
    }
}

/// A model whose terminal has 70 columns and 14 lines.
struct Play {
    model: Model,
    terminal: Terminal<TestBackend>,
}

impl Play {
    fn new(with: Option<&str>) -> Self {
        let with = with.map(|name| With::User(user(name)));
        let mut model = Model::new(user("alice"), "phone".to_owned(), with, "t".to_owned());
        model.local = utc;
        model.notice.clear();
        Self { model, terminal: Terminal::new(TestBackend::new(70, 14)).expect("a terminal") }
    }

    fn connected(with: Option<&str>) -> Self {
        let mut play = Self::new(with);
        let signed_in = SignedIn { user: "alice".to_owned(), ..SignedIn::default() }.into();
        play.hears(Event::State(State::Connected { address: "tcp://here".to_owned(), signed_in }));
        play
    }

    fn acts(&mut self) -> Vec<Act> {
        std::iter::from_fn(|| self.model.take_act()).collect()
    }

    fn hears(&mut self, event: Event) -> Vec<Act> {
        self.model.handle(NOW_MS, Input::Event(event));
        self.acts()
    }

    fn delivered(&mut self, seq: u64, sender: &str, to: &str, text: &str) -> Vec<Act> {
        let envelope = envelope(seq, sender, to, text);
        self.hears(Event::Delivered { timeline: inbox(), position: at(seq), envelope })
    }

    fn answered(&mut self, answer: Answer) -> Vec<Act> {
        self.model.handle(NOW_MS, Input::Answer(answer));
        self.acts()
    }

    fn presses(&mut self, code: KeyCode) -> Vec<Act> {
        self.model.handle(NOW_MS, Input::Key(KeyEvent::new(code, KeyModifiers::NONE)));
        self.acts()
    }

    fn types(&mut self, text: &str) -> Vec<Act> {
        text.chars().for_each(|char| drop(self.presses(KeyCode::Char(char))));
        self.presses(KeyCode::Enter)
    }

    /// Types a message; what others hear of the typing is left out.
    fn sends(&mut self, text: &str) -> Vec<Act> {
        let mut acts = self.types(text);
        acts.retain(|act| !matches!(act, Act::Writing(_)));
        acts
    }

    /// The screen, without spaces at the ends of lines, and whether there is room for more.
    fn screen(&mut self) -> (String, bool) {
        let mut room = false;
        self.terminal.draw(|frame| room = screen::draw(frame, &mut self.model)).expect("draws");
        let buffer = self.terminal.backend().buffer();
        let line = |y: u16| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        let lines: Vec<_> = (0..buffer.area.height).map(|y| line(y).trim_end().to_owned()).collect();
        (lines.join("\n"), room)
    }

    fn lists(&mut self, conversations: Vec<Conversation>) -> Vec<Act> {
        let version = ListVersion { epoch: 7, version: 1 };
        self.answered(Answer::List(Ok(ConversationList { version, changes: false, conversations })))
    }
}

fn conversation(with: Recipient, unread: u64, read: u64, settings: ConversationSettings) -> Conversation {
    let read = Some(at(read).into());
    Conversation { with: Some(with), unread, read, settings: Some(settings), ..Conversation::default() }
}

#[test]
fn a_message_goes_its_way_and_its_ticks_say_how_far() {
    let mut play = Play::connected(Some("bob"));
    let acts = play.sends("hello");
    let with = With::User(user("bob"));
    let content = carillon_client::Client::text("hello");
    assert_eq!(acts, [Act::Send { with, client_id: "t-1".to_owned(), content, expires_after_ms: 0 }]);
    assert!(play.screen().0.contains("…   alice: hello …"));
    let (timeline, time_ms) = (inbox(), NOW_MS);
    let (client_id, message_id) = ("t-1".to_owned(), format!("{:026}", 5));
    play.hears(Event::Sent {
        timeline,
        position: at(5),
        client_id,
        message_id: message_id.clone(),
        time_ms,
        expires_at_ms: 0,
    });
    assert!(play.screen().0.contains("21:44 alice: hello ✓\n"), "{}", play.screen().0);
    for (read, delivered, ticks) in [("", &*message_id, "✓✓\n"), (&*message_id, "", "✓✓ read\n")] {
        let (read_id, delivered_id) = (read.to_owned(), delivered.to_owned());
        let mark = UserMark { user: "bob".to_owned(), read_id, delivered_id, ..UserMark::default() };
        play.hears(Event::Marks(Marks { marks: vec![mark], ..Marks::default() }));
        assert!(play.screen().0.contains(&format!("alice: hello {ticks}")), "{}", play.screen().0);
    }
}

#[test]
fn what_was_refused_says_why_until_the_next_message() {
    let mut play = Play::connected(Some("bob"));
    play.types("hello");
    play.answered(Answer::Refused(With::User(user("bob")), "t-1".to_owned(), "there is no user bob".to_owned()));
    assert!(play.screen().0.contains("✗ there is no user bob"), "{}", play.screen().0);
    play.types("again");
    assert!(!play.screen().0.contains("hello"));
}

#[test]
fn the_list_counts_what_is_unread_and_opening_reads_it() {
    let mut play = Play::connected(Some("bob"));
    let pinned = ConversationSettings { pinned: Some(true), ..ConversationSettings::default() };
    let carol = carillon_client::Client::user("carol");
    let club = carillon_client::Client::group("club");
    play.lists(vec![conversation(carol, 2, 1, ConversationSettings::default()), conversation(club, 0, 0, pinned)]);
    assert_eq!(play.delivered(9, "carol", "alice", "news"), [Act::Bell]);
    let presence = Presence { user: "carol".to_owned(), show: Show::Online.into(), ..Presence::default() };
    play.hears(Event::Presence(presence));
    let (screen, _) = play.screen();
    let list: Vec<_> = screen.lines().take(3).map(|line| line.split('│').next().unwrap_or_default().trim()).collect();
    assert_eq!(list, ["# club^", "● carol                3", "bob"], "{screen}");
    // From bob, the last one, to the first one, and on to carol.
    play.presses(KeyCode::Tab);
    let acts = play.presses(KeyCode::Tab);
    assert!(acts.contains(&Act::MarkRead(With::User(user("carol")), at(9))), "{acts:?}");
    let (screen, room) = play.screen();
    assert!(screen.contains("new") && screen.contains("21:53 carol: news") && room, "{screen}");
    assert!(!screen.contains(" 3"), "{screen}");
}

#[test]
fn what_a_stranger_has_begun_stands_apart_until_it_is_accepted_and_is_gone_when_it_is_declined() {
    let mut play = Play::connected(Some("bob"));
    let stranger = |request: MessageRequest| Conversation {
        request: request.into(),
        ..conversation(carillon_client::Client::user("mallory"), 1, 0, ConversationSettings::default())
    };
    play.lists(vec![stranger(MessageRequest::Open)]);
    assert_eq!(play.delivered(9, "mallory", "alice", "psst"), [], "no bell");
    let listed = |play: &mut Play| {
        let (screen, _) = play.screen();
        let list = screen.lines().take(2).map(|line| line.split('│').next().unwrap_or_default().trim().to_owned());
        list.collect::<Vec<_>>()
    };
    let list = listed(&mut play);
    assert!(list[0].starts_with("bob") && list[1].starts_with("? mallory"), "{list:?}");
    play.presses(KeyCode::Tab);
    let (screen, _) = play.screen();
    assert!(screen.contains("/accept or /decline"), "{screen}");
    // Nothing is told of what is typed.
    let acts = play.presses(KeyCode::Char('x'));
    assert!(!acts.iter().any(|act| matches!(act, Act::Writing(_))), "{acts:?}");
    play.presses(KeyCode::Backspace);
    let acts = play.types("/accept");
    assert_eq!(acts, [Act::AnswerRequest(user("mallory"), RequestAnswer::Accept)]);
    play.answered(Answer::Conversations(Ok(vec![stranger(MessageRequest::Unspecified)])));
    assert!(listed(&mut play)[0].starts_with("mallory"));
    play.answered(Answer::Conversations(Ok(vec![stranger(MessageRequest::Declined)])));
    assert_eq!(listed(&mut play)[1], "");
}

#[test]
fn who_writes_in_a_group_is_named_there_alone() {
    let mut play = Play::connected(Some("bob"));
    play.lists(vec![conversation(carillon_client::Client::group("club"), 0, 0, ConversationSettings::default())]);
    for from in ["bob", "carol", "dave"] {
        let (from, group, state) = (from.to_owned(), "club".to_owned(), ChatState::Composing.into());
        play.hears(Event::ChatState(ChatStateNotice { from, group, state }));
    }
    assert!(!play.screen().0.contains("writing"), "{}", play.screen().0);
    play.presses(KeyCode::Tab);
    assert!(play.screen().0.contains("bob and 2 more are writing"), "{}", play.screen().0);
    let club = carillon_proto::GroupId::new("club").expect("valid");
    assert_eq!(play.presses(KeyCode::Char('h')), [Act::Writing(With::Group(club))]);
}

#[test]
fn the_title_says_when_who_is_offline_was_last_there() {
    let mut play = Play::connected(Some("bob"));
    let mut told = |show: Show, last_seen_ms| {
        let presence = Presence { user: "bob".to_owned(), show: show.into(), last_seen_ms, ..Presence::default() };
        play.hears(Event::Presence(presence));
        play.screen().0.lines().next().and_then(|line| line.split('│').nth(1)).unwrap_or_default().trim().to_owned()
    };
    assert_eq!(told(Show::Unspecified, 0), "bob  offline");
    assert_eq!(told(Show::Unspecified, NOW_MS - 5 * 60_000), "bob  last seen 21:39");
    assert_eq!(told(Show::Unspecified, NOW_MS - 24 * 3_600_000), "bob  last seen 2026-11-21 21:44");
    assert_eq!(told(Show::Online, 0), "bob  online");
}

#[test]
fn history_is_read_as_far_as_the_screen_has_room() {
    let mut play = Play::connected(Some("bob"));
    play.delivered(50, "bob", "alice", "the newest");
    assert!(play.screen().1);
    play.model.handle(NOW_MS, Input::Room);
    assert_eq!(play.acts(), [Act::ReadHistory { timeline: inbox(), from_seq: 0 }]);
    // Not twice at a time.
    play.model.handle(NOW_MS, Input::Room);
    assert_eq!(play.acts(), []);
    let entry = |seq: u64| {
        let other = if seq.is_multiple_of(2) { "bob" } else { "carol" };
        Entry { seq, envelope: Some(envelope(seq, other, "alice", &format!("number {seq}"))), ..Entry::default() }
    };
    let page = |seqs: std::ops::Range<u64>, complete| {
        let entries = seqs.rev().map(entry).collect();
        Answer::History(inbox(), Ok(Page { epoch: 7, entries, complete, ..Page::default() }))
    };
    play.answered(page(45..50, false));
    assert!(play.screen().1, "two of bob are not enough");
    play.model.handle(NOW_MS, Input::Room);
    assert_eq!(play.acts(), [Act::ReadHistory { timeline: inbox(), from_seq: 44 }]);
    play.answered(page(10..45, true));
    let (screen, room) = play.screen();
    assert!(
        !room && screen.contains("number 44") && screen.contains("the newest") && !screen.contains("45"),
        "{screen}"
    );
    for _ in 0..9 {
        play.presses(KeyCode::PageUp);
        play.screen();
    }
    let (screen, _) = play.screen();
    assert!(screen.contains("2026-11-22") && screen.contains("number 10") && !screen.contains("newest"), "{screen}");
    play.presses(KeyCode::Esc);
    assert!(play.screen().0.contains("the newest"));
}

#[test]
fn a_timeline_that_began_anew_shows_nothing_of_the_old_one() {
    let mut play = Play::connected(Some("bob"));
    play.delivered(9, "bob", "alice", "before");
    play.hears(Event::Trimmed { timeline: inbox(), first: Position { epoch: Epoch(8), seq: 1 } });
    assert!(!play.screen().0.contains("before"));
}

#[test]
fn the_last_message_of_another_is_reported_or_the_chosen_one() {
    let mut play = Play::connected(Some("bob"));
    assert_eq!(play.types("/report spam"), [], "there is none");
    play.model.line.clear();
    play.delivered(3, "bob", "alice", "first");
    play.delivered(4, "bob", "alice", "second");
    play.delivered(5, "alice", "bob", "mine");
    let with = With::User(user("bob"));
    let report = |seq, reason, text: &str| Act::Report { with: with.clone(), seq, reason, text: text.to_owned() };
    assert_eq!(play.types("/report spam"), [report(4, ReportReason::Spam, "")]);
    for _ in 0..3 {
        play.model.handle(NOW_MS, Input::Key(KeyEvent::new(KeyCode::Up, KeyModifiers::ALT)));
    }
    assert_eq!(play.types("/report abuse every day"), [report(3, ReportReason::Abuse, "every day")]);
    assert_eq!(play.types("/block"), [Act::Block(user("bob"))]);
    assert_eq!(play.types("/report that"), []);
    assert!(play.model.notice.contains("spam|abuse|illegal|other"));
}

#[test]
fn what_is_said_about_a_message_is_shown_at_it() {
    let mut play = Play::connected(Some("bob"));
    play.delivered(3, "bob", "alice", "first");
    play.delivered(4, "bob", "alice", "second");
    let acts = play.types("/react x");
    let [Act::Refer { seq: 4, message, about: About::React(_), .. }] = &acts[..] else { panic!("{acts:?}") };
    assert_eq!((&*message.id, message.seq), (&*format!("{:026}", 4), 0));
    let message = message.clone();
    // The one before it, chosen by keys.
    for _ in 0..2 {
        play.model.handle(NOW_MS, Input::Key(KeyEvent::new(KeyCode::Up, KeyModifiers::ALT)));
    }
    let acts = play.types("/keep");
    assert!(matches!(&acts[..], [Act::Refer { seq: 3, about: About::Pin(true), .. }]), "{acts:?}");
    assert_eq!(play.types("/edit better"), [], "nothing of one's own");
    play.model.line.clear();
    let edit = Edit { target: Some(message), content: Some(Box::new(carillon_client::Client::text("better"))) };
    let content = Some(Content { body: Some(Body::Edit(Box::new(edit))), ..Content::default() });
    let edit = Envelope { content, ..envelope(5, "bob", "alice", "") };
    let event = Event::Delivered { timeline: inbox(), position: at(5), envelope: edit.clone() };
    assert_eq!(play.hears(event), [Act::ReadEntry { timeline: inbox(), seq: 4 }]);
    let reactions = vec![ReactionCount { emoji: "x".to_owned(), users: 2 }];
    let state = MessageState { edit: Some(edit), edits: 1, reactions, ..MessageState::default() };
    let entry = Entry { seq: 4, envelope: Some(envelope(4, "bob", "alice", "second")), state: Some(state.into()) };
    play.answered(Answer::Entry(inbox(), Page { epoch: 7, entries: vec![entry], ..Page::default() }));
    let (screen, _) = play.screen();
    assert!(screen.contains("bob: better") && screen.contains("edited  x 2") && !screen.contains("second"), "{screen}");
    let acts = play.types("/reply yes");
    let [Act::Send { content, .. }] = &acts[..] else { panic!("{acts:?}") };
    assert_eq!(content.reply_to.as_ref().map(|reply| &*reply.quote), Some("better"));
}

#[test]
fn who_writes_is_shown_and_heard_of_for_a_while() {
    let mut play = Play::connected(Some("bob"));
    let told = |state: ChatState| ChatStateNotice {
        from: "bob".to_owned(),
        state: state.into(),
        ..ChatStateNotice::default()
    };
    play.hears(Event::ChatState(told(ChatState::Composing)));
    assert!(play.screen().0.contains("is writing"));
    play.model.handle(NOW_MS + 9_999, Input::Time);
    assert!(play.screen().0.contains("is writing"));
    let until_ms = play.model.changes_at_ms().expect("not for ever");
    play.model.handle(until_ms, Input::Time);
    assert!(!play.screen().0.contains("is writing"));
    play.hears(Event::ChatState(told(ChatState::Composing)));
    play.delivered(3, "bob", "alice", "there it is");
    assert!(!play.screen().0.contains("is writing"));
    // The other side hears of keys, but not of each.
    assert_eq!(play.presses(KeyCode::Char('h')), [Act::Writing(With::User(user("bob")))]);
    assert_eq!(play.presses(KeyCode::Char('i')), []);
}

#[test]
fn what_expires_vanishes_from_the_screen_in_time_and_is_not_quoted() {
    let mut play = Play::connected(Some("bob"));
    let passing = Envelope { expires_at_ms: NOW_MS + 60_000, ..envelope(3, "bob", "alice", "the code is 4711") };
    play.hears(Event::Delivered { timeline: inbox(), position: at(3), envelope: passing });
    let acts = play.sends("/reply thanks");
    let [Act::Send { content, .. }] = &acts[..] else { panic!("{acts:?}") };
    assert_eq!(content.reply_to.as_ref().map(|reply| &*reply.quote), Some(""));
    let acts = play.sends("/expire 30s mine is 42");
    assert!(matches!(&acts[..], [Act::Send { expires_after_ms: 30_000, .. }]), "{acts:?}");
    let (client_id, message_id) = ("t-2".to_owned(), format!("{:026}", 5));
    let (time_ms, expires_at_ms) = (NOW_MS, NOW_MS + 30_000);
    play.hears(Event::Sent { timeline: inbox(), position: at(5), client_id, message_id, time_ms, expires_at_ms });
    for (at_ms, there, gone) in [(30_000, "4711", "42"), (60_000, "[expired]", "4711")] {
        assert!(play.screen().0.contains(gone), "{}", play.screen().0);
        assert_eq!(play.model.changes_at_ms(), Some(NOW_MS + at_ms));
        play.model.handle(NOW_MS + at_ms, Input::Time);
        let (screen, _) = play.screen();
        assert!(screen.contains(there) && !screen.contains(gone), "{screen}");
    }
    assert_eq!(play.model.changes_at_ms(), None);
    // As the service gives it out from then on.
    let left = Envelope { expires_at_ms: NOW_MS, erased: true, ..envelope(9, "bob", "alice", "") };
    play.hears(Event::Delivered { timeline: inbox(), position: at(9), envelope: left });
    assert_eq!(play.screen().0.matches("[expired]").count(), 3, "{}", play.screen().0);
}

#[test]
fn what_has_expired_or_was_recalled_is_not_unread() {
    let mut play = Play::connected(Some("bob"));
    let carol = carillon_client::Client::user("carol");
    play.lists(vec![conversation(carol, 0, 1, ConversationSettings::default())]);
    let passing = Envelope { expires_at_ms: NOW_MS + 60_000, ..envelope(3, "carol", "alice", "the code is 4711") };
    let bell = |play: &mut Play, seq, envelope| {
        play.hears(Event::Delivered { timeline: inbox(), position: at(seq), envelope }) == [Act::Bell]
    };
    assert!(bell(&mut play, 3, passing));
    assert!(bell(&mut play, 4, envelope(4, "carol", "alice", "hello")));
    let unread = |play: &Play| play.model.threads[&With::User(user("carol"))].unread;
    assert_eq!(unread(&play), 2);
    play.model.handle(NOW_MS + 60_000, Input::Time);
    assert_eq!(unread(&play), 1);
    let recalled = Envelope { erased: true, ..envelope(4, "carol", "alice", "") };
    let state = MessageState { recall: Some(envelope(6, "carol", "alice", "")), ..MessageState::default() };
    let entry = Entry { seq: 4, envelope: Some(recalled.clone()), state: Some(Box::new(state)) };
    play.answered(Answer::Entry(inbox(), Page { entries: vec![entry], ..Page::default() }));
    assert_eq!(unread(&play), 0);
    assert!(!bell(&mut play, 7, recalled), "it was recalled before it came");
    assert_eq!(unread(&play), 0);
}

#[test]
fn a_muted_conversation_rings_no_bell() {
    let mut play = Play::connected(Some("bob"));
    let muted = ConversationSettings { muted_until_ms: Some(NOW_MS + 1), ..ConversationSettings::default() };
    play.lists(vec![conversation(carillon_client::Client::user("carol"), 0, 0, muted)]);
    assert_eq!(play.delivered(3, "carol", "alice", "psst"), []);
}

proptest! {
    /// Whatever comes, on a screen of any size: it is drawn, and nothing in it is a control character.
    #[test]
    fn everything_can_be_drawn(
        width in 1..90u16, height in 1..20u16,
        said in proptest::collection::vec(("[abc]", any::<String>()), 0..12),
        typed in ".{0,40}", keys in proptest::collection::vec(0..7u8, 0..12),
    ) {
        let mut play = Play::connected(Some("b"));
        play.terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        for (seq, (sender, text)) in (1..).zip(&said) {
            play.delivered(seq, sender, "alice", text);
            play.screen();
        }
        play.model.handle(NOW_MS, Input::Paste(typed));
        for key in keys {
            let code = match key {
                0 => KeyCode::Tab, 1 => KeyCode::PageUp, 2 => KeyCode::PageDown, 3 => KeyCode::Enter,
                4 => KeyCode::Up, 5 => KeyCode::Backspace, _ => KeyCode::Esc,
            };
            play.presses(code);
            let (screen, _) = play.screen();
            prop_assert!(!screen.chars().any(|char| char.is_control() && char != '\n'), "{:?}", screen);
        }
    }
}
