//! Settings of domains that routers enforce. See docs/adr/0036-domain-rules.md.

use carillon_proto::{
    ShardId, ShardKind, TimelineId, UserId,
    pb::store::{
        Account, AccountCount, CountAccounts, MembershipsRead, PutAccount, ReadMemberships, Role, TimelineKey,
        directory_command, member::Standing, put_account::Mode, store_request,
    },
};
use tokio::time::Instant;

use super::{Continuation, Owner, done, unexpected};
use crate::{
    group_changes::GroupChanging,
    reply::{Failure, ReplySlot},
    send::RequestContext,
    store::{StoreAnswer, StoreFailure},
};

/// Rows of one read of a user's groups.
const PAGE: u32 = 1024;

/// An account that a token makes, while the accounts of its domain are being counted.
pub(super) struct Registering {
    user: UserId,
    put: PutAccount,
    deadline: Instant,
    slot: ReplySlot,
    /// Shards whose answers are still to come.
    waits: usize,
    /// The rest of the domain's limit, without the accounts of other shards.
    room: u64,
    failed: Option<Failure>,
}

impl Owner {
    /// A token makes an account, if there is none and the domain has room for it.
    pub(super) fn ensure_account(&mut self, revive: bool, parts: RequestContext, time_ms: u64) {
        let RequestContext { user, deadline, slot, .. } = parts;
        let account = Account { user: user.as_str().to_owned(), created_ms: time_ms, ..Account::default() };
        let mode = Mode::Ensure.into();
        let put = PutAccount { account: Some(account), mode, numbered: true, revive, most_accounts: None };
        let decided = self.topology.domains.get(user.domain());
        let (closed, most) = decided.map_or((false, 0), |domain| (domain.closed, domain.max_users));
        if closed || most == 0 {
            let put = PutAccount { most_accounts: closed.then_some(0), ..put };
            return self.put_registered(user, put, deadline, slot);
        }
        let own = self.topology.shards.directory_of(&user);
        let others = self.topology.shards.all().filter(|shard| shard.kind == ShardKind::Directory && *shard != own);
        let others: Vec<ShardId> = others.collect();
        let count = CountAccounts { domain: user.domain().unwrap_or_default().to_owned() };
        let number = self.next_token;
        let waits = others.len();
        let registering = Registering { user, put, deadline, slot, waits, room: most, failed: None };
        self.registering.insert(number, registering);
        if waits == 0 {
            return self.register_counted(number);
        }
        for shard in others {
            let op = store_request::Op::CountAccounts(count.clone());
            self.ask(shard, op, String::new(), deadline, Continuation::AccountsCounted(number));
        }
    }

    pub(super) fn accounts_counted(&mut self, number: u64, answer: Result<StoreAnswer, StoreFailure>) {
        let Some(registering) = self.registering.get_mut(&number) else { return };
        registering.waits -= 1;
        match answer {
            Ok(StoreAnswer::AccountCount(AccountCount { accounts })) => {
                registering.room = registering.room.saturating_sub(accounts);
            }
            other => registering.failed = registering.failed.take().or(Some(unexpected(other))),
        }
        if registering.waits == 0 {
            self.register_counted(number);
        }
    }

    fn register_counted(&mut self, number: u64) {
        let Some(registering) = self.registering.remove(&number) else { return };
        let Registering { user, put, deadline, slot, room, failed, .. } = registering;
        match failed {
            Some(failure) => self.refuse(slot, &failure),
            None => self.put_registered(user, PutAccount { most_accounts: Some(room), ..put }, deadline, slot),
        }
    }

    fn put_registered(&mut self, user: UserId, put: PutAccount, deadline: Instant, slot: ReplySlot) {
        let asked = Continuation::Ensured(user.clone(), slot);
        self.directory_write(&user, directory_command::Op::PutAccount(put), deadline, asked);
    }

    pub(super) fn ensured(&mut self, user: &UserId, slot: ReplySlot, answer: Result<StoreAnswer, StoreFailure>) {
        // The name may have another owner now.
        self.accounts.forget(user);
        let ensured = match answer {
            Err(StoreFailure::NoRoom { detail }) => Err(Failure::OfDomain(detail)),
            answer => done(answer),
        };
        self.end(slot, ensured);
    }

    /// Gives the change the limits of the domains: of the group's for its members, of the user's for the groups that it makes.
    pub(super) fn follow_domain(&self, changing: &mut GroupChanging) {
        let domains = &self.topology.domains;
        let of_group = domains.get(changing.message.group.domain());
        changing.most_members = of_group.map_or(0, |domain| domain.max_group_members);
        let Some(domain) = domains.get(changing.message.sender.domain()).filter(|_| changing.makes_a_group()) else {
            return;
        };
        if domain.no_new_groups {
            changing.not_allowed = Some("users of this domain make no groups".to_owned());
        } else if domain.max_groups_of_user != 0 {
            changing.most_groups = Some(domain.max_groups_of_user);
        }
    }

    /// Reads a page of the groups of the user who makes one.
    pub(super) fn count_own_groups(&mut self, number: u64, after: Option<TimelineKey>) {
        let Some(changing) = self.changing.get(&number) else { return };
        let timeline = TimelineId::Inbox(changing.message.sender.clone());
        let (deadline, incarnation) = (changing.deadline(), changing.message.incarnation);
        let (key, device) = (Some(timeline.to_key()), String::new());
        let read = ReadMemberships { timeline: key, incarnation, device, after, limit: PAGE };
        let shard = self.topology.shards.timeline_of(&timeline);
        let op = store_request::Op::ReadMemberships(read);
        self.ask(shard, op, String::new(), deadline, Continuation::OwnGroups(number));
    }

    pub(super) fn own_groups_read(&mut self, number: u64, answer: Result<StoreAnswer, StoreFailure>) {
        let Some(changing) = self.changing.get_mut(&number) else { return };
        let MembershipsRead { memberships, complete } = match answer {
            Ok(StoreAnswer::MembershipsRead(read)) => read,
            other => {
                if let Some(changing) = self.changing.remove(&number) {
                    self.refuse(changing.message.slot, &unexpected(other));
                }
                return;
            }
        };
        // The row says as what the user came into the group.
        let made = memberships.iter().filter_map(|row| row.membership.as_ref());
        let made = made.filter(|row| row.standing() == Standing::Member && row.role() == Role::Owner);
        changing.own_groups = changing.own_groups.saturating_add(u32::try_from(made.count()).unwrap_or(u32::MAX));
        let last = memberships.into_iter().next_back().and_then(|row| row.group);
        match last.filter(|_| !complete) {
            Some(last) => self.count_own_groups(number, Some(last)),
            None => {
                let most = changing.most_groups.take().unwrap_or(u32::MAX);
                if changing.own_groups >= most {
                    let why = format!(
                        "this user has made {} groups, and its domain lets a user have {most}",
                        changing.own_groups
                    );
                    changing.not_allowed = Some(why);
                }
                self.append_change(number);
            }
        }
    }

    /// Bytes of all files of this user; 0: the domain has no limit of its own.
    pub(super) fn media_limit(&self, user: &UserId) -> u64 {
        self.topology.domains.get(user.domain()).map_or(0, |domain| domain.max_media_bytes)
    }
}
