//! The clients as processes: their applications, their connections, their ends. What they decide is real.

mod connecting;

use std::collections::BTreeMap;

use carillon_client::simulation::Device;
use carillon_client::{Event as Told, SendError};
use carillon_proto::{
    Position, TimelineId, UserId,
    pb::client::{ClientFrame, Code, Ping, Recipient, Send, SetPresence, Show, client_frame::Body, recipient::To},
};

use crate::{
    groups::group_name,
    model::Ended,
    references::Known,
    schedule::{MS, SECOND, Time},
    wires::{Side, WireId},
    world::{Event, Message, World},
};

pub(crate) const TOKEN_SECRET: &str = "0123456789abcdef0123456789abcdef";
const TICK: Time = 250 * MS;
const ACK_PAUSE: Time = 200 * MS;
const SHOWS_AGAIN: Time = 200 * MS;

pub(crate) struct ClientNode {
    pub(crate) user: usize,
    pub(crate) wire: Option<WireId>,
    name: String,
    /// The running client.
    pub(crate) device: Device,
    /// Number of programs that have run on the device; the instance of the running one.
    starts: u64,
    token: String,
    is_live: bool,
    /// The sign-in of the run before was unanswered: it may be read later than this run's, and replace it.
    may_be_replaced: bool,
    /// Its account has ended, and the name has no other owner yet.
    pub(crate) is_out: bool,
    /// The device is not there until all else is quiet.
    pub(crate) is_away: bool,
    /// The presence that the application shows, and the number of its changes.
    pub(crate) shown: Option<SetPresence>,
    pub(crate) shown_times: u64,
    /// The presence of each contact, as the application was told it.
    pub(crate) picture: BTreeMap<String, (Show, String)>,
    /// The time from which its token is valid.
    begins_at: Time,
    /// The device has begun without knowing its positions.
    is_fresh: bool,
    turn: usize,
    failures: u32,
    heard: Time,
    next_ping: Time,
    next_tick: Time,
    next_acks: Option<Time>,
    will_wake: Option<Time>,
    /// The last number of a message to each user and group.
    numbers: BTreeMap<String, u64>,
    /// Messages that the device can say something about.
    known: Known,
    /// The position up to which the application has taken each timeline.
    done: BTreeMap<TimelineId, Position>,
}

#[derive(Debug)]
pub(crate) enum ClientEvent {
    Connects,
    GivesUp(WireId),
    Wakes,
    Sends {
        to: usize,
        count: u64,
    },
    /// See [`crate::presence::People`], as of the next one.
    Shows {
        show: Show,
        hears: bool,
    },
    Leaves {
        with_gateway: bool,
    },
    /// The presence that the application shows was refused for now.
    ShowsAgain,
}

pub(crate) fn user_name(user: usize) -> String {
    format!("user{user}")
}

pub(crate) fn device_name(number: usize) -> String {
    format!("device{number}")
}

fn token(user: usize, issued_s: u64) -> String {
    let claims = serde_json::json!({"sub": user_name(user), "iat": issued_s, "exp": 1_900_000_000});
    let key = jsonwebtoken::EncodingKey::from_secret(TOKEN_SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).expect("signs")
}

impl ClientNode {
    pub(crate) fn new(number: usize, user: usize) -> Self {
        // Issued long ago: no owner of the name after this one can be meant.
        let token = token(user, 1);
        let name = device_name(number);
        Self {
            user,
            wire: None,
            device: Device::new(&user_name(user), &name, &token, 1, Vec::new()),
            starts: 1,
            name,
            token,
            is_live: false,
            may_be_replaced: false,
            is_out: false,
            is_away: false,
            shown: None,
            shown_times: 0,
            picture: BTreeMap::new(),
            begins_at: 0,
            is_fresh: true,
            turn: number,
            failures: 0,
            heard: 0,
            next_ping: 0,
            next_tick: 0,
            next_acks: None,
            will_wake: None,
            numbers: BTreeMap::new(),
            known: Known::default(),
            done: BTreeMap::new(),
        }
    }

    /// Starts the device's program anew, with what it has of its timelines: everything up to these positions.
    fn starts(&mut self, positions: Vec<(TimelineId, Position)>) {
        self.starts += 1;
        self.device = Device::new(&user_name(self.user), &self.name, &self.token, self.starts, positions);
    }

    fn inbox(&self) -> TimelineId {
        TimelineId::Inbox(UserId::new(&user_name(self.user)).expect("valid"))
    }
}

