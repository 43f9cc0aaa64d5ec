//! What is told about a message, in the order in which it goes its way.

use std::fmt::Write as _;

use carillon_proto::{
    ShardId,
    pb::admin::{DeviceTrace, InboxTrace, ReplicaTrace, TraceMessageReply, TracedMessage},
};
use serde_json::{Value, json};

use crate::cli::date;

pub(super) struct Story<'a> {
    message: Option<&'a TracedMessage>,
    inboxes: Vec<Inbox<'a>>,
}

struct Inbox<'a> {
    of: &'a InboxTrace,
    shard: String,
    /// Voting replicas that told something, and those of them that have the message.
    told: usize,
    have: usize,
    devices: Vec<Device<'a>>,
}

/// How far a device is, and why.
struct Device<'a> {
    of: &'a DeviceTrace,
    state: State,
    why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has sent the message.
    Sender,
    Acknowledged,
    Pushed,
    Waits,
    Unknown,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Acknowledged => "acknowledged",
            Self::Pushed => "pushed",
            Self::Waits => "waits",
            Self::Unknown => "not known",
        }
    }
}

impl<'a> Story<'a> {
    pub(super) fn of(told: &'a TraceMessageReply) -> Self {
        let message = told.message.as_ref();
        Self { message, inboxes: told.inboxes.iter().map(|inbox| Inbox::new(inbox, message)).collect() }
    }

    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        match self.message {
            Some(message) => self.tell_way(message, &mut text),
            None => self.inboxes.iter().for_each(|inbox| inbox.tell_missing(&mut text)),
        }
        text
    }

    fn tell_way(&self, message: &TracedMessage, text: &mut String) {
        let TracedMessage { id, sender, device, to, client_id, time_ms, content_bytes } = message;
        line(text, format_args!("message      {id}, {content_bytes} bytes"));
        if device.is_empty() && client_id.is_empty() {
            line(text, format_args!("from         {sender}, who was erased: what was said in it is gone"));
        } else {
            line(text, format_args!("from         {sender}/{device}, client id {client_id}"));
        }
        line(text, format_args!("to           {to}"));
        line(text, format_args!("received     {} by the sender's gateway", date_ms(*time_ms)));
        for inbox in &self.inboxes {
            inbox.tell_replicas(text);
        }
        line(text, format_args!("accepted     {}", self.accepted(message)));
        for inbox in &self.inboxes {
            inbox.tell_devices(text);
        }
    }

    fn accepted(&self, message: &TracedMessage) -> String {
        let missing: Vec<_> = self.inboxes.iter().filter(|inbox| inbox.of.seq == 0).collect();
        match missing[..] {
            _ if self.inboxes.iter().any(|inbox| inbox.of.seq != 0 && 2 * inbox.have <= inbox.told) => {
                "not yet: a majority of the replicas does not have it".to_owned()
            }
            [] => "yes: it is in all its inboxes, and the sender was told so, or is when it repeats the message".to_owned(),
            [inbox, ..] if inbox.of.deleted => format!("the inbox of {} ended with its account", inbox.of.user),
            [inbox, ..] if inbox.told == 0 => format!("not known: nobody tells what the inbox of {} has", inbox.of.user),
            [inbox, ..] if inbox.of.user == message.sender => {
                "not yet: the sender's own inbox does not have it, and gets it when the sender's gateway or client repeats it"
                    .to_owned()
            }
            [inbox, ..] => format!("the inbox of {} does not have it: it kept {}", inbox.of.user, inbox.kept()),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let message = self.message.map(|message| {
            json!({
                "id": message.id, "sender": message.sender, "device": message.device, "to": message.to,
                "client_id": message.client_id, "received_ms": message.time_ms, "bytes": message.content_bytes,
            })
        });
        let accepted = self.message.map(|message| self.accepted(message));
        json!({
            "found": self.message.is_some(),
            "message": message,
            "accepted": accepted,
            "inboxes": self.inboxes.iter().map(Inbox::to_json).collect::<Vec<_>>(),
        })
    }
}

