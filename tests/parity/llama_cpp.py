"""llama.cpp as an oracle: what it makes of one GGUF file, as JSON lines that
`cargo run --release --example gguf_parity` reads and compares.

    pip install xllamacpp numpy
    python tests/parity/llama_cpp.py FILE.gguf GSM8K_DIR > oracle.jsonl

Products of 32 tokens or more are BLAS's, in f32 and with the file's own weights, in a llama.cpp that was
built with it and without repacking. With `reread` every token is chosen after the whole text, all of
its logits wanted, so that every product is such a one; only greedy texts are written then:

    CMAKE_ARGS="-DGGML_BLAS=ON -DGGML_BLAS_VENDOR=OpenBLAS -DGGML_CPU_REPACK=OFF" \
        pip install --no-binary llama-cpp-python llama-cpp-python
    PARITY_LIBRARY=.../site-packages/llama_cpp/lib/libllama.so \
        python tests/parity/llama_cpp.py FILE.gguf GSM8K_DIR reread > blas.jsonl

Only llama.cpp's C interface is used. Its parameter structures change between versions, so they
are opaque here: the library's own defaults are taken, and fields are found by their default values.
"""

import copy
import ctypes as c
import glob
import importlib.util
import json
import math
import os
import struct
import sys
import time

import numpy as np

THREADS = int(os.environ.get("PARITY_THREADS", "2"))
CONTEXT = 4096
GREEDY_PROMPTS, GREEDY_TOKENS = 10, 32
PERPLEXITY_TEXTS = 50
# How far llama.cpp agrees with itself is shown by the same prompts in smaller pieces, tokens at a time, and
# without flash attention.
WHOLE = CONTEXT
CHUNKS = (64, 32, 8, 1)
MODES = (None, "reread")
PIECES = 8
SPEED_BATCHES, SPEED_STEPS = (1, 8), 150


class Opaque(c.Structure):
    _fields_ = [("bytes", c.c_uint8 * 1024)]


class Batch(c.Structure):
    _fields_ = [
        ("n_tokens", c.c_int32),
        ("token", c.POINTER(c.c_int32)),
        ("embd", c.POINTER(c.c_float)),
        ("pos", c.POINTER(c.c_int32)),
        ("n_seq_id", c.POINTER(c.c_int32)),
        ("seq_id", c.POINTER(c.POINTER(c.c_int32))),
        ("logits", c.POINTER(c.c_int8)),
    ]


def library():
    path = os.environ.get("PARITY_LIBRARY")
    if not path:
        package = importlib.util.find_spec("xllamacpp").submodule_search_locations[0]
        path = glob.glob(os.path.join(package, "*.so"))[0]
    lib = c.CDLL(path)
    lib.llama_model_default_params.restype = Opaque
    lib.llama_context_default_params.restype = Opaque
    for name in ("llama_model_load_from_file", "llama_init_from_model", "llama_model_get_vocab"):
        getattr(lib, name).restype = c.c_void_p
    lib.llama_model_load_from_file.argtypes = [c.c_char_p, Opaque]
    lib.llama_init_from_model.argtypes = [c.c_void_p, Opaque]
    lib.llama_model_get_vocab.argtypes = [c.c_void_p]
    lib.llama_vocab_n_tokens.argtypes = [c.c_void_p]
    lib.llama_vocab_is_eog.argtypes = [c.c_void_p, c.c_int32]
    lib.llama_vocab_is_eog.restype = c.c_bool
    lib.llama_vocab_get_add_bos.argtypes = [c.c_void_p]
    lib.llama_vocab_get_add_bos.restype = c.c_bool
    lib.llama_tokenize.argtypes = [
        c.c_void_p, c.c_char_p, c.c_int32, c.POINTER(c.c_int32), c.c_int32, c.c_bool, c.c_bool,
    ]
    lib.llama_decode.argtypes = [c.c_void_p, Batch]
    lib.llama_get_logits_ith.argtypes = [c.c_void_p, c.c_int32]
    lib.llama_get_logits_ith.restype = c.POINTER(c.c_float)
    lib.llama_get_memory.argtypes = [c.c_void_p]
    lib.llama_get_memory.restype = c.c_void_p
    lib.llama_memory_clear.argtypes = [c.c_void_p, c.c_bool]
    quiet = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)(lambda *_: None)
    lib.llama_log_set(quiet, None)
    lib.keep = quiet
    lib.llama_backend_init()
    return lib


