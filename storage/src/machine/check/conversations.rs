//! Commands about conversations.

use std::str;

use carillon_proto::{
    ShardId, ShardMap,
    limits::{MARKS, MAX_DRAFT_BYTES},
    pb::store::{
        Append, Audience, MoveMarks, Rejected, RequestAnswer, SetConversation, SweepConversations, TimelineKey,
        conversation_settings::Notify, timeline_key::Kind,
    },
};

use super::{check_any_timeline, check_any_user, check_timeline_key, invalid};
use crate::machine::retention::SWEEP_CONVERSATIONS;

/// The other side of the conversation that a message belongs to.
pub(super) fn check_peer(kind: Kind, op: &Append) -> Result<(), Rejected> {
    if kind != Kind::Inbox && (!op.peer.is_empty() || op.peer_incarnation != 0) {
        return Err(invalid("the message of a group is in no conversation with a user"));
    }
    if op.peer.is_empty() {
        return Ok(());
    }
    // The copy in the sender's own inbox names the sender if the recipient's inbox has decided nothing.
    let is_own = op.timeline.as_ref().is_some_and(|inbox| inbox.owner == op.sender);
    if !op.sender.is_empty() && !is_own {
        return Err(invalid("the peer of a message is its sender"));
    }
    check_any_user(str::from_utf8(&op.peer).map_err(|_| invalid("peer is not UTF-8"))?)
}

pub(super) fn check_marks(shard: ShardId, map: ShardMap, op: &MoveMarks) -> Result<(), Rejected> {
    check_inbox(shard, map, op.timeline.as_ref())?;
    if !(1..=MARKS).contains(&op.marks.len()) {
        return Err(invalid(format!("moves of {} marks, not 1 to {MARKS}", op.marks.len())));
    }
    if op.hidden_from.len() > op.marks.len() {
        return Err(invalid("marks are hidden from more users than there are marks"));
    }
    Audience::try_from(op.shown_to).map_err(|_| invalid("audience of marks is unknown"))?;
    op.marks.iter().try_for_each(|mark| {
        check_any_timeline(mark.conversation.as_ref())?;
        if mark.epoch == 0 { Err(invalid("mark of epoch 0")) } else { Ok(()) }
    })
}

pub(super) fn check_settings(shard: ShardId, map: ShardMap, op: &SetConversation) -> Result<(), Rejected> {
    check_inbox(shard, map, op.timeline.as_ref())?;
    check_any_timeline(op.conversation.as_ref())?;
    let is_known = |notify: i32| Notify::try_from(notify).is_ok();
    if !op.notify.is_none_or(is_known) {
        return Err(invalid("what is to be notified of is unknown"));
    }
    if op.new_epoch == 0 {
        return Err(invalid("new epoch is 0"));
    }
    let answer = RequestAnswer::try_from(op.answer).map_err(|_| invalid("answer to a request is unknown"))?;
    let of_group = op.conversation.as_ref().is_some_and(|with| with.kind() == Kind::Group);
    if of_group && answer != RequestAnswer::Unspecified {
        return Err(invalid("a conversation in a group is no request"));
    }
    let SetConversation { pinned, archived, muted_until_ms, notify, draft, unread, .. } = op;
    let sets = (pinned, archived, muted_until_ms, notify, draft, unread) != (&None, &None, &None, &None, &None, &None);
    if !sets && answer == RequestAnswer::Unspecified {
        return Err(invalid("nothing is to be set"));
    }
    match op.draft.as_ref().map_or(0, String::len) {
        0..=MAX_DRAFT_BYTES => Ok(()),
        bytes => Err(invalid(format!("draft has {bytes} bytes, not up to {MAX_DRAFT_BYTES}"))),
    }
}

pub(super) fn check_swept(op: &SweepConversations) -> Result<(), Rejected> {
    match op.rows.len() {
        0..=SWEEP_CONVERSATIONS => {
            op.rows.iter().try_for_each(|row| check_any_timeline(row.conversation.as_ref()).map(drop))
        }
        count => Err(invalid(format!("sweep of {count} conversations, not at most {SWEEP_CONVERSATIONS}"))),
    }
}

fn check_inbox(shard: ShardId, map: ShardMap, timeline: Option<&TimelineKey>) -> Result<(), Rejected> {
    match check_timeline_key(shard, map, timeline)? {
        Kind::Inbox => Ok(()),
        Kind::Group | Kind::Unspecified => Err(invalid("conversations stand in the inbox of their user")),
    }
}
