//! The driver of this library for `carillon conformance`: reads what a user does, one JSON object a line, does it by a client, and prints
//! what the user sees. docs/examples/README.md has the lines.
//!
//! ```text
//! carillon conformance --client 'target/debug/examples/conformance_driver tcp'
//! ```
//!
//! An application that keeps its messages does the same: a message is in a file before it is acknowledged.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::PathBuf,
    pin::Pin,
    time::Duration,
};

use bytes::Bytes;
use carillon_client::{
    Acknowledge, Address, Client, ClientConfig, ConversationList, Credential, Event, FetchError, ListVersion,
    SendError, State,
};
use carillon_proto::{
    Epoch, Position, TimelineId, UserId, now_ms,
    pb::client::{ChatState, Content, Conversations, Direction, Envelope, Page, Show, content::Body},
    tasks::Tasks,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    time::{Instant, sleep_until},
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
/// After so long without a word nobody is writing any more.
const TYPING: Duration = Duration::from_secs(10);

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
    let mut driver = Driver {
        client,
        inbox,
        output,
        folder,
        kept,
        was_connected: false,
        features: Vec::new(),
        answers: FuturesUnordered::new(),
        typing: HashMap::new(),
        conversations: None,
        meanwhile: None,
    };
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

/// Content of the device's file.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    /// Epoch and number.
    position: Option<(u64, u64)>,
    /// By position.
    messages: BTreeMap<u64, Message>,
    unsent: Vec<Unsent>,
    /// Number of messages that were written here.
    written: u64,
}

#[derive(Clone, Serialize, Deserialize)]
struct Message {
    id: String,
    text: String,
    expires_at_ms: u64,
    /// Time and id of the edit that counts.
    edit: Option<(u64, String)>,
    recalled: bool,
    /// The secret of its file.
    file: Option<Vec<u8>>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Unsent {
    client_id: String,
    to: String,
    text: String,
    label: String,
}

impl Kept {
    fn read(folder: &std::path::Path) -> io::Result<Self> {
        match fs::read(folder.join("kept.json")) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Returns when it is on the disk.
    fn write(&self, folder: &std::path::Path) -> io::Result<()> {
        let (new, file) = (folder.join("kept.json.new"), folder.join("kept.json"));
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::File::open(&new)?.sync_all()?;
        fs::rename(&new, &file)
    }
}

/// The request that an answer of the service belongs to.
enum Answer {
    Sent { client_id: String, label: String, result: Result<String, SendError> },
    Page(Result<Page, FetchError>),
    Conversations(Result<ConversationList, FetchError>),
    Shown(Value),
    Nothing,
}

struct Driver {
    client: Client,
    inbox: TimelineId,
    output: Output,
    folder: PathBuf,
    kept: Kept,
    was_connected: bool,
    features: Vec<String>,
    answers: FuturesUnordered<Pin<Box<dyn Future<Output = Answer> + Send>>>,
    /// Who is writing, and until when that counts.
    typing: HashMap<String, Instant>,
    /// As of which version the conversations are known; `None`: nobody has asked for them.
    conversations: Option<Option<ListVersion>>,
    /// While the conversations are read: what was told of changes meanwhile.
    meanwhile: Option<Vec<Conversations>>,
}

impl Driver {
    async fn show(&mut self, line: Value) -> io::Result<()> {
        self.output.write_all(format!("{line}\n").as_bytes()).await?;
        self.output.flush().await
    }

    fn offers(&self, feature: &str) -> bool {
        self.features.iter().any(|offered| offered == feature)
    }

    fn later(&self, answer: impl Future<Output = Answer> + Send + 'static) {
        self.answers.push(Box::pin(answer));
    }

