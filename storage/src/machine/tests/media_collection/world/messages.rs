//! Messages in the inboxes of users.

use bytes::Bytes;
use carillon_proto::{
    ClientId, DeviceId, DuplicateKey, MediaId, MessageId, UserId,
    pb::{
        client::{Content, Envelope, Recipient, Text, content::Body, recipient::To},
        store::{
            Append, EndTimeline, EraseSender, Header, Redact, Reference, SenderErased, Trim, header::Kind,
            timeline_command::Op,
        },
    },
};
use prost::Message as _;

use super::{Inbox, Planned, Said, World, bytes, header};
use crate::machine::{
    Outcome,
    tests::media_collection::{
        acts::{SENDERS, SHARDS, USERS},
        inbox,
    },
};

impl World {
    fn envelope(&mut self, user: usize, sender: usize) -> (String, Bytes, Bytes) {
        self.number += 1;
        let user_id = |name: &str| UserId::new(name).expect("valid");
        let (device, client_id) = (DeviceId::new("d").expect("valid"), self.number.to_string());
        let key = DuplicateKey::new(&user_id(SENDERS[sender]), &device, &ClientId::new(&client_id).expect("valid"));
        let id = MessageId::of(self.now_ms, key.to(&user_id(USERS[user]))).to_string();
        let envelope = Envelope {
            id: id.clone(),
            sender: SENDERS[sender].to_owned(),
            sender_device: "d".to_owned(),
            to: Some(Recipient { to: Some(To::User(USERS[user].to_owned())) }),
            client_id,
            time_ms: self.now_ms,
            content: Some(Content { body: Some(Body::Text(Text { body: "b".to_owned() })), ..Content::default() }),
            ..Envelope::default()
        };
        (id, key.0.to_vec().into(), envelope.encode_to_vec().into())
    }

    fn append(
        &mut self,
        shard: usize,
        user: usize,
        sender: usize,
        header: Option<Box<Header>>,
        is_copy: bool,
    ) -> Option<Said> {
        let (id, key, envelope) = self.envelope(user, sender);
        let (of, generation) = match is_copy {
            true => (Bytes::new(), 0),
            false => (Bytes::from_static(SENDERS[sender].as_bytes()), self.generations[sender]),
        };
        let incarnation = self.inboxes.entry((shard, user)).or_default().incarnation;
        let append = Append {
            timeline: Some(inbox(USERS[user])),
            duplicate_key: key.clone(),
            time_ms: self.now_ms,
            envelope,
            new_epoch: 7,
            incarnation,
            sender: of,
            sender_generation: generation,
            header,
            ..Append::default()
        };
        let outcome = self.apply(shard, Op::Append(append.clone()));
        let Outcome::Appended(appended) = outcome else { return None };
        // A repeat holds nothing more.
        self.apply(shard, Op::Append(append));
        let held = self.inboxes.entry((shard, user)).or_default();
        held.first = held.first.max(1);
        held.last = appended.seq;
        Some(Said { shard, user, sender, seq: appended.seq, id, key, media: Vec::new(), edits: None })
    }

    pub(super) fn say(&mut self, shard: usize, user: usize, sender: usize, media: Vec<MediaId>) {
        let said = self.append(shard, user, sender, header(&media), false).expect("appended");
        self.said.push(Said { media, ..said });
    }

    /// A message of the author about its message. True if it was accepted.
    pub(super) fn about(&mut self, said: &Said, kind: Kind, erase: bool, media: Vec<MediaId>, is_late: bool) -> bool {
        let refers_to = Some(Reference { id: said.id.clone(), key: said.key.clone(), by_sender: true, seq: 0 });
        let ids = media.iter().map(bytes).collect();
        let header = Header { kind: kind.into(), erase, refers_to, media: ids, ..Header::default() };
        let Some(about) = self.append(said.shard, said.user, said.sender, Some(Box::new(header)), is_late) else {
            return false;
        };
        if !is_late {
            let edits = (kind == Kind::Edit).then(|| said.key.clone());
            self.said.push(Said { media, edits: edits.or_else(|| Some(Bytes::new())), ..about });
        }
        true
    }

    pub(super) fn trim(&mut self, shard: usize, user: usize, many: u64) {
        let Some(held) = self.inboxes.get_mut(&(shard, user)) else { return };
        held.first = (held.first + many).min(held.last + 1);
        let before_seq = held.first;
        let gone = |said: &Said| (said.shard, said.user) == (shard, user) && said.seq < before_seq;
        self.recalled.retain(|said| !gone(said));
        let trim = Trim { timeline: Some(inbox(USERS[user])), before_seq, limit: 256, epoch: 0 };
        self.apply(shard, Op::Trim(trim));
        self.goes(gone);
    }

    pub(super) fn end(&mut self, shard: usize, user: usize) {
        let held = self.inboxes.entry((shard, user)).or_default();
        let incarnation = held.incarnation + 1;
        *held = Inbox { incarnation, ..Inbox::default() };
        self.apply(shard, Op::EndTimeline(EndTimeline { timeline: Some(inbox(USERS[user])), incarnation }));
        self.recalled.retain(|said| (said.shard, said.user) != (shard, user));
        self.goes(|said| (said.shard, said.user) == (shard, user));
        let is_gone = |planned: &Planned| (planned.shard, planned.user) == (shard, user);
        let gone = self.planned.iter().filter(|planned| is_gone(planned)).flat_map(|planned| planned.media.clone());
        let gone = gone.collect();
        self.planned.retain(|planned| !is_gone(planned));
        self.released(gone);
    }

    pub(super) fn erase(&mut self, sender: usize) {
        self.generations[sender] += 1;
        let (user, generation) = (SENDERS[sender].to_owned(), self.generations[sender]);
        for shard in 0..SHARDS {
            self.apply(shard, Op::EraseSender(EraseSender { sender: user.clone(), generation }));
            let users = [user.clone()].into();
            let (found, _) = self.shards[shard].reader.sent_by(&users, &[]).expect("reads");
            let messages: Vec<_> = found.into_iter().map(|(_, message)| message).collect();
            for messages in messages.chunks(2) {
                let redact = Redact { sender: user.clone(), generation, messages: messages.to_vec() };
                self.apply(shard, Op::Redact(redact.clone()));
                self.apply(shard, Op::Redact(redact));
            }
            self.apply(shard, Op::SenderErased(SenderErased { sender: user.clone(), generation }));
        }
        self.recalled.retain(|said| said.sender != sender);
        self.goes(|said| said.sender == sender);
        self.reports_go(|report| report.by == sender);
    }
}
