//! Messages of the play that are about other messages.

use carillon_proto::{
    DuplicateKey, MessageId,
    pb::{
        client::{Envelope, Recipient, recipient::To},
        store::{Append, Header, Mentions, Reference, header::Kind, rejected::Reason, timeline_command::Op},
    },
};
use prost::Message as _;

use super::{Act, EPOCH, GROUP, Play, WINDOW_MS, duplicate, file, key, mentions, reason, user};

impl Play {
    pub(in crate::machine::tests::reference_model) fn refers(
        &mut self,
        who: &str,
        to: &str,
        message: usize,
        kind: Kind,
        reactions: &[String],
    ) -> Option<Reason> {
        self.act(Act::CopiesArrive);
        let header = Header {
            kind: kind.into(),
            edit_window_ms: if kind == Kind::Edit { u64::MAX } else { 0 },
            reactions: reactions.to_vec(),
            ..Header::default()
        };
        let (reference, id_time_ms) = self.reference(who, 1, to, message, 255);
        let header = Header { refers_to: Some(reference.clone()), ..header };
        self.send(who, 1, to, Some(header), Some((reference, id_time_ms)), false, 0)
    }

    /// Refers to a message as somebody whom the other user has blocked: nothing enters that user's inbox, and the own one decides. The model does not
    /// know of it.
    pub(in crate::machine::tests::reference_model) fn refers_withheld(
        &mut self,
        who: &str,
        to: &str,
        message: usize,
        kind: Kind,
    ) -> Option<Reason> {
        self.act(Act::CopiesArrive);
        let append = self.about(who, to, message, kind);
        reason(&self.apply(Op::Append(append)))
    }

    /// The append to the sender's own inbox, if that one decides.
    pub(in crate::machine::tests::reference_model) fn about(
        &mut self,
        who: &str,
        to: &str,
        message: usize,
        kind: Kind,
    ) -> Append {
        self.sent += 1;
        let client_id = self.sent.to_string();
        let (reference, _) = self.reference(who, 1, to, message, 255);
        let edit_window_ms = if kind == Kind::Edit { u64::MAX } else { 0 };
        let header = Header { kind: kind.into(), refers_to: Some(reference), edit_window_ms, ..Header::default() };
        let duplicate = duplicate(who, &client_id, 0);
        let envelope = Envelope {
            id: MessageId::of(self.now_ms, duplicate.to(&user(to))).to_string(),
            sender: who.to_owned(),
            sender_device: "phone".into(),
            to: Some(Recipient { to: Some(To::User(to.into())) }),
            client_id,
            time_ms: self.now_ms,
            ..Envelope::default()
        };
        Append {
            timeline: Some(key(who)),
            duplicate_key: duplicate.0.to_vec().into(),
            time_ms: self.now_ms,
            envelope: envelope.encode_to_vec().into(),
            new_epoch: EPOCH,
            sender: who.to_owned().into(),
            sender_generation: 1,
            peer: to.to_owned().into(),
            header: Some(Box::new(header)),
            ..Append::default()
        }
    }

    /// An edit that mentions these.
    pub(in crate::machine::tests::reference_model) fn edits_to(
        &mut self,
        who: &str,
        to: &str,
        message: usize,
        mentions: Option<Mentions>,
    ) -> Option<Reason> {
        self.act(Act::CopiesArrive);
        let (reference, id_time_ms) = self.reference(who, 1, to, message, 255);
        let refers_to = Some(reference.clone());
        let header =
            Header { kind: Kind::Edit.into(), edit_window_ms: u64::MAX, refers_to, mentions, ..Header::default() };
        self.send(who, 1, to, Some(header), Some((reference, id_time_ms)), false, 0)
    }

    #[expect(clippy::too_many_arguments, reason = "as in the act")]
    pub(super) fn refer(
        &mut self,
        who: &str,
        incarnation: u64,
        message: usize,
        kind: Kind,
        choice: u8,
        lie: u8,
        skew_ms: u64,
    ) {
        let said = &self.said[message];
        // Mostly in the conversation of the message.
        let to = match &*said.to {
            GROUP => GROUP.to_owned(),
            to if to == who => said.sender.clone(),
            to => to.to_owned(),
        };
        let (reference, id_time_ms) = self.reference(who, incarnation, &to, message, lie);
        let bits = |most: u8| (0..most).filter(|bit| choice & (1 << bit) != 0);
        let header = Header {
            kind: kind.into(),
            edit_window_ms: if kind == Kind::Edit { WINDOW_MS } else { 0 },
            erase: kind == Kind::Recall && choice.is_multiple_of(2),
            reactions: match kind {
                Kind::Reaction => bits(3).map(|bit| format!("r{bit}")).collect(),
                _ => Vec::new(),
            },
            votes: if kind == Kind::Vote { bits(3).map(u32::from).collect() } else { Vec::new() },
            media: if kind == Kind::Edit { file(choice) } else { Vec::new() },
            mentions: if kind == Kind::Edit { mentions(choice) } else { None },
            refers_to: Some(reference.clone()),
            ..Header::default()
        };
        self.send(who, incarnation, &to, Some(header), Some((reference, id_time_ms)), false, skew_ms);
    }

    /// The reference by which this user names the message, and the time in the message's id. With some lies the reference is wrong.
    fn reference(&self, who: &str, incarnation: u64, to: &str, message: usize, lie: u8) -> (Reference, u64) {
        let said = &self.said[message];
        let by_sender = said.sender == who;
        let key = duplicate(&said.sender, &said.client_id, if to == GROUP { incarnation } else { 0 });
        let in_group = to == GROUP;
        let id = if lie == 0 { MessageId::of(self.now_ms, DuplicateKey([9; 16])) } else { said.id };
        let key = if in_group && !by_sender { Vec::new() } else { key.0.to_vec() };
        let seq = if lie == 1 { said.seq + 1 } else { said.seq };
        let reference =
            Reference { id: id.to_string(), key: key.into(), by_sender, seq: if in_group { seq } else { 0 } };
        (reference, id.time_ms())
    }
}
