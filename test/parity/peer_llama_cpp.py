#!/usr/bin/env python3
"""Greedy answers of llama.cpp, as vectors for the engine's parity test.

    python3 test/parity/peer_llama_cpp.py MODEL.gguf test/vectors/smollm2_greedy.json
    python3 test/parity/peer_llama_cpp.py MODEL.gguf --bench

Needs PyPI `llama-cpp-python` and `numpy` (0.3.36 made the committed file). For each chat prompt it writes the token ids as
llama.cpp's tokenizer gives them and 64 greedy tokens with the gap between the two greatest logits at each step, twice:

- `exact`: the same weights expanded to f32 by llama.cpp's own quantiser, so that it computes in f32 throughout;
- `rounded`: the file as it is. Beside its 4-bit weights llama.cpp then rounds *activations* to 8 bits; `exact_tokens` are what
  it chooses at the same steps, after the same tokens, without that rounding.

Further, token ids of texts that are hard to split. `--bench` prints llama.cpp's own speed as `figure` lines.
"""

import argparse
import ctypes
import json
import os
import statistics
import tempfile
import time

import llama_cpp
import numpy

STEPS = 64

CHATS = [
    "What is the capital of France, and why is it famous?",
    "Explain photosynthesis to a ten year old child.",
    "Write a short poem about the sea at night.",
    "List five healthy breakfast ideas.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Translate 'good morning, my friend' into Spanish and French.",
    "What are the differences between a virus and a bacterium?",
    "Give me three tips for a better night's sleep.",
    "Who wrote Romeo and Juliet, and what is it about?",
    "How many days are there in a leap year, and why?",
]

TEXTS = [
    "Hello, world!",
    "  leading and trailing  ",
    "tabs\t\tand\n\n\nnewlines \r\n mixed   runs     of      space",
    "3.14159 1234567890 2024-01-31 0x1F 1,000,000",
    "don't we'll I'm you've they'd it's O'Neill 'quoted'",
    "naïve café Ångström straße Œuvre",
    "Привет, как дела? Ελληνικά κείμενα",
    "こんにちは世界、漢字とひらがな。",
    "안녕하세요 세계",
    "مرحبا بالعالم שלום עולם",
    "नमस्ते दुनिया ไทยไม่มีเว้นวรรค",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈 emoji 🇫🇷 mixed🚀text",
    "fn main() { let x: Vec<u8> = vec![0; 16]; println!(\"{x:?}\"); }",
    "def f(a, b=1):\n    return a**b  # comment\n\n\tif x != y: pass",
    "SELECT * FROM t WHERE a >= 10 AND b <> 'x';",
    "https://example.org/path?query=1&other=%20#frag user@example.com",
    "½ ² ³ Ⅷ ٣ ४ ① x² + y² = r²",
    "…—–“quotes”‘single’ •bullet ™ © €100 £5 ¥7",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbbb",
    "\u200bzero\u200dwidth\ufeffmarks \u00a0nbsp \u3000ideographic",
    "CamelCaseWords snake_case_words kebab-case-words ALLCAPS",
    "<|im_start|>system\nspecial tokens<|im_end|><|endoftext|> inside <|im_start text",
    "",
    " ",
    "\n",
]


def load(path, threads):
    return llama_cpp.Llama(path, n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)


def tokenize(model, text):
    return model.tokenize(text.encode(), add_bos=False, special=True)


def render(question):
    """The model's own chat template, written out: a default system message, one user message, the answer's opening."""
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    return f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def logits(model):
    pointer = llama_cpp.llama_get_logits(model.ctx)
    return numpy.ctypeslib.as_array(pointer, shape=(model.n_vocab(),)).copy()


def expand(path, out):
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_ALL_F32
    parameters.allow_requantize = True
    if llama_cpp.llama_model_quantize(path.encode(), out.encode(), ctypes.byref(parameters)) != 0:
        raise SystemExit(f"llama.cpp could not expand {path} to f32")


def greedy(model, prompt):
    """Token ids and top-2 logit gaps. The first end-of-turn token ends the answer and is part of it."""
    model.reset()
    model.eval(prompt)
    tokens, gaps = [], []
    for _ in range(STEPS):
        row = logits(model)
        token = int(row.argmax())
        second, first = numpy.partition(row, -2)[-2:]
        tokens.append(token)
        gaps.append(round(float(first - second), 4))
        if llama_cpp.llama_vocab_is_eog(model._model.vocab, token):
            break
        model.eval([token])
    return {"tokens": tokens, "gaps": gaps}


def choices_after(model, prompt, tokens):
    """What the model would choose at each step of somebody else's answer."""
    model.reset()
    model.eval(prompt)
    choices = []
    for token in tokens:
        choices.append(int(logits(model).argmax()))
        model.eval([token])
    return choices


def write_vectors(path, out, threads):
    rounded = load(path, threads)
    with tempfile.TemporaryDirectory() as folder:
        expanded = os.path.join(folder, "f32.gguf")
        expand(path, expanded)
        exact = load(expanded, threads)
    chats = []
    for question in CHATS:
        prompt = tokenize(rounded, render(question))
        chat = {"user": question, "prompt": prompt, "exact": greedy(exact, prompt), "rounded": greedy(rounded, prompt)}
        chat["rounded"]["exact_tokens"] = choices_after(exact, prompt, chat["rounded"]["tokens"])
        chats.append(chat)
    texts = [{"text": text, "tokens": tokenize(rounded, text) if text else []} for text in TEXTS]
    name = os.path.basename(path)
    document = {"peer": f"llama-cpp-python {llama_cpp.__version__}", "model": name, "chats": chats, "texts": texts}
    with open(out, "w", encoding="utf-8") as file:
        json.dump(document, file, ensure_ascii=True)
        file.write("\n")


def bench(model, runs=3, prompt_tokens=512, completion_tokens=128):
    question = tokenize(model, render("Write a long and detailed story about a lighthouse keeper, the sea, and the ships that pass."))
    long = (question * (prompt_tokens // len(question) + 1))[:prompt_tokens]
    decode, prefill, first = [], [], []
    for _ in range(runs):
        model.reset()
        begin = time.perf_counter()
        model.eval(question)
        logits(model).argmax()
        first.append((time.perf_counter() - begin) * 1e3)
        begin = time.perf_counter()
        for _ in range(completion_tokens - 1):
            model.eval([int(logits(model).argmax())])
        decode.append((completion_tokens - 1) / (time.perf_counter() - begin))
        model.reset()
        begin = time.perf_counter()
        model.eval(long)
        logits(model)
        prefill.append(prompt_tokens / (time.perf_counter() - begin))
    print(f"figure llama_cpp_decode_tokens_per_s {statistics.median(decode):.2f} tokens/s")
    print(f"figure llama_cpp_prefill_tokens_per_s {statistics.median(prefill):.2f} tokens/s")
    print(f"figure llama_cpp_first_token_ms {statistics.median(first):.2f} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="GGUF file")
    parser.add_argument("out", nargs="?", help="JSON file to write")
    parser.add_argument("--bench", action="store_true", help="print llama.cpp's speed")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.out:
        write_vectors(arguments.model, arguments.out, arguments.threads)
    if arguments.bench:
        bench(load(arguments.model, arguments.threads))


if __name__ == "__main__":
    main()
