//! What keys do.

use carillon_client::{Client, Target};
use carillon_proto::pb::client::{Content, ConversationSettings, Envelope, content::Body};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui_textarea::DataCursor;

use crate::{
    act::Act,
    command::{self, About, Command},
    help, mentions,
    model::{Model, line},
    text,
    thread::{Pending, Said, With},
};

/// Most bytes of a message, and of what is pasted at once.
const MAX_PASTE_BYTES: usize = 65_536;
/// So often others are told that the user is writing.
const TELL_WRITING_MS: u64 = 3_000;

impl Model {
    pub(crate) fn key(&mut self, now_ms: u64, key: KeyEvent) {
        let (control, alt) = (key.modifiers.contains(KeyModifiers::CONTROL), key.modifiers.contains(KeyModifiers::ALT));
        if self.help.is_some() && !control && !alt && self.help_key(key.code) {
            return;
        }
        let is_empty = self.line.is_empty();
        match key.code {
            KeyCode::Char('c' | 'q') if control => self.quit(),
            KeyCode::Char('l') if control => self.acts.push_back(Act::Redraw),
            KeyCode::Char('u') if control => drop(self.line.delete_line_by_head()),
            // A terminal without bracketed paste sends Ctrl+J for the end of a pasted line.
            KeyCode::Char('j') if control => self.line.insert_newline(),
            KeyCode::Enter if alt => self.line.insert_newline(),
            KeyCode::Enter => self.enter(now_ms),
            KeyCode::Tab if self.begun_command().is_some() => self.complete(),
            KeyCode::Tab if self.begun_name().is_some() => self.complete_name(),
            KeyCode::Tab => self.turn(1),
            KeyCode::BackTab => self.turn(-1),
            KeyCode::PageUp => self.scroll_by(self.page()),
            KeyCode::PageDown => self.scroll_by(-self.page()),
            KeyCode::Up if alt => self.choose(true),
            KeyCode::Down if alt => self.choose(false),
            KeyCode::Up if is_empty => self.scroll_by(1),
            KeyCode::Down if is_empty => self.scroll_by(-1),
            KeyCode::Home if is_empty => self.scroll_by(isize::MAX),
            KeyCode::End if is_empty => self.scroll_by(isize::MIN),
            KeyCode::Esc => {
                self.notice.clear();
                self.chosen = None;
                self.scroll_by(isize::MIN);
            }
            _ => {
                if self.line.input(key) {
                    self.tell_writing(now_ms);
                }
            }
        }
    }

    /// Lines that PageUp scrolls: two lines stay in sight.
    fn page(&self) -> isize {
        self.height.saturating_sub(2).max(1) as isize
    }

    /// False: the key is none of the help's, which is closed.
    fn help_key(&mut self, code: KeyCode) -> bool {
        let at = self.help.unwrap_or_default();
        self.help = match code {
            KeyCode::Up => Some(at.saturating_sub(1)),
            KeyCode::Down => Some(at + 1),
            KeyCode::PageUp => Some(at.saturating_sub(self.page() as usize)),
            KeyCode::PageDown => Some(at.saturating_add(self.page() as usize)),
            KeyCode::Home => Some(0),
            KeyCode::End => Some(usize::MAX),
            _ => None,
        };
        self.help.is_some() || code == KeyCode::Esc || (code == KeyCode::Enter && self.line.is_empty())
    }

    /// The beginning of the name of a command, if nothing else is typed.
    fn begun_command(&self) -> Option<String> {
        let [line] = self.line.lines() else { return None };
        let begun = line.strip_prefix('/')?;
        (!begun.starts_with('/') && !begun.contains(' ')).then(|| begun.to_owned())
    }

    fn complete(&mut self) {
        let Some(begun) = self.begun_command() else { return };
        match help::complete(&begun, help::names()) {
            Ok(name) => self.line = line(&format!("/{name}")),
            Err(possible) if possible.is_empty() => self.notice_of_line(help::wrong(&begun)),
            Err(possible) => self.notice_of_line(possible.iter().map(|name| format!("/{name} ")).collect()),
        }
    }

