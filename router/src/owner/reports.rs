//! Reports to the moderators: the messages are read as their reporter may read them, and kept in the shard of the reporter's inbox. See
//! docs/adr/0035-reports.md.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use carillon_proto::{
    ClientId, DeviceId, DuplicateKey, Level, MediaReference, TimelineId, UserId,
    limits::{MAX_FRAME_BYTES, MAX_REPORT_TEXT_BYTES, REPORT_BYTES, REPORTED, REPORTED_AROUND, REPORTED_EDITS},
    pb::{
        client::{Envelope, MessageState, recipient::To},
        link,
        store::{
            Person, PutReport, ReadTimeline, ReportEvidence, ReportPut, ReportReason, StoredEntry, TimelineCommand,
            report_evidence::Message, store_request, timeline_command,
        },
    },
};
use prost::Message as _;
use tokio::time::Instant;

use super::{Answer, Continuation, MAX_PAGE, Owner, unexpected};
use crate::{
    metrics,
    reply::{Failure, ReplySlot},
    send::RequestContext,
    store::{StoreAnswer, StoreFailure},
};

/// Positions of an inbox in which they are looked for: other conversations stand between them.
const NEAR_IN_INBOX: u64 = 40;
const NEAR_IN_GROUP: u64 = REPORTED_AROUND as u64;

/// A report under way.
pub(super) struct Reporting {
    user: UserId,
    /// Without the messages.
    put: PutReport,
    /// The inbox of the other user, or the group.
    conversation: TimelineId,
    /// Of the reported messages, in order.
    seqs: Vec<u64>,
    found: Found,
    asked: Asked,
    slot: ReplySlot,
    deadline: Instant,
}

/// The messages that are being read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// The first reported one with those around it.
    First,
    /// This reported one.
    Message(u64),
    /// The edits of this reported one.
    Edits(u64),
}

/// Messages that were read.
#[derive(Default)]
struct Found {
    /// Each with its envelope without what it says.
    messages: BTreeMap<u64, (Envelope, Message)>,
    /// Edits of reported messages.
    edits: BTreeMap<u64, Message>,
    /// Reported messages that were edited several times, and of which the edits were not read yet: only the last one is in the state.
    edited: BTreeSet<u64>,
    bytes: usize,
}

impl Owner {
    pub(super) fn report(&mut self, report: link::Report, parts: RequestContext, time_ms: u64) {
        if Level(self.topology.view.level) < Level::GROUPS {
            return self.refuse(parts.slot, &Failure::NoReports);
        }
        let RequestContext { user, slot, deadline, .. } = parts;
        match checked(&user, report, time_ms) {
            Ok((TimelineId::Group(group), ..)) if !self.topology.domains.allow(user.domain(), group.domain()) => {
                self.refuse(slot, &Failure::OtherDomain(group.to_string()));
            }
            Ok((conversation, seqs, put)) => {
                let (found, asked) = (Found::default(), Asked::First);
                self.read_reported(Box::new(Reporting { user, put, conversation, seqs, found, asked, slot, deadline }));
            }
            Err(failure) => self.refuse(slot, &failure),
        }
    }

    fn read_reported(&mut self, reporting: Box<Reporting>) {
        let Reporting { user, conversation, seqs, asked, deadline, .. } = &*reporting;
        let (incarnation, deadline) = (reporting.put.incarnation, *deadline);
        let (timeline, near) = match conversation {
            TimelineId::Inbox(_) => (TimelineId::Inbox(user.clone()), NEAR_IN_INBOX),
            TimelineId::Group(_) => (conversation.clone(), NEAR_IN_GROUP),
        };
        // The store refuses users who are no members of the group.
        let reader =
            matches!(timeline, TimelineId::Group(_)).then(|| Person { user: user.as_str().to_owned(), incarnation });
        #[cfg(feature = "planted-bugs")]
        let reader = reader.filter(|_| !crate::planted::reports_of_others());
        let (from_seq, limit, max_bytes) = match asked {
            Asked::First => (seqs[0].saturating_sub(near).max(1), 2 * near as u32 + 1, REPORT_BYTES),
            Asked::Message(seq) => (*seq, 1, MAX_FRAME_BYTES),
            Asked::Edits(_) => (0, MAX_PAGE, REPORT_BYTES),
        };
        let edits_of = if let Asked::Edits(seq) = asked { *seq } else { 0 };
        let op = store_request::Op::ReadTimeline(ReadTimeline {
            timeline: Some(timeline.to_key()),
            from_seq,
            limit,
            max_bytes: max_bytes as u32,
            incarnation,
            reader,
            states: true,
            edits_of,
            // The author may have taken back what is reported.
            with_recalled: true,
            ..ReadTimeline::default()
        });
        let shard = self.topology.shards.timeline_of(&timeline);
        self.ask(shard, op, String::new(), deadline, Continuation::Reported(reporting));
    }

