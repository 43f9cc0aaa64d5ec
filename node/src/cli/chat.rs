//! A small client for the terminal.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use carillon_client::{Client, ClientConfig, Event, Events, SendError, State};
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
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    connect::{Connect, SIGN_IN, reads_nothing},
    date, out,
    printer::{Format, Printer},
    refused::{Failed, not_sent},
    said::said,
    saying::Saying,
};
use crate::{Config, causes::told, shutdown::Signals};

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
        let settings = self.connect.settings(config, &self.user, &self.device)?;
        let with = match (&self.with, &self.group) {
            (Some(user), _) => Some(Client::user(user.as_str())),
            (None, Some(group)) => Some(Client::group(group.as_str())),
            (None, None) => None,
        };
        if self.lines || self.format.json || !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            let whom = "lines need somebody to whom they are sent: carillon chat USER WITH, or --group GROUP";
            return lines(settings, with.context(whom)?, self.format).await;
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

/// A chat by lines.
async fn lines(settings: ClientConfig, with: Recipient, format: Format) -> anyhow::Result<()> {
    let mut signals = Signals::install()?;
    let tasks = Tasks::new();
    let user = settings.user.clone();
    let (client, mut events) = Client::open(settings, &tasks)?;
    let (seen, to_tell) = watch::channel(Seen::default());
    let is_here = |timeline: &TimelineId, envelope: &Envelope| match &with.to {
        Some(recipient::To::Group(group)) => matches!(timeline, TimelineId::Group(of) if of.as_str() == group),
        Some(recipient::To::User(other)) => matches!(timeline, TimelineId::Inbox(_)) && envelope.sender == *other,
        None => false,
    };
    let show = |shown: Shown<'_>| match shown {
        Shown::Message { timeline, envelope, position } if is_here(timeline, envelope) => {
            seen.send_modify(|seen| seen.last = Some(position));
        }
        Shown::Message { .. } => {}
        Shown::Connected => seen.send_modify(|seen| seen.connections += 1),
    };
    let printer = Printer { reader: &user, format };
    let ended = tokio::select! {
        ended = print_events(&client, &mut events, &printer, show) => Err(ended),
        typed = send_lines(&client, &with, &printer) => typed,
        () = mark_read(&client, &with, to_tell) => Ok(()),
        _ = signals.next() => Ok(()),
    };
    close(&client, events, &ended).await;
    ended
}

/// What was printed.
enum Shown<'a> {
    Message {
        timeline: &'a TimelineId,
        envelope: &'a Envelope,
        position: Position,
    },
    /// There is a new connection.
    Connected,
}

/// What the user of a chat has seen so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Seen {
    connections: u32,
    /// The last message of the other side.
    last: Option<Position>,
}

/// Tells the other side what was shown, and asks on each connection to hear how far the other side is. A service that keeps no
/// conversations refuses both.
async fn mark_read(client: &Client, with: &Recipient, mut seen: watch::Receiver<Seen>) {
    let mut told = Seen::default();
    while seen.changed().await.is_ok() {
        let now = *seen.borrow_and_update();
        if now.connections != told.connections && client.read_conversations(None).await.is_ok() {
            told.connections = now.connections;
        }
        if let Some(position) = now.last.filter(|_| now.last != told.last)
            && client.move_marks(vec![(with.clone(), position)]).await.is_ok()
        {
            told.last = now.last;
        }
    }
}

/// Acknowledges the printed events. The last one is left out if printing it failed.
async fn close(client: &Client, mut events: Events, ended: &anyhow::Result<()>) {
    let unprinted = |error: &anyhow::Error| error.is::<out::Unread>() || error.is::<std::io::Error>();
    if !ended.as_ref().is_err_and(unprinted) {
        events.done();
    }
    client.close().await;
}

/// Returns the reason when there are no more events.
async fn print_events(
    client: &Client,
    events: &mut Events,
    printer: &Printer<'_>,
    mut shown: impl FnMut(Shown<'_>),
) -> anyhow::Error {
    // A reason that stays the same is told once.
    let mut not_connected = String::new();
    while let Some(event) = events.next().await {
        match event {
            Event::Delivered { timeline, position, envelope } => {
                if let Err(error) = printer.message(&timeline, position.seq, &envelope) {
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

/// Sends each line when the one before has its answer.
async fn send_lines(client: &Client, to: &Recipient, printer: &Printer<'_>) -> anyhow::Result<()> {
    let name = match &to.to {
        Some(recipient::To::Group(group)) => format!("group {group}"),
        Some(recipient::To::User(user)) => user.clone(),
        None => String::new(),
    };
    let (mut sent, mut failed) = (0_u64, 0_u64);
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(text) = lines.next_line().await.context("standard input")? {
        if text.trim().is_empty() {
            continue;
        }
        sent += 1;
        match client.send(to.clone(), Client::text(&text)).await {
            Ok(accepted) if printer.format.json => printer.accepted(&accepted)?,
            Ok(accepted) => out::tell(format_args!("({})", self::accepted(&accepted))),
            Err(error @ SendError::Ended(_)) => return Err(not_sent(&name, error)),
            Err(error) => {
                failed += 1;
                out::tell(format_args!("({})", told(&not_sent(&name, error))));
            }
        }
    }
    match failed {
        0 => Ok(()),
        _ => bail!("{failed} of {sent} lines were not accepted"),
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