    async fn act(&mut self, line: Do) -> io::Result<()> {
        let client = self.client.clone();
        match line {
            Do::Send { to, text, label } => {
                self.kept.written += 1;
                let client_id = format!("m{}", self.kept.written);
                let unsent =
                    Unsent { client_id: client_id.clone(), to: to.clone(), text: text.clone(), label: label.clone() };
                self.kept.unsent.push(unsent);
                self.kept.write(&self.folder)?;
                self.submit(client_id, &to, &text, label).await;
            }
            Do::Schedule { to, text, at_ms, label } => self.later(async move {
                match client.schedule(Client::user(&to), Client::text(&text), at_ms).await {
                    Ok(_) => Answer::Shown(json!({"shown": "scheduled", "as": label})),
                    Err(error) => Answer::Shown(json!({"shown": "failed", "as": label, "why": error.to_string()})),
                }
            }),
            Do::Messages => {
                let shown = self.kept.messages.values().filter(|message| !message.recalled);
                let texts: Vec<&str> = shown.map(|message| message.text.as_str()).collect();
                let line = json!({"shown": "messages", "texts": texts});
                self.show(line).await?;
            }
            Do::History => {
                let inbox = self.inbox.clone();
                self.later(async move { Answer::Page(client.fetch(&inbox, Direction::Backward, 0, 50).await) });
            }
            Do::Conversations => self.read_conversations(None),
            Do::Contacts => self.later(async move {
                let _ = client.contacts().await;
                Answer::Nothing
            }),
            Do::Privacy => self.later(async move {
                let _ = client.privacy().await;
                Answer::Nothing
            }),
            Do::Presence { show } => self.later(async move {
                let _ = client.show(Show::from_str_name(&show).unwrap_or_default(), "", 0).await;
                Answer::Nothing
            }),
            Do::Typing { to } if self.offers("chat-states") => self.later(async move {
                if let Ok(to) = UserId::new(&to) {
                    let _ = client.set_chat_state(&to, ChatState::Composing).await;
                }
                Answer::Nothing
            }),
            Do::Typing { .. } => {}
            Do::Renew { token } => self.later(async move {
                let renewed = client.renew(&token).await.is_ok();
                Answer::Shown(json!({"shown": "renewed", "taken": renewed}))
            }),
            Do::Download { id } => {
                let mut messages = self.kept.messages.iter();
                let Some((seq, message)) = messages.find(|(_, message)| message.id == id) else { return Ok(()) };
                let (seq, file, inbox) =
                    (*seq, Bytes::from(message.file.clone().unwrap_or_default()), self.inbox.clone());
                self.later(async move {
                    let mut bytes = Vec::new();
                    match client.download(&file, Some((&inbox, seq)), 0, &mut bytes).await {
                        Ok(_) => Answer::Shown(json!({"shown": "file", "id": id, "bytes": bytes.len()})),
                        Err(error) => Answer::Shown(json!({"shown": "failed", "id": id, "why": error.to_string()})),
                    }
                });
            }
            Do::Echo { number } => self.show(json!({"shown": "echo", "number": number})).await?,
            Do::Stop => {}
        }
        Ok(())
    }

    /// Gives a message to the client, which repeats it until it has its answer.
    async fn submit(&mut self, client_id: String, to: &str, text: &str, label: String) {
        let pending = self.client.submit_as(client_id.clone(), Client::user(to), Client::text(text)).await;
        self.later(async move {
            let result = match pending {
                Ok(pending) => pending.await.map(|accepted| accepted.message_id),
                Err(error) => Err(error),
            };
            Answer::Sent { client_id, label, result }
        });
    }

    fn read_conversations(&mut self, since: Option<ListVersion>) {
        self.conversations.get_or_insert(None);
        self.meanwhile.get_or_insert_default();
        let client = self.client.clone();
        self.later(async move { Answer::Conversations(client.read_conversations(since).await) });
    }

    fn conversations_changed(&mut self, news: Conversations) {
        match (self.conversations.flatten(), &mut self.meanwhile) {
            // The answer may be on its way, which has it already.
            (_, Some(meanwhile)) => meanwhile.push(news),
            (Some(known), None) if known.is_followed_by(&news) => {
                let version = known.version.max(news.version);
                self.conversations = Some(Some(ListVersion { epoch: news.epoch, version }));
            }
            (known, None) => self.read_conversations(known),
        }
    }

