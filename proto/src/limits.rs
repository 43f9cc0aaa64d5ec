//! Limits that are part of the contracts. The configurable limits lie below these.

/// Longest local part of the id of a user or group, in bytes after normalisation.
pub const MAX_OWNER_BYTES: usize = 128;
/// Longest name of a domain, in bytes. The id of somebody of another domain than the default one has both, and `@`.
pub const MAX_DOMAIN_BYTES: usize = 255;
/// Longest device id, in bytes.
pub const MAX_DEVICE_BYTES: usize = 64;
/// Longest id that a client may give to a message, in bytes.
pub const MAX_CLIENT_ID_BYTES: usize = 64;

/// Longest frame before sign-in, in bytes.
pub const MAX_FRAME_BYTES_BEFORE_SIGN_IN: usize = 8 * 1024;
/// Longest resume ticket, in bytes.
pub const MAX_TICKET_BYTES: usize = 1024;
/// Most positions in SignIn.
pub const POSITIONS_IN_SIGN_IN: usize = 256;
/// Most positions in one Positions frame.
pub const POSITIONS_IN_FRAME: usize = 1024;
/// Longest frame that any configuration may allow, in bytes.
pub const MAX_FRAME_BYTES: usize = 1024 * 1024;
/// Longest URL in a reference to media, in bytes.
pub const MAX_URL_BYTES: usize = 2048;
/// Most values of the waveform in a reference to audio.
pub const MAX_WAVEFORM_BYTES: usize = 256;
/// Longest preview in a reference to media, in bytes.
pub const MAX_PREVIEW_BYTES: usize = 16 * 1024;
/// Longest short text (names, labels, media types, custom types), in bytes.
pub const MAX_LABEL_BYTES: usize = 256;

/// Largest message between nodes, in bytes. A batch stays below `BATCH_BYTES` unless a single item is larger.
pub const MAX_NODE_MESSAGE_BYTES: usize = 8 * 1024 * 1024;
/// Most items that one message between nodes carries.
pub const BATCH_ITEMS: usize = 256;
/// Bytes after which a batch between nodes is closed.
pub const BATCH_BYTES: usize = 256 * 1024;

/// Most commands in one Raft entry.
pub const ENTRY_COMMANDS: usize = 64;
/// Bytes after which a Raft entry is closed.
pub const ENTRY_BYTES: usize = 64 * 1024;
/// Most cursors in one `MoveCursors`.
pub const MOVED_CURSORS: usize = 256;
/// Most marks in one `MoveMarks`, and most reads in one `ReadMarks`.
pub const MARKS: usize = 256;
/// Longest draft, in bytes.
pub const MAX_DRAFT_BYTES: usize = 4096;
/// Most users that a message mentions.
pub const MENTIONS: usize = 64;
/// Most reactions of one user to a message, and the longest one in bytes.
pub const REACTIONS: usize = 20;
pub const REACTION_BYTES: usize = 64;
/// Most files to which a message refers.
pub const MEDIA_IN_MESSAGE: usize = 16;
/// Most files in one question or command about several.
pub const MEDIA_AT_ONCE: usize = 256;
/// Options of a poll.
pub const POLL_OPTIONS: std::ops::RangeInclusive<usize> = 2..=32;
/// How long an expiring message may be shown, in milliseconds: 5 seconds to 366 days.
pub const EXPIRES_AFTER_MS: std::ops::RangeInclusive<u64> = 5_000..=366 * 24 * 3_600_000;
/// Most domains for which something is decided, and most keys of the administrators of one.
pub const DOMAINS: usize = 1000;
pub const DOMAIN_KEYS: usize = 2;
/// Most domains that one domain names whose users may talk to its own, and that the rows of all domains name.
pub const DOMAIN_CROSSINGS: usize = 32;
pub const CROSSINGS: usize = 2000;
/// The shortest time after which messages and reports of a domain may be removed: as long as the longest step of a shard's clock.
pub const LEAST_DOMAIN_AGE_MS: u64 = 60_000;
/// The longest time for which a domain keeps messages and reports, 36,600 days: a hundred years.
pub const MOST_DOMAIN_AGE_MS: u64 = 36_600 * 24 * 3_600_000;
/// Most heads in one `ReadHeads`.
pub const HEADS: usize = 256;
/// Most messages of a report, and the longest text of one in bytes.
pub const REPORTED: usize = 10;
pub const MAX_REPORT_TEXT_BYTES: usize = 1000;
/// Most messages before the first reported one that a report has beside them, and behind it.
pub const REPORTED_AROUND: usize = 5;
/// Most edits of reported messages that a report has.
pub const REPORTED_EDITS: usize = 20;
/// Most bytes of the messages of a report and those around them.
pub const REPORT_BYTES: usize = 256 * 1024;
/// Most bytes in the body of a signal, a directed request or its answer.
pub const MAX_SIGNAL_BYTES: usize = 16 * 1024;
