//! The state of the screen, and how keys, events and answers change it. No terminal and no service.

use std::collections::{BTreeMap, VecDeque};

use carillon_client::{Event, ListVersion, State};
use carillon_proto::{
    GroupId, Position, TimelineId, UserId,
    pb::client::{
        ChatState, ChatStateNotice, Conversation, Conversations, Envelope, GroupChange, MessageRef, MessageRequest,
        Page, Presence, Show, UserMark, group_change::What,
    },
};
use chrono::NaiveDateTime;
use crossterm::event::KeyEvent;
use ratatui_textarea::{CursorMove, TextArea};

use crate::{
    act::{Act, Answer},
    mentions, text,
    thread::{Pending, Said, Thread, With, about},
};

/// Entries of one page of history.
pub(crate) const PAGE: u32 = 100;
/// Pages that are read for one key: the messages of a conversation may stand far apart in an inbox.
const PAGES: u32 = 20;
/// Who was heard of so long ago is not writing any more.
const WRITING_MS: u64 = 10_000;

#[expect(clippy::large_enum_variant, reason = "one at a time, and nearly all are events")]
pub(crate) enum Input {
    Key(KeyEvent),
    Paste(String),
    Event(Event),
    Answer(Answer),
    /// The open conversation does not fill the screen.
    Room,
    /// The time that `changes_at_ms` has told has come.
    Time,
}

/// How much of a timeline is here.
#[derive(Debug, Default)]
struct Log {
    epoch: u64,
    /// The first position that was read.
    first: Option<u64>,
    /// Nothing stands before it.
    is_whole: bool,
    is_reading: bool,
    /// Pages that may still be read before the next key.
    pages: u32,
}

pub(crate) struct Model {
    pub(crate) user: UserId,
    pub(crate) device: String,
    pub(crate) threads: BTreeMap<With, Thread>,
    pub(crate) open: Option<With>,
    /// Lines between the bottom of the screen and the newest message.
    pub(crate) scroll: usize,
    /// Position of the newest message when the user began to scroll.
    pub(crate) scrolled_from: u64,
    /// Position of the newest message when the screen was last drawn, while it is scrolled.
    pub(crate) held_at: u64,
    /// Lines of the conversation that fit on the screen, as of the last drawing.
    pub(crate) height: usize,
    /// The chosen message has to come into sight.
    pub(crate) shows_choice: bool,
    /// The first line of the help that is shown, if the help is.
    pub(crate) help: Option<usize>,
    /// Position of the message of which the next command is.
    pub(crate) chosen: Option<u64>,
    /// When the conversation was opened, everything up to here was read, and something behind it was not.
    pub(crate) read_before: Option<u64>,
    pub(crate) line: TextArea<'static>,
    pub(crate) connection: String,
    pub(crate) is_connected: bool,
    pub(crate) notice: String,
    /// The notice is about what is typed: it goes when that goes, and when a newer message comes.
    pub(crate) notice_is_of_line: bool,
    pub(crate) shown: BTreeMap<String, Presence>,
    /// The members of groups, without this user: those who can be mentioned.
    pub(crate) members: BTreeMap<GroupId, Vec<String>>,
    /// In which conversation who is writing, and until when that counts.
    pub(crate) writing: BTreeMap<(With, String), u64>,
    pub(crate) told_writing_ms: u64,
    /// The time of the last input.
    pub(crate) now_ms: u64,
    /// The clock on the wall at a time since 1970.
    pub(crate) local: fn(u64) -> NaiveDateTime,
    logs: BTreeMap<TimelineId, Log>,
    list: Option<ListVersion>,
    /// The beginning of client ids.
    pub(crate) prefix: String,
    pub(crate) sent: u64,
    pub(crate) acts: VecDeque<Act>,
}

