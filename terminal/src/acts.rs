//! Carries out what the model asks of the service.

use std::{collections::VecDeque, future::Future, pin::Pin, time::Duration};

use carillon_client::{Client, FetchError, MediaError, SendError, Target};
use carillon_proto::{
    GroupId, TimelineId, UserId,
    pb::client::{Accepted, ChatState, Content, Direction, ReadMembers},
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::timeout;

use crate::{
    act::{Act, Answer},
    command::About,
    mentions::MEMBERS,
    model::PAGE,
    text,
    thread::With,
};

/// Longest wait at the end for requests that are under way.
const FINISH: Duration = Duration::from_secs(3);
/// Members whose marks are read at once.
const READERS: u32 = 256;

type Working<'a> = Pin<Box<dyn Future<Output = Option<Answer>> + 'a>>;

pub(crate) struct Acts<'a> {
    client: &'a Client,
    user: UserId,
    working: FuturesUnordered<Working<'a>>,
    /// Messages get their places in the order in which they were typed.
    waiting: VecDeque<(With, String, Content, Duration)>,
    /// The first of them is on its way to its place.
    placing: Option<Placing<'a>>,
}

type Placing<'a> = Pin<Box<dyn Future<Output = Placed> + 'a>>;

/// A message has its place in the order of sends, or never gets one.
type Placed = Result<(With, carillon_client::Pending), Answer>;

impl<'a> Acts<'a> {
    pub(crate) fn new(client: &'a Client, user: UserId) -> Self {
        Self { client, user, working: FuturesUnordered::new(), waiting: VecDeque::new(), placing: None }
    }

    pub(crate) fn begin(&mut self, act: Act) {
        let client = self.client;
        let working: Working<'a> = match act {
            Act::Send { with, client_id, content, expires_after_ms } => {
                let after = Duration::from_millis(expires_after_ms);
                return self.waiting.push_back((with, client_id, content, after));
            }
            Act::Upload { with, client_id, path, caption } => Box::pin(async move {
                Some(match client.upload_path(&path, &caption).await {
                    Ok(content) => Answer::Uploaded(with, client_id, Box::new(content)),
                    Err(error) => Answer::Refused(with, client_id, why_not_moved(&error)),
                })
            }),
            Act::Save { timeline, seq, path } => Box::pin(async move {
                Some(Answer::Told(match client.save_file(&timeline, seq, path.as_deref()).await {
                    Ok((path, told)) => format!("{}: {} bytes", path.display(), told.size_bytes),
                    Err(error) => why_not_moved(&error),
                }))
            }),
            Act::Forward { timeline, seq, to } => Box::pin(async move {
                let told = forward(client, &timeline, seq, &to).await;
                Some(Answer::Told(told.unwrap_or_else(|why| why)))
            }),
            Act::Refer { with, seq, message, about } => {
                let timeline = with.timeline(&self.user);
                Box::pin(async move {
                    let target = Target { to: with.recipient(), message };
                    Some(match refer(client, &target, about).await {
                        Ok(_) => Answer::Referred(timeline, seq),
                        Err(error) => Answer::Told(why_not_sent(&error)),
                    })
                })
            }
            Act::ReadEntry { timeline, seq } => Box::pin(async move {
                // After a failure the message is read again when its page comes into sight.
                let page = client.fetch(&timeline, Direction::Backward, seq, 1).await.ok()?;
                Some(Answer::Entry(timeline, page))
            }),
            Act::ReadHistory { timeline, from_seq } => Box::pin(async move {
                let page = client.fetch(&timeline, Direction::Backward, from_seq, PAGE).await;
                Some(Answer::History(timeline, page))
            }),
            Act::ReadList(since) => Box::pin(async move { Some(Answer::List(client.read_conversations(since).await)) }),
            Act::MarkRead(with, position) => Box::pin(async move {
                Some(Answer::Conversations(client.move_marks(vec![(with.recipient(), position)]).await))
            }),
            Act::Set(with, settings) => Box::pin(async move {
                Some(Answer::Conversations(client.set_conversation(with.recipient(), settings).await))
            }),
            Act::AnswerRequest(user, answer) => Box::pin(async move {
                let answered = client.answer_request(&user, answer).await;
                Some(Answer::Conversations(answered.map(|conversation| conversation.into_iter().collect())))
            }),
            Act::ReadMarks(user) => Box::pin(async move {
                let marks = client.read_marks(None, vec![user.to_string()]).await;
                Some(Answer::Marks(user, marks))
            }),
            Act::ReadMembers(group) => Box::pin(async move {
                // Nobody can be mentioned by name before the next attempt, which is made when the group is opened.
                let read = ReadMembers { group: group.to_string(), limit: MEMBERS as u32, ..ReadMembers::default() };
                let members = client.read_members(read).await.ok()?.members;
                Some(Answer::Members(group, members.into_iter().map(|member| member.user).collect()))
            }),
            Act::Who { group, seq, author } => {
                let but = [Some(self.user.to_string()), author];
                Box::pin(async move {
                    let told = who(client, &group, seq, &but).await;
                    Some(Answer::Told(told.unwrap_or_else(|error| why_not_found(&error))))
                })
            }
            Act::Show(show, text) => Box::pin(async move {
                // A cluster without presence shows nothing.
                let _ = client.show(show, &text, 0).await;
                None
            }),
            Act::Writing(with) => Box::pin(async move {
                // A notice, which may be lost.
                let _ = match &with {
                    With::User(user) => client.set_chat_state(user, ChatState::Composing).await,
                    With::Group(group) => client.set_group_chat_state(group, ChatState::Composing).await,
                };
                None
            }),
            Act::Report { with, seq, reason, text } => Box::pin(async move {
                Some(Answer::Told(match client.report(with.recipient(), vec![seq], reason, &text).await {
                    Ok(()) => "the moderators will see it; nobody else is told".to_owned(),
                    Err(error) => why_not_found(&error),
                }))
            }),
            Act::Block(user) => Box::pin(async move {
                Some(Answer::Told(match client.block(&user).await {
                    Ok(()) => format!("{user} is blocked"),
                    Err(error) => why_not_found(&error),
                }))
            }),
            Act::Later { with, content, at_ms } => Box::pin(async move {
                Some(Answer::Told(match client.schedule(with.recipient(), content, at_ms).await {
                    Ok(id) => format!("it will be sent at {}, as number {id}", text::local(at_ms).format("%H:%M")),
                    Err(error) => why_not_found(&error),
                }))
            }),
            // The terminal does these.
            Act::Bell | Act::Redraw | Act::Quit => return,
        };
        self.working.push(working);
    }

    /// The next answer. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Answer {
        loop {
            if self.placing.is_none()
                && let Some((with, client_id, content, after)) = self.waiting.pop_front()
            {
                let client = self.client;
                self.placing = Some(Box::pin(async move {
                    match client.submit_expiring_as(client_id.clone(), with.recipient(), content, after).await {
                        Ok(pending) => Ok((with, pending)),
                        Err(error) => Err(Answer::Refused(with, client_id, why_not_sent(&error))),
                    }
                }));
            }
            tokio::select! {
                placed = placed(&mut self.placing) => {
                    self.placing = None;
                    match placed {
                        Ok((with, pending)) => self.working.push(Box::pin(async move {
                            let client_id = pending.client_id.clone();
                            let refused = pending.await.err()?;
                            Some(Answer::Refused(with, client_id, why_not_sent(&refused)))
                        })),
                        Err(answer) => return answer,
                    }
                }
                Some(answer) = self.working.next() => {
                    if let Some(answer) = answer {
                        return answer;
                    }
                }
            }
        }
    }

    /// Waits a while for what was begun.
    pub(crate) async fn finish(mut self) {
        let all = async {
            while !(self.working.is_empty() && self.waiting.is_empty() && self.placing.is_none()) {
                // One step: an answer is of no use any more.
                let _ = timeout(Duration::from_millis(100), self.next()).await;
            }
        };
        // Requests that are not answered then may have been carried out, or not.
        let _ = timeout(FINISH, all).await;
    }
}

