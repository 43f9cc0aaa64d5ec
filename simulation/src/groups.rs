//! People in groups, who read their messages, too. Each speaks to the routers as a gateway does, for one request at a time, until it is answered for good.

use std::collections::VecDeque;

use carillon_proto::{
    Ring,
    pb::{
        client::{Content, Text, content},
        link::{
            ChangeGroup, FromRouter, Hello, MoveMarks, Refusal, RouterRequest, Send, SendTo, ToRouter,
            change_group::Change, router_reply, router_request::Op, send_to,
        },
        store::{
            Audience, ChangeMembers, CreateGroup, DeleteGroup, GroupSettings, NodeKind, Person, TimelineKey, Word,
            change_members::Change as OfMembers, move_marks::Mark, timeline_key::Kind,
        },
    },
};
use prost::Message as _;

use crate::{
    clients::user_name,
    expiring, files, presence,
    random::Random,
    routers::router_of,
    schedule::{MS, SECOND, Time},
    wires::{Ends, Side, WireId},
    world::{Event, Message, World},
};

/// A lease that no registry has given: nothing is pushed to these people.
const LEASE: u64 = 1 << 60;
pub(crate) const DEVICE: &str = "talker";
const PATIENCE: Time = 3 * SECOND;
const PAUSE: Time = 100 * MS;

/// Somebody who wants something of groups.
#[derive(Default)]
pub(crate) struct Talker {
    wire: Option<(usize, WireId)>,
    wants: VecDeque<Want>,
    asked: Option<Asked>,
    /// Grows with each attempt.
    attempts: u64,
    /// Grows with each want.
    number: u64,
}

struct Asked {
    /// The user or group whose router is asked.
    of: String,
    /// The incarnation of the user's account.
    incarnation: u64,
    op: Op,
}

/// A wish of a user, about the group of this number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Want {
    pub(crate) group: usize,
    pub(crate) what: What,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum What {
    Create {
        with: usize,
    },
    Delete,
    Send,
    /// The same with a device of the user, by way of a gateway.
    Says,
    Change(OfMembers, usize),
    /// To have a message sent later.
    Schedule {
        to: usize,
        after_ms: u64,
    },
    /// To send a message that is shown for a moment.
    Passing {
        to: usize,
        after_ms: u64,
    },
    /// The last scheduled message is not to be sent.
    TakeBack,
    /// The last scheduled message is to be sent at once.
    SendNow,
    /// To read what there is with this user, up to some message.
    Read {
        with: usize,
    },
    /// The same in the group.
    ReadGroup,
    /// To say this to a contact.
    Contact {
        with: usize,
        word: Word,
    },
    /// To show its presence to nobody, or to its contacts again.
    Hides(bool),
    /// To let these write.
    Lets(Audience),
    Blocks(usize),
    Unblocks(usize),
    /// To report messages of this user, or of the group, which are chosen by this number.
    Report {
        with: Option<usize>,
        pick: u64,
    },
    /// A moderator looks at a report.
    Moderate,
    Upload,
    /// All bytes of the file of this number are there.
    Completes(u64),
    /// To send a file that is chosen by `pick`; `after_ms`: as of `Passing`, and 0: for ever.
    SendFile {
        to: usize,
        pick: u64,
        after_ms: u64,
    },
}

#[derive(Debug)]
pub(crate) enum GroupEvent {
    Wants(Want),
    /// The attempt of this number begins.
    Tries(u64),
    GivesUp(u64),
}

pub(crate) fn group_name(group: usize) -> String {
    format!("group{group}")
}

/// Reads of users, and their times. Below the level of conversations they are refused.
pub(crate) fn reads(seed: u64, users: usize, from: Time, until: Time) -> Vec<(usize, Time, Want)> {
    let mut random = Random::new(seed ^ 0x7265_6164_7321);
    let mut one = || {
        let (user, with) = (random.index(users), random.index(users));
        (user, random.between(from, until), Want { group: 0, what: What::Read { with } })
    };
    (0..20).map(|_| one()).collect()
}

