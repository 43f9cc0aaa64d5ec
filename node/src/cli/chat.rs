//! A small client for the terminal.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal as _},
    time::Duration,
};

use anyhow::{anyhow, bail};
use carillon_client::{Client, Event, Events, State};
use carillon_proto::{
    GroupId, Position, TimelineId, UserId, duration,
    pb::client::{
        Accepted, ChatState, ChatStateNotice, Envelope, Media, Recipient, UserMark, group_change::What,
        members_change::Kind, recipient, timeline,
    },
    tasks::Tasks,
};
use carillon_terminal::TerminalError;
use clap::Args;
use tokio::time::{Instant, timeout_at};

use super::{
    connect::{Connect, SIGN_IN, reads_nothing},
    date,
    lines::lines,
    out,
    printer::{Format, Printer},
    refused::{Failed, not_sent},
    said::said,
    saying::Saying,
};
use crate::{Config, shutdown::Signals};

#[derive(Args)]
pub(super) struct Send {
    from: UserId,
    to: UserId,
    #[command(flatten)]
    saying: Saying,
    /// Names this device among the sender's.
    #[arg(long, default_value = "terminal-send")]
    device: String,
    /// Seconds after which the command gives up, sign-in included.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Prints the answer as a JSON object, for programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Args)]
pub(super) struct Listen {
    user: UserId,
    /// Names this device among the user's: the service keeps how far each one is.
    #[arg(long, default_value = "terminal")]
    device: String,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Args)]
pub(super) struct Chat {
    user: UserId,
    /// With whom: this conversation is opened. It, or --group, is needed where lines are sent.
    with: Option<UserId>,
    /// The conversation in this group.
    #[arg(long, conflicts_with = "with")]
    group: Option<GroupId>,
    /// Prints messages that come and sends the lines of standard input, without a screen; so it is anyway where standard input or output is no
    /// terminal. Exits with 1 if a line was not accepted.
    #[arg(long)]
    lines: bool,
    /// Seconds after which a line counts as not accepted. When the input has ended by then, those behind it are not tried.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    #[command(flatten)]
    format: Format,
    #[arg(long, default_value = "terminal-chat")]
    device: String,
    #[command(flatten)]
    connect: Connect,
}

impl Send {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let mut settings = reads_nothing(self.connect.settings(config, &self.from, &self.device)?);
        // The time at the password prompt does not count.
        let whole = Duration::from_secs(self.timeout);
        let end = Instant::now() + whole;
        let tasks = Tasks::new();
        settings.send_timeout = whole;
        // Nobody reads what is delivered to this device.
        let (client, _) = Client::open(settings, &tasks)?;
        client.connected(SIGN_IN.min(whole)).await.map_err(|why| Failed::ended(&client, why))?;
        let inbox = TimelineId::Inbox(self.from.clone());
        let Ok(content) = timeout_at(end, self.saying.content(&client, &inbox, self.json)).await else {
            bail!("what the message needs was not uploaded or found within {} s", self.timeout);
        };
        let to = Client::user(self.to.as_str());
        let sending = client.send_expiring(to, content?, self.saying.expires());
        let Ok(sent) = timeout_at(end, sending).await else {
            bail!("message to {}: no answer within {} s: it may have been accepted, or not", self.to, self.timeout);
        };
        // A gateway that does not receive the sign-out sees the connection end.
        let _ = timeout_at(end, client.close()).await;
        let printer = Printer { reader: self.from.as_str(), format: Format::of_json(self.json) };
        printer.accepted(&sent.map_err(|error| not_sent(&self.to, error))?)
    }
}

impl Listen {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let mut signals = Signals::install()?;
        let tasks = Tasks::new();
        let (client, mut events) = Client::open(self.connect.settings(config, &self.user, &self.device)?, &tasks)?;
        let printer = Printer { reader: self.user.as_str(), format: self.format };
        let ended = tokio::select! {
            ended = print_events(&client, &mut events, &printer, |_| {}) => Err(ended),
            _ = signals.next() => Ok(()),
        };
        close(&client, events, &ended).await;
        ended
    }
}

impl Chat {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        let mut settings = self.connect.settings(config, &self.user, &self.device)?;
        let with = match (&self.with, &self.group) {
            (Some(user), _) => Some(Client::user(user.as_str())),
            (None, Some(group)) => Some(Client::group(group.as_str())),
            (None, None) => None,
        };
        if self.lines || self.format.json || !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            let whom = "lines need somebody to whom they are sent: carillon chat USER WITH, or --group GROUP";
            settings.send_timeout = Duration::from_secs(self.timeout);
            return lines(settings, with.ok_or_else(|| Failed::arguments(whom))?, self.format).await;
        }
        let mut signals = Signals::install()?;
        let ended = async {
            signals.next().await;
        };
        match carillon_terminal::run(settings, with, &Tasks::new(), ended).await {
            Err(TerminalError::Ended { ending, why }) => Err(Failed::Ended { ending: Some(ending), why }.into()),
            shown => Ok(shown?),
        }
    }
}

