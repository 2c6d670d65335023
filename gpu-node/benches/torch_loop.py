#!/usr/bin/env python3
"""A PyTorch peer for gpu.sh: Llama shapes with random bf16 weights, a static key/value cache and, on a card, one CUDA graph per batch.

    python3 gpu-node/benches/torch_loop.py
    python3 gpu-node/benches/torch_loop.py --device cpu --shape tiny --batch 1,8 --context 64 --prompt 96 --steps 8

Needs PyTorch 2.4 or later. Prints one JSON object: decode tokens/s at each batch with the context full, prefill tokens/s, start to first token.
It is what one writes in an afternoon with a framework: bf16 weights (twice the engine's bytes), scaled_dot_product_attention, no other kernel.
"""

import argparse
import json
import math
import time

import torch
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

SHAPES = {
    # layers, dim, heads, kv_heads, head_dim, ffn, vocabulary
    "8b": (32, 4096, 32, 8, 128, 14336, 128256),
    "tiny": (2, 64, 4, 2, 16, 160, 512),
}
ROPE_BASE = 500_000.0


class Model:
    """Weights and a cache for `batch` sequences of at most `tokens` tokens."""

    def __init__(self, shape, batch, tokens, device):
        self.layers, self.dim, self.heads, self.kv_heads, self.head_dim, self.ffn, self.vocabulary = SHAPES[shape]
        self.device = device
        self.batch, self.tokens = batch, tokens
        self.embedding = self.weight(self.vocabulary, self.dim)
        self.head = self.weight(self.vocabulary, self.dim)
        wide = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.blocks = [
            (self.weight(wide, self.dim), self.weight(self.dim, self.heads * self.head_dim),
             self.weight(2 * self.ffn, self.dim), self.weight(self.dim, self.ffn))
            for _ in range(self.layers)
        ]
        cache = (self.layers, 2, batch, self.kv_heads, tokens, self.head_dim)
        self.cache = torch.zeros(cache, dtype=torch.bfloat16, device=device)
        inverse = ROPE_BASE ** (-torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim)
        angles = torch.outer(torch.arange(tokens, dtype=torch.float32), inverse)
        self.cosine, self.sine = angles.cos().to(device), angles.sin().to(device)
        self.places = torch.arange(tokens, device=device)

    def weight(self, rows, columns):
        return torch.randn(rows, columns, dtype=torch.bfloat16, device=self.device) / math.sqrt(columns)

    def turned(self, x, position):
        """Rotated by position; `x` is [batch, heads, rows, head_dim]."""
        a, b = x.float().chunk(2, dim=-1)
        c, s = self.cosine[position], self.sine[position]
        return torch.cat((a * c - b * s, b * c + a * s), dim=-1).to(x.dtype)

    def logits(self, ids, position, is_prompt):
        """Of the last row of each sequence. `ids` is [batch, rows], `position` [rows]."""
        batch, rows = ids.shape
        x = self.embedding[ids]
        mask = None if is_prompt else (self.places <= position[-1])[None, None, None, :]
        for layer, (qkv, out, gate_up, down) in enumerate(self.blocks):
            heads = linear(rms_norm(x, (self.dim,)), qkv).view(batch, rows, -1, self.head_dim).transpose(1, 2)
            q, k, v = heads.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
            q, k = self.turned(q, position), self.turned(k, position)
            keys, values = self.cache[layer, 0, :batch], self.cache[layer, 1, :batch]
            keys.index_copy_(2, position, k)
            values.index_copy_(2, position, v)
            if not is_prompt:
                k, v = keys, values
            group = self.heads // self.kv_heads
            k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
            attended = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_prompt)
            x = x + linear(attended.transpose(1, 2).reshape(batch, rows, -1), out)
            gate, up = linear(rms_norm(x, (self.dim,)), gate_up).chunk(2, dim=-1)
            x = x + linear(silu(gate) * up, down)
        return linear(rms_norm(x[:, -1], (self.dim,)), self.head)


def done(device):
    if device == "cuda":
        torch.cuda.synchronize()


def decode_tokens_per_s(model, context, steps):
    """Greedy steps from a cache that is full up to `context`; the token of each step feeds the next."""
    ids = torch.zeros(model.batch, 1, dtype=torch.long, device=model.device)
    position = torch.full((1,), context, dtype=torch.long, device=model.device)

    def step():
        ids.copy_(model.logits(ids, position, False).argmax(dim=-1, keepdim=True))
        position.add_(1)

    step()
    if model.device == "cuda":
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        step = graph.replay
    position.fill_(context)
    step()
    done(model.device)
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    done(model.device)
    return model.batch * steps / (time.perf_counter() - begin)


def prefill_tokens_per_s(model, prompt):
    ids = torch.zeros(1, prompt, dtype=torch.long, device=model.device)
    position = torch.arange(prompt, device=model.device)
    model.logits(ids, position, True)
    done(model.device)
    begin = time.perf_counter()
    model.logits(ids, position, True)
    done(model.device)
    return prompt / (time.perf_counter() - begin)


@torch.inference_mode()
def main():
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="8b")
    parser.add_argument("--batch", default="1,8,32", help="sequences at once")
    parser.add_argument("--context", type=int, default=1024, help="tokens in the cache before the measurement")
    parser.add_argument("--prompt", type=int, default=2048, help="tokens of the prefill figure")
    parser.add_argument("--steps", type=int, default=64, help="decode steps that are timed")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch_loop.py: PyTorch sees no card; --device cpu is a trial without one")
    torch.manual_seed(1)
    batches = [int(batch) for batch in given.batch.split(",")]
    model = Model(given.shape, max(batches), max(given.prompt, given.context + given.steps + 4), given.device)
    prefill = prefill_tokens_per_s(model, given.prompt)
    first_token_s = time.perf_counter() - started
    decode = {}
    for batch in batches:
        model.batch = batch
        decode[batch] = decode_tokens_per_s(model, given.context, given.steps)
    print(json.dumps({
        "torch": torch.__version__, "device": given.device, "shape": given.shape, "weights": "bf16", "context_tokens": given.context,
        "decode_tokens_per_s": decode, "prompt_tokens": given.prompt, "prefill_tokens_per_s": prefill,
        "first_token_ms": given.prompt / prefill * 1e3, "start_to_prefill_s": first_token_s,
    }))


main()
