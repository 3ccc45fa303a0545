#!/usr/bin/env python3
"""PyTorch beside `gpu-bench`: the same shapes, batches and lines of JSON.

Decoding has a static key-value cache and, on CUDA, one CUDA graph for a whole step, sampling
included. Training is forward, backward, clipping and fused AdamW on f32 masters, in bf16 by
autocast. Usage: peer.py SHAPE PRECISION DEVICE
"""
import json
import sys
import time

import torch
import torch.nn.functional as F

PROMPT, STEPS, WARM_UP = 128, 64, 4
BATCHES = [1, 8, 64, 256]
SHAPES = {  # hidden, layers, heads, key-value heads, feed-forward, vocabulary
    "qwen2.5-0.5b": (896, 24, 14, 2, 4864, 151_936),
    "qwen2.5-1.5b": (1536, 28, 12, 2, 8960, 151_936),
    "tiny": (128, 2, 4, 2, 256, 1000),
}


class Block(torch.nn.Module):
    def __init__(self, d, heads, kv, ff):
        super().__init__()
        self.heads, self.kv, self.dim = heads, kv, d // heads
        self.attention_norm = torch.nn.RMSNorm(d, eps=1e-6)
        self.qkv = torch.nn.Linear(d, (heads + 2 * kv) * self.dim)
        self.o = torch.nn.Linear(d, d, bias=False)
        self.mlp_norm = torch.nn.RMSNorm(d, eps=1e-6)
        self.gate_up = torch.nn.Linear(d, 2 * ff, bias=False)
        self.down = torch.nn.Linear(ff, d, bias=False)

    def forward(self, h, cos, sin, cache=None, position=None, mask=None):
        b, t, _ = h.shape
        q, k, v = self.qkv(self.attention_norm(h)).split(
            [self.heads * self.dim, self.kv * self.dim, self.kv * self.dim], -1)
        q, k, v = (x.view(b, t, -1, self.dim).transpose(1, 2) for x in (q, k, v))
        q, k = turn(q, cos, sin), turn(k, cos, sin)
        if cache is not None:
            cache[0].index_copy_(2, position, k)
            cache[1].index_copy_(2, position, v)
            k, v = cache
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
        h = h + self.o(mixed.transpose(1, 2).reshape(b, t, -1))
        gate, up = self.gate_up(self.mlp_norm(h)).chunk(2, -1)
        return h + self.down(F.silu(gate) * up)


def turn(x, cos, sin):
    low, high = x.chunk(2, -1)
    return (x * cos + torch.cat([-high, low], -1) * sin).to(x.dtype)


class Model(torch.nn.Module):
    def __init__(self, d, layers, heads, kv, ff, vocab):
        super().__init__()
        self.embedding = torch.nn.Embedding(vocab, d)
        self.blocks = torch.nn.ModuleList(Block(d, heads, kv, ff) for _ in range(layers))
        self.norm = torch.nn.RMSNorm(d, eps=1e-6)
        for p in self.parameters():
            if p.dim() > 1:
                torch.nn.init.normal_(p, std=0.02)
        frequencies = 1e6 ** -(torch.arange(0, d // heads, 2) / (d // heads))
        angles = torch.outer(torch.arange(1024), frequencies).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def hidden(self, tokens, caches=None, position=None, mask=None):
        at = torch.arange(tokens.shape[1], device=tokens.device) if position is None else position
        cos, sin = self.cos[at], self.sin[at]
        h = self.embedding(tokens)
        for i, block in enumerate(self.blocks):
            h = block(h, cos, sin, caches and caches[i], position, mask)
        return self.norm(h)


def timed(device, body):
    if device == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    body()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


@torch.no_grad()
def decode(model, rows, device, dtype):
    length = PROMPT + STEPS + 8
    block = model.blocks[0]
    caches = [torch.zeros(2, rows, block.kv, length, block.dim, device=device, dtype=dtype)
              for _ in model.blocks]
    tokens = torch.full((rows, 1), 5, device=device)
    position = torch.full((1,), PROMPT, device=device)
    columns = torch.arange(length, device=device)

    def step():
        mask = (columns <= position)[None, None, None, :]
        logits = F.linear(model.hidden(tokens, caches, position, mask)[:, -1], model.embedding.weight)
        noise = torch.empty_like(logits, dtype=torch.float32).exponential_()
        tokens.copy_((logits.float().softmax(-1) / noise).argmax(-1, keepdim=True))
        position.add_(1)

    run = step
    if device == "cuda":
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        run = graph.replay
    position.fill_(PROMPT)
    for _ in range(WARM_UP):
        run()
    position.fill_(PROMPT + WARM_UP)
    seconds = timed(device, lambda: [run() for _ in range(STEPS)])
    return rows * STEPS / seconds


def train(model, device, dtype):
    rows, width = 8, 256
    vocab = model.embedding.num_embeddings
    tokens = (2 + torch.arange(rows * width, device=device) * 31 % min(900, vocab - 2)).view(rows, width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=device == "cuda")

    def step():
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            logits = F.linear(model.hidden(tokens), model.embedding.weight)
        F.cross_entropy(logits.float().flatten(0, 1), tokens.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()
    return sorted(timed(device, step) for _ in range(5))[2]


def bandwidth(device):
    """GB/s of a large copy, reads and writes counted."""
    count = (1 << 30) if device == "cuda" else (1 << 26)
    a = torch.empty(count, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    b.copy_(a)
    seconds = min(timed(device, lambda: b.copy_(a)) for _ in range(5))
    return 2 * count / seconds / 1e9


def main():
    if len(sys.argv) != 4 or sys.argv[1] not in SHAPES:
        sys.exit(__doc__)
    shape, precision, device = sys.argv[1:]
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = Model(*SHAPES[shape]).to(device)

    def say(**figure):
        figure |= {"program": f"torch {torch.__version__}", "shape": shape, "precision": precision}
        print(json.dumps(figure), flush=True)

    rate = bandwidth(device)
    half = Model(*SHAPES[shape]).to(device, dtype)
    half.cos, half.sin = model.cos.to(dtype), model.sin.to(dtype)
    weights = sum(p.numel() * p.element_size() for p in half.parameters())
    block = half.blocks[0]
    token = 2 * len(half.blocks) * block.kv * block.dim * dtype.itemsize
    for rows in BATCHES:
        say(what="decode", rows=rows, tokens_per_second=decode(half, rows, device, dtype))
        # Every weight and every row's keys and values are read once a step.
        read = weights + rows * token * (PROMPT + STEPS / 2)
        say(what="bandwidth bound", rows=rows, gigabytes_per_second=rate,
            tokens_per_second=rows * rate * 1e9 / read)
    del half
    say(what="train", tokens=2048, seconds=train(model, device, dtype))


main()
