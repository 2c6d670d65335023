#!/usr/bin/env bash
# Checks and measures a card, in one call of under ten minutes, and writes one JSON into bench/results/.
#
#   gpu-node/benches/gpu.sh [GPU_NODE] [MODEL_DIR]
#
# GPU_NODE    a release binary with the kernels in it (PRLX_REQUIRE_KERNELS=1 cargo build --release --package gpu-node, after
#             `cargo xtask kernels`); by default target/release/gpu-node, built here when it is missing
# MODEL_DIR   SmolLM2-135M-Instruct, imported; whole-model equality is checked on it when it is there
#
# Beside it, where they can be called: llama.cpp (LLAMA_BENCH=path of llama-bench, LLAMA_MODEL=a Q8_0 GGUF of 8B shapes) and a PyTorch
# loop with a static cache (TORCH_LOOP=command that prints one JSON object). compute-sanitizer where it is installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

binary=${1:-target/release/gpu-node}
smollm=${2:-.parallelix/models/smollm2-135m-instruct}
if [[ ! -x $binary ]]; then
    PRLX_REQUIRE_KERNELS=1 cargo build --release --package gpu-node
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p bench/results
say() { printf '%s  %s\n' "$(date -u +%H:%M:%S)" "$*" >&2; }

say "the card, its copy bandwidth, and equality on a small random model"
"$binary" device --check --copy --json >"$work/device.json"

smollm_equal=null
if [[ -d $smollm ]]; then
    say "equality on $smollm"
    smollm_equal=$("$binary" device --check --model "$smollm" --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["equal_values"])')
fi

say "an 8B-shaped model of noise"
"$binary" model random --shape 8b --seed 1 "$work/random-8b" >&2

say "equality on it: the processor computes 280 tokens"
random_equal=$(timeout 240 "$binary" device --check --model "$work/random-8b" --json |
    python3 -c 'import json,sys; print(json.load(sys.stdin)["equal_values"])' || echo null)

sanitizer='"not installed"'
if command -v compute-sanitizer >/dev/null; then
    say "compute-sanitizer on the small model"
    if compute-sanitizer --error-exitcode 9 "$binary" device --check >"$work/sanitizer.log" 2>&1; then sanitizer='"clean"'; else sanitizer='"errors"'; cat "$work/sanitizer.log" >&2; fi
fi

say "speed: context 1,024 + 128"
"$binary" bench --backend cuda --model "$work/random-8b" --batch 1,8,32,128 --prompt-tokens 1024 --completion-tokens 128 --runs 2 --json >"$work/decode.json"
say "speed: a prompt of 2,048"
"$binary" bench --backend cuda --model "$work/random-8b" --prompt-tokens 2048 --completion-tokens 2 --runs 3 --json >"$work/prompt.json"

say "start to first token"
began=$(date +%s%N)
"$binary" generate --backend cuda --model "$work/random-8b" --max-tokens 1 Hello >/dev/null
start_ms=$((($(date +%s%N) - began) / 1000000))

llama=null
if [[ -n ${LLAMA_BENCH:-} && -n ${LLAMA_MODEL:-} ]]; then
    say "llama.cpp on the same card"
    llama=$("$LLAMA_BENCH" -m "$LLAMA_MODEL" -p 2048 -n 128 -d 1024 -ngl 99 -o json) || llama=null
fi
torch=null
if [[ -n ${TORCH_LOOP:-} ]]; then
    say "PyTorch with a static cache"
    torch=$(bash -c "$TORCH_LOOP") || torch=null
fi

result=bench/results/gpu-$(date -u +%Y%m%dT%H%M%SZ).json
export smollm_equal random_equal sanitizer start_ms llama torch
python3 - "$work" "$result" <<'PY'
import json, os, pathlib, subprocess, sys

work, result = map(pathlib.Path, sys.argv[1:])
load = lambda name: json.loads((work / name).read_text())
device, decode, prompt = load("device.json"), load("decode.json"), load("prompt.json")
copy = device["copy_gb_per_s"]
layers, dim, hidden, kv_dim, vocab = 32, 4096, 14336, 1024, 128256
weights = layers * (dim * (2 * dim + 2 * kv_dim) + 3 * dim * hidden) + vocab * dim
context = decode["context_tokens"] - 64  # on average while the 128 tokens are decoded
kv = layers * 2 * kv_dim * 2 * context
rows = {}
for batch, speed in decode["decode_tokens_per_s_by_batch"].items():
    bytes_per_step = weights * 1.0625 + int(batch) * kv
    rows[batch] = {"tokens_per_s": speed, "share_of_copy_bandwidth": speed / int(batch) * bytes_per_step / 1e9 / copy}
prefill = prompt["prefill_tokens_per_s"]
report = {
    "v": 1,
    "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
    "date": subprocess.run(["date", "-u", "+%Y-%m-%dT%H:%M:%SZ"], capture_output=True, text=True).stdout.strip(),
    "device": device,
    "equal_values": {
        "random tiny": device["equal_values"],
        "SmolLM2-135M": json.loads(os.environ["smollm_equal"]),
        "random 8B": json.loads(os.environ["random_equal"]),
    },
    "compute_sanitizer": json.loads(os.environ["sanitizer"]),
    "model": "Llama 3.1 8B shapes, int8, random weights",
    "decode": {"context_tokens": decode["context_tokens"], "by_batch": rows},
    "prefill": {
        "prompt_tokens": 2048,
        "tokens_per_s": prefill,
        "tflop_per_s": prefill * 2 * (weights - vocab * dim) / 1e12,
        "first_token_ms": 2048 / prefill * 1e3,
    },
    "start_to_first_token_ms": int(os.environ["start_ms"]),
    "llama_cpp": json.loads(os.environ["llama"]),
    "pytorch": json.loads(os.environ["torch"]),
}
result.write_text(json.dumps(report, indent=2) + "\n")
print(result)
PY
