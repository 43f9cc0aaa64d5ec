//! Names in `SignedIn.features`, documented there. A name is never reused for another feature.

/// Content reaches its recipients with the fields that the service does not know.
pub const UNKNOWN_FIELDS: &str = "content.unknown-fields";
/// `SignIn.more_positions` and `Positions`.
pub const MORE_POSITIONS: &str = "sign-in.more-positions";
