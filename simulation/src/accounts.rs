//! The operator, who deletes accounts and makes new ones of the same names: what the routers' admin service does, whose
//! calls may come through in part only. See docs/adr/0007-incarnations.md.

use bytes::Bytes;
use carillon_proto::{
    ShardKind, TimelineId, UserId,
    pb::store::{
        Account, DeleteAccount, DirectoryCommand, EndSender, EndTimeline, PutAccount, TimelineCommand,
        directory_command, put_account, store_reply::Result as Outcome, timeline_command,
    },
};
use prost::Message as _;

use crate::{
    Plant,
    clients::user_name,
    routers::RouterEvent,
    schedule::{MS, SECOND},
    store::MAP,
    world::{Event, World},
};

#[derive(Debug)]
pub(crate) enum AccountEvent {
    /// The account is gone; its inbox has not ended yet.
    Deletes(usize),
    /// The inbox ends, too, no shard takes anything from its sessions any more, and the operator is answered.
    Ends { user: usize, incarnation: u64 },
    /// A router finds that the inbox has not ended, and ends it.
    EndsInbox { user: usize, incarnation: u64 },
    /// The name gets its next owner.
    Makes(usize),
}

impl World<'_> {
    pub(crate) fn account_event(&mut self, what: AccountEvent) {
        match what {
            AccountEvent::Deletes(user) => {
                let (name, time_ms) = (user_name(user), self.schedule.unix_ms());
                let delete = DeleteAccount { user: name.clone(), time_ms };
                let incarnation = self.account_write(user, directory_command::Op::DeleteAccount(delete));
                self.model.deletes(&name);
                // The router that does it may end in the midst.
                let after = self.random.below(100 * MS);
                let is_whole = self.random.in_thousand(700) && self.plant != Some(Plant::InboxGoesOn);
                let next = match is_whole {
                    true => AccountEvent::Ends { user, incarnation },
                    false => AccountEvent::Makes(user),
                };
                self.schedule.after(after, Event::Account(next));
                if !is_whole && self.plant != Some(Plant::InboxGoesOn) {
                    self.model.endings += 1;
                    let found = AccountEvent::EndsInbox { user, incarnation };
                    self.schedule.after(3 * SECOND, Event::Account(found));
                }
            }
            AccountEvent::EndsInbox { user, incarnation } => {
                self.model.endings -= 1;
                self.end_inbox(user, incarnation);
            }
            AccountEvent::Ends { user, incarnation } => {
                self.end_inbox(user, incarnation);
                let end = EndSender { sender: user_name(user), generation: incarnation };
                let command = TimelineCommand { op: Some(timeline_command::Op::EndSender(end)) };
                let command: Bytes = command.encode_to_vec().into();
                for shard in MAP.all().filter(|shard| shard.kind == ShardKind::Timeline) {
                    if self.plant != Some(Plant::SenderGoesOn) {
                        self.cluster.apply(shard, vec![command.clone()]);
                    }
                }
                self.model.deletion_is_answered(&user_name(user), incarnation);
                for router in 0..self.routers.len() {
                    if self.healed || !self.random.in_thousand(self.scenario.peers_break) {
                        let after = self.latency();
                        let user = UserId::new(&user_name(user)).expect("valid");
                        self.at_router(router, after, RouterEvent::Changed(user));
                    }
                }
                let after = self.random.below(500 * MS);
                self.schedule.after(after, Event::Account(AccountEvent::Makes(user)));
            }
            AccountEvent::Makes(user) => {
                self.make_account(user, self.schedule.unix_ms());
                for client in 0..self.clients.len() {
                    if self.clients[client].user == user && self.clients[client].is_out {
                        self.client_begins_anew(client);
                    }
                }
            }
        }
    }

    fn end_inbox(&mut self, user: usize, incarnation: u64) {
        let timeline = TimelineId::Inbox(UserId::new(&user_name(user)).expect("valid"));
        let end = EndTimeline { timeline: Some(timeline.to_key()), incarnation };
        let command = TimelineCommand { op: Some(timeline_command::Op::EndTimeline(end)) };
        self.cluster.apply(MAP.timeline_of(&timeline), vec![command.encode_to_vec().into()]);
    }

    pub(crate) fn make_account(&mut self, user: usize, created_ms: u64) {
        let account = Account { user: user_name(user), created_ms, ..Account::default() };
        let mode = put_account::Mode::Create.into();
        let put = PutAccount { account: Some(account), mode, numbered: true, revive: false, most_accounts: None };
        let incarnation = self.account_write(user, directory_command::Op::PutAccount(put));
        self.model.makes(&user_name(user), incarnation);
    }

    /// The incarnation of what the account is then.
    fn account_write(&mut self, user: usize, op: directory_command::Op) -> u64 {
        let user = UserId::new(&user_name(user)).expect("valid");
        let command = DirectoryCommand { op: Some(op) };
        let outcomes = self.cluster.apply(MAP.directory_of(&user), vec![command.encode_to_vec().into()]);
        self.sight_changed();
        match &outcomes[..] {
            [Outcome::AccountChanged(changed)] => changed.account.as_ref().expect("an account").incarnation,
            other => panic!("the account was not changed: {other:?}"),
        }
    }
}
