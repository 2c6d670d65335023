#!/usr/bin/env python3
"""Random blocks of every imported GGUF storage type with their elements, as vectors for `gguf/quant.rs`.

    python3 test/parity/gguf_dequant.py test/vectors/gguf_dequant.json

Needs PyPI `gguf` and `numpy` (0.19.0 made the committed file). The elements are what the
package's own numpy dequantisers give, as bits of f32. Scales are drawn finite: files with others are refused at import.
"""

import importlib.metadata
import json
import sys

import numpy
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

BLOCKS = 3
# Offsets of the f16 scales inside a block.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}


def block_bytes(kind, random):
    elements, size = GGML_QUANT_SIZES[kind]
    if kind.name == "F32":
        return random.standard_normal(8, dtype=numpy.float32).tobytes()
    if kind.name == "F16":
        return random.standard_normal(8, dtype=numpy.float32).astype(numpy.float16).tobytes()
    if kind.name == "BF16":
        return (random.standard_normal(8, dtype=numpy.float32).view(numpy.uint32) >> 16).astype(numpy.uint16).tobytes()
    block = bytearray(random.bytes(size))
    for at in SCALES[kind.name]:
        block[at : at + 2] = numpy.float16(random.standard_normal() * 0.1).tobytes()
    return bytes(block)


def main():
    random = numpy.random.default_rng(20)
    vectors = []
    for name in ["F32", "F16", "BF16", *SCALES]:
        kind = GGMLQuantizationType[name]
        data = b"".join(block_bytes(kind, random) for _ in range(BLOCKS))
        raw = numpy.frombuffer(data, dtype={"F32": numpy.float32, "F16": numpy.float16}.get(name, numpy.uint8))
        elements = numpy.ascontiguousarray(dequantize(raw, kind), dtype=numpy.float32).reshape(-1)
        vectors.append({"type": name, "code": int(kind), "blocks": data.hex(), "elements": elements.view(numpy.uint32).tolist()})
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(vectors, file)
        file.write("\n")
    print("gguf", importlib.metadata.version("gguf"))


if __name__ == "__main__":
    main()
