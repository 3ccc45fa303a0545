"""The checkpoints of the parity check: one of every supported kind, tiny. How they are drawn and
compared is not known here."""

from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

# Ids of the tokenizer; a case may pad its matrices beyond.
IDS = 48
PAD, START, END, OTHER_END = 0, 1, 2, 3

COMMON = dict(
    vocab_size=IDS,
    hidden_size=16,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    pad_token_id=PAD,
    bos_token_id=START,
    eos_token_id=END,
)
GEMMA = {
    **COMMON,
    "num_hidden_layers": 3,
    "head_dim": 8,
    "query_pre_attn_scalar": 12,
    "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
    },
}


def rope(**more):
    return {"rope_type": "default", "rope_theta": 100.0, **more}


def llama3():
    return rope(
        rope_type="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=120,
    )


def seeing():
    vision = dict(
        hidden_size=4,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=4,
        patch_size=2,
    )
    return Gemma3Config(
        text_config=GEMMA,
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=IDS - 1,
        boi_token_index=IDS - 2,
        eoi_token_index=IDS - 3,
        eos_token_id=[END],
    )


# Name: (class, configuration, element type of the file, largest shard).
CASES = {
    "llama": (
        LlamaForCausalLM,
        lambda: LlamaConfig(**COMMON, rope_parameters=rope()),
        "float32",
        "8KB",
    ),
    "llama-scaled-tied-biased": (
        LlamaForCausalLM,
        lambda: LlamaConfig(
            **COMMON,
            head_dim=8,
            rope_parameters=llama3(),
            tie_word_embeddings=True,
            attention_bias=True,
        ),
        "float16",
        None,
    ),
    "qwen2-tied-padded": (
        Qwen2ForCausalLM,
        lambda: Qwen2Config(
            **{**COMMON, "vocab_size": 64}, rope_parameters=rope(), tie_word_embeddings=True
        ),
        "float16",
        None,
    ),
    "qwen2-window": (
        Qwen2ForCausalLM,
        lambda: Qwen2Config(
            **COMMON,
            rope_parameters=rope(),
            use_sliding_window=True,
            sliding_window=5,
            max_window_layers=1,
        ),
        "float16",
        None,
    ),
    "qwen3": (
        Qwen3ForCausalLM,
        lambda: Qwen3Config(**COMMON, head_dim=8, rope_parameters=rope()),
        "float16",
        None,
    ),
    "gemma3": (
        Gemma3ForCausalLM,
        lambda: Gemma3TextConfig(**GEMMA),
        "bfloat16",
        None,
    ),
    "gemma3-untied": (
        Gemma3ForCausalLM,
        lambda: Gemma3TextConfig(**GEMMA, tie_word_embeddings=False),
        "float16",
        None,
    ),
    "gemma3-that-sees": (
        Gemma3ForConditionalGeneration,
        seeing,
        "float16",
        None,
    ),
}
