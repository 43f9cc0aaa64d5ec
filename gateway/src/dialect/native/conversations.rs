//! Asks and tells of conversations, from and to frames.

use carillon_proto::pb::{
    client::{
        Conversation, ConversationSettings, Conversations, Marks, MoveMarks, Position, ReadConversations, ReadMark,
        ReadMarks, Recipient, SetConversation, UserMark, recipient::To,
    },
    link::Marked,
    store::{self, ConversationRow, ConversationsMoved, ConversationsRead, MarksRead, TimelineKey, timeline_key::Kind},
};

use crate::conversation::{Ask, ConversationAsk, ConversationQuery};

impl From<ReadConversations> for Ask {
    fn from(ReadConversations { request, epoch, since, after, limit }: ReadConversations) -> Self {
        // A name that is not understood is refused; none is none.
        let after = after.map(|after| key(Some(after)).unwrap_or_default());
        let read = store::ReadConversations { epoch, since, after, limit, ..store::ReadConversations::default() };
        ask(request, ConversationQuery::Read(read))
    }
}

impl From<MoveMarks> for Ask {
    fn from(MoveMarks { request, marks }: MoveMarks) -> Self {
        let mark = |ReadMark { with, read }: ReadMark| {
            let Position { epoch, seq } = read.unwrap_or_default();
            store::move_marks::Mark { conversation: key(with), epoch, seq }
        };
        ask(request, ConversationQuery::Move(marks.into_iter().map(mark).collect()))
    }
}

impl From<SetConversation> for Ask {
    fn from(SetConversation { request, with, settings, answer }: SetConversation) -> Self {
        let ConversationSettings { pinned, archived, muted_until_ms, notify, draft, unread } =
            settings.unwrap_or_default();
        let set = store::SetConversation {
            conversation: key(with),
            pinned,
            archived,
            muted_until_ms,
            notify,
            draft,
            unread,
            // Answers have the same numbers.
            answer,
            ..store::SetConversation::default()
        };
        ask(request, ConversationQuery::Set(set))
    }
}

impl From<ReadMarks> for Ask {
    fn from(ReadMarks { request, group, users }: ReadMarks) -> Self {
        ask(request, ConversationQuery::Marks { group, users })
    }
}

fn ask(request: u32, query: ConversationQuery) -> Ask {
    Ask::Conversation(Box::new(ConversationAsk { request, query }))
}

/// With whom, as the store names it.
fn key(with: Option<Recipient>) -> Option<TimelineKey> {
    let (kind, owner) = match with?.to? {
        To::User(user) => (Kind::Inbox, user),
        To::Group(group) => (Kind::Group, group),
    };
    Some(TimelineKey { kind: kind.into(), owner: owner.into() })
}

pub(super) fn told_conversations(request: u32, read: ConversationsRead) -> Conversations {
    let ConversationsRead { epoch, version, changes, rows, complete } = read;
    let conversations = rows.into_iter().filter_map(|row| told(row, epoch)).collect();
    Conversations { request, epoch, before: 0, version, changes, conversations, complete }
}

pub(super) fn told_changes(request: u32, moved: ConversationsMoved) -> Conversations {
    let ConversationsMoved { epoch, before, version, rows } = moved;
    let conversations = rows.into_iter().filter_map(|row| told(row, epoch)).collect();
    Conversations { request, epoch, before, version, changes: true, conversations, complete: true }
}

/// `epoch`: that of the inbox.
fn told(row: ConversationRow, epoch: u64) -> Option<Conversation> {
    let ConversationRow { conversation, row, unread, mentions, .. } = row;
    let (with, row) = (conversation?, row.unwrap_or_default());
    let owner = with.owner_str().ok()?.to_owned();
    let (to, epoch) = match with.kind() {
        Kind::Inbox => (To::User(owner), epoch),
        Kind::Group => (To::Group(owner), row.read_epoch),
        Kind::Unspecified => return None,
    };
    Some(Conversation {
        with: Some(Recipient { to: Some(to) }),
        unread,
        last_seq: row.last_seq,
        read: (row.read_seq != 0).then_some(Position { epoch, seq: row.read_seq }),
        version: row.version,
        settings: row.settings.map(told_settings),
        mentions,
        // The two enums have the same numbers.
        request: row.request,
    })
}

fn told_settings(settings: store::ConversationSettings) -> ConversationSettings {
    let store::ConversationSettings { pinned, archived, muted_until_ms, notify, draft, unread } = settings;
    ConversationSettings {
        pinned: pinned.then_some(true),
        archived: archived.then_some(true),
        muted_until_ms: (muted_until_ms != 0).then_some(muted_until_ms),
        notify: (notify != 0).then_some(notify),
        draft: (!draft.is_empty()).then_some(draft),
        unread: unread.then_some(true),
    }
}

pub(super) fn told_marks(request: u32, group: String, users: Vec<String>, read: MarksRead) -> Marks {
    let position = |epoch: u64, seq: u64| (epoch != 0).then_some(Position { epoch, seq });
    let marks = users.into_iter().zip(read.marks).map(|(user, mark)| UserMark {
        user,
        read: position(mark.read_epoch, mark.read_seq),
        delivered: position(mark.delivered_epoch, mark.delivered_seq),
        read_id: mark.read_id,
        delivered_id: mark.delivered_id,
    });
    Marks { request, group, marks: marks.collect() }
}

pub(super) fn told_marked(marked: Marked) -> Marks {
    let Marked { by, read_id, delivered_id, .. } = marked;
    let mark = UserMark { user: by, read_id, delivered_id, ..UserMark::default() };
    Marks { marks: vec![mark], ..Marks::default() }
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::client::{MessageRequest, RequestAnswer};

    use super::store;

    #[test]
    fn requests_and_answers_have_the_numbers_that_the_store_knows() {
        for (request, stored) in [
            (MessageRequest::Unspecified, store::MessageRequest::Unspecified),
            (MessageRequest::Open, store::MessageRequest::Open),
            (MessageRequest::Declined, store::MessageRequest::Declined),
        ] {
            assert_eq!(i32::from(request), i32::from(stored));
        }
        for (answer, stored) in [
            (RequestAnswer::Unspecified, store::RequestAnswer::Unspecified),
            (RequestAnswer::Accept, store::RequestAnswer::Accept),
            (RequestAnswer::Decline, store::RequestAnswer::Decline),
        ] {
            assert_eq!(i32::from(answer), i32::from(stored));
        }
        assert!(MessageRequest::try_from(3).is_err() && RequestAnswer::try_from(3).is_err());
    }
}
