//! A gateway in memory that keeps the protocol's promises except for one lie.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use carillon_proto::{
    pb::client::{
        Accepted, Bye, ClientFrame, Code, Content, Deliver, Entry, Envelope, Limits, Page, Pong, Position, Refused,
        Send, ServerFrame, SignedIn, Text, Timeline, TimelineState, client_frame::Body as From, content::Body as Kind,
        recipient::To, refused::What, server_frame::Body, timeline::Owner,
    },
    tasks::Tasks,
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
    sync::mpsc,
};

/// The gateway's fault with one message of each flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    None,
    /// Accepts the message and forgets it.
    Lose,
    /// Leaves the message out of the sender's inbox.
    LoseCopy,
    Double,
    /// Puts the message behind the next one.
    Reorder,
    /// Refuses the message and delivers it.
    Invent,
    Corrupt,
    /// Refuses to read timelines.
    Unread,
    /// Lets no user of the second worker in.
    TurnAway,
}

/// The number of that message in each flow, counted from 1.
const VICTIM: u64 = 5;

pub(crate) struct Gateway {
    lie: Lie,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    inboxes: HashMap<String, Vec<Envelope>>,
    /// Connections by user; each user has one device. Unbounded, because the test is short.
    connections: HashMap<String, mpsc::UnboundedSender<Body>>,
    sent: HashMap<(String, String), u64>,
    held: HashMap<(String, String), Envelope>,
}

impl Gateway {
    pub(crate) async fn start(lie: Lie, tasks: &Tasks) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("address");
        let (gateway, all) = (Arc::new(Self { lie, state: Mutex::default() }), tasks.clone());
        tasks.spawn("accept", async move {
            while let Ok((stream, _)) = listener.accept().await {
                all.spawn("connection", Arc::clone(&gateway).serve(stream));
            }
        });
        address
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let (mut from, mut to) = stream.into_split();
        let Some(From::SignIn(sign_in)) = read(&mut from).await else { return };
        if self.lie == Lie::TurnAway && sign_in.user.contains("-w2-") {
            let bye = Bye { code: Code::Unauthenticated.into(), reason: "not today".to_owned(), ..Bye::default() };
            let bytes = ServerFrame { body: Some(Body::Bye(bye)) }.encode_length_delimited_to_vec();
            let _ = to.write_all(&bytes).await;
            return;
        }
        let (frames, mut outgoing) = mpsc::unbounded_channel();
        self.sign_in(&sign_in.user, &sign_in.device, frames);
        let reading = async {
            while let Some(frame) = read(&mut from).await {
                self.handle(&sign_in.user, frame);
            }
        };
        let writing = async {
            while let Some(body) = outgoing.recv().await {
                let bytes = ServerFrame { body: Some(body) }.encode_length_delimited_to_vec();
                if to.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(reading, writing);
    }

    fn sign_in(&self, user: &str, device: &str, frames: mpsc::UnboundedSender<Body>) {
        let mut state = self.state.lock();
        let last = state.inboxes.entry(user.to_owned()).or_default().len() as u64;
        let limits = Limits { max_pending_sends: 100, max_page: 10_000, ..Limits::default() };
        let timeline = TimelineState { timeline: Some(inbox(user)), epoch: 1, first: 1, last, delivered_from: last };
        let _ = frames.send(Body::SignedIn(SignedIn {
            handle: format!("{user}/{device}"),
            user: user.to_owned(),
            device: device.to_owned(),
            limits: Some(limits),
            heartbeat_ms: 30_000,
            timelines: vec![timeline],
            ..SignedIn::default()
        }));
        state.connections.insert(user.to_owned(), frames);
    }

    fn handle(&self, user: &str, frame: From) {
        let mut state = self.state.lock();
        match frame {
            From::Send(send) => state.send(user, send, self.lie),
            From::Fetch(fetch) if self.lie == Lie::Unread => {
                let what = Some(What::Request(fetch.request));
                let refused = Refused { what, code: Code::Internal.into(), retry: false, ..Refused::default() };
                state.to(user, Body::Refused(refused));
            }
            From::Fetch(fetch) => {
                let entries = state.inboxes[user].iter().zip(1..).filter(|(_, seq)| *seq >= fetch.from_seq);
                let entries: Vec<_> = entries
                    .map(|(envelope, seq)| Entry { seq, envelope: Some(envelope.clone()), ..Entry::default() })
                    .collect();
                let (request, timeline) = (fetch.request, Some(inbox(user)));
                let last = state.inboxes[user].len() as u64;
                let page = Page { request, timeline, epoch: 1, entries, first: 1, last, complete: true };
                state.to(user, Body::Page(page));
            }
            From::Ping(ping) => state.to(user, Body::Pong(Pong { nonce: ping.nonce, heads: Vec::new() })),
            From::SignOut(_) => {
                let bye = Bye { code: Code::SignedOut.into(), ..Bye::default() };
                state.to(user, Body::Bye(bye));
                state.connections.remove(user);
            }
            From::Ack(_) | From::SignIn(_) | From::ScramFinal(_) | From::Renew(_) | From::Positions(_) => {}
            From::Group(_) | From::ReadGroup(_) | From::ReadMembers(_) | From::ReadGroups(_) => {}
            From::ReadConversations(_) | From::MoveMarks(_) | From::SetConversation(_) | From::ReadMarks(_) => {}
            From::Contact(_)
            | From::ReadContacts(_)
            | From::SetPresence(_)
            | From::Privacy(_)
            | From::ReadPrivacy(_)
            | From::SetChatState(_)
            | From::RequestMediaSlot(_)
            | From::RequestMediaUrl(_)
            | From::Schedule(_)
            | From::ChangeScheduled(_)
            | From::ReadScheduled(_)
            | From::Report(_) => {}
        }
    }
}

impl State {
    fn send(&mut self, sender: &str, send: Send, lie: Lie) {
        let Some(To::User(recipient)) = send.to.clone().and_then(|to| to.to) else { return };
        let flow = (sender.to_owned(), recipient.clone());
        let count = self.sent.entry(flow.clone()).or_default();
        *count += 1;
        let (id, is_victim) = (format!("{sender}-{count}"), *count == VICTIM);
        let envelope = Envelope {
            id: id.clone(),
            sender: sender.to_owned(),
            to: send.to,
            client_id: send.client_id.clone(),
            content: send.content,
            ..Envelope::default()
        };
        let refuse = match (is_victim, lie) {
            (true, Lie::Lose | Lie::Reorder) => {
                if lie == Lie::Reorder {
                    self.held.insert(flow.clone(), envelope.clone());
                }
                false
            }
            (true, Lie::Corrupt) => {
                self.append(&recipient, Envelope { content: corrupt(envelope.content.clone()), ..envelope.clone() });
                false
            }
            (victim, _) => {
                self.append(&recipient, envelope.clone());
                if victim && lie == Lie::Double {
                    self.append(&recipient, envelope.clone());
                }
                if !victim && let Some(held) = self.held.remove(&flow) {
                    self.append(&recipient, held);
                }
                victim && lie == Lie::Invent
            }
        };
        if refuse {
            let what = Some(What::ClientId(send.client_id));
            let refused = Refused { what, code: Code::Forbidden.into(), retry: false, ..Refused::default() };
            return self.to(sender, Body::Refused(refused));
        }
        if is_victim && lie == Lie::LoseCopy {
            // Gives a position that was given before.
            let seq = self.inboxes[sender].len() as u64;
            return self.accept(sender, send.client_id, id, seq);
        }
        let inbox = self.inboxes.entry(sender.to_owned()).or_default();
        inbox.push(envelope);
        let seq = inbox.len() as u64;
        self.accept(sender, send.client_id, id, seq);
    }

