//! The rights of the members of a group. Pure: from the rows of the group and of the users, with the times that the commands bring.

use carillon_proto::{
    date, duration,
    pb::store::{
        ChangeMembers, Group, GroupSettings, Member, Person, Role, SetGroup, change_members::Change, member::Standing,
        rejected::Reason,
    },
};

/// Most members of a group, and most users who are kept without being members. Replicas with different numbers would diverge: a change
/// needs a new level.
pub(crate) const MEMBERS: u32 = 100_000;

/// The answer for a group that does not exist, and for one that does not show itself.
pub(in crate::machine) const NO_GROUP: &str = "there is no such group, or it is not open to this user";

/// Why something is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::machine) struct Refused {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
    pub(crate) retry_after_ms: u32,
}

/// The user or the operator who makes a change.
#[derive(Debug, Clone, Copy)]
pub(in crate::machine) enum Actor<'a> {
    Operator,
    /// By this row, if the account has one.
    User(Option<&'a Member>),
}

impl Actor<'_> {
    /// That of a member. The operator is above all.
    fn rank(self) -> Result<Rank, Refused> {
        match self {
            Self::Operator => Ok(Rank::Operator),
            Self::User(Some(row)) if row.standing() == Standing::Member => Ok(rank(row)),
            Self::User(_) => Err(refused(Reason::NotFound, NO_GROUP)),
        }
    }

    fn is_at_least(self, least: Rank) -> Result<Rank, Refused> {
        let rank = self.rank()?;
        if rank >= least { Ok(rank) } else { Err(refused(Reason::Forbidden, &format!("only {least} may do that"))) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Reader,
    Member,
    Admin,
    Owner,
    Operator,
}

impl std::fmt::Display for Rank {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Reader => "members",
            Self::Member => "members who may write",
            Self::Admin => "admins and owners",
            Self::Owner => "owners",
            Self::Operator => "the operator",
        })
    }
}

fn rank(member: &Member) -> Rank {
    match member.role() {
        Role::Unspecified | Role::Reader => Rank::Reader,
        Role::Member => Rank::Member,
        Role::Admin => Rank::Admin,
        Role::Owner => Rank::Owner,
    }
}

pub(in crate::machine) fn refused(reason: Reason, detail: &str) -> Refused {
    Refused { reason, detail: detail.to_owned(), retry_after_ms: 0 }
}

fn muted(member: &Member) -> Refused {
    refused(Reason::Forbidden, &format!("this user is muted in the group {}", date::until(member.muted_until_ms)))
}

/// The row of a member who may write at this time, perhaps after the pause of the slow mode.
pub(in crate::machine) fn writer<'a>(
    group: &GroupSettings,
    writer: Option<&'a Member>,
    time_ms: u64,
) -> Result<&'a Member, Refused> {
    let Some(writer) = writer.filter(|row| row.standing() == Standing::Member) else {
        return Err(refused(Reason::NotFound, NO_GROUP));
    };
    let rank = rank(writer);
    if rank < Rank::Member {
        return Err(refused(Reason::Forbidden, "this user only reads in the group"));
    }
    if rank < Rank::Admin && group.announcements {
        return Err(refused(Reason::Forbidden, "only admins and owners write in this group"));
    }
    if time_ms < writer.muted_until_ms {
        return Err(muted(writer));
    }
    Ok(writer)
}

/// The writer's row after a message of this time.
pub(in crate::machine) fn written(
    group: &GroupSettings,
    row: Option<&Member>,
    time_ms: u64,
) -> Result<Member, Refused> {
    let writer = writer(group, row, time_ms)?;
    if rank(writer) >= Rank::Admin || group.slow_mode_ms == 0 {
        return Ok(*writer);
    }
    // A gateway whose clock was wrong must not silence anybody for longer than that.
    let since_ms = time_ms.abs_diff(writer.wrote_ms);
    match u32::try_from(since_ms) {
        Ok(since_ms) if since_ms < group.slow_mode_ms => {
            let retry_after_ms = group.slow_mode_ms - since_ms;
            let pause = duration::ms_in_words(group.slow_mode_ms.into());
            let detail = format!("slow mode: one message in {pause}");
            Err(Refused { reason: Reason::TooEarly, detail, retry_after_ms })
        }
        _ => Ok(Member { wrote_ms: time_ms, ..*writer }),
    }
}