/// What was printed.
pub(super) enum Shown<'a> {
    Message {
        timeline: &'a TimelineId,
        envelope: &'a Envelope,
        position: Position,
    },
    /// There is a new connection.
    Connected,
}

/// Acknowledges the printed events. The last one is left out if printing it failed.
pub(super) async fn close(client: &Client, mut events: Events, ended: &anyhow::Result<()>) {
    let unprinted = |error: &anyhow::Error| error.is::<out::Unread>() || error.is::<std::io::Error>();
    if !ended.as_ref().is_err_and(unprinted) {
        events.done();
    }
    client.close().await;
}

/// Returns the reason when there are no more events.
pub(super) async fn print_events(
    client: &Client,
    events: &mut Events,
    printer: &Printer<'_>,
    mut shown: impl FnMut(Shown<'_>),
) -> anyhow::Error {
    // A reason that stays the same is told once.
    let mut not_connected = String::new();
    let mut changes = Changes::default();
    while let Some(event) = events.next().await {
        match event {
            Event::Delivered { timeline, position, envelope } => {
                if !changes.is_repeat(&envelope)
                    && let Err(error) = printer.message(&timeline, position.seq, &envelope)
                {
                    return error;
                }
                shown(Shown::Message { timeline: &timeline, envelope: &envelope, position });
            }
            Event::Conversations(_) => {}
            Event::Marks(marks) => marks.marks.iter().for_each(|mark| out::tell(format_args!("({})", reached(mark)))),
            Event::Privacy(_) | Event::PrivacyMissed => {}
            Event::ChatState(told) => out::tell(format_args!("({})", doing(&told))),
            Event::Sent { .. }
            | Event::Contact(_)
            | Event::ContactsMissed
            | Event::Scheduled(_)
            | Event::Presence(_) => {}
            Event::Trimmed { first, .. } => {
                out::tell(format_args!("(older messages before position {} are gone)", first.seq));
            }
            Event::State(State::Connected { address, signed_in }) => {
                not_connected.clear();
                let (user, device) = (&signed_in.user, &signed_in.device);
                out::tell(format_args!("({user} is signed in at {address} as device {device})"));
                shown(Shown::Connected);
            }
            Event::State(State::Disconnected { why }) if why == not_connected => {}
            Event::State(State::Disconnected { why }) => {
                out::tell(format_args!("(not connected: {why}; trying again)"));
                not_connected = why;
            }
            Event::State(State::Connecting) => {}
            Event::State(State::Ended { why, .. }) => return Failed::ended(client, why).into(),
        }
    }
    anyhow!("the client has ended")
}

/// Ids of changes of groups that were printed. A change of the user's own membership is delivered twice: in the inbox and in the group.
#[derive(Default)]
struct Changes(VecDeque<String>);

impl Changes {
    /// Most ids that are kept. The older ones are forgotten first.
    const MOST: usize = 256;

    /// True if the envelope is a change that was printed before.
    fn is_repeat(&mut self, envelope: &Envelope) -> bool {
        if envelope.change.is_none() || self.0.contains(&envelope.id) {
            return envelope.change.is_some();
        }
        if self.0.len() == Self::MOST {
            self.0.pop_front();
        }
        self.0.push_back(envelope.id.clone());
        false
    }
}

pub(super) fn accepted(accepted: &Accepted) -> String {
    let seq = accepted.position.as_ref().map_or(0, |position| position.seq);
    let timeline = accepted.timeline.as_ref().and_then(|timeline| timeline.owner.as_ref());
    let place = match timeline {
        Some(timeline::Owner::Inbox(user)) => format!("inbox/{user}"),
        Some(timeline::Owner::Group(group)) => format!("group/{group}"),
        None => "?".to_owned(),
    };
    format!("accepted {} at position {seq} of {place}", accepted.message_id)
}

pub(super) fn line(envelope: &Envelope, reader: &str) -> String {
    let to = match &envelope.to {
        Some(Recipient { to: Some(recipient::To::User(to)) }) if to != reader => format!(" to {to}"),
        Some(Recipient { to: Some(recipient::To::Group(group)) }) => format!(" in {group}"),
        _ => String::new(),
    };
    // The operator's changes of groups have no sender, nor have those that follow from the end of an account.
    let sender = if envelope.sender.is_empty() { "the service" } else { &envelope.sender };
    if envelope.erased {
        let what = if envelope.expires_at_ms == 0 { "erased" } else { "expired" };
        return format!("{} {sender}{to}: [{what}]", time(envelope.time_ms));
    }
    if let Some(what) = envelope.change.as_ref().and_then(|change| change.what.as_ref()) {
        return format!("{} {sender}{to}: [{}]", time(envelope.time_ms), changed(what));
    }
    let text = said(envelope.content.as_ref());
    format!("{} {sender}{to}: {text}", time(envelope.time_ms))
}

fn reached(mark: &UserMark) -> String {
    match (&*mark.read_id, &*mark.delivered_id) {
        ("", delivered) => format!("{} has received everything up to {delivered}", mark.user),
        (read, _) => format!("{} has read everything up to {read}", mark.user),
    }
}

fn doing(told: &ChatStateNotice) -> String {
    let doing = match told.state() {
        ChatState::Composing => "is writing",
        ChatState::Recording => "is recording",
        ChatState::Paused => "has stopped writing",
        ChatState::Gone | ChatState::Unspecified => "is not looking any more",
    };
    match told.group.is_empty() {
        true => format!("{} {doing}", told.from),
        false => format!("{} {doing} in {}", told.from, told.group),
    }
}

pub(super) fn file(media: &Media) -> String {
    let Media { media_type, url, name, size_bytes, caption, .. } = media;
    match url.is_empty() {
        true => format!("[{media_type}] {name}, {size_bytes} bytes {caption}"),
        false => format!("[{media_type}] {url} {caption}"),
    }
}

fn changed(what: &What) -> String {
    match what {
        What::Created(_) => "made the group".to_owned(),
        What::Set(set) => match set.expire_after_ms {
            None => "changed settings".to_owned(),
            Some(0) => "lets messages stay".to_owned(),
            Some(after_ms) => format!("lets messages expire after {}", duration::ms_in_words(after_ms)),
        },
        What::Deleted(_) => "deleted the group".to_owned(),
        What::Members(members) => {
            let kind = match members.kind() {
                Kind::Muted if members.muted_until_ms == 0 => "unmuted".to_owned(),
                Kind::Role => {
                    format!("role {}", members.role().as_str_name().trim_start_matches("ROLE_").to_lowercase())
                }
                kind => kind.as_str_name().trim_start_matches("KIND_").to_lowercase(),
            };
            let ended = if members.account_ended { ", as the account has ended" } else { "" };
            format!("{kind}: {}{ended}", printable(&members.users.join(", ")))
        }
    }
}

/// The text as one line, without control characters that a terminal obeys, and those that turn the direction of what follows.
pub(super) fn printable(text: &str) -> String {
    let obeyed = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.trim_end().chars().map(|c| if obeyed(c) { ' ' } else { c }).collect()
}

/// The time in UTC, to the second.
fn time(ms: u64) -> String {
    date::format(ms).replacen('T', " ", 1)
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::client::{GroupChange, MembersChange, Role};

    use super::*;

    #[test]
    fn times_are_dates() {
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
        assert_eq!(time(951_782_400_000), "2000-02-29 00:00:00Z");
        assert_eq!(time(1_795_383_845_999), "2026-11-22 21:44:05Z");
    }

    #[test]
    fn a_change_is_printed_once_and_each_message() {
        let mut changes = Changes::default();
        let change = |id: &str| Envelope { id: id.to_owned(), change: Some(Box::default()), ..Envelope::default() };
        assert_eq!(["1", "2", "1", "2"].map(|id| changes.is_repeat(&change(id))), [false, false, true, true]);
        let message = Envelope { id: "3".to_owned(), ..Envelope::default() };
        assert_eq!([changes.is_repeat(&message), changes.is_repeat(&message)], [false, false]);
        (10..10 + Changes::MOST).for_each(|id| assert!(!changes.is_repeat(&change(&id.to_string()))));
        assert_eq!((changes.0.len(), changes.is_repeat(&change("1"))), (Changes::MOST, false));
    }

    #[test]
    fn a_message_is_one_line_that_does_not_command_the_terminal() {
        let envelope = Envelope {
            sender: "bob".into(),
            to: Some(Client::user("alice")),
            content: Some(Client::text("hi\n\u{1b}[2Jthere\n")),
            ..Envelope::default()
        };
        assert_eq!(line(&envelope, "alice"), "1970-01-01 00:00:00Z bob: hi  [2Jthere");
        assert_eq!(line(&envelope, "bob"), "1970-01-01 00:00:00Z bob to alice: hi  [2Jthere");
    }

    #[test]
    fn whose_account_has_ended_is_told_and_who_is_the_owner_now() {
        let shown = |sender: &str, members: MembersChange| {
            let change = Some(Box::new(GroupChange { what: Some(What::Members(members)) }));
            let (sender, to) = (sender.to_owned(), Some(Client::group("club")));
            line(&Envelope { sender, to, change, ..Envelope::default() }, "bob")
        };
        let (kind, users) = (Kind::Left.into(), vec!["alice".to_owned()]);
        let left = MembersChange { kind, users, account_ended: true, ..MembersChange::default() };
        let expected = "1970-01-01 00:00:00Z alice in club: [left: alice, as the account has ended]";
        assert_eq!(shown("alice", left), expected);
        let (kind, users, role) = (Kind::Role.into(), vec!["bob".to_owned()], Role::Owner.into());
        let heir = MembersChange { kind, users, role, ..MembersChange::default() };
        assert_eq!(shown("", heir), "1970-01-01 00:00:00Z the service in club: [role owner: bob]");
    }
}