class Model:
    def __init__(self, path, only_vocabulary=False):
        self.lib = library()
        params = self.lib.llama_model_default_params()
        if only_vocabulary:
            params.bytes[VOCAB_ONLY] = 1
        self.model = self.lib.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            sys.exit(f"llama.cpp cannot read {path}")
        self.vocab = self.lib.llama_model_get_vocab(self.model)
        self.size = self.lib.llama_vocab_n_tokens(self.vocab)
        self.context = None if only_vocabulary else self.open()

    def open(self, flash_attention=True):
        params = self.lib.llama_context_default_params()
        head = list(struct.unpack_from("<16I", bytes(params.bytes)))
        rows = max(SPEED_BATCHES)
        if head[:4] != [512, 2048, 512, 1] or head.count(4) != 2:
            sys.exit(f"context parameters have moved in this llama.cpp: {head}")
        threads = head.index(4)
        head[0], head[1], head[2], head[3] = CONTEXT * rows, CONTEXT, 512, rows
        head[threads] = head[threads + 1] = THREADS
        # Four enumerations are -1 by default, the last of them when to use flash attention.
        unset = [i for i, value in enumerate(head) if value == UNSET]
        if unset != list(range(unset[0], unset[0] + 4)):
            sys.exit(f"context parameters have moved in this llama.cpp: {head}")
        if not flash_attention:
            head[unset[-1]] = 0
        struct.pack_into("<16I", params.bytes, 0, *head)
        context = self.lib.llama_init_from_model(self.model, params)
        if not context:
            sys.exit("llama.cpp opens no context")
        return context

    def without_flash_attention(self):
        other = copy.copy(self)
        other.context = self.open(flash_attention=False)
        return other

    def tokenize(self, text, special=False):
        data = text.encode()
        room = len(data) + 8
        out = (c.c_int32 * room)()
        n = self.lib.llama_tokenize(self.vocab, data, len(data), out, room, special, False)
        assert n >= 0, "room for every byte and the beginning"
        return list(out[:n])

    def step(self, tokens, sequences, positions, wanted):
        """Logits [wanted, V] after the tokens whose index is in `wanted`."""
        n = len(tokens)
        owners = [(c.c_int32 * 1)(s) for s in sequences]
        seq_id = (c.POINTER(c.c_int32) * n)(*(c.cast(o, c.POINTER(c.c_int32)) for o in owners))
        flags = (c.c_int8 * n)(*(i in wanted for i in range(n)))
        batch = Batch(
            n, (c.c_int32 * n)(*tokens), None, (c.c_int32 * n)(*positions),
            (c.c_int32 * n)(*([1] * n)), seq_id, flags,
        )
        assert self.lib.llama_decode(self.context, batch) == 0
        row = lambda i: np.ctypeslib.as_array(self.lib.llama_get_logits_ith(self.context, i), (self.size,))
        return np.stack([row(i).copy() for i in sorted(wanted)])

    def clear(self):
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)

    def read(self, tokens, wanted, chunk):
        """Logits [wanted, V] of one sequence from its start, `chunk` tokens at a time."""
        self.clear()
        found = []
        for start in range(0, len(tokens), chunk):
            part = tokens[start:start + chunk]
            here = {i - start for i in wanted if start <= i < start + len(part)}
            positions = range(start, start + len(part))
            logits = self.step(part, [0] * len(part), positions, here or {len(part) - 1})
            found += [logits] if here else []
        return np.concatenate(found)

    def greedy(self, prompt, n, chunk, reread=False):
        wanted = set(range(len(prompt))) if reread else {len(prompt) - 1}
        logits = self.read(prompt, wanted, chunk)[-1]
        written, margins = [], []
        for position in range(len(prompt), len(prompt) + n):
            best = np.sort(logits)[-2:]
            written.append(int(logits.argmax()))
            margins.append(float(best[1] - best[0]))
            if reread:
                logits = self.read(prompt + written, set(range(position + 1)), chunk)[-1]
            else:
                logits = self.step([written[-1]], [0], [position], {0})[0]
        return written, margins

    def nll(self, prompt, text, chunk):
        """Of each token of `text` after `prompt`."""
        tokens = prompt + text
        wanted = set(range(len(prompt) - 1, len(tokens) - 1))
        logits = self.read(tokens, wanted, chunk).astype(np.float64)
        top = logits.max(axis=1)
        norm = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        return [float(norm[i] - logits[i, t]) for i, t in enumerate(text)]

    def speed(self, rows, prompt, steps):
        """Tokens per second of all rows together, after a prompt that is not counted."""
        self.clear()
        for row in range(rows):
            self.step(prompt, [row] * len(prompt), range(len(prompt)), {len(prompt) - 1})
        token = [prompt[-1]] * rows
        start = time.perf_counter()
        for i in range(steps):
            logits = self.step(token, range(rows), [len(prompt) + i] * rows, set(range(rows)))
            token = [int(t) for t in logits.argmax(axis=1)]
        return rows * steps / (time.perf_counter() - start)


