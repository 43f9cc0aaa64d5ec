//! Changes and reads of groups that a client asks for: validity, rate, and outcome.

use bytes::Bytes;
use carillon_proto::{
    ClientId, DuplicateKey, GroupId, UserId, limits,
    pb::{
        client::Code,
        link::{self, ChangeGroup, Refusal, change_group::Change, router_reply::Result as Reply, router_request::Op},
        store::{self, Person, Role, change_members},
    },
    trace,
};

use super::{
    AskId, Effect, GroupAsk, GroupChangeAsk, GroupQuery, GroupReadAsk, GroupTell, Identity, MembersAsk, Now, Rules,
    Tag, Tell,
    content::check_url,
    live::Live,
    sending::{NO_GROUPS, Sent, in_one_buffer, refused},
};
use crate::{metrics, outcome::refusal};

/// Most users in one change.
const MAX_USERS: usize = 256;
const MAX_NAME_BYTES: usize = 256;
const MAX_DESCRIPTION_BYTES: usize = 4096;
/// Bytes of a link's secret, if there is one.
const LINK_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

impl Live {
    pub(super) fn change_group(&mut self, rules: &Rules, now: Now, ask: GroupAsk, out: &mut Vec<Effect>) {
        metrics::send();
        let GroupAsk { client_id, group, change } = ask;
        let checked = self.admit_now(rules, now, &client_id, "").and_then(|admitted| {
            self.check_change(rules, &client_id, &group, change).map(|(group, change)| (group, change, admitted))
        });
        match checked {
            Err(why) => out.push(refused(AskId::Send(client_id), why)),
            Ok((group, change, admitted)) => {
                self.pending_sends += 1;
                let span = tracing::info_span!("change_group", sender = %self.who.user, client_id);
                let traceparent = trace::traceparent(&span);
                let ids = [self.who.user.as_str(), self.who.device.as_str(), group.as_str(), &client_id];
                let [sender, sender_device, group, client_id_bytes] = in_one_buffer(ids);
                let op = Op::ChangeGroup(Box::new(ChangeGroup {
                    sender,
                    sender_device,
                    client_id: client_id_bytes,
                    // The change is delivered to this connection, too.
                    connection: 0,
                    incarnation: self.incarnation,
                    generation: self.generation,
                    time_ms: now.unix_ms,
                    group,
                    change: Some(change),
                }));
                let tag = Tag::Group(Sent::new(client_id, None, admitted, now.instant, span));
                out.push(Effect::Request { tag, op, traceparent });
            }
        }
    }

    fn check_change(
        &self,
        rules: &Rules,
        client_id: &str,
        group: &str,
        change: Option<GroupChangeAsk>,
    ) -> Result<(GroupId, Change), Refusal> {
        if !rules.has_groups() {
            return Err(refusal(Code::Unsupported, NO_GROUPS, 0));
        }
        let id = ClientId::new(client_id).map_err(|error| invalid(&error))?;
        let change = change.ok_or_else(|| invalid(&"the request has no change"))?;
        let group = match (&change, group) {
            (GroupChangeAsk::Create { .. }, "") => self.made_up(&id)?,
            (_, group) => GroupId::new(group).map_err(|error| invalid(&error))?,
        };
        Ok((group, asked(change, &self.who)?))
    }

    /// The id of a new group of the user's domain, the same in each repeat of the request.
    fn made_up(&self, client_id: &ClientId) -> Result<GroupId, Refusal> {
        use std::fmt::Write as _;
        let key = DuplicateKey::new(&self.who.user, &self.who.device, client_id).of_incarnation(self.incarnation);
        let mut name = String::with_capacity(32);
        for byte in key.0 {
            let _ = write!(name, "{byte:02x}");
        }
        if let Some(domain) = self.who.user.domain() {
            name = format!("{name}@{domain}");
        }
        GroupId::new(&name).map_err(|error| invalid(&error))
    }