    pub(super) fn reported_read(&mut self, mut reporting: Box<Reporting>, answer: Result<StoreAnswer, StoreFailure>) {
        let read = match answer {
            Ok(StoreAnswer::TimelineRead(read)) => read,
            other => return self.refuse(reporting.slot, &unexpected(other)),
        };
        for entry in read.entries {
            match reporting.asked {
                Asked::First | Asked::Message(_) => reporting.take(entry),
                Asked::Edits(seq) => reporting.take_edit(seq, entry),
            }
        }
        let missing = reporting.seqs.iter().find(|seq| !reporting.found.messages.contains_key(seq)).copied();
        let asks = match missing {
            // The message is not there, or of another conversation.
            Some(seq) if reporting.asked == Asked::Message(seq) => {
                return self.refuse(reporting.slot, &not_there(seq));
            }
            Some(seq) => Some(Asked::Message(seq)),
            None => reporting.found.edited.pop_first().map(Asked::Edits),
        };
        match asks {
            Some(asked) => {
                reporting.asked = asked;
                self.read_reported(reporting);
            }
            None => self.put_report(reporting),
        }
    }

    fn put_report(&mut self, mut reporting: Box<Reporting>) {
        if let Err(failure) = reporting.gather() {
            return self.refuse(reporting.slot, &failure);
        }
        let shard = self.topology.shards.timeline_of_owner(reporting.user.as_str());
        let Reporting { put, slot, deadline, .. } = *reporting;
        let (reason, put) = (put.reason(), timeline_command::Op::PutReport(Box::new(put)));
        let op = store_request::Op::Timeline(TimelineCommand { op: Some(put) });
        self.ask(shard, op, String::new(), deadline, Continuation::ReportPut(reason, slot));
    }

    pub(super) fn report_put(
        &mut self,
        reason: ReportReason,
        slot: ReplySlot,
        answer: Result<StoreAnswer, StoreFailure>,
    ) {
        match answer {
            Ok(StoreAnswer::ReportPut(ReportPut { changed, .. })) => {
                if changed {
                    metrics::report(reason);
                }
                self.end(slot, Ok(Answer::Done(link::Done {})));
            }
            Err(StoreFailure::NoRoom { detail }) => self.refuse(slot, &Failure::TooManyReports(detail)),
            other => self.refuse(slot, &unexpected(other)),
        }
    }
}

impl Reporting {
    /// Keeps a message that was read, if it is of the conversation.
    fn take(&mut self, StoredEntry { seq, envelope, state }: StoredEntry) {
        let Ok(decoded) = Envelope::decode(envelope.clone()) else { return };
        let reported = self.seqs.binary_search(&seq).is_ok();
        if !self.is_of_conversation(&decoded) || self.found.messages.contains_key(&seq) {
            return;
        }
        if reported && MessageState::decode(state.clone()).is_ok_and(|state| state.edits > 1) {
            self.found.edited.insert(seq);
        }
        let mut message = Message { seq, envelope, state, reported, cut: false };
        let rest = Envelope { content: None, change: None, ..decoded };
        // Far more than a report can have is not held.
        if self.found.bytes + size(&message) > 2 * REPORT_BYTES {
            cut(&rest, &mut message);
        }
        self.found.bytes += size(&message);
        self.found.messages.insert(seq, (rest, message));
    }

    /// Keeps an edit of the message at this position: an author may have said the worst in between.
    fn take_edit(&mut self, of: u64, StoredEntry { seq, envelope, .. }: StoredEntry) {
        if seq == of || self.seqs.binary_search(&seq).is_ok() {
            return;
        }
        let edits = &mut self.found.edits;
        edits.insert(seq, Message { seq, envelope, ..Message::default() });
        if edits.len() > REPORTED_EDITS {
            edits.pop_first();
        }
    }

    fn is_of_conversation(&self, envelope: &Envelope) -> bool {
        #[cfg(feature = "planted-bugs")]
        if crate::planted::reports_of_others() {
            return true;
        }
        let TimelineId::Inbox(peer) = &self.conversation else { return true };
        let Some(To::User(to)) = envelope.to.as_ref().and_then(|to| to.to.as_ref()) else { return false };
        let (user, peer) = (self.user.as_str(), peer.as_str());
        [(user, peer), (peer, user)].contains(&(&*envelope.sender, to))
    }

