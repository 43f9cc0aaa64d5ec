//! The operator changes the group.

use carillon_proto::pb::{
    client::{Envelope, GroupChange, GroupDeleted, Recipient, group_change::What, recipient::To},
    store::{
        Append, ChangeGroup, ChangeMembers, CreateGroup, GroupSettings, Header, Person, Role, StoreError,
        change_group::Change, change_members::Change as OfMembers, rejected::Reason, store_error::Why,
        timeline_command::Op,
    },
};
use prost::Message as _;

use super::{
    model::{Entry, Member},
    play::{EPOCH, GROUP, Play, duplicate, key},
};
use crate::machine::Outcome;

impl Play {
    pub(super) fn group_exists(&self) -> bool {
        self.timelines[GROUP].last() > 0
    }

    /// The operator changes the group, and an envelope tells of it.
    pub(super) fn change(&mut self, change: Change) {
        let (outcome, envelope) = self.try_change(change);
        let Outcome::Appended(appended) = outcome else { panic!("{outcome:?}") };
        self.told(envelope);
        if !appended.heir_envelope.is_empty() {
            let heir = Envelope::decode(appended.heir_envelope).expect("decodes");
            self.inherits(&heir);
            self.told(heir);
        }
    }

    fn try_change(&mut self, change: Change) -> (Outcome, Envelope) {
        self.sent += 1;
        let what = GroupChange { what: Some(What::Deleted(GroupDeleted {})) };
        let envelope = Envelope {
            sender: "operator".into(),
            to: Some(Recipient { to: Some(To::Group("g".into())) }),
            change: Some(Box::new(what)),
            ..Envelope::default()
        };
        let append = Append {
            timeline: Some(key(GROUP)),
            duplicate_key: duplicate("operator", &self.sent.to_string(), 0).0.to_vec().into(),
            envelope: envelope.encode_to_vec().into(),
            new_epoch: EPOCH,
            ..Append::default()
        };
        let op = ChangeGroup { append: Some(append), by_operator: true, change: Some(change), most_members: 0 };
        (self.apply(Op::ChangeGroup(op)), envelope)
    }

    fn told(&mut self, envelope: Envelope) {
        let entry = Entry { envelope, header: Header::default(), incarnation: 0, target: None, mentioned: Vec::new() };
        self.append(GROUP, &entry, None);
    }

    /// The account of the last owner has ended, and another member is the owner.
    fn inherits(&mut self, heir: &Envelope) {
        let Some(What::Members(members)) = heir.change.as_ref().and_then(|change| change.what.as_ref()) else {
            panic!("{heir:?}")
        };
        assert!(!self.members.values().any(|row| row.role == Role::Owner), "there is an owner");
        for user in &members.users {
            self.members.get_mut(user).expect("a member").role = Role::Owner;
        }
    }

    /// A group with `a` as owner and `m0`, `m1` and so on.
    pub(super) fn makes_group_of(&mut self, members: usize) {
        self.member("a", 1, 0);
        for chunk in (0..members).map(|at| format!("m{at}")).collect::<Vec<_>>().chunks(256) {
            let people = chunk.iter().map(|user| Person { user: user.clone(), incarnation: 1 }).collect();
            let add = ChangeMembers { change: OfMembers::Add.into(), users: people, ..ChangeMembers::default() };
            self.change(Change::Members(add));
            let since = self.timelines[GROUP].last();
            let row = Member { incarnation: 1, role: Role::Member, since };
            self.members.extend(chunk.iter().map(|user| (user.clone(), row)));
        }
    }

    pub(super) fn member(&mut self, who: &str, incarnation: u64, what: u8) {
        let person = Person { user: who.to_owned(), incarnation };
        if !self.group_exists() {
            let settings = Some(GroupSettings { earlier_history: true, ..GroupSettings::default() });
            let create = CreateGroup { settings, members: Vec::new(), owner: Some(person) };
            self.change(Change::Create(create));
            self.members.insert(who.to_owned(), Member { incarnation, role: Role::Owner, since: 1 });
            return;
        }
        let since = self.timelines[GROUP].last() + 1;
        let is_member = self.members.get(who).is_some_and(|row| row.incarnation == incarnation);
        let roles = [Role::Reader, Role::Member, Role::Admin, Role::Owner];
        let role = roles[usize::from(what % 4)];
        let mut change = ChangeMembers { users: vec![person], ..ChangeMembers::default() };
        let row = match (is_member, what % 8) {
            (true, 0) => {
                change.set_change(OfMembers::Remove);
                None
            }
            (true, _) => {
                change.set_change(OfMembers::Role);
                change.set_role(role);
                self.members.get(who).map(|row| Member { role, ..*row })
            }
            (false, _) => {
                change.set_change(OfMembers::Add);
                Some(Member { incarnation, role: Role::Member, since })
            }
        };
        let owners = self.members.iter().filter(|(_, row)| row.role == Role::Owner).map(|(user, _)| user.as_str());
        let is_last_owner = owners.eq([who]);
        // Another member becomes the owner when an account has ended.
        let account_ended = self.members.get(who).is_some_and(|row| row.incarnation < incarnation);
        if is_last_owner && !account_ended && row.is_none_or(|row| row.role != Role::Owner) {
            // A removal of the only member deletes the group.
            if self.members.len() > 1 || row.is_some() {
                let (outcome, _) = self.try_change(Change::Members(change));
                assert!(is_forbidden(&outcome), "{outcome:?}");
            }
            return;
        }
        match row {
            Some(row) => drop(self.members.insert(who.to_owned(), row)),
            None => drop(self.members.remove(who)),
        }
        self.change(Change::Members(change));
    }
}

fn is_forbidden(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Error(StoreError { why: Some(Why::Rejected(rejected)) }) => rejected.reason() == Reason::Forbidden,
        _ => false,
    }
}