    pub(super) fn read_group(&mut self, rules: &Rules, now: Now, ask: GroupReadAsk, out: &mut Vec<Effect>) {
        let GroupReadAsk { request, query } = ask;
        let group = match &query {
            GroupQuery::Group(group) | GroupQuery::Members { group, .. } => Some(group.clone()),
            GroupQuery::Groups { .. } => None,
        };
        match self.read_group_op(rules, now, query) {
            Ok(op) => {
                self.history.waiting += 1;
                let group = group.unwrap_or_default();
                out.push(Effect::Request { tag: Tag::GroupRead { request, group }, op, traceparent: String::new() });
            }
            Err(why) => out.push(refused(AskId::Request(request), why)),
        }
    }

    fn read_group_op(&mut self, rules: &Rules, now: Now, query: GroupQuery) -> Result<Op, Refusal> {
        if !rules.has_groups() {
            return Err(refusal(Code::Unsupported, NO_GROUPS, 0));
        }
        let group = match &query {
            GroupQuery::Group(group) | GroupQuery::Members { group, .. } => Some(group),
            GroupQuery::Groups { after_group, .. } => Some(after_group).filter(|after| !after.is_empty()),
        };
        if let Some(group) = group {
            GroupId::check(group).map_err(|error| invalid(&error))?;
        }
        self.history.begin(rules, now)?;
        Ok(match query {
            GroupQuery::Group(group) => Op::ReadGroup(link::ReadGroup { group, reader: Some(self.person()) }),
            GroupQuery::Members { group, others, after_user, limit, only } => {
                if only.len() > MAX_USERS {
                    return Err(invalid(&"only names more than 256 users"));
                }
                let reader = Some(self.person());
                Op::ReadMembers(link::ReadMembers { group, reader, others, after_user, limit, only })
            }
            GroupQuery::Groups { after_group, limit } => self.read_memberships(after_group, limit, String::new()),
        })
    }

    /// `device`: whose cursors are read, too; empty: none.
    pub(super) fn read_memberships(&self, after_group: String, limit: u32, device: String) -> Op {
        let (user, incarnation) = (self.who.user.as_str().to_owned(), self.incarnation);
        Op::ReadMemberships(link::ReadMemberships { user, incarnation, device, after_group, limit })
    }

    /// The user, as groups know members.
    pub(super) fn person(&self) -> Person {
        Person { user: self.who.user.as_str().to_owned(), incarnation: self.incarnation }
    }

    pub(super) fn group_was_read(
        &mut self,
        request: u32,
        group: String,
        result: Result<Reply, Refusal>,
        out: &mut Vec<Effect>,
    ) {
        self.history.waiting = self.history.waiting.saturating_sub(1);
        out.push(match result {
            Ok(Reply::GroupRead(read)) => {
                let reader = self.who.user.as_str().to_owned();
                Effect::Tell(Tell::Group(Box::new(GroupTell { request, group, reader, read: *read })))
            }
            Ok(Reply::MembersRead(read)) => Effect::Tell(Tell::Members { request, group, read }),
            Ok(Reply::MembershipsRead(read)) => Effect::Tell(Tell::Groups { request, read }),
            Ok(_) => {
                let why = refusal(Code::Internal, "the service gave an answer of the wrong kind", 100);
                refused(AskId::Request(request), why)
            }
            Err(why) => refused(AskId::Request(request), why),
        });
    }
}

fn asked(change: GroupChangeAsk, who: &Identity) -> Result<Change, Refusal> {
    Ok(match change {
        GroupChangeAsk::Create { settings, members } => {
            let store::GroupSettings { name, description, picture, link, expire_after_ms, .. } = &settings;
            check_settings(name, description, picture, link, *expire_after_ms)?;
            let members = people(members, 0)?;
            if members.iter().any(|person| person.user == who.user.as_str()) {
                return Err(invalid(&"members names the user, who is the owner"));
            }
            Change::Create(store::CreateGroup { settings: Some(settings), members, owner: None })
        }
        GroupChangeAsk::Set(set) => {
            let text = |given: &Option<String>| given.clone().unwrap_or_default();
            let link = set.link.clone().unwrap_or_default();
            let after_ms = set.expire_after_ms.unwrap_or_default();
            check_settings(&text(&set.name), &text(&set.description), &text(&set.picture), &link, after_ms)?;
            Change::Set(set)
        }
        GroupChangeAsk::Members(asked) => Change::Members(members(asked, who)?),
        GroupChangeAsk::Delete => Change::Delete(store::DeleteGroup {}),
    })
}