impl<'a> Inbox<'a> {
    fn new(of: &'a InboxTrace, message: Option<&TracedMessage>) -> Self {
        let votes = |replica: &&ReplicaTrace| replica.progress.as_ref().is_some_and(|progress| progress.votes);
        let told = || of.replicas.iter().filter(votes);
        let own = message.filter(|message| message.sender == of.user);
        let device = |trace: &'a DeviceTrace| {
            let is_sender = own.is_some_and(|message| message.device == trace.device);
            let (state, why) = if is_sender && trace.acknowledged < of.seq {
                (State::Sender, "it has sent it, and learns the position from the answer".to_owned())
            } else {
                state(trace, of.seq)
            };
            Device { of: trace, state, why }
        };
        Self {
            of,
            shard: of.shard.as_ref().and_then(ShardId::from_pb).map_or("?".to_owned(), |shard| shard.to_string()),
            told: told().count(),
            have: told().filter(|replica| replica.seq != 0).count(),
            devices: of.devices.iter().map(device).collect(),
        }
    }

    /// The positions that the inbox keeps.
    fn kept(&self) -> String {
        let InboxTrace { first, last, epoch, .. } = self.of;
        match (epoch, first > last) {
            (0, _) => "no message yet".to_owned(),
            (_, true) => format!("no message, and has given positions up to {last}"),
            (_, false) => format!("positions {first} to {last}"),
        }
    }

    fn tell_missing(&self, text: &mut String) {
        let Self { of, shard, .. } = self;
        line(text, format_args!("not in       the inbox of {} ({shard}), which keeps {}", of.user, self.kept()));
        self.tell_each(text);
        let why = if of.deleted {
            "the user was deleted, and the inbox with the account"
        } else if self.told == 0 {
            "nobody tells what the inbox has: nothing is known of the message"
        } else if of.replicas.iter().any(|replica| replica.searched > 0) {
            "the search by time was given up: name the message by SENDER/DEVICE/CLIENT_ID or by its position"
        } else {
            "it was never accepted, or is older than what is kept, or its sender was erased"
        };
        line(text, format_args!("             {why}"));
    }

    fn tell_replicas(&self, text: &mut String) {
        let Self { of, shard, told, have, .. } = self;
        let of_them = if of.seq == 0 {
            format!("not in the inbox of {} ({shard}), which keeps {}", of.user, self.kept())
        } else {
            format!("in the inbox of {} at position {} ({shard}), on {have} of {told} replicas", of.user, of.seq)
        };
        line(text, format_args!("stored       {of_them}"));
        self.tell_each(text);
        if self.told > 0 && !of.replicas.iter().any(leads) {
            line(text, "             nobody leads the shard: nothing is accepted before it has a leader");
        }
        if of.router.is_empty() {
            line(text, format_args!("             no router owns {}: nothing is pushed before one does", of.user));
        }
    }

    fn tell_each(&self, text: &mut String) {
        for replica in &self.of.replicas {
            let (node, address) = (replica.node, &replica.address);
            line(text, format_args!("             storage node {node} ({address}) {}", self.has(replica)));
        }
    }

    fn has(&self, replica: &ReplicaTrace) -> String {
        if !replica.not_told.is_empty() {
            return format!("has not told: {}", replica.not_told);
        }
        let Some(progress) = &replica.progress else { return "has no replica of the shard".to_owned() };
        let leads = if progress.leads { ", and leads" } else { "" };
        let learns = if progress.votes { "" } else { ", and does not vote" };
        let known = self.of.replicas.iter().filter_map(|replica| replica.progress.as_ref());
        let committed = known.map(|progress| progress.committed.max(progress.applied)).max().unwrap_or(0);
        if replica.seq != 0 {
            format!("has it{leads}{learns}")
        } else if progress.applied < committed {
            format!("does not have it: it has applied entry {} of {committed}{leads}{learns}", progress.applied)
        } else {
            format!("does not have it{leads}{learns}")
        }
    }

    fn tell_devices(&self, text: &mut String) {
        if self.of.seq == 0 {
            return;
        }
        let user = &self.of.user;
        if self.devices.is_empty() {
            line(
                text,
                format_args!(
                    "waits        {user} has no device that is signed in, or has acknowledged anything: others are not known any more"
                ),
            );
        }
        for Device { of, state, why } in &self.devices {
            line(text, format_args!("{:<12} {user}/{}: {why}", state.as_str(), of.device));
        }
    }

    fn to_json(&self) -> Value {
        let InboxTrace { user, deleted, seq, first, last, router, .. } = self.of;
        let replica = |replica: &ReplicaTrace| {
            let progress = replica.progress.as_ref();
            json!({
                "node": replica.node,
                "address": replica.address,
                "has": replica.not_told.is_empty().then_some(replica.seq != 0),
                "leads": progress.is_some_and(|progress| progress.leads),
                "votes": progress.is_some_and(|progress| progress.votes),
                "term": progress.map(|progress| progress.term),
                "applied": progress.map(|progress| progress.applied),
                "committed": progress.map(|progress| progress.committed),
                "told": self.has(replica),
            })
        };
        let device = |Device { of, state, why }: &Device<'_>| {
            json!({
                "device": of.device,
                "state": state.as_str(),
                "why": why,
                "acknowledged": (of.acknowledged > 0).then_some(of.acknowledged),
                "pushed": of.progress.as_ref().map(|progress| progress.pushed),
                "handle": of.session.as_ref().map(|session| &session.handle),
                "gateway": (!of.gateway_address.is_empty()).then_some(&of.gateway_address),
            })
        };
        json!({
            "user": user,
            "deleted": deleted,
            "shard": self.shard,
            "position": (*seq > 0).then_some(seq),
            "first": first,
            "last": last,
            "replicas_told": self.told,
            "replicas_have": self.have,
            "replicas": self.of.replicas.iter().map(replica).collect::<Vec<_>>(),
            "router": (!router.is_empty()).then_some(router),
            "devices": self.devices.iter().map(device).collect::<Vec<_>>(),
        })
    }
}

