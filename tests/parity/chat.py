#!/usr/bin/env python3
"""Renders published chat templates with `transformers` and writes golden texts.

    python3 tests/parity/chat.py > tests/parity/chat/golden.jsonl

Needs transformers 5 and jinja2. The templates beside this script are those of
Qwen/Qwen2.5-*-Instruct, Qwen/Qwen3-*, meta-llama/Llama-3.2-*-Instruct and google/gemma-3-*-it, as
TRL 1.16 (Apache-2.0) collects them. `own.jinja` is ours: what templates use and these do not reach.
"""

import datetime
import json
import pathlib

from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent / "chat"
TOKENS = {
    "qwen2_5": {"eos_token": "<|im_end|>"},
    "qwen3": {"eos_token": "<|im_end|>"},
    "llama3_2": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "gemma3": {"bos_token": "<bos>", "eos_token": "<eos>"},
    "own": {"bos_token": "<s>", "eos_token": "</s>"},
}
QUESTION = {"role": "user", "content": " How many are 2*3? \"####\" & <b>\n"}
SHOTS = [
    {"role": "user", "content": "How many are 1+1?"},
    {"role": "assistant", "content": "1+1 = <<1+1=2>>2\n#### 2"},
]
SYSTEM = {"role": "system", "content": "You are terse."}
# Of templates that can be told more.
ARGUMENTS = {"qwen3": [{}, {"enable_thinking": False}]}
CONVERSATIONS = [[QUESTION], SHOTS + [QUESTION], [SYSTEM, QUESTION], [SYSTEM, *SHOTS, QUESTION]]


class Day(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


def main():
    chat_template_utils.datetime = Day
    for name, tokens in TOKENS.items():
        template = (HERE / f"{name}.jinja").read_text(encoding="utf-8")
        for messages in CONVERSATIONS:
            for arguments in ARGUMENTS.get(name, [{}]):
                rendered, _ = chat_template_utils.render_jinja_template(
                    conversations=[messages], chat_template=template, add_generation_prompt=True,
                    **tokens, **arguments)
                line = {"template": name, "tokens": tokens, "messages": messages, "text": rendered[0]}
                if arguments:
                    line["arguments"] = arguments
                print(json.dumps(line, sort_keys=True))


if __name__ == "__main__":
    main()