fn members(asked: MembersAsk, who: &Identity) -> Result<store::ChangeMembers, Refusal> {
    use change_members::Change as Of;
    let MembersAsk { change, users, role, muted_until_ms, link } = asked;
    match (change, role) {
        (Of::Unspecified, _) => return Err(invalid(&"members has no kind of change")),
        (Of::Role, Role::Unspecified) => return Err(invalid(&"the change has no role")),
        (Of::Role, _) | (Of::Add, Role::Reader) | (_, Role::Unspecified) => {}
        (Of::Add, _) => return Err(invalid(&"who is added gets no role, or that of a reader")),
        _ => return Err(invalid(&"only changes of roles, and who is added, have a role")),
    }
    if muted_until_ms != 0 && change != Of::Mute {
        return Err(invalid(&"muted_until_ms belongs to KIND_MUTED"));
    }
    if !link.is_empty() && (change != Of::Join || link.len() > *LINK_BYTES.end()) {
        return Err(invalid(&"link belongs to KIND_JOINED, and has at most 64 bytes"));
    }
    let own = matches!(change, Of::Join | Of::Leave);
    if own && users.iter().any(|user| user != who.user.as_str()) {
        return Err(invalid(&"users join and leave by themselves"));
    }
    let users = if own { vec![who.user.as_str().to_owned()] } else { users };
    Ok(store::ChangeMembers {
        change: change.into(),
        users: people(users, 1)?,
        role: role.into(),
        muted_until_ms,
        link,
        // Whom this is, the router finds out.
        unwanted: Vec::new(),
    })
}

/// The router finds out who they are.
fn people(users: Vec<String>, least: usize) -> Result<Vec<Person>, Refusal> {
    if !(least..=MAX_USERS).contains(&users.len()) {
        return Err(invalid(&format!("the change names {} users, but must name {least} to {MAX_USERS}", users.len())));
    }
    let mut sorted: Vec<&String> = users.iter().collect();
    sorted.sort_unstable();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(invalid(&format!("the change names {:?} twice", twice[0])));
    }
    for user in &users {
        UserId::check(user).map_err(|error| invalid(&error))?;
    }
    Ok(users.into_iter().map(|user| Person { user, incarnation: 0 }).collect())
}

fn check_settings(
    name: &str,
    description: &str,
    picture: &str,
    link: &Bytes,
    expire_after_ms: u64,
) -> Result<(), Refusal> {
    let at_most = |what: &str, text: &str, max: usize| match text.len() {
        bytes if bytes > max => Err(invalid(&format!("{what} is {bytes} bytes but must be at most {max}"))),
        _ => Ok(()),
    };
    at_most("name", name, MAX_NAME_BYTES)?;
    at_most("description", description, MAX_DESCRIPTION_BYTES)?;
    at_most("picture", picture, limits::MAX_URL_BYTES)?;
    if !picture.is_empty() {
        check_url(picture).map_err(|error| invalid(&format!("picture: {error}")))?;
    }
    let (least, most) = (limits::EXPIRES_AFTER_MS.start(), limits::EXPIRES_AFTER_MS.end());
    if expire_after_ms != 0 && !limits::EXPIRES_AFTER_MS.contains(&expire_after_ms) {
        let why =
            format!("expire_after_ms is {expire_after_ms} but must be 0, or {least} to {most}: 5 seconds to 366 days");
        return Err(invalid(&why));
    }
    match link.len() {
        0 => Ok(()),
        bytes if LINK_BYTES.contains(&bytes) => Ok(()),
        bytes => Err(invalid(&format!("link is {bytes} bytes but must be 16 to 64, or empty"))),
    }
}

fn invalid(why: &dyn ToString) -> Refusal {
    refusal(Code::Invalid, &why.to_string(), 0)
}
