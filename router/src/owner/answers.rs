//! What goes on when the store has answered.

use std::sync::Arc;

use carillon_proto::{
    GroupId, LeaseId, TimelineId, UserId,
    pb::{
        client::Position,
        link::{Heads, SessionOpened},
        store::Person,
        store::ReportReason,
    },
};
use tokio::time::Instant;

use super::{
    Announced, Owner,
    chat_states::GroupTelling,
    contacts::ContactChanging,
    conversations::ConversationsAsked,
    done, head,
    privacy::PrivacyAsked,
    reports::Reporting,
    scheduled::{ScheduleChanging, Scheduling},
    unexpected,
};
use crate::{
    cursors::Moves,
    departures::Departure,
    group_messages::GroupMessage,
    presence::audience::Audience,
    reply::{Answer, Failure, ReplySlot},
    send::Sending,
    store::{StoreAnswer, StoreFailure},
};

/// The work that continues with an answer.
pub(super) enum Continuation {
    User(UserId),
    /// An account without an owner was made for a message.
    Reserved(UserId),
    Account(UserId, ReplySlot),
    Ensured(UserId, ReplySlot),
    /// Accounts of a domain in a shard, for one that a token makes.
    AccountsCounted(u64),
    /// A page of the groups of a user who makes one.
    OwnGroups(u64),
    Session(UserId, Box<Announced>),
    SessionHead {
        user: UserId,
        incarnation: u64,
        generation: u64,
        slot: ReplySlot,
    },
    Heads(UserId, ReplySlot),
    SessionClosed {
        user: UserId,
        gateway: LeaseId,
        connection: u64,
        slot: ReplySlot,
    },
    /// Only the answer remains.
    Done(ReplySlot),
    /// Timelines, with the incarnations of the accounts that own the inboxes.
    Checked(Vec<(TimelineId, u64)>),
    /// Only what was read is passed on.
    Read(ReplySlot),
    /// The cursors that `SetCursor` has stored.
    Cursor(Vec<ReplySlot>),
    /// The cursors that `MoveCursors` has stored.
    Moved(Box<Moves<ReplySlot>>),
    /// The answer tells whether the message was sent before.
    Repeated(Box<Sending>),
    /// The recipient of a message that is taken back, whose domain no longer talks to the sender's, was read.
    TakingBack(Box<Sending>),
    FirstAppend(Box<Sending>),
    SecondAppend(Box<Sending>),
    GroupAppend(Box<GroupMessage>),
    /// For a change of a group a user was read.
    Person(u64, usize),
    /// For a change of a group the roles of members were read.
    Roles(u64),
    GroupChanged(u64),
    /// For a change of a group a membership was set.
    MembershipSet(u64, UserId, u64),
    /// Contacts of a user who shows something, or whether they are still those who are named here.
    Watchers(UserId, u64, Option<Arc<Audience>>),
    /// The store was told that a user was last there.
    Departed(Box<Departure>),
    /// When these contacts of a user were last there.
    LastSeen(Person, Vec<Person>),
    ContactRead(Box<ContactChanging>),
    ContactChanged(Box<ContactChanging>),
    Privacy(Box<PrivacyAsked>),
    /// Whether a member of a group may write there.
    GroupChatState(Box<GroupTelling>),
    /// A place for a file was made in the shard of this index.
    MediaCreated(u16, ReplySlot),
    /// The recipient of a message that is to be scheduled was read.
    Scheduling(Box<Scheduling>),
    Scheduled(Box<ScheduleChanging>),
    /// Messages that are being reported were read.
    Reported(Box<Reporting>),
    ReportPut(ReportReason, ReplySlot),
    MediaCompleted(ReplySlot),
    /// A file was read for this user.
    MediaRead(UserId, ReplySlot),
    /// Heads of groups that a gateway follows: of the request of this number.
    Followed(u64, Vec<GroupId>),
    Conversations(Box<ConversationsAsked>),
}

