//! Unanswered reads and requests: pages of history, groups, conversations, contacts and privacy. Pure; time is a parameter.
//! Unanswered reads: pages of history, and what is asked about groups and files. Pure; time is a parameter.

use std::{collections::BTreeMap, time::Instant};

use carillon_proto::pb::client::{
    ChangeScheduled, ContactRequest, Contacts, Conversations, Fetch, Group, Groups, Marks, MediaSlot, MediaUrl,
    Members, MoveMarks, Page, Privacy, PrivacyRequest, ReadContacts, ReadConversations, ReadGroup, ReadGroups,
    ReadMarks, ReadMembers, ReadPrivacy, ReadScheduled, Report, RequestMediaSlot, RequestMediaUrl, Schedule,
    ScheduledChanged, ScheduledMessages, SetChatState, SetConversation, SetPresence, client_frame::Body,
};

/// Reads may be repeated freely, and so may marks, which only grow, and settings, of which the last one counts: so all of them are repeated after a reconnect.
pub(crate) struct Fetches<T> {
    next: u32,
    pending: BTreeMap<u32, Pending<T>>,
}

#[derive(Debug, Clone)]
pub(crate) enum Query {
    Page(Fetch),
    Group(ReadGroup),
    Members(ReadMembers),
    Groups(ReadGroups),
    Conversations(ReadConversations),
    Move(MoveMarks),
    Set(SetConversation),
    Marks(ReadMarks),
    Contacts(ReadContacts),
    Contact(ContactRequest),
    Presence(SetPresence),
    MediaSlot(RequestMediaSlot),
    MediaUrl(RequestMediaUrl),
    Privacy(ReadPrivacy),
    ChangePrivacy(PrivacyRequest),
    ChatState(SetChatState),
    Schedule(Schedule),
    ChangeScheduled(ChangeScheduled),
    Scheduled(ReadScheduled),
    Report(Report),
}

/// The answer to a query.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Found {
    Page(Page),
    Group(Group),
    Members(Members),
    Groups(Groups),
    Conversations(Conversations),
    Marks(Marks),
    Contacts(Contacts),
    /// The request was carried out.
    Done,
    MediaSlot(MediaSlot),
    MediaUrl(MediaUrl),
    Privacy(Privacy),
    ScheduledChanged(ScheduledChanged),
    ScheduledMessages(ScheduledMessages),
}

struct Pending<T> {
    query: Query,
    deadline: Instant,
    answer: T,
    sent: bool,
}

impl<T> Fetches<T> {
    pub(crate) fn new() -> Self {
        Self { next: 1, pending: BTreeMap::new() }
    }

    pub(crate) fn push(&mut self, mut query: Query, deadline: Instant, answer: T) {
        let request = self.next;
        // 0 is no fetch's number.
        self.next = self.next.checked_add(1).unwrap_or(1);
        match &mut query {
            Query::Page(fetch) => fetch.request = request,
            Query::Group(read) => read.request = request,
            Query::Members(read) => read.request = request,
            Query::Groups(read) => read.request = request,
            Query::Conversations(read) => read.request = request,
            Query::Move(moves) => moves.request = request,
            Query::Set(set) => set.request = request,
            Query::Marks(read) => read.request = request,
            Query::Contacts(read) => read.request = request,
            Query::Contact(change) => change.request = request,
            Query::Presence(set) => set.request = request,
            Query::MediaSlot(ask) => ask.request = request,
            Query::MediaUrl(ask) => ask.request = request,
            Query::Privacy(read) => read.request = request,
            Query::ChangePrivacy(change) => change.request = request,
            Query::ChatState(set) => set.request = request,
            Query::Schedule(schedule) => schedule.request = request,
            Query::ChangeScheduled(change) => change.request = request,
            Query::Scheduled(read) => read.request = request,
            Query::Report(report) => report.request = request,
        }
        self.pending.insert(request, Pending { query, deadline, answer, sent: false });
    }

    pub(crate) fn disconnected(&mut self) {
        for pending in self.pending.values_mut() {
            pending.sent = false;
        }
    }

    pub(crate) fn take_ready(&mut self, mut out: impl FnMut(Body)) {
        for pending in self.pending.values_mut().filter(|pending| !pending.sent) {
            pending.sent = true;
            out(match pending.query.clone() {
                Query::Page(fetch) => Body::Fetch(fetch),
                Query::Group(read) => Body::ReadGroup(read),
                Query::Members(read) => Body::ReadMembers(read),
                Query::Groups(read) => Body::ReadGroups(read),
                Query::Conversations(read) => Body::ReadConversations(read),
                Query::Move(moves) => Body::MoveMarks(moves),
                Query::Set(set) => Body::SetConversation(set),
                Query::Marks(read) => Body::ReadMarks(read),
                Query::Contacts(read) => Body::ReadContacts(read),
                Query::Contact(change) => Body::Contact(change),
                Query::Presence(set) => Body::SetPresence(set),
                Query::MediaSlot(ask) => Body::RequestMediaSlot(ask),
                Query::MediaUrl(ask) => Body::RequestMediaUrl(ask),
                Query::Privacy(read) => Body::ReadPrivacy(read),
                Query::ChangePrivacy(change) => Body::Privacy(change),
                Query::ChatState(set) => Body::SetChatState(set),
                Query::Schedule(schedule) => Body::Schedule(schedule),
                Query::ChangeScheduled(change) => Body::ChangeScheduled(change),
                Query::Scheduled(read) => Body::ReadScheduled(read),
                Query::Report(report) => Body::Report(report),
            });
        }
    }

    pub(crate) fn answered(&mut self, request: u32) -> Option<T> {
        self.pending.remove(&request).map(|pending| pending.answer)
    }

    pub(crate) fn expire(&mut self, now: Instant, mut expired: impl FnMut(T)) {
        let late = self.pending.iter().filter(|(_, pending)| pending.deadline <= now);
        let late: Vec<u32> = late.map(|(request, _)| *request).collect();
        late.iter().filter_map(|request| self.answered(*request)).for_each(&mut expired);
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> {
        std::mem::take(&mut self.pending).into_values().map(|pending| pending.answer)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}
