"""Checks that transformers loads what we write and computes what it computed before. See README.md
beside this file."""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from cases import CASES, END, IDS, OTHER_END
from make import TEMPLATE, logits

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Of f32 written and read without rounding.
TOLERANCE = 1e-5
SHORT = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def rewrite(source, target, dtype):
    command = ["cargo", "run", "--quiet", "--example", "rewrite", "--"]
    subprocess.run([*command, source, target, dtype], cwd=ROOT, check=True)


def difference(directory, texts, expected):
    model, loading = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    strange = {name: found for name, found in loading.items() if found}
    assert not strange, f"{directory}: {strange}"
    ends = model.generation_config.eos_token_id
    assert ends == [END, OTHER_END], f"{directory}: ends {ends}"
    return (logits(model.eval(), texts) - expected).abs().max().item()


def check(name):
    golden = HERE / "golden" / name
    record = json.loads((golden / "expected.json").read_text())
    expected = load_file(golden / "expected.safetensors")["logits"]
    text = "so there are 12+30=42 hens"
    ids = AutoTokenizer.from_pretrained(golden)(text).input_ids
    for dtype in sorted({"f32", SHORT[CASES[name][2]]}):
        with tempfile.TemporaryDirectory() as target:
            rewrite(golden, target, dtype)
            off = difference(target, record["texts"], expected)
            tokenizer = AutoTokenizer.from_pretrained(target)
            assert tokenizer(text).input_ids == ids and max(ids) < IDS
            assert tokenizer.chat_template == TEMPLATE
        print(f"{name} as {dtype}: {off:.1e} apart")
        assert off < TOLERANCE, f"{name} as {dtype}: {off:.1e} is more than {TOLERANCE:.0e}"


def compare(original, exported):
    """Two directories of one model, such as a start and an export without a step between."""
    texts = [[5, 6, 7, 8, 9, 10, 11, 12], [9, 8, 7]]
    models = [
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        for path in (original, exported)
    ]
    a, b = (logits(model, texts) for model in models)
    print(f"{exported} differs from {original} by {(a - b).abs().max():.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compare", nargs=2, metavar=("ORIGINAL", "EXPORTED"))
    parser.add_argument("names", nargs="*", default=list(CASES), help="some of the cases")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.compare:
        compare(*args.compare)
        return
    for name in args.names:
        check(name)


if __name__ == "__main__":
    main()