impl Model {
    pub(crate) fn new(user: UserId, device: String, with: Option<With>, prefix: String) -> Self {
        let mut model = Self {
            user,
            device,
            threads: BTreeMap::new(),
            open: None,
            scroll: 0,
            scrolled_from: 0,
            held_at: 0,
            height: 0,
            shows_choice: false,
            help: None,
            chosen: None,
            read_before: None,
            line: line(""),
            connection: "connecting".to_owned(),
            is_connected: false,
            notice: "/help says what can be done".to_owned(),
            notice_is_of_line: false,
            shown: BTreeMap::new(),
            members: BTreeMap::new(),
            writing: BTreeMap::new(),
            told_writing_ms: 0,
            now_ms: 0,
            local: text::local,
            logs: BTreeMap::new(),
            list: None,
            prefix,
            sent: 0,
            acts: VecDeque::new(),
        };
        if let Some(with) = with {
            model.open(with);
        }
        model
    }

    pub(crate) fn handle(&mut self, now_ms: u64, input: Input) {
        self.now_ms = now_ms;
        match input {
            Input::Key(key) => self.key(now_ms, key),
            Input::Paste(text) => self.paste(now_ms, &text),
            Input::Event(event) => self.event(now_ms, event),
            Input::Answer(answer) => self.answer(answer),
            Input::Room => self.read_more(),
            Input::Time => self.writing.retain(|_, until| *until > now_ms),
        }
        if self.line.is_empty() {
            self.forget_notice_of_line();
        }
        self.threads.values_mut().for_each(|thread| thread.expire(now_ms, &self.user));
    }

    /// Tells what is wrong with what is typed.
    pub(crate) fn notice_of_line(&mut self, why: String) {
        (self.notice, self.notice_is_of_line) = (why, true);
    }

    fn forget_notice_of_line(&mut self) {
        if std::mem::take(&mut self.notice_is_of_line) {
            self.notice.clear();
        }
    }

    /// Tells what has happened, whatever is typed.
    fn notice(&mut self, what: &str) {
        (self.notice, self.notice_is_of_line) = (text::printable(what), false);
    }