    async fn answered(&mut self, answer: Answer) -> io::Result<()> {
        match answer {
            Answer::Sent { client_id, label, result } => {
                // Of a client that has ended it is kept for the next start.
                if !matches!(result, Err(SendError::Ended(_) | SendError::TimedOut { .. })) {
                    self.kept.unsent.retain(|unsent| unsent.client_id != client_id);
                    self.kept.write(&self.folder)?;
                }
                match result {
                    Ok(id) => self.show(json!({"shown": "sent", "as": label, "id": id})).await,
                    Err(SendError::Refused(refusal)) => {
                        self.show(json!({"shown": "failed", "as": label, "code": refusal.code.as_str_name()})).await
                    }
                    Err(_) => Ok(()),
                }
            }
            Answer::Page(Ok(page)) => {
                let mut texts = Vec::new();
                let mut entries = page.entries;
                entries.sort_by_key(|entry| entry.seq);
                for entry in entries {
                    let Some(envelope) = entry.envelope else { continue };
                    if !self.kept.messages.contains_key(&entry.seq) && !is_about(&envelope) {
                        let message = Message::of(&envelope);
                        texts.push(message.text.clone());
                        self.kept.messages.insert(entry.seq, message);
                    }
                }
                self.kept.write(&self.folder)?;
                self.show(json!({"shown": "history", "texts": texts})).await
            }
            Answer::Conversations(Ok(list)) => {
                self.conversations = Some(Some(list.version));
                self.meanwhile.take().into_iter().flatten().for_each(|news| self.conversations_changed(news));
                Ok(())
            }
            Answer::Shown(line) => self.show(line).await,
            Answer::Page(Err(_)) | Answer::Conversations(Err(_)) | Answer::Nothing => Ok(()),
        }
    }

    async fn event(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::State(State::Connected { signed_in, .. }) => {
                self.was_connected = true;
                self.features.clone_from(&signed_in.features);
                if let Some(known) = self.conversations {
                    self.read_conversations(known);
                }
            }
            Event::State(State::Ended { why, .. }) => self.show(json!({"shown": "ended", "why": why})).await?,
            Event::Delivered { timeline, position, envelope } => self.delivered(timeline, position, envelope).await?,
            Event::Sent { timeline, position, client_id, message_id, .. } => {
                let text = self.kept.unsent.iter().find(|unsent| unsent.client_id == client_id);
                let text = text.map(|unsent| unsent.text.clone()).unwrap_or_default();
                let message = Message { id: message_id, ..Message::of(&text_envelope(&text)) };
                self.kept.messages.insert(position.seq, message);
                self.has(timeline, position)?;
            }
            Event::Trimmed { first, .. } => {
                let anew = self.kept.position.is_some_and(|(epoch, _)| epoch != 0 && epoch != first.epoch.0);
                self.kept.position = Some((first.epoch.0, first.seq.saturating_sub(1)));
                if anew {
                    self.kept.messages.clear();
                    self.show(json!({"shown": "emptied"})).await?;
                }
                self.kept.write(&self.folder)?;
            }
            Event::Conversations(news) => self.conversations_changed(news),
            Event::ContactsMissed => self.act(Do::Contacts).await?,
            Event::PrivacyMissed => self.act(Do::Privacy).await?,
            Event::Presence(presence) => {
                let show = presence.show().as_str_name();
                self.show(json!({"shown": "presence", "who": presence.user, "show": show})).await?;
            }
            Event::ChatState(notice) => {
                let state = notice.state();
                if state == ChatState::Composing {
                    self.typing.insert(notice.from.clone(), Instant::now() + TYPING);
                    self.show(json!({"shown": "typing", "who": notice.from, "state": state.as_str_name()})).await?;
                } else {
                    self.no_longer_typing(&notice.from).await?;
                }
            }
            Event::State(_) | Event::Marks(_) | Event::Scheduled(_) | Event::Contact(_) | Event::Privacy(_) => {}
        }
        Ok(())
    }

