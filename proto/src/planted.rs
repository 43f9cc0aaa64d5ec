//! Planted bugs: tests switch them on in the real service to show that each would be found. See docs/testing.md.

use std::{env, sync::OnceLock};

/// The environment variable that names the planted bug of this process.
pub const VARIABLE: &str = "CARILLON_PLANTED_BUG";

/// A process has at most one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlantedBug {
    /// A timeline's appends are answered before they have their place in the log.
    AckBeforeCommit,
    /// A repeated send is not recognised.
    ForgetDuplicates,
    /// A session skips an envelope and renumbers those after it, so that the device sees no gap.
    DropPush,
    /// The same in groups, and not in inboxes.
    DropGroupPush,
    /// Who is no member of a group writes there nevertheless.
    AnybodyWrites,
    /// Two messages of one sender are swapped within a log entry.
    ReorderBatch,
    /// A router pushes nothing to the user whom the file of [`WHOM`] names, as long as there is such a file.
    WithholdPushes,
    /// Contacts are not told that a user is offline whose sessions have ended without a word.
    UntoldOffline,
    /// A user's presence is told to contacts who may not see it.
    PresenceToAll,
    /// A mark in a conversation with a user goes back to an earlier message.
    MarksGoBack,
    /// Marks are kept for another user than the one who reads.
    MarksOfOthers,
    /// A report may have messages that its reporter can't read.
    ReportsOfOthers,
    /// An author who takes a message back takes it out of reports, too.
    RecallsTakeEvidence,
    /// References to a file are looked for in the file's own shard alone.
    AsksOwnShardAlone,
    /// The content of an expired message is removed, and its files are still held.
    ExpiredHold,
}

/// The environment variable that names a file with a user's name.
pub const WHOM: &str = "CARILLON_PLANTED_WHOM";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{VARIABLE} is {0:?}: it must be one of {names}", names = PlantedBug::ALL.map(PlantedBug::name).join(", "))]
pub struct UnknownBug(String);

impl PlantedBug {
    pub const ALL: [Self; 15] = [
        Self::AckBeforeCommit,
        Self::ForgetDuplicates,
        Self::DropPush,
        Self::DropGroupPush,
        Self::AnybodyWrites,
        Self::ReorderBatch,
        Self::WithholdPushes,
        Self::UntoldOffline,
        Self::PresenceToAll,
        Self::MarksGoBack,
        Self::MarksOfOthers,
        Self::ReportsOfOthers,
        Self::RecallsTakeEvidence,
        Self::AsksOwnShardAlone,
        Self::ExpiredHold,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::AckBeforeCommit => "ack-before-commit",
            Self::ForgetDuplicates => "forget-duplicates",
            Self::DropPush => "drop-push",
            Self::DropGroupPush => "drop-group-push",
            Self::AnybodyWrites => "anybody-writes",
            Self::ReorderBatch => "reorder-batch",
            Self::WithholdPushes => "withhold-pushes",
            Self::UntoldOffline => "untold-offline",
            Self::PresenceToAll => "presence-to-all",
            Self::MarksGoBack => "marks-go-back",
            Self::MarksOfOthers => "marks-of-others",
            Self::ReportsOfOthers => "reports-of-others",
            Self::RecallsTakeEvidence => "recalls-take-evidence",
            Self::AsksOwnShardAlone => "asks-own-shard-alone",
            Self::ExpiredHold => "expired-hold",
        }
    }

    /// Called when the process starts: warns about its planted bug, and refuses an unknown name.
    pub fn announce() -> Result<(), UnknownBug> {
        if let Some(bug) = Self::of_process()? {
            tracing::warn!(bug = bug.name(), "a bug is planted in this process: it breaks its promises");
        }
        Ok(())
    }

    pub fn is_planted(self) -> bool {
        Self::of_process() == Ok(Some(self))
    }

    /// True if it is planted, and concerns this user now.
    pub fn concerns(self, user: &str) -> bool {
        let named = || env::var_os(WHOM).and_then(|file| std::fs::read_to_string(file).ok());
        self.is_planted() && named().is_some_and(|named| named.trim() == user)
    }

    /// Reads the environment once.
    fn of_process() -> Result<Option<Self>, UnknownBug> {
        static PLANTED: OnceLock<Result<Option<PlantedBug>, UnknownBug>> = OnceLock::new();
        let named = || env::var_os(VARIABLE).map(|name| Self::named(&name.to_string_lossy())).transpose();
        PLANTED.get_or_init(named).clone()
    }

    fn named(name: &str) -> Result<Self, UnknownBug> {
        Self::ALL.into_iter().find(|bug| bug.name() == name).ok_or_else(|| UnknownBug(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_known_by_its_name_and_no_other_is() {
        for bug in PlantedBug::ALL {
            assert_eq!(PlantedBug::named(bug.name()), Ok(bug));
        }
        for name in ["", "Drop-Push", "drop"] {
            let error = PlantedBug::named(name).expect_err("refused").to_string();
            assert!(error.contains(name) && error.contains("ack-before-commit, forget-duplicates"), "{error}");
        }
    }
}
