//! The privacy settings of a user, as the owner of the user keeps them beside the account. See docs/adr/0032-privacy.md.

use std::hash::BuildHasher as _;

use carillon_proto::{
    Keyed, UserId,
    pb::store::{self, Allowed, Audience, PrivacySettings, append::Admission},
};

/// The settings of a user who is not open to everybody.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Privacy {
    settings: PrivacySettings,
    /// Who is blocked: hashes of the names, in order, with the incarnations of the accounts.
    blocked: Box<[(u64, u64)]>,
}

/// To whom something is open, of those who are not blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opens {
    Yes,
    /// The store has to be asked whether it is a contact.
    ToContacts,
    No,
}

impl Privacy {
    /// `None`: everything is open to everybody.
    pub(crate) fn of(row: &store::Privacy) -> Option<Self> {
        let settings = row.settings.unwrap_or_default();
        if settings == PrivacySettings::default() && row.blocked.is_empty() {
            return None;
        }
        let mut blocked: Box<[_]> = row.blocked.iter().map(|who| (hash(&who.user), who.incarnation)).collect();
        blocked.sort_unstable();
        Some(Self { settings, blocked })
    }

    pub(crate) fn blocks(&self, user: &str, incarnation: u64) -> bool {
        let name = hash(user);
        let at = self.blocked.partition_point(|(known, _)| *known < name);
        self.blocked.get(at).is_some_and(|(known, until)| *known == name && incarnation <= *until)
    }

    /// True if any owner of the name is blocked.
    pub(crate) fn blocks_any(&self, user: &str) -> bool {
        self.blocks(user, 0)
    }

    /// `None`: the store has to be asked.
    pub(crate) fn admits(&self, sender: &UserId, incarnation: u64) -> Option<Admission> {
        if self.blocks(sender.as_str(), incarnation) {
            return Some(Admission::Withheld);
        }
        match opens(self.settings.write()) {
            Opens::Yes => Some(Admission::Unspecified),
            Opens::ToContacts => None,
            Opens::No => Some(Admission::Refused),
        }
    }

    /// True if messages of strangers are requests.
    pub(crate) fn takes_requests(&self) -> bool {
        self.settings.write() == Audience::Requests
    }

    pub(crate) fn read_marks(&self) -> Opens {
        opens(self.settings.read_marks())
    }

    pub(crate) fn shows_marks_to(&self) -> Audience {
        self.settings.read_marks()
    }
}

/// The admission that follows from the answer of the store about the sender.
pub(crate) fn admission(allowed: &Allowed) -> Admission {
    match allowed {
        Allowed { blocked: true, .. } => Admission::Withheld,
        Allowed { write: true, .. } => Admission::Unspecified,
        Allowed { requests: true, .. } => Admission::Request,
        Allowed { write_back: true, .. } => Admission::WriteBack,
        _ => Admission::Refused,
    }
}

fn opens(audience: Audience) -> Opens {
    match audience {
        Audience::Unspecified | Audience::Everyone => Opens::Yes,
        Audience::Contacts | Audience::Requests => Opens::ToContacts,
        Audience::Nobody => Opens::No,
    }
}

pub(crate) fn hash(name: &str) -> u64 {
    Keyed::default().hash_one(name)
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::store::BlockedUser;

    use super::*;

    #[test]
    fn who_has_set_nothing_is_open_to_everybody_and_takes_no_room() {
        assert_eq!(Privacy::of(&store::Privacy { version: 7, ..store::Privacy::default() }), None);
    }

    #[test]
    fn those_are_blocked_who_are_named_and_no_later_owners_of_the_names() {
        let names: Vec<String> = (0..100).map(|number| format!("user{number}")).collect();
        let blocked = names.iter().map(|name| BlockedUser { user: name.clone(), incarnation: 3 }).collect();
        let settings = Some(PrivacySettings { write: Audience::Contacts.into(), ..PrivacySettings::default() });
        let privacy = Privacy::of(&store::Privacy { blocked, settings, ..store::Privacy::default() }).expect("blocks");
        let admits = |name: &str, incarnation| privacy.admits(&UserId::new(name).expect("valid"), incarnation);
        for name in &names {
            assert_eq!(admits(name, 3), Some(Admission::Withheld));
            assert_eq!(admits(name, 4), None, "a later owner: the store has to be asked whether it is a contact");
        }
        assert_eq!(admits("user100", 3), None);
    }
}