    /// The beginning of the name of a member before the cursor, and the members of the open group.
    fn begun_name(&self) -> Option<(String, &[String])> {
        let Some(With::Group(group)) = &self.open else { return None };
        let DataCursor(row, column) = self.line.cursor();
        let before: String = self.line.lines().get(row)?.chars().take(column).collect();
        Some((mentions::begun(&before)?.to_lowercase(), self.members.get(group)?))
    }

    fn complete_name(&mut self) {
        const SHOWN: usize = 10;
        let Some((begun, members)) = self.begun_name() else { return };
        match help::complete(&begun, members.iter().map(String::as_str)) {
            Ok(name) => drop(self.line.insert_str(&name[begun.len()..])),
            Err(possible) if possible.is_empty() => self.notice_of_line(format!("@{begun}: no member has this name")),
            Err(possible) => {
                let more = if possible.len() > SHOWN { "…" } else { "" };
                let shown = possible.iter().take(SHOWN).map(|name| format!("@{name} ")).collect::<String>();
                self.notice_of_line(shown + more);
            }
        }
    }

    /// Pasted text is never sent by itself, also if lines end in it.
    pub(crate) fn paste(&mut self, now_ms: u64, text: &str) {
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let text = text.trim_end_matches('\n');
        let most = text.len().min(MAX_PASTE_BYTES);
        let end = (0..=most).rfind(|at| text.is_char_boundary(*at)).unwrap_or_default();
        if end < text.len() {
            self.notice_of_line(format!("the pasted text is too long: its first {end} bytes are taken"));
        }
        self.help = None;
        self.line.insert_str(&text[..end]);
        self.tell_writing(now_ms);
    }

    fn scroll_by(&mut self, lines: isize) {
        self.hold();
        self.scroll = self.scroll.saturating_add_signed(lines);
        self.allow_pages();
        self.mark_read();
    }

    /// Remembers the newest message when the user begins to scroll: later ones do not move the screen.
    fn hold(&mut self) {
        if self.scroll == 0 {
            let newest = self.open_thread().map_or(0, |(_, thread)| thread.newest_seq());
            (self.scrolled_from, self.held_at) = (newest, newest);
        }
    }

    fn enter(&mut self, now_ms: u64) {
        let typed = self.line.lines().join("\n");
        if typed.trim().is_empty() {
            return;
        }
        self.notice.clear();
        let before = self.line.clone();
        let done = match command::parse(typed.trim_end(), now_ms) {
            Ok(Err(text)) => self.send(self.text(&text), 0),
            Ok(Ok(command)) => {
                self.line = line("");
                self.carry_out(now_ms, command)
            }
            Err(why) => Err(why),
        };
        if let Err(why) = done {
            // The line stays, to be mended.
            self.line = before;
            self.notice_of_line(why);
        }
    }

    /// The message before or behind the chosen one.
    fn choose(&mut self, before: bool) {
        let Some((_, thread)) = self.open_thread() else { return };
        let seqs = || thread.said.keys().copied();
        self.chosen = match (self.chosen, before) {
            (None, _) => seqs().next_back(),
            (Some(chosen), true) => seqs().rfind(|seq| *seq < chosen).or(Some(chosen)),
            (Some(chosen), false) => seqs().find(|seq| *seq > chosen),
        };
        self.shows_choice = self.chosen.is_some();
        self.hold();
        self.allow_pages();
    }

    /// A text with the mentions of those whom it names.
    fn text(&self, text: &str) -> Content {
        let members = match &self.open {
            Some(With::Group(group)) => self.members.get(group),
            Some(With::User(_)) | None => None,
        };
        Content { mentions: members.and_then(|members| mentions::of(text, members)), ..Client::text(text) }
    }

    /// `expires_after_ms`: for how long it is shown; 0: without end.
    fn send(&mut self, content: Content, expires_after_ms: u64) -> Result<(), String> {
        let with = self.open.clone().ok_or("to whom? /with USER or /group GROUP")?;
        let shown = text::of(&Envelope { content: Some(content.clone()), ..Envelope::default() }, None).0;
        let client_id = self.pend(&with, shown, Some(&content));
        let thread = self.threads.entry(with.clone()).or_default();
        if thread.settings.draft.take().is_some_and(|draft| !draft.is_empty()) {
            self.acts.push_back(Act::Set(with.clone(), draft("")));
        }
        self.line = line("");
        self.acts.push_back(Act::Send { with, client_id, content, expires_after_ms });
        Ok(())
    }