    async fn delivered(&mut self, timeline: TimelineId, position: Position, envelope: Envelope) -> io::Result<()> {
        let about = |id: &str, messages: &BTreeMap<u64, Message>| {
            messages.iter().find(|(_, message)| message.id == id).map(|(seq, _)| *seq)
        };
        let line = match envelope.content.as_ref().and_then(|content| content.body.as_ref()) {
            Some(Body::Edit(edit)) => {
                let id = edit.target.as_ref().map(|target| target.id.clone()).unwrap_or_default();
                let of = about(&id, &self.kept.messages).and_then(|seq| self.kept.messages.get_mut(&seq));
                let this = Some((envelope.time_ms, envelope.id.clone()));
                // Of two edits the later one counts, and none after a recall.
                of.filter(|message| !message.recalled && message.edit < this).map(|message| {
                    message.edit = this;
                    message.text = edit.content.as_deref().map(text_of).unwrap_or_default();
                    json!({"shown": "changed", "id": id, "text": message.text})
                })
            }
            Some(Body::Recall(recall)) => {
                let id = recall.target.as_ref().map(|target| target.id.clone()).unwrap_or_default();
                let of = about(&id, &self.kept.messages).and_then(|seq| self.kept.messages.get_mut(&seq));
                of.map(|message| {
                    (message.recalled, message.text) = (true, String::new());
                    json!({"shown": "recalled", "id": id})
                })
            }
            _ if is_about(&envelope) => None,
            // History has shown it.
            _ if self.kept.messages.contains_key(&position.seq) => None,
            _ => {
                let message = Message::of(&envelope);
                let (id, text) = (message.id.clone(), message.text.clone());
                self.kept.messages.insert(position.seq, message);
                let from = &envelope.sender;
                Some(json!({"shown": "message", "id": id, "from": from, "text": text, "erased": envelope.erased}))
            }
        };
        // Before the user sees it, and before it is acknowledged.
        self.has(timeline, position)?;
        if let Some(line) = line {
            self.show(line).await?;
        }
        self.no_longer_typing(&envelope.sender).await
    }

    /// The device has everything up to this position, on its disk.
    fn has(&mut self, timeline: TimelineId, position: Position) -> io::Result<()> {
        self.kept.position = Some((position.epoch.0, position.seq));
        self.kept.write(&self.folder)?;
        self.client.acknowledge(&timeline, position);
        Ok(())
    }

    async fn no_longer_typing(&mut self, who: &str) -> io::Result<()> {
        if self.typing.remove(who).is_some() {
            self.show(json!({"shown": "typing", "who": who, "state": ""})).await?;
        }
        Ok(())
    }

    /// The time at which the next expired message or typing notice disappears.
    fn next_wake(&self) -> Instant {
        let now = now_ms();
        let ends = self.kept.messages.values().map(|message| message.expires_at_ms).filter(|ends| *ends != 0);
        let ends = ends.map(|ends| Instant::now() + Duration::from_millis(ends.saturating_sub(now)));
        let wake = self.typing.values().copied().chain(ends).min();
        wake.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))
    }

    async fn time_passes(&mut self) -> io::Result<()> {
        let now = now_ms();
        let over = |message: &Message| message.expires_at_ms != 0 && message.expires_at_ms <= now;
        let gone: Vec<_> =
            self.kept.messages.values().filter(|message| over(message)).map(|message| message.id.clone()).collect();
        if !gone.is_empty() {
            self.kept.messages.retain(|_, message| !over(message));
            self.kept.write(&self.folder)?;
        }
        for id in gone {
            self.show(json!({"shown": "gone", "id": id})).await?;
        }
        let now = Instant::now();
        let silent: Vec<_> =
            self.typing.iter().filter(|(_, until)| **until <= now).map(|(who, _)| who.clone()).collect();
        for who in silent {
            self.no_longer_typing(&who).await?;
        }
        Ok(())
    }
}

impl Message {
    fn of(envelope: &Envelope) -> Self {
        let body = envelope.content.as_ref().and_then(|content| content.body.as_ref());
        let file = match body {
            Some(Body::Image(media) | Body::Audio(media) | Body::Video(media) | Body::File(media)) => Some(media),
            _ => None,
        };
        Self {
            id: envelope.id.clone(),
            text: envelope.content.as_ref().map(text_of).unwrap_or_default(),
            // Nothing is left of what is over already.
            expires_at_ms: if envelope.erased { 0 } else { envelope.expires_at_ms },
            edit: None,
            recalled: false,
            file: file.map(|media| media.id.to_vec()),
        }
    }
}

fn text_envelope(text: &str) -> Envelope {
    Envelope { content: Some(Client::text(text)), ..Envelope::default() }
}

fn text_of(content: &Content) -> String {
    match &content.body {
        Some(Body::Text(text)) => text.body.clone(),
        _ => String::new(),
    }
}

/// True if it says something about another message, or about a group.
fn is_about(envelope: &Envelope) -> bool {
    let body = envelope.content.as_ref().and_then(|content| content.body.as_ref());
    envelope.change.is_some()
        || matches!(body, Some(Body::Edit(_) | Body::Recall(_) | Body::Reaction(_) | Body::Pin(_) | Body::Vote(_)))
}
