#!/usr/bin/env python3
"""Test vectors of `docs/numerics.md`, computed from that page alone.

    python3 test/parity/numerics_reference.py test/vectors/numerics.json

Needs numpy. Single operations are numpy's f32 ones; fused multiply-adds are formed exactly, as fractions, and rounded once. It shares no
code with the engine. Numbers are written as the hexadecimal digits of their bits, eight each for f32, four for f16, two for a byte.
"""

import json
import math
import sys
from fractions import Fraction

import numpy as np

f32, f16 = np.float32, np.float16
BLOCK, SEGMENT, PAGE = 32, 16, 64


def fma(a, b, c):
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    near = f32(float(exact))
    candidates = [np.nextafter(near, f32(-np.inf)), near, np.nextafter(near, f32(np.inf))]
    even = lambda x: int(x.view(np.uint32)) & 1
    return min(candidates, key=lambda x: (abs(Fraction(float(x)) - exact), even(x)))


def tree(lanes):
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [f32(lanes[i] + lanes[i + half]) for i in range(half)]
    return lanes[0]


def round_even(x):
    return int(np.rint(x))


def quantize_weights(block):
    scale = f16(f32(max(abs(w) for w in block)) / f32(127))
    if scale == 0:
        return scale, [0] * BLOCK
    return scale, [max(-127, min(127, round_even(w / f32(scale)))) for w in block]


def quantize_activations(block):
    most = max(abs(x) for x in block)
    if most < f32(2.0) ** f32(-90):
        return f32(0), [0] * BLOCK
    scale = f32(most / f32(127))
    return scale, [round_even(x / scale) for x in block]


def product(weights, x):
    """One output: `weights` is a row of (scale, q) blocks, `x` one of activations."""
    total, acc = f32(0), f32(0)
    for b, ((ws, wq), (xs, xq)) in enumerate(zip(weights, x)):
        acc = fma(f32(f32(ws) * xs), f32(sum(w * q for w, q in zip(wq, xq))), acc)
        if (b + 1) % SEGMENT == 0 or b + 1 == len(x):
            total, acc = f32(total + acc), f32(0)
    return total


def norm(x, gain, eps):
    lanes = [f32(0)] * 128
    for k, value in enumerate(x):
        lanes[k % 128] = fma(value, value, lanes[k % 128])
    factor = f32(1) / np.sqrt(f32(f32(tree(lanes) / f32(len(x))) + eps))
    return [f32(f32(v * factor) * g) for v, g in zip(x, gain)]


def exp(x):
    x = min(max(x, f32(-87)), f32(88))
    shift = f32(1.5 * 2**23)
    s = fma(x, f32(math.log2(math.e)), shift)
    n = f32(s - shift)
    r = fma(n, f32(2.1219444e-4), fma(n, f32(-0.6933594), x))
    p = f32(1 / 5040)
    for c in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1, 1):
        p = fma(p, r, f32(c))
    bits = (int(p.view(np.uint32)) + (int(n) << 23)) & 0xFFFFFFFF
    return np.uint32(bits).view(f32)


def silu(x):
    return f32(x / f32(f32(1) + exp(f32(-x))))


