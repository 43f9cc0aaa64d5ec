//! Conversations of users: how far they have read, what they want of each, and what others are told of it. See docs/adr/0028-marks.md.

use std::collections::BTreeMap;

use carillon_proto::{
    Epoch, GroupId, Level, ShardId, TimelineId, UserId, limits,
    pb::{
        client::Position,
        link::{self, Marked, Signaled, signaled::Notice},
        store::{
            self, Allowed, BlockedUser, Conversation, ConversationRow, ConversationsMoved, ConversationsRead,
            MarksRead, MessageRequest, Person, ReadAllowed, ReadHead, ReadHeads, RequestAnswer, TimelineCommand,
            TimelineKey, UnreadOf, marks_read, member::Standing, read_marks::Read, store_request, timeline_command,
            timeline_key::Kind,
        },
    },
};
use tokio::time::Instant;

use super::{Answer, Continuation, Effect, Owner, unexpected};
use crate::{
    accounts::CachedAccount,
    marks::Reader,
    metrics,
    reply::{Failure, ReplySlot},
    send::RequestContext,
    store::{StoreAnswer, StoreFailure},
    undelivered::Undelivering,
};

/// Rows of conversations that are complete when the groups have said how much is unread in them.
pub(super) struct Counting {
    reader: Reader,
    rows: Vec<ConversationRow>,
    asked: Asked,
    /// Reads whose answers are still to come.
    waits: usize,
    failed: Option<Failure>,
}

/// The receivers of the rows.
enum Asked {
    Page(ConversationsRead, ReplySlot),
    /// The rows have changed: all of the user's sessions are told.
    Moved(ConversationsMoved, Vec<ReplySlot>),
}

/// What continues when the store has answered.
pub(super) enum ConversationsAsked {
    /// The rows have changed; with the latest deadline of the requests.
    Moved(Reader, Vec<ReplySlot>, Instant),
    Page(Reader, ReplySlot, Instant),
    /// How much is unread in groups: for which rows of the request of this number.
    Unread(u64, Vec<usize>),
    /// Who of these is in the group.
    Members(MarksAsked),
    /// Whether others let their marks be known: which places of the request of this number.
    Allowed(u64, Vec<usize>),
    /// Marks of others: which of the request of this number.
    Marks(u64, Vec<usize>),
}

/// Marks of others that are being read.
pub(super) struct MarksReading {
    asked: MarksAsked,
    /// Whether each of the users lets its marks be known, as far as that is known.
    allowed: Vec<Allowed>,
    marks: Vec<marks_read::Mark>,
    waits: usize,
    failed: Option<Failure>,
}

/// Whose marks are read.
pub(super) struct MarksAsked {
    conversation: TimelineKey,
    by: BlockedUser,
    users: Vec<UserId>,
    slot: ReplySlot,
    deadline: Instant,
}

impl Owner {
    /// True once the store keeps conversations.
    pub(super) fn has_conversations(&self) -> bool {
        Level(self.topology.view.level) >= Level::GROUPS
    }

    pub(super) fn conversations_answered(
        &mut self,
        asked: ConversationsAsked,
        answer: Result<StoreAnswer, StoreFailure>,
        now: Instant,
    ) {
        match asked {
            ConversationsAsked::Moved(reader, slots, deadline) => {
                self.conversations_moved(reader, slots, deadline, answer, now);
            }
            ConversationsAsked::Page(reader, slot, deadline) => self.conversations_read(reader, slot, deadline, answer),
            ConversationsAsked::Unread(number, places) => self.unread_read(number, &places, answer),
            ConversationsAsked::Members(asked) => self.members_of_marks(asked, answer),
            ConversationsAsked::Allowed(number, places) => self.marks_allowed(number, &places, answer),
            ConversationsAsked::Marks(number, places) => self.marks_read(number, &places, answer),
        }
    }

    fn ask_of_conversations(
        &mut self,
        shard: ShardId,
        op: store_request::Op,
        deadline: Instant,
        asked: ConversationsAsked,
    ) {
        self.ask(shard, op, String::new(), deadline, Continuation::Conversations(Box::new(asked)));
    }

