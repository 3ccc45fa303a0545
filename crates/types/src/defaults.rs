//! Sizes that published `config.json` files leave out, because the program that wrote them has them as
//! defaults.

/// Of transformers' `Gemma3TextConfig`. Files of the 4B name only some of them.
pub const GEMMA3_TEXT_SIZES: [(&str, u64); 7] = [
    ("vocab_size", 262_208),
    ("hidden_size", 2304),
    ("intermediate_size", 9216),
    ("num_hidden_layers", 26),
    ("num_attention_heads", 8),
    ("num_key_value_heads", 4),
    ("head_dim", 256),
];
