#!/usr/bin/env python3
"""States the published ways of grading GSM8K answers and writes golden vectors from them.

    python3 tests/parity/graders.py TRAIN_AND_TEST_DIR > tests/parity/graders.jsonl

Written from the rules alone (EleutherAI/lm-evaluation-harness, task gsm8k 3.0, RegexFilter and
exact_match; verl, reward_score/gsm8k.py), not from the Rust. Needs Python 3.9 and nothing else.
With --check LM_EVAL_AND_VERL_DIR (both wheels unpacked into one directory; needs numpy) every
vector is also put through the packages' own code.
"""

import importlib.util
import json
import random
import re
import sys

MARKED = re.compile(r"#### (\-?[0-9\.\,]+)")
LM_EVAL_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
VERL_FLEXIBLE = re.compile(r"(\-?[0-9\.\,]+)")
IGNORED = [",", r"\$", r"(?s).*#### ", r"\.$"]


def lm_eval_comparable(text):
    for pattern in IGNORED:
        text = re.sub(pattern, "", text)
    return text.lower()


def lm_eval(text, gold, pattern, select):
    matches = pattern.findall(text)
    if not matches:
        return None, False
    match = matches[select]
    if isinstance(match, tuple):
        match = next(group for group in match if group)
    match = match.strip()
    return match, lm_eval_comparable(match) == lm_eval_comparable(gold)


def verl(text, gold, pattern, flexible):
    matches = pattern.findall(text[-300:])
    if not matches:
        return None, False
    if flexible:
        for answer in reversed(matches):
            if answer not in ("", "."):
                break
    else:
        answer = matches[-1].replace(",", "").replace("$", "")
    return answer, answer == gold.replace(",", "")


RULES = {
    "lm-eval-strict": lambda text, gold: lm_eval(text, gold, MARKED, 0),
    "lm-eval-flexible": lambda text, gold: lm_eval(text, gold, LM_EVAL_FLEXIBLE, -1),
    "verl-strict": lambda text, gold: verl(text, gold, MARKED, False),
    "verl-flexible": lambda text, gold: verl(text, gold, VERL_FLEXIBLE, True),
}

BY_HAND = [
    "", "#", "####", "#### ", "no number at all", "#### 18", "####18", "####  18", "#### $18",
    "#### 18.", "#### 18.00", "#### 18.0", "#### 18,", "#### -18", "#### - 18", "#### --18",
    "#### 18 apples", "##### 18", "### 18", "#### 18\n#### 20", "#### 20\n#### 18",
    "#### x\n#### 18", "#### .", "#### ...", "#### ,", "#### .18", "#### 018", "#### 18\n",
    "The answer is 18.", "The answer is 18. Done...", "The answer is $18.00", "It is $18.",
    "18", "18.", "$18", "-18", "- 18", "1 8", "18 and 7", "7 and 18", "7, 18", "18%", "18-7",
    "3-18", "18..", ". . .", "1.", "a.b,c", ",,", "$$", "$", "18 $", "18,000", "1,8", "١٨",
    "#### ١٨", "#### 18١", "#### １８", "18²", "#### 18²", "x18x", "#### 18e3", "#### 1.8e1",
    "#### +18", "#### 18/1", "####\n18", "####\t18", "#### 18", "é 18", "😀#### 18😀",
    "#### 18\r\n", "#### 18.\n", "18.\n", "#### 18. #### ", "18 18", "18 19", "#### 18 19",
    "#### " + "9" * 40, "18" + " x" * 200, "#### 18" + " y" * 147, "#### 18" + " y" * 150,
    "#### 18" + "é" * 293, "#### 18" + "é" * 294, "#### 7 " + "z" * 280 + " #### 18",
    "Q 18\nQuestion: 19", "\\boxed{18}", "#### \\$18", "#### **18**", "**18**", "#### 18\u00a0",
    "####\u00a018", "#### 18\u2009000", "#### 1 234", "#### −18", "−18", "#### -$18", "#### $-18",
]


