//! The settings files that are built in, by name.

/// Name and text of each preset, as in `config/`.
pub const PRESETS: [(&str, &str); 5] = [
    ("miniature", include_str!("../../../config/miniature.toml")),
    ("sft-miniature-strong", include_str!("../../../config/sft-miniature-strong.toml")),
    ("sft-miniature-weak", include_str!("../../../config/sft-miniature-weak.toml")),
    ("gsm8k-jargon", include_str!("../../../config/gsm8k-jargon.toml")),
    ("gsm8k-smoke", include_str!("../../../config/gsm8k-smoke.toml")),
];

/// The text of a preset.
#[must_use]
pub fn preset(name: &str) -> Option<&'static str> {
    PRESETS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