/// The row of a member who may make something of others' messages. Who may only read takes back own messages.
pub(in crate::machine) fn may_refer(sender: Option<&Member>, time_ms: u64, recalls: bool) -> Result<&Member, Refused> {
    let Some(sender) = sender.filter(|row| row.standing() == Standing::Member) else {
        return Err(refused(Reason::NotFound, NO_GROUP));
    };
    if !recalls && rank(sender) < Rank::Member {
        return Err(refused(Reason::Forbidden, "this user only reads in the group"));
    }
    if !recalls && time_ms < sender.muted_until_ms {
        return Err(muted(sender));
    }
    Ok(sender)
}

pub(in crate::machine) fn is_admin(member: &Member) -> bool {
    rank(member) >= Rank::Admin
}

/// True if this member decides about what the other user has written, who may have left.
pub(in crate::machine) fn is_above(member: &Member, author: Option<&Member>) -> bool {
    let author = author.filter(|row| row.standing() == Standing::Member).map(rank);
    is_admin(member) && author.is_none_or(|author| rank(member) > author)
}

/// Latest expiry of a message of this time by the rule of the group; 0: the group has none.
pub(in crate::machine) fn expires_at_ms(group: &GroupSettings, time_ms: u64) -> u64 {
    match group.expire_after_ms {
        0 => 0,
        after_ms => time_ms.saturating_add(after_ms).max(1),
    }
}

/// From where this user may read the group.
pub(in crate::machine) fn readable_from(group: &GroupSettings, reader: Option<&Member>) -> Result<u64, Refused> {
    match reader {
        Some(row) if row.standing() == Standing::Member && group.earlier_history => Ok(0),
        Some(row) if row.standing() == Standing::Member => Ok(row.since_seq),
        _ => Err(refused(Reason::NotFound, NO_GROUP)),
    }
}

/// True if the group shows itself to this user.
pub(in crate::machine) fn shows_itself(group: &GroupSettings, reader: Option<&Member>) -> bool {
    match reader.map(Member::standing) {
        Some(Standing::Member | Standing::Invited) => true,
        Some(Standing::Banned) => false,
        Some(Standing::Left | Standing::Unspecified) | None => group.open,
    }
}

/// True if this user may see who is invited and banned, and the secret of the link.
pub(in crate::machine) fn sees_all(reader: Option<&Member>) -> bool {
    Actor::User(reader).is_at_least(Rank::Admin).is_ok()
}

pub(in crate::machine) fn may_set(actor: Actor<'_>) -> Result<(), Refused> {
    actor.is_at_least(Rank::Admin).map(drop)
}

pub(in crate::machine) fn may_delete(actor: Actor<'_>) -> Result<(), Refused> {
    actor.is_at_least(Rank::Owner).map(drop)
}

pub(in crate::machine) fn set(settings: &mut GroupSettings, op: &SetGroup) {
    fn to<T: Clone>(place: &mut T, given: Option<&T>) {
        if let Some(given) = given {
            place.clone_from(given);
        }
    }
    to(&mut settings.name, op.name.as_ref());
    to(&mut settings.description, op.description.as_ref());
    to(&mut settings.picture, op.picture.as_ref());
    to(&mut settings.open, op.open.as_ref());
    to(&mut settings.link, op.link.as_ref());
    to(&mut settings.earlier_history, op.earlier_history.as_ref());
    to(&mut settings.announcements, op.announcements.as_ref());
    to(&mut settings.slow_mode_ms, op.slow_mode_ms.as_ref());
    to(&mut settings.members_add, op.members_add.as_ref());
    to(&mut settings.expire_after_ms, op.expire_after_ms.as_ref());
}

/// The row of one who is in a group from the beginning.
pub(in crate::machine) fn founder(person: &Person, role: Role) -> Member {
    let (standing, role) = (Standing::Member.into(), role.into());
    Member { incarnation: person.incarnation, standing, role, since_seq: 1, ..Member::default() }
}