impl Owner {
    pub(crate) fn answer(&mut self, token: u64, answer: Result<StoreAnswer, StoreFailure>, now: Instant, time_ms: u64) {
        // Each token is given out once and answered once.
        let Some(asked) = self.asked.remove(&token) else { return };
        match asked {
            Continuation::User(user) => self.user_read(user, answer, now, time_ms),
            Continuation::Reserved(user) => self.reserved(user, answer, now, time_ms),
            Continuation::Account(user, slot) => self.account_read(&user, slot, answer),
            Continuation::Ensured(user, slot) => self.ensured(&user, slot, answer),
            Continuation::AccountsCounted(registering) => self.accounts_counted(registering, answer),
            Continuation::OwnGroups(change) => self.own_groups_read(change, answer),
            Continuation::Session(user, announced) => self.session_put(user, *announced, answer),
            Continuation::SessionHead { user, incarnation, generation, slot } => {
                if let Ok(StoreAnswer::Head(head)) = &answer {
                    let position = Position { epoch: head.epoch, seq: head.last };
                    // A position that is news here may be news to the user's other sessions.
                    if self.register.heard(&user, incarnation, position)
                        && self.register.sessions(&user, incarnation).len() > 1
                    {
                        self.tell_head(&user, incarnation, position);
                    }
                }
                let opened = |head| SessionOpened { heads: vec![head], replaced: false, incarnation, generation };
                let opened = head(&user, answer).map(|head| Answer::SessionOpened(opened(head)));
                // The session is stored: after a failure from here on, "nothing was done" would be wrong.
                self.end(slot, opened.map_err(Failure::after_the_session));
            }
            Continuation::Heads(user, slot) => {
                let heads = head(&user, answer).map(|head| Answer::Heads(Heads { heads: vec![head] }));
                self.end(slot, heads);
            }
            Continuation::SessionClosed { user, gateway, connection, slot } => {
                // A concurrent sign-in may have put it back meanwhile.
                self.register.remove(&user, gateway, connection);
                self.end(slot, done(answer));
            }
            Continuation::Done(slot) => self.end(slot, done(answer)),
            Continuation::Checked(timelines) => self.checked(timelines, answer, now),
            Continuation::Read(slot) => {
                let read = match answer {
                    Ok(StoreAnswer::TimelineRead(read)) => Ok(Answer::TimelineRead(read)),
                    Ok(StoreAnswer::GroupRead(read)) => Ok(Answer::GroupRead(Box::new(read))),
                    Ok(StoreAnswer::MembersRead(read)) => Ok(Answer::MembersRead(read)),
                    Ok(StoreAnswer::MembershipsRead(read)) => Ok(Answer::MembershipsRead(read)),
                    Ok(StoreAnswer::ContactsRead(read)) => Ok(Answer::ContactsRead(read)),
                    Ok(StoreAnswer::ScheduledRead(read)) => Ok(Answer::ScheduledRead(read)),
                    Ok(StoreAnswer::Privacy(privacy)) => Ok(Answer::Privacy(privacy)),
                    other => Err(unexpected(other)),
                };
                self.end(slot, read);
            }
            Continuation::Cursor(slots) => self.end_all(slots, &done(answer)),
            Continuation::Moved(moves) => self.moved(*moves, answer, now),
            Continuation::TakingBack(sending) => self.read_beyond(sending, answer, now),
            Continuation::Repeated(sending) => self.looked_for_first(sending, answer, now),
            Continuation::FirstAppend(sending) => self.first_appended(sending, answer, now),
            Continuation::SecondAppend(sending) => self.second_appended(sending, answer, now),
            Continuation::GroupAppend(message) => self.group_appended(message, answer, now),
            Continuation::Person(change, person) => self.person_read(change, person, answer),
            Continuation::Roles(change) => self.roles_read(change, answer),
            Continuation::GroupChanged(change) => self.group_changed(change, answer, now),
            Continuation::MembershipSet(change, user, incarnation) => {
                self.membership_set(change, user, incarnation, answer);
            }
            Continuation::Watchers(user, incarnation, known) => {
                self.watchers_read(&user, (incarnation, known), answer, now, time_ms);
            }
            Continuation::Departed(departure) => self.departed(*departure, &answer, now),
            Continuation::LastSeen(from, of) => self.last_seen_read(&from, of, answer, now, time_ms),
            Continuation::ContactRead(changing) => self.contact_read(changing, answer),
            Continuation::ContactChanged(changing) => self.contact_changed(*changing, answer, now, time_ms),
            Continuation::Privacy(asked) => self.privacy_answered(*asked, answer, now, time_ms),
            Continuation::GroupChatState(telling) => self.group_chat_state_allowed(*telling, answer),
            Continuation::MediaCompleted(slot) => self.media_completed(slot, answer),
            Continuation::MediaRead(user, slot) => self.media_read(&user, slot, answer),
            Continuation::MediaCreated(shard, slot) => {
                self.media_created(shard, slot, answer);
            }
            Continuation::Scheduling(scheduling) => self.recipient_read(*scheduling, answer),
            Continuation::Scheduled(changing) => self.scheduled_changed(*changing, answer),
            Continuation::Reported(reporting) => self.reported_read(reporting, answer),
            Continuation::ReportPut(reason, slot) => self.report_put(reason, slot, answer),
            Continuation::Followed(request, groups) => self.followed(request, &groups, answer),
            Continuation::Conversations(asked) => self.conversations_answered(*asked, answer, now),
        }
    }
}
