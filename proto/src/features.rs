//! Names in `SignedIn.features`, documented there. A name is never reused for another feature.

use crate::Level;

/// Content reaches its recipients with the fields that the service does not know.
pub const UNKNOWN_FIELDS: &str = "content.unknown-fields";
/// `SignIn.more_positions` and `Positions`.
pub const MORE_POSITIONS: &str = "sign-in.more-positions";
/// `GroupRequest`, reads of groups, and `Send` to groups.
pub const GROUPS: &str = "groups";
/// `ReadConversations`, `MoveMarks`, `SetConversation`, `ReadMarks`.
pub const CONVERSATIONS: &str = "conversations";

/// `ContactRequest`, `ReadContacts` and `SetPresence`.
pub const CONTACTS: &str = "contacts";
/// `RequestMediaSlot`, `RequestMediaUrl` and `Media.id`, if the gateway has a place for files.
pub const MEDIA: &str = "media";
/// Messages that refer to messages.
pub const REFERENCES: &str = "references";

/// `PrivacyRequest` and `ReadPrivacy`.
pub const PRIVACY: &str = "privacy";

/// `SetChatState`.
pub const CHAT_STATES: &str = "chat-states";

/// `Schedule`, `ChangeScheduled` and `ReadScheduled`.
pub const SCHEDULED: &str = "scheduled";

/// `Report`.
pub const REPORTS: &str = "reports";
/// `Send.expires_after_ms`, `Schedule.expires_after_ms` and `Envelope.expires_at_ms`.
pub const EXPIRING: &str = "expiring";

/// Each feature, and the level of the cluster from which on gateways announce it.
///
/// A client may come from a gateway of one release to one of another. While releases are mixed, the level is that of the older one, so
/// a gateway of the newer one announces nothing that the client could miss there.
const FEATURES: [(&str, Level); 12] = [
    (UNKNOWN_FIELDS, Level::CLUSTER),
    (MORE_POSITIONS, Level::CLUSTER),
    (GROUPS, Level::GROUPS),
    (CONVERSATIONS, Level::GROUPS),
    (CONTACTS, Level::GROUPS),
    (MEDIA, Level::GROUPS),
    (REFERENCES, Level::GROUPS),
    (PRIVACY, Level::GROUPS),
    (CHAT_STATES, Level::GROUPS),
    (SCHEDULED, Level::GROUPS),
    (REPORTS, Level::GROUPS),
    (EXPIRING, Level::GROUPS),
];

/// The features of a service whose cluster is at this level.
pub fn at(level: Level) -> impl Iterator<Item = &'static str> {
    FEATURES.into_iter().filter(move |(_, since)| *since <= level).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Releases that are out announce these at these levels: a client that knows them may rely on it.
    const RELEASED: [(u32, &[&str]); 7] = [
        (0, &[]),
        (1, &["content.unknown-fields", "sign-in.more-positions"]),
        (2, &["content.unknown-fields", "sign-in.more-positions"]),
        (3, &["content.unknown-fields", "sign-in.more-positions"]),
        (4, &["content.unknown-fields", "sign-in.more-positions"]),
        (5, &["content.unknown-fields", "sign-in.more-positions"]),
        (6, &["content.unknown-fields", "sign-in.more-positions"]),
    ];

    #[test]
    fn at_each_level_the_features_are_those_that_earlier_releases_announce_there() {
        for (level, released) in RELEASED {
            assert_eq!(at(Level(level)).collect::<Vec<_>>(), released, "level {level}");
        }
    }

    #[test]
    fn no_feature_goes_when_the_level_rises() {
        for level in 0..Level::OF_PROGRAM.0 {
            let above: Vec<_> = at(Level(level + 1)).collect();
            assert!(at(Level(level)).all(|feature| above.contains(&feature)), "level {level}");
        }
    }
}
