//! A chat by lines: prints messages that come, and sends the lines of standard input.

use std::{future::pending, io};

use anyhow::{Context as _, bail};
use carillon_client::{Client, ClientConfig, SendError};
use carillon_proto::{
    Position, TimelineId,
    pb::client::{Envelope, Recipient, recipient},
    tasks::Tasks,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    sync::{mpsc, watch},
};

use super::{
    chat::{Shown, accepted, close, print_events},
    out,
    printer::{Format, Printer},
    refused::not_sent,
};
use crate::{causes::told, shutdown::Signals};

/// Lines of standard input that are read before their turn.
const AHEAD: usize = 1024;

/// Returns when the input has ended and its lines have their answers, when the client ends, or at a signal.
pub(super) async fn lines(settings: ClientConfig, with: Recipient, format: Format) -> anyhow::Result<()> {
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

/// Puts the lines of standard input into the queue, until the input ends or can't be read.
async fn read_lines(queue: mpsc::Sender<io::Result<String>>) {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await.transpose() {
        let is_last = line.is_err();
        let is_empty = line.as_ref().is_ok_and(|text| text.trim().is_empty());
        if !is_empty && queue.send(line).await.is_err() || is_last {
            break;
        }
    }
}

/// Sends each line when the one before has its answer.
async fn send_lines(client: &Client, to: &Recipient, printer: &Printer<'_>) -> anyhow::Result<()> {
    // When it is full, no more of standard input is read.
    let (queue, typed) = mpsc::channel(AHEAD);
    let reading = async {
        read_lines(queue).await;
        pending().await
    };
    tokio::select! {
        sent = send_typed(client, to, typed, printer) => sent,
        never = reading => never,
    }
}

async fn send_typed(
    client: &Client,
    to: &Recipient,
    mut typed: mpsc::Receiver<io::Result<String>>,
    printer: &Printer<'_>,
) -> anyhow::Result<()> {
    let name = match &to.to {
        Some(recipient::To::Group(group)) => format!("group {group}"),
        Some(recipient::To::User(user)) => user.clone(),
        None => String::new(),
    };
    let (mut sent, mut failed) = (0_usize, 0_usize);
    while let Some(text) = typed.recv().await {
        let text = text.context("standard input")?;
        sent += 1;
        match client.send(to.clone(), Client::text(&text)).await {
            Ok(answer) if printer.format.json => printer.accepted(&answer)?,
            Ok(answer) => out::tell(format_args!("({})", accepted(&answer))),
            Err(error @ SendError::Ended(_)) => return Err(not_sent(name, error)),
            Err(error) => {
                failed += 1;
                // The service is away: lines that nobody types any more would each wait as long.
                let rest = match error {
                    SendError::TimedOut { last: None, .. } if typed.is_closed() => typed.len(),
                    _ => 0,
                };
                out::tell(format_args!("({})", told(&not_sent(&name, error))));
                if rest > 0 {
                    (sent, failed) = (sent + rest, failed + rest);
                    break;
                }
            }
        }
    }
    match failed {
        0 => Ok(()),
        _ => bail!("{failed} of {sent} lines were not accepted"),
    }
}