    /// The user has made this one a contact: what it has begun is no request any more. Only one whose messages may be requests.
    pub(super) fn accept_contact(&mut self, user: &UserId, incarnation: u64, contact: &UserId, deadline: Instant) {
        let takes_requests =
            |account: &CachedAccount| account.privacy.as_ref().is_some_and(|privacy| privacy.takes_requests());
        if !self.accounts.get(user).is_none_or(|account| takes_requests(&account)) {
            return;
        }
        let set = store::SetConversation {
            timeline: Some(key_of(user)),
            incarnation,
            conversation: Some(key_of(contact)),
            answer: RequestAnswer::Accept.into(),
            new_epoch: Epoch::random().0,
            ..store::SetConversation::default()
        };
        let (reader, slots) = (Reader { user: user.clone(), incarnation }, Vec::new());
        self.write_conversations(reader, timeline_command::Op::SetConversation(set), slots, deadline);
    }

    pub(super) fn set_conversation(&mut self, set: link::SetConversation, parts: RequestContext) {
        let RequestContext { user, slot, deadline, .. } = parts;
        if !self.has_conversations() {
            return self.refuse(slot, &Failure::Conversations);
        }
        let Some(set) = set.set else { return self.refuse(slot, &Failure::Invalid("settings are missing")) };
        let reader = Reader { user, incarnation: set.incarnation };
        let set = store::SetConversation { timeline: Some(key_of(&reader.user)), new_epoch: Epoch::random().0, ..set };
        self.write_conversations(reader, timeline_command::Op::SetConversation(set), vec![slot], deadline);
    }

    pub(super) fn write_conversations(
        &mut self,
        reader: Reader,
        command: timeline_command::Op,
        slots: Vec<ReplySlot>,
        deadline: Instant,
    ) {
        let shard = self.inbox_shard(&reader.user);
        let op = store_request::Op::Timeline(TimelineCommand { op: Some(command) });
        self.ask_of_conversations(shard, op, deadline, ConversationsAsked::Moved(reader, slots, deadline));
    }

    fn conversations_moved(
        &mut self,
        reader: Reader,
        slots: Vec<ReplySlot>,
        deadline: Instant,
        answer: Result<StoreAnswer, StoreFailure>,
        now: Instant,
    ) {
        match answer {
            Ok(StoreAnswer::ConversationsMoved(mut moved)) => {
                let rows = std::mem::take(&mut moved.rows);
                rows.iter().for_each(|row| self.tell_read(&reader.user, row, now));
                self.count_in_groups(reader, rows, Asked::Moved(moved, slots), deadline);
            }
            other => self.end_all(slots, &Err(unexpected(other))),
        }
    }

    pub(super) fn read_conversations(&mut self, read: link::ReadConversations, parts: RequestContext) {
        let RequestContext { user, slot, deadline, .. } = parts;
        if !self.has_conversations() {
            return self.refuse(slot, &Failure::Conversations);
        }
        let read = read.read.unwrap_or_default();
        let reader = Reader { user, incarnation: read.incarnation };
        let read = store::ReadConversations { timeline: Some(key_of(&reader.user)), ..read };
        let shard = self.inbox_shard(&reader.user);
        let asked = ConversationsAsked::Page(reader, slot, deadline);
        self.ask_of_conversations(shard, store_request::Op::ReadConversations(read), deadline, asked);
    }

    fn conversations_read(
        &mut self,
        reader: Reader,
        slot: ReplySlot,
        deadline: Instant,
        answer: Result<StoreAnswer, StoreFailure>,
    ) {
        match answer {
            Ok(StoreAnswer::ConversationsRead(mut read)) => {
                let rows = std::mem::take(&mut read.rows);
                self.count_in_groups(reader, rows, Asked::Page(read, slot), deadline);
            }
            other => self.end(slot, Err(unexpected(other))),
        }
    }