/// Wishes of the users of this run, and their times, by random numbers of their own. None in half of the runs.
pub(crate) fn wants(seed: u64, users: usize, from: Time, until: Time) -> Vec<(usize, Time, Want)> {
    let mut random = Random::new(seed ^ 0x6772_6f75_7073);
    let mut wants = Vec::new();
    if random.in_thousand(500) {
        return wants;
    }
    for group in 0..random.between(1, 2) as usize {
        let founder = random.index(users);
        let create = What::Create { with: random.index(users) };
        wants.push((founder, from, Want { group, what: create }));
        for _ in 0..random.between(5, 40) {
            let (user, other) = (random.index(users), random.index(users));
            // The founder, who may do everything, does most of it.
            let admin = if random.in_thousand(800) { founder } else { user };
            let (user, what) = match random.below(100) {
                0..10 => (user, What::Send),
                10..40 => (user, What::Says),
                40..45 => (user, What::ReadGroup),
                45..60 => (user, What::Change(OfMembers::Join, user)),
                60..70 => (user, What::Change(OfMembers::Leave, user)),
                70..80 => (admin, What::Change(OfMembers::Add, other)),
                80..90 => (admin, What::Change(OfMembers::Ban, other)),
                90..98 => (admin, What::Change(OfMembers::Pardon, other)),
                _ => (founder, What::Delete),
            };
            wants.push((user, random.between(from, until), Want { group, what }));
        }
    }
    wants
}