    /// A message of this device that waits to be accepted; `text` is shown of it. Returns its client id.
    fn pend(&mut self, with: &With, text: String, content: Option<&Content>) -> String {
        let is_poll = content.is_some_and(|content| matches!(content.body, Some(Body::Poll(_))));
        let mentions = content.and_then(|content| content.mentions.clone());
        self.sent += 1;
        let client_id = format!("{}-{}", self.prefix, self.sent);
        let thread = self.threads.entry(with.clone()).or_default();
        thread.forget_refused();
        let pending = Pending { client_id: client_id.clone(), text, has_file: false, is_poll, mentions, refused: None };
        thread.pending.push(pending);
        self.scroll = 0;
        client_id
    }

    /// The chosen message, or the last one that fits (`fits` is told whether it is an own one), with its position.
    fn meant(&mut self, with: &With, fits: impl Fn(&Said, bool) -> bool) -> Result<(u64, Said), String> {
        let meant = self.threads.get(with).and_then(|thread| {
            let last = || thread.newest_that(|said| fits(said, said.message.sender == self.user.as_str()));
            self.chosen.or_else(last).and_then(|seq| thread.said.get_key_value(&seq))
        });
        let (seq, said) = meant.ok_or("there is no message for that; Alt+Up chooses one")?;
        let (seq, mut said) = (*seq, said.clone());
        said.message.seq = if with.is_group() { seq } else { 0 };
        self.chosen = None;
        Ok((seq, said))
    }

    /// An error says why nothing was done.
    fn carry_out(&mut self, now_ms: u64, command: Command) -> Result<(), String> {
        match (command, self.open.clone()) {
            (Command::Open(with), _) => self.open(with),
            (Command::Show(show, text), _) => self.acts.push_back(Act::Show(show, text)),
            (Command::Help, _) => self.help = Some(0),
            (Command::Quit, _) => self.quit(),
            (Command::Set(settings), Some(with)) => self.acts.push_back(Act::Set(with, settings)),
            (Command::Answer(answer), Some(With::User(user))) => self.acts.push_back(Act::AnswerRequest(user, answer)),
            (Command::Answer(_), Some(With::Group(_))) => return Err("a group is no request".to_owned()),
            (Command::Who, Some(With::Group(group))) => {
                let thread = self.threads.get(&With::Group(group.clone()));
                let last = thread.and_then(|thread| thread.said.iter().rfind(|(_, said)| !said.is_gone));
                let (seq, said) = last.ok_or("there is no message here")?;
                let (seq, author) = (*seq, Some(said.message.sender.clone()));
                self.acts.push_back(Act::Who { group, seq, author });
            }
            (Command::Edit(text), Some(with)) => {
                let (seq, Said { message, mentions, .. }) = self.meant(&with, |_, is_own| is_own)?;
                let mut content = self.text(&text);
                content.mentions = content.mentions.or(mentions);
                self.acts.push_back(Act::Refer { with, seq, message, about: About::Edit(Box::new(content)) });
            }
            (Command::About(about), Some(with)) => {
                let (seq, said) = self.meant(&with, |said, is_own| about.fits(said, is_own))?;
                self.acts.push_back(Act::Refer { with, seq, message: said.message, about });
            }
            (Command::Reply(text), Some(with)) => {
                let (_, Said { message, text: said, .. }) = self.meant(&with, |_, is_own| !is_own)?;
                let target = Target { to: with.recipient(), message };
                self.send(target.answered_by(self.text(&text), &text::beginning(&said)), 0)?;
            }
            (Command::File(path, caption), Some(with)) => {
                let shown = format!("[sending {}] {caption}", path.display());
                let client_id = self.pend(&with, text::printable(&shown), None);
                self.acts.push_back(Act::Upload { with, client_id, path, caption });
            }
            (Command::Save(path), Some(with)) => {
                let last = || self.threads.get(&with)?.newest_that(|said| said.has_file);
                let seq = self.chosen.or_else(last).ok_or("no message here has a file")?;
                self.chosen = None;
                self.acts.push_back(Act::Save { timeline: with.timeline(&self.user), seq, path });
            }
            (Command::Forward(to), Some(with)) => {
                let (seq, _) = self.meant(&with, |_, is_own| !is_own)?;
                self.acts.push_back(Act::Forward { timeline: with.timeline(&self.user), seq, to });
            }
            (Command::Later(minutes, text), Some(with)) => {
                let at_ms = now_ms.saturating_add(u64::from(minutes) * 60_000);
                self.acts.push_back(Act::Later { with, content: self.text(&text), at_ms });
            }
            (Command::Report(reason, text), Some(with)) => {
                let (seq, _) = self.meant(&with, |_, is_own| !is_own)?;
                self.acts.push_back(Act::Report { with, seq, reason, text });
            }
            (Command::Block, Some(With::User(user))) => self.acts.push_back(Act::Block(user)),
            (Command::Block, Some(With::Group(_))) => return Err("a group is left, not blocked".to_owned()),
            (Command::Expire(after_ms, text), Some(_)) => self.send(self.text(&text), after_ms)?,
            (Command::Ask(poll), Some(_)) => self.send(Client::poll(poll), 0)?,
            (Command::Who, Some(With::User(_))) => return Err("the ticks behind your messages say it".to_owned()),
            (
                Command::Set(_)
                | Command::Answer(_)
                | Command::Who
                | Command::About(_)
                | Command::Edit(_)
                | Command::Reply(_)
                | Command::Ask(_)
                | Command::Report(..)
                | Command::Block
                | Command::Expire(..)
                | Command::File(..)
                | Command::Save(_)
                | Command::Forward(_)
                | Command::Later(..),
                None,
            ) => return Err("no conversation is open".to_owned()),
        }
        Ok(())
    }

