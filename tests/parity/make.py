"""Makes `golden/`: random checkpoints of every supported kind, and what transformers computes on
them. See README.md beside this file."""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from cases import CASES, END, IDS, OTHER_END, PAD, START

# Of the texts; every window is shorter than the longest.
LENGTHS = [21, 4, 13]
# Greedy tokens after each.
NEW = 64
# Smallest lead of a greedy token over the next, so that rounding cannot turn it.
LEAD = 5e-3
CORPUS = [
    "there are 12 red hens and 30 blue hens so there are 12+30=42 hens in all",
    "she sold 6 eggs at 2 each and so she had 6*2=12 in the end",
    "#### 42",
]
SPECIAL = ["<pad>", "<s>", "</s>", "<end>"]
TEMPLATE = "{% for m in messages %}<s>{{ m['content'] }}{% endfor %}"


def tokenizer():
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=IDS, special_tokens=SPECIAL, show_progress=False)
    tokens.train_from_iterator(CORPUS, trainer)
    assert tokens.get_vocab_size() == IDS, tokens.get_vocab_size()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens,
        pad_token=SPECIAL[PAD],
        bos_token=SPECIAL[START],
        eos_token=SPECIAL[END],
        chat_template=TEMPLATE,
    )


def draw(model, seed, dtype):
    """Weights large enough that every part of the model matters, rounded as the file rounds."""
    generator = torch.Generator().manual_seed(seed)
    offset = 0.0 if "gemma" in model.config.model_type else 1.0
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            values = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                values = offset + 0.3 * values
            elif "embed_tokens" in name:
                # Gemma's are multiplied by the root of the width, and must not drown the blocks.
                values = (0.7 if offset else 0.25) * values
            else:
                values = 0.35 * values
            parameter.copy_(values.to(dtype).float())


def logits(model, texts):
    """Of every position of every text, from one batch that is padded on the right."""
    width = max(map(len, texts))
    tokens = torch.tensor([text + [PAD] * (width - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
    with torch.no_grad():
        out = model(input_ids=tokens, attention_mask=mask).logits
    return torch.cat([row[: len(text), :IDS] for row, text in zip(out, texts)])


def greedy(model, text):
    """The most probable tokens, and the smallest lead of one over the next."""
    text, start, lead = list(text), len(text), float("inf")
    for _ in range(NEW):
        with torch.no_grad():
            row = model(input_ids=torch.tensor([text])).logits[0, -1, :IDS]
        best = row.topk(2)
        lead = min(lead, (best.values[0] - best.values[1]).item())
        text.append(best.indices[0].item())
    return text[start:], lead


def make(name, out):
    kind, configuration, dtype, shard = CASES[name]
    dtype = getattr(torch, dtype)
    # Its special tokens stay out of the texts: one of them stands for an image where a model sees.
    texts_of = torch.Generator().manual_seed(len(name))
    texts = [torch.randint(4, IDS - 3, (n,), generator=texts_of).tolist() for n in LENGTHS]
    for seed in range(1, 100):
        model = kind(configuration()).eval()
        draw(model, seed, dtype)
        written = [greedy(model, text) for text in texts]
        varied = min(len(set(tokens)) for tokens, _ in written)
        if min(lead for _, lead in written) > LEAD and varied > 2:
            break
    else:
        raise SystemExit(f"{name}: no seed keeps greedy tokens {LEAD} apart")
    expected = logits(model, texts)
    model.generation_config = GenerationConfig(eos_token_id=[END, OTHER_END], pad_token_id=PAD)
    shutil.rmtree(out, ignore_errors=True)
    model.to(dtype).save_pretrained(out, **({"max_shard_size": shard} if shard else {}))
    tokenizer().save_pretrained(out)
    save_file({"logits": expected.contiguous()}, out / "expected.safetensors")
    record = {"texts": texts, "greedy": [tokens for tokens, _ in written]}
    (out / "expected.json").write_text(json.dumps(record) + "\n")
    print(f"{name}: seed {seed}, logits up to {expected.abs().max():.1f}, {varied} tokens at least")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "golden")
    parser.add_argument("names", nargs="*", default=list(CASES), help="some of the cases")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.names:
        make(name, args.out / name)


if __name__ == "__main__":
    main()