impl World<'_> {
    fn at_talker(&mut self, user: usize, after: Time, what: GroupEvent) {
        self.schedule.after(after, Event::Group { user, what });
    }

    pub(crate) fn group_event(&mut self, user: usize, what: GroupEvent) {
        match what {
            GroupEvent::Wants(Want { group, what: What::Says }) => self.device_says(user, group),
            GroupEvent::Wants(Want { what: What::Moderate, .. }) => self.moderates(),
            GroupEvent::Wants(want) => {
                self.talkers[user].wants.push_back(want);
                self.talker_goes_on(user);
            }
            GroupEvent::Tries(attempt) if self.talkers[user].attempts == attempt => self.talker_tries(user),
            GroupEvent::GivesUp(attempt) if self.talkers[user].attempts == attempt => self.talker_tries_again(user),
            GroupEvent::Tries(_) | GroupEvent::GivesUp(_) => {}
        }
    }

    /// Everybody has got what they wanted, or was told why not.
    pub(crate) fn talkers_wait(&self) -> impl Iterator<Item = String> {
        let waits = |talker: &Talker| talker.asked.is_some() || !talker.wants.is_empty();
        let waiting = self.talkers.iter().enumerate().filter(move |(_, talker)| waits(talker));
        waiting.map(|(user, _)| format!("{} has no answer about a group", user_name(user)))
    }

    fn talker_goes_on(&mut self, user: usize) {
        while self.talkers[user].asked.is_none()
            && let Some(want) = self.talkers[user].wants.pop_front()
        {
            // A user who does not exist wants nothing.
            let Some(incarnation) = self.model.owner(&user_name(user)) else { continue };
            self.talkers[user].number += 1;
            let asked = match want.what {
                What::Read { with } => self.reads(user, incarnation, with).map(|op| (user_name(user), op)),
                What::ReadGroup => self.reads_group(user, incarnation, want.group).map(|op| (user_name(user), op)),
                What::Schedule { to, after_ms } => {
                    let (number, at_ms) = (self.talkers[user].number, self.schedule.unix_ms() + after_ms);
                    Some((user_name(user), self.model.schedules(user, incarnation, number, to, at_ms)))
                }
                What::Passing { to, after_ms } => {
                    let number = self.talkers[user].number;
                    Some((user_name(to), expiring::sends(user, incarnation, number, to, after_ms)))
                }
                What::Report { with, pick } => {
                    let number = self.talkers[user].number;
                    let op = self.model.reports(user, incarnation, number, (with, want.group), pick);
                    op.map(|op| (user_name(user), op))
                }
                What::Upload => {
                    let number = self.talkers[user].number;
                    self.talkers[user].wants.push_front(Want { what: What::Completes(number), ..want });
                    Some((user_name(user), files::creates(user, incarnation, number)))
                }
                What::Completes(number) => Some((user_name(user), files::completes(user, incarnation, number))),
                What::SendFile { to, pick, after_ms } => {
                    let number = self.talkers[user].number;
                    self.model.files.now = self.schedule.now();
                    let op = self.model.sends_file(user, incarnation, number, (to, after_ms), pick);
                    op.map(|op| (user_name(to), op))
                }
                What::TakeBack | What::SendNow => {
                    let op = self.model.changes_scheduled(user, incarnation, want.what, self.schedule.unix_ms());
                    op.map(|op| (user_name(user), op))
                }
                What::Contact { .. } | What::Hides(_) | What::Lets(_) | What::Blocks(_) | What::Unblocks(_) => {
                    presence::asks(user, incarnation, want.what).map(|op| (user_name(user), op))
                }
                _ => asks(user, incarnation, self.talkers[user].number, want).map(|op| (group_name(want.group), op)),
            };
            let Some((of, op)) = asked else { continue };
            self.talkers[user].asked = Some(Asked { of, incarnation, op });
            self.talkers[user].attempts += 1;
            self.talker_tries(user);
        }
    }

    /// Up to some message of the conversation; `None`: there is none.
    fn reads(&self, user: usize, incarnation: u64, with: usize) -> Option<Op> {
        let (owner, other) = (user_name(user), user_name(with));
        let messages = self.model.messages_between(&owner, incarnation, &other);
        if messages.is_empty() {
            return None;
        }
        let seq = messages[self.talkers[user].number as usize * 7 % messages.len()];
        let (epoch, _) = self.model.head(&owner, incarnation);
        let conversation = Some(TimelineKey { kind: Kind::Inbox.into(), owner: other.into() });
        let marks = vec![Mark { conversation, epoch, seq }];
        Some(Op::MoveMarks(MoveMarks { user: owner, incarnation, marks }))
    }

    /// Up to some entry; `None`: the user is in no such group.
    fn reads_group(&self, user: usize, incarnation: u64, group: usize) -> Option<Op> {
        let (owner, name) = (user_name(user), group_name(group));
        let group = self.model.groups.0.get(&name).filter(|group| group.is_member(&owner))?;
        let seq = 1 + self.talkers[user].number * 7 % group.entries.len() as u64;
        let conversation = Some(TimelineKey { kind: Kind::Group.into(), owner: name.into() });
        let marks = vec![Mark { conversation, epoch: group.epoch, seq }];
        Some(Op::MoveMarks(MoveMarks { user: owner, incarnation, marks }))
    }

    fn talker_tries(&mut self, user: usize) {
        let (owner, attempt) = (self.model.owner(&user_name(user)), self.talkers[user].attempts);
        let Some(Asked { of, incarnation, op }) = &self.talkers[user].asked else { return };
        if owner != Some(*incarnation) {
            return self.talker_is_done(user);
        }
        let ring = Ring::from_view(&self.view());
        let router = ring.owner(of).map(|owner| router_of(&owner.address));
        let request = RouterRequest {
            id: attempt,
            ring_version: ring.version(),
            deadline_ms: 2_500,
            op: Some(op.clone()),
            ..RouterRequest::default()
        };
        let Some(router) = router.filter(|router| self.routers[*router].up.is_some()) else {
            return self.talker_tries_again(user);
        };
        // On a new link nothing stands before it.
        self.talker_leaves(user);
        let wire = self.wires.open(Ends::Talker { user, router });
        self.talkers[user].wire = Some((router, wire));
        let hello = Some(Hello { lease: LEASE + user as u64, kind: NodeKind::Gateway.into() });
        self.send(wire, Side::Second, Message::ToRouter(ToRouter { hello, ..ToRouter::default() }));
        let said = ToRouter { requests: vec![request], ..ToRouter::default() };
        self.send(wire, Side::Second, Message::ToRouter(said));
        self.at_talker(user, PATIENCE, GroupEvent::GivesUp(attempt));
    }

    pub(crate) fn talker_hears(&mut self, user: usize, wire: WireId, said: &FromRouter) {
        let talker = &self.talkers[user];
        if talker.wire.is_none_or(|(_, own)| own != wire) {
            return;
        }
        let Some(reply) = said.replies.iter().find(|reply| reply.id == talker.attempts) else { return };
        match &reply.result {
            Some(
                router_reply::Result::Accepted(_)
                | router_reply::Result::Done(_)
                | router_reply::Result::MediaCreated(_),
            ) => {
                if let Some(Asked { op, .. }) = &talker.asked {
                    self.model.report_answered(&op.clone());
                }
                self.talker_is_done(user);
            }
            Some(router_reply::Result::ConversationsMoved(moved)) => {
                if let Some(Asked { op: Op::MoveMarks(moves), .. }) = &talker.asked {
                    let marks = moves.marks.clone();
                    self.model.marks_answered(&user_name(user), &marks, moved);
                }
                self.talker_is_done(user);
            }
            Some(router_reply::Result::ScheduledChanged(changed)) => {
                if let Some(Asked { op, .. }) = &talker.asked {
                    self.model.scheduled_answered(&op.clone(), changed);
                }
                self.talker_is_done(user);
            }
            Some(router_reply::Result::Refusal(why @ Refusal { retry: false, .. })) => {
                if let Some(Asked { op, .. }) = &talker.asked {
                    self.model.report_refused(&op.clone(), why);
                }
                self.talker_is_done(user);
            }
            _ => self.talker_tries_again(user),
        }
    }

    /// The link is over.
    pub(crate) fn talker_lost(&mut self, user: usize, wire: WireId) {
        if self.talkers[user].wire.is_some_and(|(_, own)| own == wire) {
            self.talkers[user].wire = None;
            self.talker_tries_again(user);
        }
    }

    fn talker_tries_again(&mut self, user: usize) {
        self.talker_leaves(user);
        self.talkers[user].attempts += 1;
        let attempt = self.talkers[user].attempts;
        self.at_talker(user, PAUSE, GroupEvent::Tries(attempt));
    }

    fn talker_is_done(&mut self, user: usize) {
        self.talker_leaves(user);
        self.talkers[user].asked = None;
        self.talker_goes_on(user);
    }

    fn talker_leaves(&mut self, user: usize) {
        if let Some((_, wire)) = self.talkers[user].wire.take() {
            self.close_wire(wire, Side::First);
        }
    }
}