    /// The shards of groups say how much is unread: the shard of the inbox does not know their timelines.
    fn count_in_groups(&mut self, reader: Reader, rows: Vec<ConversationRow>, asked: Asked, deadline: Instant) {
        let mut by_shard: BTreeMap<ShardId, Vec<(usize, ReadHead)>> = BTreeMap::new();
        for (place, row) in rows.iter().enumerate() {
            let Some(group) = row.conversation.as_ref().filter(|with| with.kind() == Kind::Group) else { continue };
            let Ok(owner) = group.owner_str() else { continue };
            // Nothing is told of a group of a domain that does not talk to the user's.
            if !self.topology.domains.allow_ids(reader.user.as_str(), owner) {
                continue;
            }
            let shard = self.topology.shards.timeline_of_owner(owner);
            let Conversation { read_epoch, read_seq, .. } = row.row.clone().unwrap_or_default();
            let member = Some(Person { user: reader.user.as_str().to_owned(), incarnation: reader.incarnation });
            let unread_of = Some(UnreadOf { member, epoch: read_epoch, seq: read_seq });
            let read = ReadHead { timeline: Some(group.clone()), unread_of, ..ReadHead::default() };
            by_shard.entry(shard).or_default().push((place, read));
        }
        let number = self.next_token;
        self.next_token += 1;
        let mut counting = Counting { reader, rows, asked, waits: 0, failed: None };
        for (shard, reads) in by_shard {
            for chunk in reads.chunks(limits::HEADS) {
                let (places, reads) = chunk.iter().cloned().unzip();
                counting.waits += 1;
                let op = store_request::Op::ReadHeads(ReadHeads { reads });
                self.ask_of_conversations(shard, op, deadline, ConversationsAsked::Unread(number, places));
            }
        }
        if counting.waits == 0 {
            return self.counted(counting);
        }
        self.counting.insert(number, counting);
    }

    fn unread_read(&mut self, number: u64, places: &[usize], answer: Result<StoreAnswer, StoreFailure>) {
        let Some(counting) = self.counting.get_mut(&number) else { return };
        counting.waits -= 1;
        match answer {
            Ok(StoreAnswer::HeadsRead(read)) => {
                for (place, read) in places.iter().zip(read.heads) {
                    // Without a head, the user is not in the group any more, and hears of that in the inbox.
                    let head = read.head.unwrap_or_default();
                    (counting.rows[*place].unread, counting.rows[*place].mentions) = (head.unread, head.mentions);
                }
            }
            other => counting.failed = counting.failed.take().or(Some(unexpected(other))),
        }
        if counting.waits == 0
            && let Some(counting) = self.counting.remove(&number)
        {
            self.counted(counting);
        }
    }

    fn counted(&mut self, Counting { reader, rows, asked, failed, .. }: Counting) {
        match (asked, failed) {
            (Asked::Page(read, slot), None) => {
                self.end(slot, Ok(Answer::ConversationsRead(ConversationsRead { rows, ..read })));
            }
            (Asked::Page(_, slot), Some(failure)) => self.end(slot, Err(failure)),
            (Asked::Moved(moved, slots), None) => {
                let moved = ConversationsMoved { rows, ..moved };
                if moved.version != moved.before {
                    self.tell_moved(&reader, &moved);
                }
                self.end_all(slots, &Ok(Answer::ConversationsMoved(moved)));
            }
            // The change is stored, and a repeat finds it so.
            (Asked::Moved(_, slots), Some(failure)) => self.end_all(slots, &Err(failure.halfway())),
        }
    }

    /// Tells all sessions of the user.
    pub(super) fn tell_moved(&mut self, reader: &Reader, moved: &ConversationsMoved) {
        let notice = Notice::Conversations(moved.clone());
        for (gateway, connections) in self.connections_of(&reader.user, reader.incarnation, None) {
            let connections = connections.to_vec();
            let signal = Signaled { connections, notice: Some(notice.clone()), ..Signaled::default() };
            self.effects.push(Effect::Signal(gateway, signal));
        }
    }

    /// The other side of a conversation hears up to where was read.
    fn tell_read(&mut self, by: &UserId, row: &ConversationRow, now: Instant) {
        let (Some(with), Some(conversation)) = (&row.conversation, &row.row) else { return };
        // An earlier owner of the name is not read by the next one.
        if row.read_id.is_empty() || conversation.read_seq < conversation.since_seq || with.kind() != Kind::Inbox {
            return;
        }
        // Nor is a stranger told anything whose messages are a request.
        if conversation.request() != MessageRequest::Unspecified {
            return;
        }
        if let Ok(user) = with.owner_str().and_then(UserId::new)
            && user != *by
        {
            let marked = Marked {
                user: user.as_str().to_owned(),
                incarnation: conversation.peer_incarnation,
                by: by.as_str().to_owned(),
                read_id: row.read_id.clone(),
                delivered_id: String::new(),
            };
            self.mark(by, marked, now);
        }
    }

