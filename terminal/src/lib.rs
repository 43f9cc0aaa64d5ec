//! A chat client on the whole screen of a terminal: conversations, history, marks, presence, and a line to type.

mod act;
mod acts;
mod columns;
mod command;
mod help;
mod keys;
mod mentions;
mod model;
mod screen;
#[cfg(test)]
mod tests;
mod text;
mod thread;

use std::{
    future::Future,
    io::{self, Write as _},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use carillon_client::{Client, ClientConfig, Ending, Event, OpenError, State};
use carillon_proto::{
    InvalidId, UserId,
    pb::client::{Recipient, Start},
    tasks::Tasks,
};
use crossterm::event::{DisableBracketedPaste, EnableBracketedPaste, Event as Typed, EventStream, KeyEventKind};
use futures_util::StreamExt as _;
use ratatui::DefaultTerminal;

use self::{
    act::Act,
    acts::Acts,
    model::{Input, Model},
    thread::With,
};

#[derive(Debug, thiserror::Error)]
pub enum TerminalError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    User(#[from] InvalidId),
    #[error("terminal: {0}")]
    Terminal(#[from] io::Error),
    /// The client has ended by itself.
    #[error("{why}")]
    Ended { ending: Ending, why: String },
}

/// Runs until the user has had enough, `ended` says so, or the client can't go on. The terminal is as before then.
///
/// The device gets what is new from now on; what was before is read when it comes into sight.
pub async fn run(
    mut config: ClientConfig,
    with: Option<Recipient>,
    tasks: &Tasks,
    ended: impl Future<Output = ()>,
) -> Result<(), TerminalError> {
    let (user, device) = (UserId::new(&config.user)?, config.device.clone());
    config.start = Start::Head;
    let (client, mut events) = Client::open(config, tasks)?;
    let prefix = format!("terminal-{:016x}", rand::random::<u64>());
    let mut model = Model::new(user, device, with.as_ref().and_then(With::of), prefix);
    // Restores the terminal also when the program panics.
    let mut terminal = ratatui::try_init()?;
    let shown = show(&client, &mut events, &mut model, &mut terminal, ended).await;
    let _ = crossterm::execute!(io::stdout(), DisableBracketedPaste);
    ratatui::restore();
    client.close().await;
    shown
}

async fn show(
    client: &Client,
    events: &mut carillon_client::Events,
    model: &mut Model,
    terminal: &mut DefaultTerminal,
    ended: impl Future<Output = ()>,
) -> Result<(), TerminalError> {
    crossterm::execute!(io::stdout(), EnableBracketedPaste)?;
    let mut keys = EventStream::new();
    let mut acts = Acts::new(client, model.user.clone());
    tokio::pin!(ended);
    loop {
        let mut has_room = false;
        terminal.draw(|frame| has_room = screen::draw(frame, model))?;
        if has_room {
            model.handle(now_ms(), Input::Room);
        }
        if carry_out(model, &mut acts, terminal)? {
            acts.finish().await;
            return Ok(());
        }
        let input = tokio::select! {
            () = &mut ended => return Ok(()),
            typed = keys.next() => match typed {
                Some(typed) => of_typed(typed?),
                // The terminal is gone.
                None => return Ok(()),
            },
            event = events.next() => match event {
                Some(Event::State(State::Ended { ending, why })) => return Err(TerminalError::Ended { ending, why }),
                Some(event) => Some(Input::Event(event)),
                None => return Err(TerminalError::Ended { ending: Ending::Closed, why: "closed".to_owned() }),
            },
            answer = acts.next() => Some(Input::Answer(answer)),
            () = until(model.changes_at_ms()) => Some(Input::Time),
        };
        if let Some(input) = input {
            model.handle(now_ms(), input);
        }
    }
}

async fn until(time_ms: Option<u64>) {
    match time_ms {
        Some(time_ms) => tokio::time::sleep(Duration::from_millis(time_ms.saturating_sub(now_ms()))).await,
        None => std::future::pending().await,
    }
}

/// True if the user has had enough.
fn carry_out(model: &mut Model, acts: &mut Acts<'_>, terminal: &mut DefaultTerminal) -> Result<bool, TerminalError> {
    while let Some(act) = model.take_act() {
        match act {
            Act::Quit => return Ok(true),
            Act::Redraw => {
                // All that is on the screen counts as unknown then. `Terminal::clear` does the same, but asks the terminal where its cursor
                // is, and fails where that does not answer.
                let area = terminal.size()?.into();
                terminal.resize(area)?;
                terminal.draw(|frame| {
                    screen::draw(frame, model);
                })?;
            }
            Act::Bell => {
                let mut out = io::stdout();
                out.write_all(b"\x07")?;
                out.flush()?;
            }
            act => acts.begin(act),
        }
    }
    Ok(false)
}

/// `None`: it only has to be drawn again.
fn of_typed(typed: Typed) -> Option<Input> {
    match typed {
        Typed::Key(key) if key.kind != KeyEventKind::Release => Some(Input::Key(key)),
        Typed::Paste(text) => Some(Input::Paste(text)),
        _ => None,
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