def angles(position, head_dim, theta):
    frequency = [1.0 / math.pow(theta, 2 * i / head_dim) for i in range(head_dim // 2)]
    return [f32(math.cos(position * f)) for f in frequency], [f32(math.sin(position * f)) for f in frequency]


def rotate(head, position, theta, m):
    cos, sin = angles(position, len(head), theta)
    half = len(head) // 2
    low = [f32(f32(f32(x * c) - f32(y * s)) * m) for x, y, c, s in zip(head[:half], head[half:], cos, sin)]
    high = [f32(f32(f32(y * c) + f32(x * s)) * m) for x, y, c, s in zip(head[:half], head[half:], cos, sin)]
    return low + high


def attend(q, keys, values, window):
    """`q` of the last position, rotated and scaled; keys rotated and values, both rounded to f16 already."""
    t = len(keys) - 1
    first = max(0, t + 1 - window) if window else 0
    merged = None
    for chunk in range(first // PAGE, t // PAGE + 1):
        positions = range(max(first, chunk * PAGE), min(t + 1, (chunk + 1) * PAGE))
        scores = {}
        for p in positions:
            acc = f32(0)
            for d in range(len(q)):
                acc = fma(q[d], keys[p][d], acc)
            scores[p] = acc
        most = max(scores.values())
        weights = {p: exp(f32(scores[p] - most)) for p in positions}
        lanes = [f32(0)] * 16
        for p in positions:
            lanes[p % 16] = f32(lanes[p % 16] + weights[p])
        total = tree(lanes)
        value = []
        for d in range(len(q)):
            acc = f32(0)
            for p in positions:
                acc = fma(weights[p], values[p][d], acc)
            value.append(acc)
        if merged is None:
            merged = (most, total, value)
            continue
        m, s, v = merged
        greater = max(m, most)
        a, b = exp(f32(m - greater)), exp(f32(most - greater))
        merged = (greater, fma(total, b, f32(s * a)), [fma(c, b, f32(o * a)) for c, o in zip(value, v)])
    inverse = f32(f32(1) / merged[1])
    return [f32(x * inverse) for x in merged[2]]


def hex_of(numbers, dtype=f32):
    array = np.array(numbers, dtype=dtype)
    width = array.dtype.itemsize
    return "".join(f"{int(x):0{2 * width}x}" for x in array.view({4: np.uint32, 2: np.uint16, 1: np.uint8}[width]))


def main():
    random = np.random.default_rng(20260101)
    draw = lambda n, scale=1.0: [f32(x) for x in random.standard_normal(n) * scale]
    out = {"contract": "parallelix-x8-1"}

    block = draw(BLOCK, 0.05)
    scale, q = quantize_weights(block)
    out["weights"] = {"in": hex_of(block), "scale": hex_of([scale], f16), "q": hex_of(q, np.int8)}
    block = draw(BLOCK, 3.0)
    block[5] = f32(0)
    scale, q = quantize_activations(block)
    out["activations"] = {"in": hex_of(block), "scale": hex_of([scale]), "q": hex_of(q, np.int8)}

    columns, rows = 544, 3
    matrix, x = [draw(columns, 0.05) for _ in range(rows)], draw(columns, 2.0)
    stored = [[quantize_weights(row[k:k + BLOCK]) for k in range(0, columns, BLOCK)] for row in matrix]
    taken = [quantize_activations(x[k:k + BLOCK]) for k in range(0, columns, BLOCK)]
    out["product"] = {"columns": columns, "weights": hex_of([w for row in matrix for w in row]), "x": hex_of(x),
                      "out": hex_of([product(row, taken) for row in stored])}

    x, gain, eps = draw(200, 4.0), draw(200), f32(1e-5)
    out["norm"] = {"x": hex_of(x), "gain": hex_of(gain), "eps": hex_of([eps]), "out": hex_of(norm(x, gain, eps))}

    points = [f32(v) for v in (-200, -87, -20.5, -1, -1e-7, 0, 1e-7, 0.34657359, 0.5, 1, 10.25, 88, 200)] + draw(20, 10.0)
    out["exp"] = {"x": hex_of(points), "out": hex_of([exp(v) for v in points]), "silu": hex_of([silu(v) for v in points])}

    head_dim, theta = 32, 10000.0
    out["attention"] = []
    for positions, window in ((1, None), (150, None), (150, 70)):
        q, k, v = draw(head_dim, 2.0), [draw(head_dim, 2.0) for _ in range(positions)], [draw(head_dim) for _ in range(positions)]
        m = f32(f32(1) / np.sqrt(f32(head_dim)))
        turned = rotate(q, positions - 1, theta, m)
        keys = [[f32(f16(x)) for x in rotate(key, p, theta, f32(1))] for p, key in enumerate(k)]
        values = [[f32(f16(x)) for x in value] for value in v]
        out["attention"].append({"theta": theta, "window": window, "q": hex_of(q), "k": hex_of([x for key in k for x in key]),
                                 "v": hex_of([x for value in v for x in value]), "out": hex_of(attend(turned, keys, values, window))})
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(out, file, indent=0)
        file.write("\n")


if __name__ == "__main__":
    main()