fn leads(replica: &ReplicaTrace) -> bool {
    replica.progress.as_ref().is_some_and(|progress| progress.leads)
}

/// How far the device is with the message at this position.
fn state(device: &DeviceTrace, seq: u64) -> (State, String) {
    let upto = match device.acknowledged {
        0 => "it has acknowledged nothing yet".to_owned(),
        upto => format!("it has acknowledged up to position {upto}{}", ago(device.age_ms)),
    };
    if device.acknowledged >= seq {
        return (State::Acknowledged, upto);
    }
    let Some(session) = &device.session else { return (State::Waits, format!("it is not signed in; {upto}")) };
    let gateway = match device.gateway_address.as_str() {
        "" => format!("the gateway with lease {}", device.gateway),
        address => format!("gateway {address}"),
    };
    let on = format!(
        "on connection {} ({}, since {}) of {gateway}",
        session.handle,
        session.protocol,
        date_ms(session.since_ms)
    );
    if device.gateway_ended {
        return (State::Waits, format!("its session has ended with {gateway}; {upto}"));
    }
    if !session.over.is_empty() {
        return (State::Waits, format!("its session {on} is over: {}; {upto}", session.over));
    }
    let Some(progress) = &device.progress else {
        let why = &device.not_told;
        return (
            State::Unknown,
            format!(
                "signed in {on}, which has not told how far it is: {why}. If it has ended, the session ends with its lease, and the device gets the message at its next sign-in; {upto}"
            ),
        );
    };
    let queued = match device.queued_bytes {
        0 => String::new(),
        bytes => format!(", where {bytes} bytes wait until the client reads"),
    };
    if progress.acknowledged >= seq {
        (State::Acknowledged, format!("{on}; the store does not have the acknowledgement yet"))
    } else if progress.pushed >= seq {
        (State::Pushed, format!("{on}{queued}; {upto}"))
    } else {
        let (pushed, head) = (progress.pushed, progress.head.max(seq));
        (State::Waits, format!("{on}{queued}: the connection has got up to position {pushed} of {head}; {upto}"))
    }
}

/// At least so long ago.
fn ago(age_ms: Option<u64>) -> String {
    match age_ms.map(|ms| ms / 60_000) {
        None | Some(0) => String::new(),
        Some(minutes @ 1..120) => format!(", at least {minutes} min ago"),
        Some(minutes) => format!(", at least {} h ago", minutes / 60),
    }
}

fn date_ms(ms: u64) -> String {
    format!("{}.{:03}Z", date::format(ms).trim_end_matches('Z'), ms % 1000)
}

fn line(text: &mut String, what: impl std::fmt::Display) {
    // Text is written without failing.
    let _ = writeln!(text, "{what}");
}

#[cfg(test)]
mod tests;