    /// A device has everything in its user's inbox up to there: those who want to hear of it do.
    pub(super) fn tell_delivered(&mut self, user: &UserId, upto: Position, now: Instant) {
        for Undelivering { sender, incarnation, message_id, .. } in self.undelivered.take(user, upto) {
            let marked = Marked {
                user: sender.as_str().to_owned(),
                incarnation,
                by: user.as_str().to_owned(),
                read_id: String::new(),
                delivered_id: message_id,
            };
            self.mark(user, marked, now);
        }
    }

    /// Tells the sessions of a user how far another one is.
    pub(crate) fn marked(&mut self, marked: &Marked) {
        let Ok(user) = UserId::new(&marked.user) else { return metrics::signal(false) };
        for (gateway, connections) in self.connections_of(&user, marked.incarnation, None) {
            let (connections, notice) = (connections.to_vec(), Some(Notice::Marked(marked.clone())));
            self.effects.push(Effect::Signal(gateway, Signaled { connections, notice, ..Signaled::default() }));
        }
    }

    pub(super) fn read_marks(&mut self, read: link::ReadMarks, parts: RequestContext) {
        let RequestContext { user, slot, deadline, .. } = parts;
        if !self.has_conversations() {
            return self.refuse(slot, &Failure::Conversations);
        }
        let link::ReadMarks { incarnation, group, users, .. } = read;
        if !(1..=limits::MARKS).contains(&users.len()) {
            return self.refuse(slot, &Failure::Invalid("a request reads marks of 1 to 256 users"));
        }
        let users = match users.iter().map(|user| UserId::new(user)).collect::<Result<Vec<_>, _>>() {
            Ok(users) => users,
            Err(invalid) => return self.refuse(slot, &invalid.into()),
        };
        let by = BlockedUser { user: user.as_str().to_owned(), incarnation };
        if group.is_empty() {
            let asked = MarksAsked { conversation: key_of(&user), by, users, slot, deadline };
            let domains = self.topology.domains.clone();
            return self.read_marks_of(asked, |other| domains.allow(user.domain(), other.domain()));
        }
        let group = match GroupId::new(&group) {
            Ok(group) if self.topology.domains.allow(user.domain(), group.domain()) => TimelineId::Group(group),
            Ok(group) => return self.refuse(slot, &Failure::OtherDomain(group.to_string())),
            Err(invalid) => return self.refuse(slot, &invalid.into()),
        };
        // Only members may know, and of members alone.
        let op = store_request::Op::ReadMembers(store::ReadMembers {
            timeline: Some(group.to_key()),
            reader: Some(Person { user: user.as_str().to_owned(), incarnation }),
            only: users.iter().map(|user| user.as_str().to_owned()).collect(),
            ..store::ReadMembers::default()
        });
        let asked = MarksAsked { conversation: group.to_key(), by, users, slot, deadline };
        let shard = self.topology.shards.timeline_of(&group);
        self.ask_of_conversations(shard, op, deadline, ConversationsAsked::Members(asked));
    }

    fn members_of_marks(&mut self, asked: MarksAsked, answer: Result<StoreAnswer, StoreFailure>) {
        match answer {
            Ok(StoreAnswer::MembersRead(read)) => {
                let is_member = |user: &UserId| {
                    read.members.iter().any(|row| {
                        let standing = row.member.as_ref().map(store::Member::standing);
                        row.user == user.as_str() && standing == Some(Standing::Member)
                    })
                };
                self.read_marks_of(asked, is_member);
            }
            other => self.end(asked.slot, Err(unexpected(other))),
        }
    }

