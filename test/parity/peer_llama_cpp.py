#!/usr/bin/env python3
"""Greedy answers of llama.cpp and its logits along them, as vectors for the engine's parity test.

    python3 test/parity/peer_llama_cpp.py MODEL.gguf test/vectors/smollm2_greedy.json

Needs PyPI `llama-cpp-python` and `numpy` (0.3.36 made the committed file). For each chat prompt it writes the token ids as
llama.cpp's tokenizer gives them and up to 64 greedy tokens of the same weights expanded to f32 by llama.cpp's own quantiser, so that it
computes in f32 throughout. At each step stand the eight greatest logits (`top`, `exact`), and what llama.cpp computes for the same
tokens after the same answer with the weights in Q8_0 (`q8`): beside the weights it then rounds activations to 8 bits, as the engine does.

Further, token ids of texts that are hard to split.
"""

import argparse
import ctypes
import json
import os
import tempfile

import llama_cpp
import numpy

STEPS = 64
TOP = 8

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


def convert(path, out, kind):
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = kind
    parameters.allow_requantize = True
    if llama_cpp.llama_model_quantize(path.encode(), out.encode(), ctypes.byref(parameters)) != 0:
        raise SystemExit(f"llama.cpp could not convert {path}")


def greedy(model, prompt):
    """Token ids, and the greatest logits at each step. The first end-of-turn token ends the answer and is part of it."""
    model.reset()
    model.eval(prompt)
    tokens, tops, values = [], [], []
    for _ in range(STEPS):
        row = logits(model)
        top = numpy.argsort(row)[::-1][:TOP]
        tokens.append(int(top[0]))
        tops.append([int(t) for t in top])
        values.append([round(float(row[t]), 4) for t in top])
        if llama_cpp.llama_vocab_is_eog(model._model.vocab, tokens[-1]):
            break
        model.eval([tokens[-1]])
    return tokens, tops, values


def along(model, prompt, tokens, tops):
    """Logits of the same tokens at each step of somebody else's answer."""
    model.reset()
    model.eval(prompt)
    values = []
    for token, top in zip(tokens, tops):
        row = logits(model)
        values.append([round(float(row[t]), 4) for t in top])
        model.eval([token])
    return values


def write_vectors(path, out, threads):
    with tempfile.TemporaryDirectory() as folder:
        expanded, rounded = os.path.join(folder, "f32.gguf"), os.path.join(folder, "q8.gguf")
        convert(path, expanded, llama_cpp.LLAMA_FTYPE_ALL_F32)
        convert(path, rounded, llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0)
        exact, q8 = load(expanded, threads), load(rounded, threads)
    chats = []
    for question in CHATS:
        prompt = tokenize(exact, render(question))
        tokens, tops, values = greedy(exact, prompt)
        chats.append({"user": question, "prompt": prompt, "tokens": tokens, "top": tops, "exact": values,
                      "q8": along(q8, prompt, tokens, tops)})
    texts = [{"text": text, "tokens": tokenize(exact, text) if text else []} for text in TEXTS]
    name = os.path.basename(path)
    document = {"peer": f"llama-cpp-python {llama_cpp.__version__}", "model": name, "chats": chats, "texts": texts}
    with open(out, "w", encoding="utf-8") as file:
        json.dump(document, file, ensure_ascii=True)
        file.write("\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="GGUF file")
    parser.add_argument("out", help="JSON file to write")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    write_vectors(arguments.model, arguments.out, arguments.threads)


if __name__ == "__main__":
    main()