impl World<'_> {
    pub(crate) fn at_client(&mut self, client: usize, after: Time, what: ClientEvent) {
        self.schedule.after(after, Event::Client { client, what });
    }

    pub(crate) fn client_event(&mut self, client: usize, what: ClientEvent) {
        match what {
            ClientEvent::Connects => self.client_connects(client),
            ClientEvent::GivesUp(wire) => {
                if self.clients[client].wire == Some(wire) && !self.clients[client].is_live {
                    self.client_gives_up(client, None);
                }
            }
            ClientEvent::Wakes => {
                self.clients[client].will_wake = None;
                self.client_timers(client);
            }
            ClientEvent::Sends { to, count } => {
                let label = to.to_string();
                (0..count).for_each(|_| self.client_sends(client, &label, To::User(user_name(to))));
            }
            ClientEvent::Shows { show, hears } => self.client_shows(client, show, hears),
            ClientEvent::Leaves { with_gateway } => self.client_leaves(client, with_gateway),
            ClientEvent::ShowsAgain => self.client_shows_again(client),
        }
        self.after_client(client);
    }

    /// The first device of the user sends to the group, if it has one.
    pub(crate) fn device_says(&mut self, user: usize, group: usize) {
        if let Some(device) = self.clients.iter().position(|client| client.user == user && !client.is_out) {
            self.client_sends(device, &format!("g{group}"), To::Group(group_name(group)));
            self.after_client(device);
        }
    }

    fn client_sends(&mut self, client: usize, label: &str, to: To) {
        if self.is_out_or_away(client) {
            return;
        }
        let number = self.clients[client].numbers.entry(label.to_owned()).or_default();
        *number += 1;
        let client_id = format!("{label}-{number}");
        let node = &mut self.clients[client];
        let own = user_name(node.user);
        let content = match &to {
            To::User(user) => node.known.says(&own, user, &client_id, &mut self.words),
            To::Group(group) => node.known.says_in_group(&own, group, &client_id, &mut self.words),
        };
        let send = Send {
            client_id: client_id.clone(),
            to: Some(Recipient { to: Some(to) }),
            content: Some(content),
            after: String::new(),
            expires_after_ms: 0,
        };
        let deadline = self.schedule.instant_at(self.schedule.now() + self.scenario.send_timeout);
        self.model.sends(client, client_id);
        self.clients[client].device.send(send, deadline);
    }

    /// Ends the device for good, which is right only if its account has ended. The next owner of the name has a device of the same name.
    fn client_is_put_out(&mut self, client: usize, what: String) {
        if !self.model.has_ended(client) {
            if std::mem::take(&mut self.clients[client].may_be_replaced) {
                // The user starts it once more.
                return self.client_restarts(client);
            }
            return self.model.breaks(what);
        }
        if let Some(wire) = self.clients[client].wire.take() {
            self.close_wire(wire, Side::First);
        }
        self.model.forgets(client);
        let node = &mut self.clients[client];
        (node.is_live, node.is_out) = (false, true);
        // Answers that it has not heard are lost.
        node.starts(Vec::new());
        if self.model.owner(&user_name(node.user)).is_some() {
            self.client_begins_anew(client);
        }
    }

    pub(crate) fn client_begins_anew(&mut self, client: usize) {
        self.model.begins_anew(client);
        // The second after that in which the account was made: a token of that second may be one of the owner before.
        let now_ms = self.schedule.unix_ms();
        let issued_s = now_ms / 1000 + 1;
        let node = &mut self.clients[client];
        node.token = token(node.user, issued_s);
        node.starts(Vec::new());
        (node.is_out, node.is_fresh) = (false, true);
        node.known = Known::default();
        node.done.clear();
        node.picture.clear();
        node.shown = None;
        let wait = (issued_s * 1000 - now_ms) * MS;
        node.begins_at = self.schedule.now() + wait;
        let after = wait + self.random.below(100 * MS);
        self.at_client(client, after, ClientEvent::Connects);
    }

    /// Restarts the device's program: it forgets all but, perhaps, what its application has stored. Sends under way have no answer.
    pub(crate) fn client_restarts(&mut self, client: usize) {
        if self.is_out_or_away(client) {
            return;
        }
        self.client_told(client);
        let signs_in = self.clients[client].wire.is_some() && !self.clients[client].is_live;
        self.clients[client].may_be_replaced |= signs_in;
        let knows = self.random.in_thousand(500);
        if let Some(wire) = self.clients[client].wire.take() {
            self.abandon_wire(wire, Side::First);
        }
        self.model.forgets(client);
        let node = &mut self.clients[client];
        let position = node.done.get(&node.inbox()).copied().filter(|_| knows);
        node.is_fresh = position.is_none();
        match position {
            Some(position) => self.model.resumes(client, position),
            None => self.model.forgets_groups(client),
        }
        if node.is_fresh {
            node.done.clear();
        }
        node.is_live = false;
        node.starts(node.done.clone().into_iter().collect());
        node.picture.clear();
        self.client_shows_again(client);
        let after = self.random.below(300 * MS);
        self.at_client(client, after, ClientEvent::Connects);
    }

    /// Takes events and answers to the application.
    fn client_told(&mut self, client: usize) {
        let now = self.schedule.now();
        let (events, answers) = {
            let device = &mut self.clients[client].device;
            (device.take_events(), device.take_answers())
        };
        for told in events {
            let (timeline, position) = match told {
                Told::Delivered { timeline, position, envelope } => {
                    self.model.delivered(client, &timeline, position, &envelope);
                    let node = &mut self.clients[client];
                    node.known.shown(&user_name(node.user), &timeline, position, &envelope);
                    (timeline, position)
                }
                Told::Sent { timeline, position, client_id, message_id, .. } => {
                    self.model.sent(client, &timeline, position, &client_id, &message_id);
                    let node = &mut self.clients[client];
                    node.known.sent(&user_name(node.user), &node.name, position, &client_id, &message_id);
                    (timeline, position)
                }
                // The user has left it and come back.
                Told::Trimmed { timeline: TimelineId::Group(_), .. } => continue,
                Told::Trimmed { .. } => {
                    self.model.breaks("told of a trimmed timeline, but nothing is trimmed here".to_owned());
                    continue;
                }
                Told::Presence(presence) => {
                    self.client_sees(client, presence);
                    continue;
                }
                Told::State(_)
                | Told::Conversations(_)
                | Told::Marks(_)
                | Told::Contact(_)
                | Told::ContactsMissed
                | Told::Privacy(_)
                | Told::PrivacyMissed
                | Told::ChatState(_)
                | Told::Scheduled(_) => continue,
            };
            let acknowledges = self.random.in_thousand(self.scenario.acknowledged);
            let node = &mut self.clients[client];
            if acknowledges {
                node.device.acknowledge(&timeline, position);
                node.next_acks.get_or_insert(now + ACK_PAUSE);
                self.model.acknowledged(client, &timeline, position);
            }
            node.done.insert(timeline, position);
        }
        for (client_id, answer) in answers {
            let ended = match answer {
                Ok(accepted) => Ended::Accepted(accepted),
                // The recipient was deleted: an earlier try may stand in what was its inbox.
                Err(SendError::Refused(refusal)) if refusal.code == Code::NotFound => Ended::Unknown,
                Err(SendError::Refused(refusal)) if !refusal.retry => Ended::Refused(refusal.to_string()),
                Err(_) => Ended::Unknown,
            };
            self.model.ends(client, &client_id, ended);
        }
        if self.clients[client].device.take_shown() == Some(false) {
            self.at_client(client, SHOWS_AGAIN, ClientEvent::ShowsAgain);
        }
    }

    fn client_timers(&mut self, client: usize) {
        let (now, instant) = (self.schedule.now(), self.schedule.instant());
        let heartbeat = Time::from(self.scenario.heartbeat_ms) * MS * 9 / 10;
        let node = &mut self.clients[client];
        if now >= node.next_tick {
            node.next_tick = now + TICK;
            node.device.expire(instant);
        }
        if !node.is_live {
            return;
        }
        if now >= node.heard + 2 * heartbeat + SECOND {
            return self.client_gives_up(client, None);
        }
        let mut bodies = Vec::new();
        if now >= node.next_ping {
            node.next_ping = now + heartbeat;
            bodies.push(Body::Ping(Ping { nonce: 0 }));
        }
        if node.next_acks.is_some_and(|due| now >= due) {
            node.next_acks = None;
            bodies.extend(node.device.take_acks().into_iter().map(Body::Ack));
        }
        for body in bodies {
            self.client_says(client, body);
        }
    }

    fn client_says(&mut self, client: usize, body: Body) {
        if let Some(wire) = self.clients[client].wire {
            let mut frame = ClientFrame { body: Some(body) };
            self.frame_goes(client, &mut frame);
            self.send(wire, Side::Second, Message::ToGateway(frame));
        }
    }

    /// Sends what may go out, and sees to what comes next.
    fn after_client(&mut self, client: usize) {
        self.client_told(client);
        let (now, instant) = (self.schedule.now(), self.schedule.instant());
        if self.clients[client].is_live {
            for body in self.clients[client].device.ready(instant) {
                self.client_says(client, body);
            }
        }
        let heartbeat = Time::from(self.scenario.heartbeat_ms) * MS * 9 / 10;
        let waits = self.model.waits_for_answers(client);
        let node = &self.clients[client];
        let mut wakes = Vec::new();
        if waits || node.device.asks() {
            wakes.push(node.next_tick);
        }
        if node.is_live {
            wakes.extend([node.next_ping, node.heard + 2 * heartbeat + SECOND]);
            wakes.extend(node.next_acks);
            wakes.extend(node.device.next_release().map(|at| self.schedule.time_of(at)));
        }
        let Some(at) = wakes.into_iter().min().map(|at| at.max(now + 1)) else { return };
        if node.will_wake.is_none_or(|planned| at < planned) {
            self.clients[client].will_wake = Some(at);
            self.at_client(client, at - now, ClientEvent::Wakes);
        }
    }

    pub(crate) fn is_live(&self, client: usize) -> bool {
        self.clients[client].is_live
    }

    /// True if the device does nothing, for now or as long as there is no account for it.
    pub(crate) fn is_out_or_away(&self, client: usize) -> bool {
        self.clients[client].is_out || self.clients[client].is_away
    }
}