    /// Puts the messages and their authors into the command: all that are reported, and as far as they fit, their edits, and those next to the
    /// first one.
    fn gather(&mut self) -> Result<(), Failure> {
        let first = self.seqs[0];
        let Found { messages, edits, .. } = std::mem::take(&mut self.found);
        let (mut reported, others): (Vec<_>, Vec<_>) =
            messages.into_values().partition(|(_, message)| message.reported);
        for (envelope, _) in &reported {
            if envelope.sender == self.user.as_str() {
                return Err(Failure::Invalid("a user reports what others have written"));
            }
            if !self.put.authors.contains(&envelope.sender) {
                self.put.authors.push(envelope.sender.clone());
            }
        }
        let mut bytes: usize = reported.iter().map(|(_, message)| size(message)).sum();
        // The last ones lose what they say.
        for (envelope, message) in reported.iter_mut().rev().filter(|(_, message)| !message.cut) {
            if bytes <= REPORT_BYTES {
                break;
            }
            bytes -= size(message);
            cut(envelope, message);
            bytes += size(message);
        }
        let mut kept: Vec<Message> = reported.into_iter().map(|(_, message)| message).collect();
        for edit in edits.values().rev() {
            if bytes + size(edit) <= REPORT_BYTES {
                bytes += size(edit);
                kept.push(edit.clone());
            }
        }
        let others = others.into_iter().filter(|(_, message)| !edits.contains_key(&message.seq)).collect::<Vec<_>>();
        let (before, after): (Vec<_>, Vec<_>) = others.iter().partition(|(_, message)| message.seq < first);
        for side in [
            before.iter().rev().take(REPORTED_AROUND).collect::<Vec<_>>(),
            after.iter().take(REPORTED_AROUND).collect(),
        ] {
            for (_, message) in side {
                if bytes + size(message) > REPORT_BYTES {
                    break;
                }
                bytes += size(message);
                kept.push(message.clone());
            }
        }
        kept.sort_unstable_by_key(|message| message.seq);
        let media: BTreeSet<_> = kept.iter().flat_map(files).map(|file| *file.id().as_bytes()).collect();
        self.put.media = media.iter().map(|id| Bytes::copy_from_slice(id)).collect();
        self.put.evidence = Some(ReportEvidence { messages: kept });
        Ok(())
    }
}

fn size(message: &Message) -> usize {
    message.envelope.len() + message.state.len()
}

/// The files to which the message refers, by what it says and by the edit in its state.
fn files(message: &Message) -> impl Iterator<Item = MediaReference> {
    let said = Envelope::decode(message.envelope.clone()).ok();
    let edit = MessageState::decode(message.state.clone()).ok().and_then(|state| state.edit);
    [said, edit].into_iter().flatten().filter_map(|envelope| MediaReference::of_content(&envelope.content?))
}

/// Leaves out what the message says.
fn cut(rest: &Envelope, message: &mut Message) {
    (message.envelope, message.state, message.cut) = (rest.encode_to_vec().into(), Default::default(), true);
}

/// The conversation, the positions in order, and the command without messages.
fn checked(user: &UserId, report: link::Report, time_ms: u64) -> Result<(TimelineId, Vec<u64>, PutReport), Failure> {
    let (device, client_id) = (DeviceId::new(&report.device)?, ClientId::new(&report.client_id)?);
    let conversation = report.conversation.as_ref().map(TimelineId::from_key).transpose()?.flatten();
    let conversation = conversation.ok_or(Failure::Invalid("the report names no conversation"))?;
    if report.reason() == ReportReason::Unspecified {
        return Err(Failure::Invalid("the report has no reason"));
    }
    if report.text.len() > MAX_REPORT_TEXT_BYTES {
        return Err(Failure::Invalid("the text of the report is too long"));
    }
    let mut seqs = report.seqs;
    seqs.sort_unstable();
    seqs.dedup();
    if !(1..=REPORTED).contains(&seqs.len()) || seqs[0] == 0 {
        return Err(Failure::Invalid("a report names 1 to 10 messages by their positions"));
    }
    let key = DuplicateKey::new(user, &device, &client_id).of_incarnation(report.incarnation);
    let put = PutReport {
        timeline: Some(TimelineId::Inbox(user.clone()).to_key()),
        incarnation: report.incarnation,
        sender_generation: report.generation,
        key: key.0.to_vec().into(),
        time_ms,
        conversation: Some(conversation.to_key()),
        reason: report.reason,
        text: report.text,
        ..PutReport::default()
    };
    Ok((conversation, seqs, put))
}

fn not_there(seq: u64) -> Failure {
    let detail = format!("there is no message at position {seq} in this conversation");
    Failure::Store(StoreFailure::NotFound { detail })
}