def golds(directory):
    for name in ("train", "test"):
        with open(f"{directory}/{name}.jsonl", encoding="utf-8") as file:
            for line in file:
                answer = json.loads(line)["answer"]
                yield name, answer, answer.rsplit("#### ", 1)[1].strip()


def cases(directory):
    for text in BY_HAND:
        for gold in ("18", "-18", "1,234"):
            yield text, gold
    chosen = [(name, answer, gold) for name, answer, gold in golds(directory)
              if (name == "test" and ("," in gold or gold.startswith("-")))]
    for _, answer, gold in chosen:
        plain = gold.replace(",", "")
        for text in (answer[-80:], f"#### {plain}", f"#### {gold}", f"#### ${gold}", f"It is {gold}.",
                     f"It is {plain}.", f"#### {plain}.00", f"{gold} in all", f"so ${gold}"):
            yield text, gold
    draws = random.Random(8)
    pieces = ["#### ", "####", "18", "1,8", ".", ",", "$", "-", " ", "\n", "7", "00", "x", "٣"]
    for _ in range(160):
        yield "".join(draws.choice(pieces) for _ in range(draws.randint(1, 9))), "18"


def module(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def check(vectors, packages):
    """Puts every vector through the packages' own code."""
    import types

    import numpy
    for name in ("lm_eval", "lm_eval.api"):
        sys.modules[name] = types.ModuleType(name)
    base = types.ModuleType("lm_eval.api.filter")
    base.Filter = object
    registry = types.ModuleType("lm_eval.api.registry")
    registry.register_filter = lambda name: lambda kind: kind
    sys.modules.update({"lm_eval.api.filter": base, "lm_eval.api.registry": registry})
    filters = module(f"{packages}/lm_eval/filters/extraction.py", "extraction")
    with open(f"{packages}/lm_eval/api/metrics.py", encoding="utf-8") as file:
        source = file.read()
    start = source.index("def exact_match_hf_evaluate")
    scope = {"np": numpy, "re": re}
    exec(source[start:source.index("\n###", start)], scope)  # noqa: S102
    verl_code = module(f"{packages}/verl/utils/reward_score/gsm8k.py", "verl_gsm8k")
    strict = filters.RegexFilter("#### (\\-?[0-9\\.\\,]+)")
    flexible = filters.RegexFilter("(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)
    for vector in vectors:
        text, gold = vector["text"], vector["gold"]
        for name, rule in (("lm-eval-strict", strict), ("lm-eval-flexible", flexible)):
            found = rule.apply([[text]], [{}])[0][0]
            score = scope["exact_match_hf_evaluate"](
                [found], [gold], regexes_to_ignore=IGNORED, ignore_case=True)["exact_match"]
            stated = vector[name]
            assert (stated["extracted"] or "[invalid]") == found, (name, vector)
            assert stated["correct"] == bool(score), (name, vector)
        for method in ("strict", "flexible"):
            stated = vector[f"verl-{method}"]
            found = verl_code.extract_solution(text, method)
            score = verl_code.compute_score(text, gold.replace(",", ""), method)
            assert stated["extracted"] == found, (method, vector)
            assert stated["correct"] == bool(score), (method, vector)


def main():
    directory = sys.argv[1]
    vectors = []
    for text, gold in cases(directory):
        vector = {"text": text, "gold": gold}
        for name, rule in RULES.items():
            extracted, correct = rule(text, gold)
            vector[name] = {"extracted": extracted, "correct": correct}
        vectors.append(vector)
    if "--check" in sys.argv:
        check(vectors, sys.argv[sys.argv.index("--check") + 1])
        print(f"{len(vectors)} vectors agree with the packages", file=sys.stderr)
    for vector in vectors:
        print(json.dumps(vector, ensure_ascii=True, sort_keys=True))


if __name__ == "__main__":
    main()
