//! The scenarios that the program brings with it.

/// Names and texts.
pub(crate) const PRESETS: [(&str, &str); 5] = [
    ("smoke", include_str!("presets/smoke.toml")),
    ("ci", include_str!("presets/ci.toml")),
    ("capacity", include_str!("presets/capacity.toml")),
    ("soak", include_str!("presets/soak.toml")),
    ("chaos", include_str!("presets/chaos.toml")),
];

pub(super) fn names() -> String {
    PRESETS.map(|(name, _)| name).join(", ")
}