fn asks(user: usize, incarnation: u64, number: u64, want: Want) -> Option<Op> {
    let (sender, client_id) = (user_name(user), format!("g{user}-{number}"));
    let person = |user| Person { user: user_name(user), incarnation: 0 };
    let change = match want.what {
        What::Send => {
            let content =
                Content { body: Some(content::Body::Text(Text { body: client_id.clone() })), ..Default::default() };
            return Some(Op::Send(Send {
                sender: sender.into(),
                sender_device: DEVICE.into(),
                to: Some(SendTo { to: Some(send_to::To::Group(group_name(want.group).into())) }),
                client_id: client_id.into(),
                content: content.encode_to_vec().into(),
                connection: 1,
                incarnation,
                generation: incarnation,
                ..Send::default()
            }));
        }
        What::Create { with } => {
            let settings = Some(GroupSettings { open: true, ..GroupSettings::default() });
            let members = (with != user).then(|| person(with)).into_iter().collect();
            Change::Create(CreateGroup { settings, members, owner: None })
        }
        What::Delete => Change::Delete(DeleteGroup {}),
        // Asked of no group's router.
        What::Says
        | What::Read { .. }
        | What::ReadGroup
        | What::Schedule { .. }
        | What::Passing { .. }
        | What::Contact { .. }
        | What::Hides(_)
        | What::Lets(_)
        | What::Blocks(_)
        | What::Unblocks(_)
        | What::Report { .. }
        | What::Moderate
        | What::Upload
        | What::Completes(_)
        | What::SendFile { .. }
        | What::TakeBack
        | What::SendNow => return None,
        What::Change(kind, whom) => Change::Members(ChangeMembers {
            change: kind.into(),
            users: vec![person(whom)],
            ..ChangeMembers::default()
        }),
    };
    Some(Op::ChangeGroup(Box::new(ChangeGroup {
        sender: sender.into(),
        sender_device: DEVICE.into(),
        client_id: client_id.into(),
        connection: 1,
        incarnation,
        generation: incarnation,
        time_ms: 0,
        group: group_name(want.group).into(),
        change: Some(change),
    })))
}