    /// First each of the users says what the one who asks may know.
    fn read_marks_of(&mut self, asked: MarksAsked, is_known: impl Fn(&UserId) -> bool) {
        let mut by_shard: BTreeMap<ShardId, (Vec<usize>, Vec<String>)> = BTreeMap::new();
        for (place, user) in asked.users.iter().enumerate().filter(|(_, user)| is_known(user)) {
            let (places, users) = by_shard.entry(self.topology.shards.directory_of(user)).or_default();
            places.push(place);
            users.push(user.as_str().to_owned());
        }
        // Of the others nothing.
        let allowed = vec![Allowed { blocked: true, ..Allowed::default() }; asked.users.len()];
        let marks = vec![marks_read::Mark::default(); asked.users.len()];
        let (number, deadline) = (self.next_token, asked.deadline);
        self.next_token += 1;
        let by = asked.by.clone();
        self.reading_marks.insert(number, MarksReading { asked, allowed, marks, waits: by_shard.len(), failed: None });
        for (shard, (places, users)) in by_shard {
            let op = store_request::Op::ReadAllowed(ReadAllowed {
                by: Some(by.clone()),
                users,
                last_seen: false,
                contact: true,
            });
            self.ask_of_conversations(shard, op, deadline, ConversationsAsked::Allowed(number, places));
        }
        self.end_marks(number);
    }

    fn marks_allowed(&mut self, number: u64, places: &[usize], answer: Result<StoreAnswer, StoreFailure>) {
        let Some(reading) = self.reading_marks.get_mut(&number) else { return };
        reading.waits -= 1;
        match answer {
            Ok(StoreAnswer::AllowedRead(read)) => {
                for (place, allowed) in places.iter().zip(read.allowed) {
                    reading.allowed[*place] = allowed;
                }
            }
            other => reading.failed = reading.failed.take().or(Some(unexpected(other))),
        }
        if reading.waits == 0 && reading.failed.is_none() {
            self.read_allowed_marks(number);
        }
        self.end_marks(number);
    }

    fn read_allowed_marks(&mut self, number: u64) {
        let Some(MarksReading { asked, allowed, .. }) = self.reading_marks.get(&number) else { return };
        let MarksAsked { conversation, by, users, deadline, .. } = asked;
        let deadline = *deadline;
        let mut by_shard: BTreeMap<ShardId, (Vec<usize>, Vec<Read>)> = BTreeMap::new();
        let users = users.iter().zip(allowed).enumerate();
        for (place, (user, allowed)) in users.filter(|(_, (_, allowed))| !allowed.blocked) {
            let (places, reads) = by_shard.entry(self.inbox_shard(user)).or_default();
            places.push(place);
            reads.push(Read {
                timeline: Some(key_of(user)),
                conversation: Some(conversation.clone()),
                peer_incarnation: by.incarnation,
                by_contact: allowed.contact,
            });
        }
        let waits = by_shard.len();
        for (shard, (places, reads)) in by_shard {
            let op = store_request::Op::ReadMarks(store::ReadMarks { reads });
            self.ask_of_conversations(shard, op, deadline, ConversationsAsked::Marks(number, places));
        }
        if let Some(reading) = self.reading_marks.get_mut(&number) {
            reading.waits = waits;
        }
    }

    fn marks_read(&mut self, number: u64, places: &[usize], answer: Result<StoreAnswer, StoreFailure>) {
        let Some(reading) = self.reading_marks.get_mut(&number) else { return };
        reading.waits -= 1;
        match answer {
            Ok(StoreAnswer::MarksRead(read)) => {
                for (place, mut mark) in places.iter().zip(read.marks) {
                    if !reading.allowed[*place].read_marks {
                        (mark.read_id, mark.read_epoch, mark.read_seq) = (String::new(), 0, 0);
                    }
                    reading.marks[*place] = mark;
                }
            }
            other => reading.failed = reading.failed.take().or(Some(unexpected(other))),
        }
        self.end_marks(number);
    }

    fn end_marks(&mut self, number: u64) {
        if self.reading_marks.get(&number).is_some_and(|reading| reading.waits == 0)
            && let Some(MarksReading { asked, marks, failed, .. }) = self.reading_marks.remove(&number)
        {
            self.end(asked.slot, failed.map_or(Ok(Answer::MarksRead(MarksRead { marks })), Err));
        }
    }
}

pub(super) fn key_of(user: &UserId) -> TimelineKey {
    TimelineId::Inbox(user.clone()).to_key()
}
