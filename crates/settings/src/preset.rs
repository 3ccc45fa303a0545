//! The settings files that are built in, by name.

/// Name and text of each preset, as in `config/`.
pub const PRESETS: [(&str, &str); 9] = [
    ("miniature", include_str!("../../../config/miniature.toml")),
    ("sft-miniature-strong", include_str!("../../../config/sft-miniature-strong.toml")),
    ("sft-miniature-weak", include_str!("../../../config/sft-miniature-weak.toml")),
    ("gsm8k-jargon", include_str!("../../../config/gsm8k-jargon.toml")),
    ("gsm8k-smoke", include_str!("../../../config/gsm8k-smoke.toml")),
    ("gsm8k-gemma3-270m", include_str!("../../../config/gsm8k-gemma3-270m.toml")),
    ("gsm8k-llama-3.2", include_str!("../../../config/gsm8k-llama-3.2.toml")),
    ("gsm8k-qwen2.5-0.5b", include_str!("../../../config/gsm8k-qwen2.5-0.5b.toml")),
    (
        "gsm8k-qwen2.5-1.5b-weak-0.5b",
        include_str!("../../../config/gsm8k-qwen2.5-1.5b-weak-0.5b.toml"),
    ),
];

/// The text of a preset.
#[must_use]
pub fn preset(name: &str) -> Option<&'static str> {
    PRESETS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