/// A change of one user. `before`: the row of this account. Returns the row after it; `None`: there is none any more.
pub(in crate::machine) fn changed(
    group: &GroupSettings,
    actor: Actor<'_>,
    op: &ChangeMembers,
    person: &Person,
    before: Option<&Member>,
    seq: u64,
) -> Result<Option<Member>, Refused> {
    let standing = before.map_or(Standing::Unspecified, Member::standing);
    let is_member = standing == Standing::Member;
    let who = &person.user;
    let exists = |what: &str| refused(Reason::Exists, &format!("{who} is {what} already"));
    let not_there = |what: &str| refused(Reason::NotFound, &format!("{who} is not {what}"));
    let forbidden = |detail: &str| refused(Reason::Forbidden, detail);
    let muted_until_ms = before.map_or(0, |row| row.muted_until_ms);
    let now = |standing: Standing, role: Role| Member {
        incarnation: person.incarnation,
        standing: standing.into(),
        role: role.into(),
        since_seq: seq,
        muted_until_ms,
        wrote_ms: before.map_or(0, |row| row.wrote_ms),
        wrote_seq: before.map_or(0, |row| row.wrote_seq),
        untold: standing == Standing::Invited && op.unwanted.contains(who),
    };
    // A muted user does not get rid of that by leaving.
    let without = || (muted_until_ms != 0).then(|| now(Standing::Left, Role::Unspecified));
    // The member who is changed must be below the one who does it.
    let above = |least: Rank| {
        let actor = actor.is_at_least(least)?;
        match before.filter(|_| is_member).map(rank) {
            Some(rank) if rank >= actor => Err(forbidden(&format!("{who} can be changed by a higher role only"))),
            _ => Ok(actor),
        }
    };
    let may_add = || actor.is_at_least(if group.members_add { Rank::Member } else { Rank::Admin });
    match op.change() {
        Change::Unspecified => Err(refused(Reason::Invalid, "change of members without a kind")),
        Change::Join => match standing {
            Standing::Member => Err(exists("a member")),
            Standing::Banned => Err(forbidden("this user is banned from the group")),
            Standing::Invited => Ok(Some(now(Standing::Member, Role::Member))),
            _ if group.open || (!group.link.is_empty() && op.link == group.link) => {
                Ok(Some(now(Standing::Member, Role::Member)))
            }
            _ => Err(refused(Reason::NotFound, NO_GROUP)),
        },
        Change::Leave => match standing {
            Standing::Member => Ok(without()),
            Standing::Invited => Ok(without()),
            _ => Err(refused(Reason::NotFound, NO_GROUP)),
        },
        Change::Add => {
            may_add()?;
            let role = if op.role() == Role::Reader { Role::Reader } else { Role::Member };
            match standing {
                Standing::Member => Err(exists("a member")),
                Standing::Banned => Err(forbidden(&format!("{who} is banned from the group"))),
                _ => Ok(Some(now(Standing::Member, role))),
            }
        }
        Change::Invite => {
            may_add()?;
            match standing {
                Standing::Member => Err(exists("a member")),
                Standing::Invited => Err(exists("invited")),
                Standing::Banned => Err(forbidden(&format!("{who} is banned from the group"))),
                _ => Ok(Some(now(Standing::Invited, Role::Unspecified))),
            }
        }
        Change::Remove => {
            above(Rank::Admin)?;
            match standing {
                Standing::Member | Standing::Invited => Ok(without()),
                _ => Err(not_there("a member")),
            }
        }
        Change::Ban => {
            above(Rank::Admin)?;
            match standing {
                Standing::Banned => Err(exists("banned")),
                _ => Ok(Some(now(Standing::Banned, Role::Unspecified))),
            }
        }
        Change::Pardon => {
            actor.is_at_least(Rank::Admin)?;
            match standing {
                Standing::Banned => Ok(without()),
                _ => Err(not_there("banned")),
            }
        }
        Change::Role => {
            // Owners change each other.
            let actor = match actor.rank()? {
                Rank::Owner => Rank::Owner,
                _ => above(Rank::Admin)?,
            };
            let Some(row) = before.filter(|_| is_member) else { return Err(not_there("a member")) };
            let after = Member { role: op.role, ..*row };
            if actor < Rank::Owner && rank(&after) >= Rank::Admin {
                return Err(forbidden("only owners may do that"));
            }
            Ok(Some(after))
        }
        Change::Mute => {
            above(Rank::Admin)?;
            let Some(row) = before.filter(|_| is_member) else { return Err(not_there("a member")) };
            Ok(Some(Member { muted_until_ms: op.muted_until_ms, ..*row }))
        }
    }
}

