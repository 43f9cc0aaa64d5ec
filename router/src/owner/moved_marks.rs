//! How far users have read, on its way to the store. See docs/adr/0028-marks.md.

use carillon_proto::{
    limits,
    pb::{
        link,
        store::{self, Audience, TimelineKey, timeline_command, timeline_key::Kind},
    },
};
use tokio::time::Instant;

use super::{Owner, Waiter, conversations::key_of};
use crate::{
    accounts::CachedAccount,
    marks::{MarkMoves, Reader},
    reply::{Failure, ReplySlot},
    send::RequestContext,
};

impl Owner {
    pub(super) fn gather_marks(&mut self, moves: link::MoveMarks, parts: RequestContext, now: Instant) {
        let RequestContext { user, slot, deadline, .. } = parts;
        if !self.has_conversations() {
            return self.refuse(slot, &Failure::Conversations);
        }
        if !(1..=limits::MARKS).contains(&moves.marks.len()) {
            return self.refuse(slot, &Failure::Invalid("a request moves 1 to 256 marks"));
        }
        let reader = Reader { user, incarnation: moves.incarnation };
        self.marks.add(reader, moves.marks, slot, now, deadline);
    }

    pub(super) fn move_marks(&mut self, moves: MarkMoves<ReplySlot>, now: Instant) {
        match self.accounts.get(&moves.reader.user) {
            Some(account) => self.move_marks_of(moves, &account),
            None => self.wait(&moves.reader.user.clone(), Waiter::Marks(Box::new(moves)), now),
        }
    }

    /// The store is told to whom the user shows its marks now.
    pub(super) fn move_marks_of(&mut self, moves: MarkMoves<ReplySlot>, account: &CachedAccount) {
        let MarkMoves { reader, marks, waiters, deadline } = moves;
        let (timeline, incarnation) = (Some(key_of(&reader.user)), reader.incarnation);
        let privacy = account.privacy.as_ref();
        let is_blocked = |with: &TimelineKey| {
            let blocks = |peer: &str| privacy.is_some_and(|privacy| privacy.blocks_any(peer));
            with.kind() == Kind::Inbox && with.owner_str().is_ok_and(blocks)
        };
        let with = marks.iter().filter_map(|mark| mark.conversation.as_ref());
        let hidden_from = with.filter(|with| is_blocked(with)).map(|with| with.owner.clone()).collect();
        let shown_to = privacy.map_or(Audience::Unspecified, |privacy| privacy.shows_marks_to()).into();
        let moves = store::MoveMarks { timeline, incarnation, marks, shown_to, hidden_from };
        self.write_conversations(reader, timeline_command::Op::MoveMarks(moves), waiters, deadline);
    }
}
