//! Who is blocked, and what is allowed to others. No keys, no rows.

use carillon_proto::pb::store::{Allowed, Audience, BlockedUser, Contact, Privacy, PrivacySettings, SetPrivacy};

/// Most users whom one user blocks, and most bytes of their names.
const BLOCKED: usize = 1000;
const BLOCKED_BYTES: usize = 64 * 1024;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{BLOCKED} users, or {BLOCKED_BYTES} bytes of their names, are blocked already")]
pub(super) struct Full;

pub(super) fn set(settings: &mut PrivacySettings, changes: SetPrivacy) {
    let SetPrivacy { write, groups, read_marks, presence, last_seen } = changes;
    settings.write = write.unwrap_or(settings.write);
    settings.groups = groups.unwrap_or(settings.groups);
    settings.read_marks = read_marks.unwrap_or(settings.read_marks);
    settings.presence = presence.unwrap_or(settings.presence);
    settings.last_seen = last_seen.unwrap_or(settings.last_seen);
}

/// `blocked` is ordered by name.
pub(super) fn block(blocked: &mut Vec<BlockedUser>, who: BlockedUser) -> Result<(), Full> {
    match place(blocked, &who.user) {
        Ok(at) => blocked[at].incarnation = blocked[at].incarnation.max(who.incarnation),
        Err(at) => {
            let bytes: usize = blocked.iter().map(|known| known.user.len()).sum();
            if blocked.len() >= BLOCKED || bytes + who.user.len() > BLOCKED_BYTES {
                return Err(Full);
            }
            blocked.insert(at, who);
        }
    }
    Ok(())
}

pub(super) fn unblock(blocked: &mut Vec<BlockedUser>, user: &str) {
    if let Ok(at) = place(blocked, user) {
        blocked.remove(at);
    }
}

/// Who has the name by now may be a later owner of it, who is not meant.
pub(in crate::machine) fn is_blocked(blocked: &[BlockedUser], by: &BlockedUser) -> bool {
    place(blocked, &by.user).is_ok_and(|at| by.incarnation <= blocked[at].incarnation)
}

fn place(blocked: &[BlockedUser], user: &str) -> Result<usize, usize> {
    blocked.binary_search_by(|known| known.user.as_str().cmp(user))
}

/// What somebody may do to the user who has these rows. `contact`: the user's row of that one.
pub(super) fn allowed(privacy: &Privacy, by: &BlockedUser, contact: Option<&Contact>) -> Allowed {
    if is_blocked(&privacy.blocked, by) {
        return Allowed { blocked: true, ..Allowed::default() };
    }
    let settings = privacy.settings.unwrap_or_default();
    let is_contact = contact.is_some_and(|row| is_contact(row, by));
    let opens = |audience| match audience {
        Audience::Unspecified | Audience::Everyone => true,
        Audience::Contacts | Audience::Requests => is_contact,
        Audience::Nobody => false,
    };
    Allowed {
        blocked: false,
        write: opens(settings.write()),
        write_back: settings.write() != Audience::Nobody,
        groups: opens(settings.groups()),
        read_marks: opens(settings.read_marks()),
        last_seen_ms: 0,
        requests: settings.write() == Audience::Requests,
        contact: false,
    }
}

/// A row that says of no incarnation yet is about the name.
pub(super) fn is_contact(row: &Contact, by: &BlockedUser) -> bool {
    row.listed && (!row.met || row.peer == by.incarnation)
}

/// True if somebody who is not blocked may know when the user was last there. `contact`: the user's row of that one.
pub(super) fn shows_last_seen(settings: &PrivacySettings, by: &BlockedUser, contact: &Contact) -> bool {
    let is_for_others = settings.presence() != Audience::Nobody && !hides_last_seen(settings);
    is_for_others && contact.from && (!contact.met || contact.peer == by.incarnation)
}

pub(in crate::machine) fn hides_last_seen(settings: &PrivacySettings) -> bool {
    settings.last_seen() == Audience::Nobody
}

/// True if it matters who is a contact.
pub(super) fn asks_for_contacts(settings: &PrivacySettings) -> bool {
    let audiences = [settings.write(), settings.groups(), settings.read_marks()];
    audiences.iter().any(|audience| matches!(audience, Audience::Contacts | Audience::Requests))
}
