//! The user's acts and the client's events, one after the other.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::PathBuf,
    pin::Pin,
    time::Duration,
};

use bytes::Bytes;
use carillon_client::{Client, ConversationList, Event, FetchError, ListVersion, SendError, State};
use carillon_proto::{
    Position, TimelineId, UserId, now_ms,
    pb::client::{ChatState, Conversations, Direction, Envelope, Page, Show, content::Body},
};
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, time::Instant};

use super::{
    Do, Output,
    kept::{Kept, Message, Unsent, is_about, text_envelope, text_of},
};

/// After so long without a word nobody is writing any more.
const TYPING: Duration = Duration::from_secs(10);

/// The request that an answer of the service belongs to.
pub(super) enum Answer {
    Sent { client_id: String, label: String, result: Result<String, SendError> },
    Page(Result<Page, FetchError>),
    Conversations(Result<ConversationList, FetchError>),
    Shown(Value),
    Nothing,
}

pub(super) struct Driver {
    pub(super) client: Client,
    inbox: TimelineId,
    output: Output,
    folder: PathBuf,
    pub(super) kept: Kept,
    pub(super) was_connected: bool,
    features: Vec<String>,
    pub(super) answers: FuturesUnordered<Pin<Box<dyn Future<Output = Answer> + Send>>>,
    /// Users who are writing, each with the time until which that counts.
    typing: HashMap<String, Instant>,
    /// The version of the conversations that are known; `None`: nobody has asked for them.
    conversations: Option<Option<ListVersion>>,
    /// Changes that come while the conversations are read.
    meanwhile: Option<Vec<Conversations>>,
}

impl Driver {
    pub(super) fn new(client: Client, inbox: TimelineId, output: Output, folder: PathBuf, kept: Kept) -> Self {
        Self {
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
        }
    }

    pub(super) async fn show(&mut self, line: Value) -> io::Result<()> {
        self.output.write_all(format!("{line}\n").as_bytes()).await?;
        self.output.flush().await
    }

    fn offers(&self, feature: &str) -> bool {
        self.features.iter().any(|offered| offered == feature)
    }

    fn later(&self, answer: impl Future<Output = Answer> + Send + 'static) {
        self.answers.push(Box::pin(answer));
    }

    pub(super) async fn act(&mut self, line: Do) -> io::Result<()> {
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
    pub(super) async fn submit(&mut self, client_id: String, to: &str, text: &str, label: String) {
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

    pub(super) async fn answered(&mut self, answer: Answer) -> io::Result<()> {
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

    pub(super) async fn event(&mut self, event: Event) -> io::Result<()> {
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
    pub(super) fn next_wake(&self) -> Instant {
        let now = now_ms();
        let ends = self.kept.messages.values().map(|message| message.expires_at_ms).filter(|ends| *ends != 0);
        let ends = ends.map(|ends| Instant::now() + Duration::from_millis(ends.saturating_sub(now)));
        let wake = self.typing.values().copied().chain(ends).min();
        wake.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))
    }

    pub(super) async fn time_passes(&mut self) -> io::Result<()> {
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