async fn placed(placing: &mut Option<Placing<'_>>) -> Placed {
    match placing {
        Some(placing) => placing.await,
        None => std::future::pending().await,
    }
}

async fn refer(client: &Client, target: &Target, about: About) -> Result<Accepted, SendError> {
    match about {
        About::Edit(content) => client.edit(target, *content).await,
        About::Recall(erase) => client.recall(target, erase).await,
        About::React(emojis) => {
            let emojis: Vec<&str> = emojis.iter().map(String::as_str).collect();
            client.react(target, &emojis).await
        }
        About::Pin(true) => client.pin(target).await,
        About::Pin(false) => client.unpin(target).await,
        About::Vote(options) => client.vote(target, &options).await,
    }
}

async fn forward(client: &Client, timeline: &TimelineId, seq: u64, to: &With) -> Result<String, String> {
    let page = client.fetch(timeline, Direction::Forward, seq, 1).await.map_err(|error| why_not_found(&error))?;
    let entry = page.entries.into_iter().find(|entry| entry.seq == seq);
    let said = entry.and_then(|entry| Client::forwarded(entry.envelope.as_ref()?, entry.state.as_deref()));
    let content = said.ok_or("this message can't be sent on")?;
    client.send(to.recipient(), content).await.map_err(|error| why_not_sent(&error))?;
    Ok(format!("sent on to {}", to.name()))
}

/// `but`: those who do not count: the user, and who has written the message.
async fn who(client: &Client, group: &GroupId, seq: u64, but: &[Option<String>]) -> Result<String, FetchError> {
    let read = ReadMembers { group: group.to_string(), limit: READERS, ..ReadMembers::default() };
    let members = client.read_members(read).await?;
    let names = members.members.into_iter().map(|member| member.user);
    let names: Vec<String> = names.filter(|name| but.iter().flatten().all(|but| but != name)).collect();
    if names.is_empty() {
        return Ok("nobody else is in this group".to_owned());
    }
    let marks = client.read_marks(Some(group), names.clone()).await?;
    Ok(text::readers(&names, &marks, seq, members.complete))
}

fn why_not_sent(error: &SendError) -> String {
    match error {
        SendError::Refused(refusal) => refusal.reason.clone(),
        other => other.to_string(),
    }
}

fn why_not_moved(error: &MediaError) -> String {
    match error {
        MediaError::Asked(error) => why_not_found(error),
        other => other.to_string(),
    }
}

fn why_not_found(error: &FetchError) -> String {
    match error {
        FetchError::Refused(refusal) => refusal.reason.clone(),
        other => other.to_string(),
    }
}
