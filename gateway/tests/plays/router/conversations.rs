//! Conversations of the small router: marks and settings, without most of the rules of the real store.

use carillon_proto::pb::{
    client::Code,
    link::{self, FromRouter, Marked, Refusal, Signaled, router_reply::Result as Reply, signaled::Notice},
    store::{
        self, Conversation, ConversationRow, ConversationsMoved, ConversationsRead, MarksRead, TimelineKey, marks_read,
        timeline_key::Kind,
    },
};

use super::{EPOCH, State};

impl State {
    pub(super) fn move_marks(&self, moves: link::MoveMarks) -> Reply {
        let change = |row: &mut Conversation, mark: &store::move_marks::Mark| {
            row.read_seq = row.read_seq.max(mark.seq);
        };
        let rows =
            moves.marks.iter().map(|mark| self.change(&moves.user, mark.conversation.clone(), |row| change(row, mark)));
        let rows = rows.collect();
        for mark in &moves.marks {
            let Some(TimelineKey { owner, kind }) = &mark.conversation else { continue };
            if *kind == i32::from(Kind::Inbox) {
                let user = String::from_utf8(owner.to_vec()).expect("UTF-8");
                let (by, read_id) = (moves.user.clone(), format!("m{}", mark.seq));
                self.notice(&user.clone(), Notice::Marked(Marked { user, by, read_id, ..Marked::default() }));
            }
        }
        self.moved(&moves.user, rows)
    }

    pub(super) fn set_conversation(&self, set: link::SetConversation) -> Reply {
        let wanted = set.set.expect("settings");
        let row = self.change(&set.user, wanted.conversation.clone(), |row| {
            let settings = row.settings.get_or_insert_default();
            settings.pinned = wanted.pinned.unwrap_or(settings.pinned);
            settings.draft = wanted.draft.clone().unwrap_or(settings.draft.clone());
        });
        self.moved(&set.user, vec![row])
    }

    pub(super) fn read_conversations(&self, read: &link::ReadConversations) -> Reply {
        let store = self.store.lock();
        let asked = read.read.clone().expect("a read");
        let changes = asked.epoch == EPOCH && asked.since > 0;
        let all = store.conversations.iter().filter(|((user, _), _)| *user == read.user).map(|(_, row)| row.clone());
        let of = |row: &ConversationRow| row.row.as_ref().map_or(0, |row| row.version);
        let rows = all.filter(|row| !changes || of(row) > asked.since).collect();
        let version = store.versions.get(&read.user).copied().unwrap_or(0);
        Reply::ConversationsRead(ConversationsRead { epoch: EPOCH, version, changes, rows, complete: true })
    }

    pub(super) fn read_marks(&self, read: &link::ReadMarks) -> Reply {
        if read.group == "hidden" {
            return Reply::Refusal(Refusal { code: Code::NotFound.into(), ..Refusal::default() });
        }
        let mark = |user: &String| match read.group.is_empty() {
            true => marks_read::Mark { read_id: format!("of {user}"), ..marks_read::Mark::default() },
            false => marks_read::Mark { read_epoch: 9, read_seq: 4, ..marks_read::Mark::default() },
        };
        Reply::MarksRead(MarksRead { marks: read.users.iter().map(mark).collect() })
    }

    fn change(&self, user: &str, with: Option<TimelineKey>, change: impl FnOnce(&mut Conversation)) -> ConversationRow {
        let mut store = self.store.lock();
        let version = store.versions.entry(user.to_owned()).or_default();
        *version += 1;
        let version = *version;
        let TimelineKey { kind, owner } = with.clone().expect("named");
        let row = store.conversations.entry((user.to_owned(), (kind, owner.to_vec()))).or_default();
        row.conversation = with;
        let conversation = row.row.get_or_insert_default();
        change(conversation);
        conversation.version = version;
        row.clone()
    }

    /// The answer, which all of the user's sessions hear, too.
    fn moved(&self, user: &str, rows: Vec<ConversationRow>) -> Reply {
        let version = self.store.lock().versions[user];
        let before = version - rows.len() as u64;
        let moved = ConversationsMoved { epoch: EPOCH, before, version, rows };
        self.notice(user, Notice::Conversations(moved.clone()));
        Reply::ConversationsMoved(moved)
    }

    fn notice(&self, user: &str, notice: Notice) {
        let sessions = self.store.lock().sessions.clone();
        for ((_, _), session) in sessions.into_iter().filter(|((of, _), _)| of == user) {
            let connections = vec![session.connection];
            let signal = Signaled { connections, notice: Some(notice.clone()), ..Signaled::default() };
            self.tell(session.lease, FromRouter { signals: vec![signal], ..FromRouter::default() });
        }
    }
}