    fn accept(&self, sender: &str, client_id: String, message_id: String, seq: u64) {
        let (timeline, position) = (Some(inbox(sender)), Some(Position { epoch: 1, seq }));
        self.to(
            sender,
            Body::Accepted(Accepted { client_id, message_id, timeline, position, time_ms: 1, expires_at_ms: 0 }),
        );
    }

    fn append(&mut self, user: &str, envelope: Envelope) {
        let entries = self.inboxes.entry(user.to_owned()).or_default();
        entries.push(envelope.clone());
        let position = Some(Position { epoch: 1, seq: entries.len() as u64 });
        self.to(user, Body::Deliver(Deliver { timeline: Some(inbox(user)), position, envelope: Some(envelope) }));
    }

    fn to(&self, user: &str, body: Body) {
        if let Some(connection) = self.connections.get(user) {
            let _ = connection.send(body);
        }
    }
}

fn corrupt(content: Option<Content>) -> Option<Content> {
    let Some(Kind::Text(Text { body })) = content?.body else { return None };
    let body = body.replacen('a', "b", 1);
    Some(Content { body: Some(Kind::Text(Text { body })), ..Default::default() })
}

fn inbox(user: &str) -> Timeline {
    Timeline { owner: Some(Owner::Inbox(user.to_owned())) }
}

/// `None` at the end of the stream.
async fn read(from: &mut OwnedReadHalf) -> Option<From> {
    let mut length = 0;
    for shift in (0..).step_by(7) {
        let byte = from.read_u8().await.ok()?;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame).await.ok()?;
    ClientFrame::decode(&frame[..]).ok()?.body
}
