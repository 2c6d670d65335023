#!/usr/bin/env python3
"""llama.cpp's speed and perplexity, measured beside the engine's by `cargo xtask bench engine`.

    python3 test/parity/bench_llama_cpp.py convert MODEL.gguf OUT.gguf q8_0
    python3 test/parity/bench_llama_cpp.py speed MODEL.gguf --threads 2
    python3 test/parity/bench_llama_cpp.py perplexity MODEL.gguf TEXT --window 512

Needs PyPI `llama-cpp-python` 0.3.36 and `numpy`. `convert` uses llama.cpp's own quantiser (`q8_0`, `f32`). `speed` prints one JSON object
with the figures of one run: what one answer takes after its prompt, a long prompt, and eight answers at once.
`perplexity` splits the text into windows, each computed from an empty cache, and prints the mean over all tokens but the first of each.
"""

import argparse
import ctypes
import json
import math
import time

import llama_cpp
import numpy

QUESTION = "Write a long and detailed story about a lighthouse keeper, the sea, and the ships that pass at night."
TYPES = {"q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "f32": llama_cpp.LLAMA_FTYPE_ALL_F32}
BATCH = 512


class Peer:
    """One model and one context, driven through llama.cpp's C interface."""

    def __init__(self, path, threads, context_tokens, sequences):
        quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
        self.quiet = quiet
        llama_cpp.llama_log_set(quiet, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp could not load {path}")
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = context_tokens
        parameters.n_batch = parameters.n_ubatch = BATCH
        parameters.n_seq_max = sequences
        parameters.n_threads = parameters.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, parameters)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.size = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self.batch = llama_cpp.llama_batch_init(BATCH, 0, sequences)

    def tokens(self, text):
        data = text.encode()
        room = len(data) + 16
        out = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), out, room, False, True)
        return list(out[:count])

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def decode(self, rows):
        """`rows`: (token, position, sequence, whether its logits are wanted)."""
        self.batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            self.batch.token[i] = token
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = sequence
            self.batch.logits[i] = wanted
        if llama_cpp.llama_decode(self.context, self.batch) != 0:
            raise SystemExit("llama_decode failed")

    def logits(self, row):
        pointer = llama_cpp.llama_get_logits_ith(self.context, row)
        return numpy.ctypeslib.as_array(pointer, shape=(self.size,))

    def prompt(self, tokens):
        """Computes a prompt in batches; the next token."""
        for first in range(0, len(tokens), BATCH):
            part = tokens[first:first + BATCH]
            last = first + len(part) == len(tokens)
            self.decode([(t, first + i, 0, last and i + 1 == len(part)) for i, t in enumerate(part)])
        return int(self.logits(len(part) - 1).argmax())


def render(question):
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    return f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def speed(path, threads, prompt_tokens, completion_tokens):
    peer = Peer(path, threads, 8 * 512, 8)
    question = peer.tokens(render(QUESTION))
    long = (question * (prompt_tokens // len(question) + 1))[:prompt_tokens]
    peer.prompt(question)

    peer.clear()
    begin = time.perf_counter()
    token = peer.prompt(question)
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    for i in range(completion_tokens - 1):
        peer.decode([(token, len(question) + i, 0, True)])
        token = int(peer.logits(0).argmax())
    decode = (completion_tokens - 1) / (time.perf_counter() - begin)

    peer.clear()
    begin = time.perf_counter()
    peer.prompt(long)
    prefill = len(long) / (time.perf_counter() - begin)

    peer.clear()
    begin = time.perf_counter()
    rows = [(t, i, sequence, i + 1 == len(question)) for sequence in range(8) for i, t in enumerate(question)]
    tokens = [0] * 8
    for start in range(0, len(rows), BATCH):
        part = rows[start:start + BATCH]
        peer.decode(part)
        for i, (_, _, sequence, wanted) in enumerate(part):
            if wanted:
                tokens[sequence] = int(peer.logits(i).argmax())
    for step in range(completion_tokens - 1):
        peer.decode([(tokens[s], len(question) + step, s, True) for s in range(8)])
        tokens = [int(peer.logits(s).argmax()) for s in range(8)]
    throughput = 8 * completion_tokens / (time.perf_counter() - begin)
    return {"decode_tokens_per_s": decode, "prefill_tokens_per_s": prefill, "first_token_ms": first * 1e3,
            "throughput8_tokens_per_s": throughput}


def perplexity(path, text, threads, window):
    peer = Peer(path, threads, window, 1)
    with open(text, encoding="utf-8") as file:
        tokens = peer.tokens(file.read())
    loss, count = 0.0, 0
    for first in range(0, len(tokens), window):
        part = tokens[first:first + window]
        peer.clear()
        for start in range(0, len(part), BATCH):
            rows = part[start:start + BATCH]
            peer.decode([(t, start + i, 0, True) for i, t in enumerate(rows)])
            for i in range(len(rows)):
                if start + i + 1 < len(part):
                    row = peer.logits(i).astype(numpy.float64)
                    top = row.max()
                    loss += math.log(numpy.exp(row - top).sum()) + top - row[part[start + i + 1]]
                    count += 1
    return {"tokens": len(tokens), "perplexity": math.exp(loss / count)}


def convert(path, out, kind):
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = TYPES[kind]
    parameters.allow_requantize = True
    if llama_cpp.llama_model_quantize(path.encode(), out.encode(), ctypes.byref(parameters)) != 0:
        raise SystemExit(f"llama.cpp could not convert {path} to {kind}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("convert")
    command.add_argument("model")
    command.add_argument("out")
    command.add_argument("kind", choices=sorted(TYPES))
    command = commands.add_parser("speed")
    command.add_argument("model")
    command.add_argument("--threads", type=int, default=2)
    command.add_argument("--prompt-tokens", type=int, default=512)
    command.add_argument("--completion-tokens", type=int, default=128)
    command = commands.add_parser("perplexity")
    command.add_argument("model")
    command.add_argument("text")
    command.add_argument("--threads", type=int, default=2)
    command.add_argument("--window", type=int, default=512)
    arguments = parser.parse_args()
    if arguments.command == "convert":
        convert(arguments.model, arguments.out, arguments.kind)
    elif arguments.command == "speed":
        print(json.dumps(speed(arguments.model, arguments.threads, arguments.prompt_tokens, arguments.completion_tokens)))
    else:
        print(json.dumps(perplexity(arguments.model, arguments.text, arguments.threads, arguments.window)))


if __name__ == "__main__":
    main()
