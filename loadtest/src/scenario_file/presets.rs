//! The scenarios that the program brings with it.

/// Names and texts.
pub(crate) const PRESETS: [(&str, &str); 12] = [
    ("smoke", include_str!("presets/smoke.toml")),
    ("ci", include_str!("presets/ci.toml")),
    ("capacity", include_str!("presets/capacity.toml")),
    ("soak", include_str!("presets/soak.toml")),
    ("chaos", include_str!("presets/chaos.toml")),
    ("groups", include_str!("presets/groups.toml")),
    ("group-large", include_str!("presets/group-large.toml")),
    ("group-crowd", include_str!("presets/group-crowd.toml")),
    ("groups-many", include_str!("presets/groups-many.toml")),
    ("groups-mixed", include_str!("presets/groups-mixed.toml")),
    ("presence-storm", include_str!("presets/presence-storm.toml")),
    ("marks-and-typing", include_str!("presets/marks-and-typing.toml")),
];

pub(super) fn names() -> String {
    PRESETS.map(|(name, _)| name).join(", ")
}