VOCAB_ONLY = 64
UNSET = 0xffffffff


def emit(**record):
    print(json.dumps(record), flush=True)


def emit_greedy(prompt, ways):
    runs = [{"way": way, "written": w, "margins": m} for way, (w, m) in ways.items()]
    emit(kind="greedy", prompt=prompt, runs=runs)


def problems(directory, name):
    with open(os.path.join(directory, f"{name}.jsonl")) as lines:
        return [json.loads(line) for line in lines]


def main(path, directory, mode=None):
    if mode not in MODES:
        sys.exit(f"{mode!r} is no mode: give none, or one of {MODES[1:]}")
    model = Model(path)
    vocab = model.vocab
    ends = [i for i in range(model.size) if model.lib.llama_vocab_is_eog(vocab, i)]
    emit(kind="model", add_bos=model.lib.llama_vocab_get_add_bos(vocab), ends=ends)
    test = problems(directory, "test")
    prompts = [f"Question: {p['question']}\nAnswer:" for p in test]
    if mode == "reread":
        for ids in (model.tokenize(prompt, True) for prompt in prompts[:GREEDY_PROMPTS]):
            written, margins = model.greedy(ids, GREEDY_TOKENS, WHOLE, reread=True)
            emit_greedy(ids, {"whole": (written, margins)})
        return
    for prompt, problem in list(zip(prompts, test))[:PERPLEXITY_TEXTS]:
        ids, answer = model.tokenize(prompt, True), model.tokenize(" " + problem["answer"])
        whole, pieces = (model.nll(ids, answer, chunk) for chunk in (WHOLE, PIECES))
        emit(kind="nll", prompt=ids, text=answer, nll=whole, pieces=pieces)
    plain = model.without_flash_attention()
    for prompt in prompts[:GREEDY_PROMPTS]:
        ids = model.tokenize(prompt, True)
        ways = {"whole": model.greedy(ids, GREEDY_TOKENS, WHOLE)}
        for chunk in CHUNKS:
            ways[f"{chunk} at a time"] = model.greedy(ids, GREEDY_TOKENS, chunk)
        ways["whole, no flash attention"] = plain.greedy(ids, GREEDY_TOKENS, WHOLE)
        emit_greedy(ids, ways)
    ids = model.tokenize(prompts[0], True)
    for rows in SPEED_BATCHES:
        rate = model.speed(rows, ids, SPEED_STEPS)
        emit(kind="speed", rows=rows, prompt=ids, steps=SPEED_STEPS, threads=THREADS, rate=rate)
    for name in ("test", "train"):
        for problem in problems(directory, name):
            for text in (problem["question"], problem["answer"]):
                emit(kind="tokens", text=text, ids=model.tokenize(text))


if __name__ == "__main__":
    main(*sys.argv[1:])