    pub(crate) fn take_act(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    /// Conversations as they are listed: pinned ones first, archived ones last, and otherwise those with the newest message first. Requests stand
    /// behind all others.
    pub(crate) fn listed(&self) -> Vec<(&With, &Thread)> {
        let is_wanted = |thread: &Thread| thread.request != MessageRequest::Declined;
        let mut listed: Vec<_> = self.threads.iter().filter(|(_, thread)| is_wanted(thread)).collect();
        listed.sort_by_key(|(with, thread)| {
            let newest = thread.said.values().next_back().map_or(0, |said| said.time_ms);
            let (pinned, archived) = (thread.settings.pinned(), thread.settings.archived());
            let newest = (std::cmp::Reverse(newest), std::cmp::Reverse(thread.last_seq));
            (thread.is_request(), !pinned, archived, newest, (*with).clone())
        });
        listed
    }

    pub(crate) fn open_thread(&self) -> Option<(&With, &Thread)> {
        let with = self.open.as_ref()?;
        self.threads.get_key_value(with)
    }

    /// True if all of the open conversation is here.
    pub(crate) fn is_whole(&self) -> bool {
        let timeline = self.open.as_ref().map(|with| with.timeline(&self.user));
        timeline.is_none_or(|timeline| self.logs.get(&timeline).is_some_and(|log| log.is_whole))
    }

    /// The screen is scrolled no further than to the first line.
    pub(crate) fn scroll_at_most(&mut self, lines: usize) {
        self.scroll = self.scroll.min(lines);
    }

    pub(crate) fn allow_pages(&mut self) {
        if let Some(with) = &self.open {
            self.logs.entry(with.timeline(&self.user)).or_default().pages = PAGES;
        }
    }

    fn read_more(&mut self) {
        let Some(with) = self.open.as_ref().filter(|_| self.is_connected) else { return };
        let timeline = with.timeline(&self.user);
        let log = self.logs.entry(timeline.clone()).or_default();
        let from_seq = match log.first {
            Some(first) => first.saturating_sub(1),
            None => 0,
        };
        if log.is_whole || log.is_reading || log.pages == 0 || (log.first.is_some() && from_seq == 0) {
            return;
        }
        log.is_reading = true;
        log.pages -= 1;
        self.acts.push_back(Act::ReadHistory { timeline, from_seq });
    }

    /// Everything that is on the screen is read.
    pub(crate) fn mark_read(&mut self) {
        let Some(with) = self.open.clone().filter(|_| self.scroll == 0 && self.is_connected) else { return };
        let epoch = self.logs.get(&with.timeline(&self.user)).map_or(0, |log| log.epoch);
        let Some(thread) = self.threads.get_mut(&with) else { return };
        let newest = thread.newest_of_others(&self.user).filter(|_| epoch != 0);
        let Some(position) = newest.map(|seq| Position { epoch: carillon_proto::Epoch(epoch), seq }) else { return };
        if thread.read.is_none_or(|read| read.epoch != position.epoch || read.seq < position.seq) {
            thread.read = Some(position);
            thread.unread = 0;
            self.acts.push_back(Act::MarkRead(with, position));
        }
    }

    fn event(&mut self, now_ms: u64, event: Event) {
        match event {
            Event::State(state) => self.state(state),
            Event::Delivered { timeline, position, envelope } => {
                let Some(with) = With::of_message(&timeline, &envelope, &self.user) else { return };
                self.began(&timeline, position);
                if let Some(message) = about(&envelope) {
                    let known = self.threads.get(&with).and_then(|thread| thread.find(&message.id));
                    self.acts.extend(known.map(|seq| Act::ReadEntry { timeline, seq }));
                    return;
                }
                let is_own = envelope.sender == self.user.as_str();
                if self.open.as_ref() == Some(&with) {
                    self.forget_notice_of_line();
                }
                if let (With::Group(group), Some(change)) = (&with, &envelope.change) {
                    self.group_changed(group, change);
                }
                let is_open = self.open.as_ref() == Some(&with) && self.scroll == 0;
                // The message that was being written has come.
                self.writing.remove(&(with.clone(), envelope.sender.clone()));
                let thread = self.threads.entry(with).or_default();
                if is_own {
                    // Who writes has accepted.
                    thread.request = MessageRequest::Unspecified;
                }
                let is_new = thread.put(position.seq, Said::of(&envelope, None), &self.user);
                // There is nothing to be read in what was erased, recalled, or has expired before it came.
                if is_new && !is_own && !envelope.erased {
                    thread.unread += 1;
                    if !is_open && !thread.is_request() && thread.settings.muted_until_ms() <= now_ms {
                        self.acts.push_back(Act::Bell);
                    }
                }
                self.mark_read();
            }
            Event::Sent { timeline, position, client_id, message_id, time_ms, expires_at_ms } => {
                self.began(&timeline, position);
                let found = self.threads.values_mut().find_map(|thread| Some((thread.accepted(&client_id)?, thread)));
                if let Some((Pending { text, has_file, is_poll, mentions, .. }, thread)) = found {
                    let (sender, sender_device) = (self.user.to_string(), self.device.clone());
                    thread.request = MessageRequest::Unspecified;
                    let message =
                        MessageRef { id: message_id, sender, sender_device, client_id, seq: 0, expires_at_ms };
                    let said = Said { message, time_ms, text, has_file, is_poll, mentions, ..Said::default() };
                    thread.put(position.seq, said, &self.user);
                }
            }
            Event::Trimmed { timeline, first } => self.began(&timeline, first),
            Event::Conversations(changes) => self.list_changed(changes),
            Event::Marks(marks) if marks.group.is_empty() => marks.marks.iter().for_each(|mark| self.marked(mark)),
            Event::Marks(_) | Event::Contact(_) | Event::ContactsMissed => {}
            Event::ChatState(told) => self.chat_state(now_ms, &told),
            Event::Scheduled(changed) if changed.failed => {
                self.notice("a message that was to be sent later can't be sent: carillon scheduled list says why");
            }
            Event::Scheduled(_) | Event::Privacy(_) | Event::PrivacyMissed => {}
            Event::Presence(presence) => {
                self.shown.insert(presence.user.clone(), presence);
            }
        }
    }

    fn group_changed(&mut self, group: &GroupId, change: &GroupChange) {
        match (&change.what, self.members.get_mut(group)) {
            (Some(What::Members(change)), Some(members)) => mentions::follow(members, change, self.user.as_str()),
            // The user has just come in.
            (_, None) if matches!(&self.open, Some(With::Group(open)) if open == group) => self.read_others(),
            _ => {}
        }
    }

    fn chat_state(&mut self, now_ms: u64, told: &ChatStateNotice) {
        let with = match told.group.as_str() {
            "" => UserId::new(&told.from).ok().map(With::User),
            group => GroupId::new(group).ok().map(With::Group),
        };
        let Some(place) = with.map(|with| (with, told.from.clone())) else { return };
        match told.state() {
            ChatState::Composing | ChatState::Recording => drop(self.writing.insert(place, now_ms + WRITING_MS)),
            ChatState::Paused | ChatState::Gone | ChatState::Unspecified => drop(self.writing.remove(&place)),
        }
    }

    /// When what is shown changes by itself.
    pub(crate) fn changes_at_ms(&self) -> Option<u64> {
        let expiring = self.threads.values().filter_map(Thread::expires_at_ms);
        self.writing.values().copied().chain(expiring).min()
    }

    fn state(&mut self, state: State) {
        self.is_connected = state.is_connected();
        match state {
            State::Connecting => self.connection = "connecting".to_owned(),
            State::Connected { address, signed_in } => {
                self.connection = format!("{} at {address}", signed_in.user);
                self.acts.push_back(Act::ReadList(self.list));
                self.acts.push_back(Act::Show(Show::Online, String::new()));
                self.read_others();
                // Requests of the connection before may never be answered.
                self.logs.values_mut().for_each(|log| log.is_reading = false);
            }
            State::Disconnected { why } => self.connection = format!("not connected: {}", text::printable(&why)),
            State::Ended { why, .. } => self.connection = text::printable(&why),
        }
    }

    /// Asks how far the other user of the open conversation is, or who the members of the group are.
    pub(crate) fn read_others(&mut self) {
        let read = self.open.as_ref().filter(|_| self.is_connected).map(|with| match with {
            With::User(user) => Act::ReadMarks(user.clone()),
            With::Group(group) => Act::ReadMembers(group.clone()),
        });
        self.acts.extend(read);
    }

    /// With another epoch than before the timeline has begun anew, and what was known of it is gone.
    fn began(&mut self, timeline: &TimelineId, position: Position) {
        let log = self.logs.entry(timeline.clone()).or_default();
        let epoch = position.epoch.0;
        if log.epoch == epoch {
            return;
        }
        if log.epoch != 0 {
            let user = &self.user;
            self.threads.iter_mut().filter(|(with, _)| with.timeline(user) == *timeline).for_each(|(_, thread)| {
                let (pending, settings) = (std::mem::take(&mut thread.pending), std::mem::take(&mut thread.settings));
                *thread = Thread { pending, settings, ..Thread::default() };
            });
        }
        *log = Log { epoch, pages: PAGES, ..Log::default() };
    }

    fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Refused(with, client_id, why) => {
                if let Some(thread) = self.threads.get_mut(&with) {
                    thread.refused(&client_id, text::printable(&why));
                }
            }
            Answer::Uploaded(with, client_id, content) => {
                let content = *content;
                let shown = text::of(&Envelope { content: Some(content.clone()), ..Envelope::default() }, None).0;
                self.threads.entry(with.clone()).or_default().uploaded(&client_id, shown);
                self.acts.push_back(Act::Send { with, client_id, content, expires_after_ms: 0 });
            }
            Answer::History(timeline, Ok(page)) => self.history(&timeline, page),
            Answer::History(timeline, Err(error)) => {
                let log = self.logs.entry(timeline).or_default();
                (log.is_reading, log.pages) = (false, 0);
                self.notice(&format!("history: {error}"));
            }
            Answer::List(Ok(list)) => {
                self.list = Some(list.version);
                list.conversations.into_iter().for_each(|conversation| self.listed_as(conversation));
                if self.open.is_none() {
                    self.turn(1);
                }
            }
            Answer::Conversations(Ok(all)) => all.into_iter().for_each(|conversation| self.listed_as(conversation)),
            Answer::List(Err(error)) | Answer::Conversations(Err(error)) => {
                self.notice(&error.to_string());
            }
            Answer::Marks(user, Ok(marks)) => {
                for mark in marks.iter().filter(|mark| mark.user == user.as_str()) {
                    self.marked(mark);
                }
            }
            // The ticks stay as they are.
            Answer::Marks(_, Err(_)) => {}
            Answer::Referred(timeline, seq) => self.acts.push_back(Act::ReadEntry { timeline, seq }),
            Answer::Entry(timeline, page) => self.put_page(&timeline, page),
            Answer::Members(group, mut members) => {
                members.retain(|member| member != self.user.as_str());
                self.members.insert(group, members);
            }
            Answer::Told(told) => self.notice(&told),
        }
    }

    fn history(&mut self, timeline: &TimelineId, page: Page) {
        self.began(timeline, Position { epoch: carillon_proto::Epoch(page.epoch), seq: 0 });
        let log = self.logs.entry(timeline.clone()).or_default();
        log.is_reading = false;
        log.is_whole |= page.complete || page.entries.is_empty();
        log.first = page.entries.iter().map(|entry| entry.seq).chain(log.first).min();
        self.put_page(timeline, page);
        self.mark_read();
    }

    fn put_page(&mut self, timeline: &TimelineId, page: Page) {
        for entry in page.entries {
            let Some(envelope) = entry.envelope.filter(|envelope| about(envelope).is_none()) else { continue };
            if let Some(with) = With::of_message(timeline, &envelope, &self.user) {
                let said = Said::of(&envelope, entry.state.as_deref());
                self.threads.entry(with).or_default().put(entry.seq, said, &self.user);
            }
        }
    }

    fn list_changed(&mut self, changes: Conversations) {
        let version = ListVersion { epoch: changes.epoch, version: changes.version };
        if self.list.is_some_and(|list| list.is_followed_by(&changes)) {
            self.list = Some(version);
            changes.conversations.into_iter().for_each(|conversation| self.listed_as(conversation));
        } else {
            self.acts.push_back(Act::ReadList(self.list));
        }
    }

    fn listed_as(&mut self, conversation: Conversation) {
        let Some(with) = conversation.with.as_ref().and_then(With::of) else { return };
        let is_open = self.open.as_ref() == Some(&with);
        let thread = self.threads.entry(with).or_default();
        thread.last_seq = thread.last_seq.max(conversation.last_seq);
        if let Some(read) = conversation.read.map(Position::from)
            && thread.read.is_none_or(|known| known.epoch != read.epoch || known.seq < read.seq)
        {
            thread.read = Some(read);
        }
        thread.unread = conversation.unread;
        thread.request = conversation.request();
        let draft_before = thread.settings.draft.clone();
        thread.settings = conversation.settings.unwrap_or_default();
        // Typed on another device. What is being typed here is kept.
        let here = self.line.lines().join("\n");
        if is_open && (here.is_empty() || Some(&here) == draft_before.as_ref()) && here != thread.settings.draft() {
            self.line = line(thread.settings.draft());
        }
        self.mark_read();
    }

    fn marked(&mut self, mark: &UserMark) {
        let Ok(user) = UserId::new(&mark.user) else { return };
        self.threads.entry(With::User(user)).or_default().marked(mark);
    }
}

/// The line in which the user types, with this text in it.
pub(crate) fn line(text: &str) -> TextArea<'static> {
    let mut line = TextArea::new(text.split('\n').map(str::to_owned).collect());
    line.set_cursor_line_style(ratatui::style::Style::default());
    line.set_wrap_mode(ratatui_textarea::WrapMode::Glyph);
    line.move_cursor(CursorMove::Bottom);
    line.move_cursor(CursorMove::End);
    line
}