    fn quit(&mut self) {
        self.keep_draft();
        self.acts.push_back(Act::Quit);
    }

    /// Opens the next conversation of the list, or the one before.
    pub(crate) fn turn(&mut self, by: isize) {
        let listed: Vec<With> = self.listed().into_iter().map(|(with, _)| with.clone()).collect();
        if listed.is_empty() {
            return;
        }
        let at = listed.iter().position(|with| Some(with) == self.open.as_ref());
        let next = match at {
            Some(at) => (at as isize + by).rem_euclid(listed.len() as isize) as usize,
            None => 0,
        };
        self.open(listed[next].clone());
    }

    pub(crate) fn open(&mut self, with: With) {
        if self.open.as_ref() == Some(&with) {
            return;
        }
        self.keep_draft();
        self.chosen = None;
        let thread = self.threads.entry(with.clone()).or_default();
        self.line = line(thread.settings.draft());
        self.read_before = (thread.unread > 0).then(|| thread.read.map_or(0, |read| read.seq));
        self.scroll = 0;
        self.open = Some(with);
        self.read_others();
        self.allow_pages();
        self.mark_read();
    }

    /// Keeps a line that was not sent as a draft, for all devices of the user.
    fn keep_draft(&mut self) {
        let typed = self.line.lines().join("\n");
        let Some(with) = self.open.clone() else { return };
        let Some(thread) = self.threads.get_mut(&with) else { return };
        if thread.settings.draft() != typed && !typed.starts_with('/') {
            thread.settings.draft = Some(typed.clone());
            self.acts.push_back(Act::Set(with, draft(&typed)));
        }
    }

    /// The other side hears that something is being written.
    fn tell_writing(&mut self, now_ms: u64) {
        let is_text = self.line.lines().first().is_some_and(|line| !line.is_empty() && !line.starts_with('/'));
        let is_request = self.open_thread().is_some_and(|(_, thread)| thread.is_request());
        if let Some(with) = self.open.as_ref().filter(|_| is_text && self.is_connected && !is_request)
            && self.told_writing_ms + TELL_WRITING_MS <= now_ms
        {
            self.told_writing_ms = now_ms;
            self.acts.push_back(Act::Writing(with.clone()));
        }
    }
}

fn draft(text: &str) -> ConversationSettings {
    ConversationSettings { draft: Some(text.to_owned()), ..ConversationSettings::default() }
}
