//! The driver of this library for `carillon conformance`: reads what a user does, one JSON object a line, does it by a client, and prints
//! what the user sees. docs/examples/README.md has the lines.
//!
//! ```text
//! carillon conformance --client 'target/debug/examples/conformance_driver tcp'
//! ```
//!
//! An application that keeps its messages does the same: a message is in a file before it is acknowledged.

mod driver;
mod kept;

use std::{io, path::PathBuf, time::Duration};

use carillon_client::{Acknowledge, Address, Client, ClientConfig, Credential};
use carillon_proto::{Epoch, Position, TimelineId, UserId, tasks::Tasks};
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader},
    time::sleep_until,
};

use self::{
    driver::Driver,
    kept::{Kept, Unsent},
};

type Input = Box<dyn AsyncRead + Send + Unpin>;
type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// Optional abilities of this driver, as its first line names them.
const CAN: [&str; 16] = [
    "pipelining",
    "restart",
    "outbox",
    "tickets",
    "password",
    "renewal",
    "history",
    "edits",
    "expiring",
    "typing",
    "presence",
    "contacts",
    "conversations",
    "privacy",
    "scheduled",
    "files",
];

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let carrier = std::env::args().nth(1).unwrap_or_else(|| "tcp".to_owned());
    drive(Box::new(tokio::io::stdin()), Box::new(tokio::io::stdout()), &carrier).await.expect("the driver goes on");
}

/// Drives a client until the user stops it, or nobody is left who says what the user does. `carrier`: tcp, ws, or json on a WebSocket.
pub(crate) async fn drive(input: Input, output: Output, carrier: &str) -> io::Result<()> {
    let mut lines = BufReader::new(input).lines();
    let Some(start) = lines.next_line().await? else { return Ok(()) };
    let start: Start = serde_json::from_str(&start)?;
    let user = UserId::new(&start.user).map_err(io::Error::other)?;
    let folder = PathBuf::from(&start.folder);
    let kept = Kept::read(&folder)?;
    let (client, mut events) = Client::open(config(&start, carrier, &kept), &Tasks::new()).map_err(io::Error::other)?;
    let inbox = TimelineId::Inbox(user);
    let mut driver = Driver::new(client, inbox, output, folder, kept);
    driver.show(json!({"shown": "ready", "driver": "carillon-client", "can": CAN})).await?;
    for Unsent { client_id, to, text, label } in driver.kept.unsent.clone() {
        driver.submit(client_id, &to, &text, label).await;
    }
    let mut ended = false;
    loop {
        let wake = driver.next_wake();
        // Events first: they tell what came before an answer.
        tokio::select! {
            biased;
            event = events.next(), if !ended => match event {
                Some(event) => driver.event(event).await?,
                // The user may still look at what is there.
                None => ended = true,
            },
            Some(answer) = driver.answers.next() => driver.answered(answer).await?,
            // The user waits for the first connection.
            line = lines.next_line(), if ended || driver.was_connected => {
                let Some(line) = line? else { return Ok(()) };
                let line: Do = serde_json::from_str(&line)?;
                if matches!(line, Do::Stop) {
                    driver.client.close().await;
                    return Ok(());
                }
                driver.act(line).await?;
            }
            () = sleep_until(wake) => driver.time_passes().await?,
        }
    }
}

fn config(start: &Start, carrier: &str, kept: &Kept) -> ClientConfig {
    let address = match carrier {
        "json" => format!("{}?format=json", start.ws),
        "ws" => start.ws.clone(),
        _ => format!("tcp://{}", start.tcp),
    };
    let address: Address = address.parse().expect("an address");
    let credential = match (&start.token, &start.password) {
        (Some(token), _) => Credential::Token(token.clone()),
        (None, password) => Credential::Password(password.clone().unwrap_or_default()),
    };
    let mut config = ClientConfig::new(vec![address], &start.user, &start.device, credential);
    config.positions = kept.position.map(|(epoch, seq)| (inbox_of(&start.user), at(epoch, seq))).into_iter().collect();
    config.acknowledge = Acknowledge::Explicit(Duration::from_millis(20));
    config.backoff = (Duration::from_millis(20), Duration::from_millis(500));
    config.media_url = start.ws.strip_suffix("/ws").map(|base| base.replacen("ws://", "http://", 1));
    config
}

fn inbox_of(user: &str) -> TimelineId {
    TimelineId::Inbox(UserId::new(user).expect("a user"))
}

fn at(epoch: u64, seq: u64) -> Position {
    Position { epoch: Epoch(epoch), seq }
}

#[derive(Deserialize)]
struct Start {
    tcp: String,
    ws: String,
    user: String,
    device: String,
    token: Option<String>,
    password: Option<String>,
    folder: String,
}

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
enum Do {
    Send {
        to: String,
        text: String,
        #[serde(rename = "as")]
        label: String,
    },
    Schedule {
        to: String,
        text: String,
        at_ms: u64,
        #[serde(rename = "as")]
        label: String,
    },
    Messages,
    History,
    Conversations,
    Contacts,
    Privacy,
    Presence {
        show: String,
    },
    Typing {
        to: String,
    },
    Renew {
        token: String,
    },
    Download {
        id: String,
    },
    Echo {
        number: u64,
    },
    Stop,
}