/// True if the user is told of the change. Members are, and users who join. The end of an invitation is told to users who know of the invitation.
/// Everybody else is told unless the user wants nothing of the sender. `before`: the row of this account.
pub(in crate::machine) fn is_told(op: &ChangeMembers, person: &Person, before: Option<&Member>) -> bool {
    match (op.change(), before.map_or(Standing::Unspecified, Member::standing)) {
        (Change::Join, _) | (_, Standing::Member) => true,
        (Change::Leave | Change::Remove | Change::Ban, Standing::Invited) => !before.is_some_and(|row| row.untold),
        _ => !op.unwanted.contains(&person.user),
    }
}

/// Changes the numbers of a group for a row that was `before`, whosever account it was of, and is `after`.
pub(in crate::machine) fn count(group: &mut Group, before: Option<&Member>, after: Option<&Member>) {
    let mut add = |row: Option<&Member>, of: i64| {
        let Some(row) = row else { return };
        let to = |number: &mut u32| *number = u32::try_from(i64::from(*number) + of).unwrap_or(0);
        if row.standing() != Standing::Member {
            return to(&mut group.others);
        }
        to(&mut group.members);
        if row.role() == Role::Owner {
            to(&mut group.owners);
        }
    };
    add(before, -1);
    add(after, 1);
}

/// As `count`. Returns the row that is kept: a group that has no room for another user who has left forgets that the user is muted.
pub(in crate::machine) fn counted(group: &mut Group, before: Option<&Member>, after: Option<Member>) -> Option<Member> {
    count(group, before, after.as_ref());
    match after {
        Some(row) if row.standing() == Standing::Left && group.others > MEMBERS => {
            count(group, Some(&row), None);
            None
        }
        after => after,
    }
}

/// True if the change has taken the last owner from members who stay.
pub(in crate::machine) fn has_lost_its_owners(group: &Group, before: &Group) -> bool {
    before.owners > 0 && group.owners == 0 && group.members > 0
}

/// The place of a member among those to whom a group falls whose last owner's account has ended; the first one becomes the owner. Admins come
/// first, then who may write at this time, then the others; each from the longest-standing on. `None`: the row is of no member.
pub(in crate::machine) fn succession(member: &Member, time_ms: u64) -> Option<(u8, u64)> {
    if member.standing() != Standing::Member {
        return None;
    }
    let class = match rank(member) {
        Rank::Admin | Rank::Owner | Rank::Operator => 0,
        Rank::Member if time_ms >= member.muted_until_ms => 1,
        Rank::Member | Rank::Reader => 2,
    };
    Some((class, member.since_seq))
}

/// Checks what must be true of a group after a change. `before`: the group before it. `may_lose_owners`: another member becomes the owner.
/// `most`: as in `ChangeGroup.most_members`.
pub(in crate::machine) fn stands(
    group: &Group,
    before: &Group,
    may_lose_owners: bool,
    most: u32,
) -> Result<(), Refused> {
    if has_lost_its_owners(group, before) && !may_lose_owners {
        return Err(refused(
            Reason::Forbidden,
            "the last owner can't go: give another member the role first, or delete the group",
        ));
    }
    if most != 0 && group.members > most && group.members > before.members {
        let why = format!("the group has no room: its domain lets groups have {most} members");
        return Err(refused(Reason::Full, &why));
    }
    if group.members > MEMBERS || group.others > MEMBERS {
        return Err(refused(Reason::Full, &format!("the group has no room: {MEMBERS} members, and as many others")));
    }
    Ok(())
}
