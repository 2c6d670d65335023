#!/usr/bin/env bash
# Checks and measures a card, in one call of under ten minutes, and writes one JSON into bench/results/ (of a trial, beside the system's
# temporary files).
#
#   gpu-node/benches/gpu.sh [--backend cuda|cpu] [GPU_NODE] [MODEL_DIR]
#
# --backend   cpu goes through the same script without a card, on a tiny model, and skips what only a card can do: a trial of the script
#             whose figures say nothing
# GPU_NODE    a release binary with the kernels in it (PRLX_REQUIRE_KERNELS=1 cargo build --release --package gpu-node, after
#             `cargo xtask kernels`); by default target/release/gpu-node
# MODEL_DIR   a small real model, imported, such as SmolLM2-135M-Instruct; answers and whole-model equality are compared on it when it is
#             there, else on a random tiny one
#
# Beside it, where they can be called: llama.cpp (LLAMA_BENCH=path of llama-bench, LLAMA_MODEL=a Q8_0 GGUF of 8B shapes) and torch_loop.py, a
# PyTorch loop with a static cache, where TORCH_PYTHON (python3) has PyTorch. compute-sanitizer where it is installed.
#
# Each part has a limit of its own; one that fails or runs out of time is named in the JSON, and the others go on. All of them together end
# after GPU_LIMIT_S seconds (570). Exit codes: 0 every part passed and all answers are equal; 1 not; 2 it could not begin.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
}
refuse() {
    printf 'gpu.sh: %s\n' "$1" >&2
    exit 2
}

backend=cuda
while [[ ${1:-} == -* ]]; do
    case $1 in
    --backend)
        backend=${2:-}
        shift $(($# < 2 ? $# : 2))
        ;;
    -h | --help) usage && exit 0 ;;
    *) refuse "unknown option $1; --help shows what there is" ;;
    esac
done
[[ $backend == cuda || $backend == cpu ]] || refuse "--backend is cuda or cpu, not '$backend'"
binary=${1:-target/release/gpu-node}
real=${2:-.parallelix/models/smollm2-135m-instruct}
[[ -x $binary ]] || refuse "$binary can't be run; build it: cargo xtask kernels && PRLX_REQUIRE_KERNELS=1 cargo build --release --package gpu-node"
command -v python3 >/dev/null || refuse "python3 was not found; it writes the result"
"$binary" --version >/dev/null || refuse "$binary does not start"

limit_s=${GPU_LIMIT_S:-570}
[[ $limit_s =~ ^[1-9][0-9]{0,4}$ ]] || refuse "GPU_LIMIT_S is a number of seconds, not '$limit_s'"
work=$(mktemp -d) || exit 2
mkdir -p bench/results || exit 2
result=bench/results/gpu-$(date -u +%Y%m%dT%H%M%SZ).json
# Figures of a trial are nobody's result.
[[ $backend == cuda ]] || result=$(mktemp --suffix .json)

# Whatever happens, what is known by then is written.
finish() {
    local state=0
    python3 gpu-node/benches/gpu_report.py "$work" "$backend" "$result" || state=1
    rm -rf "$work"
    exit "$state"
}
trap finish EXIT
trap 'exit 1' INT TERM

say() { printf '%s  %s\n' "$(date -u +%H:%M:%S)" "$*" >&2; }
now_ms() { printf '%s' $((${EPOCHREALTIME/[.,]/} / 1000)); }
record() { printf '%s\t%s\t%s\n' "$1" "$2" "$3" >>"$work/parts.tsv"; }
skip() {
    say "$1: skipped, $2"
    record "$1" "skipped: $2" 0
}

# part NAME LIMIT_S COMMAND...: its output becomes NAME.out.
part() {
    local name=$1 limit=$2 left=$((limit_s - SECONDS)) began code=0
    shift 2
    if ((left < 5)); then
        record "$name" "failed: no time was left" 0
        return 1
    fi
    ((limit < left)) || limit=$left
    say "$name (at most $limit s)"
    began=$(now_ms)
    timeout --kill-after=5 "$limit" "$@" >"$work/$name.out" 2>"$work/$name.err" </dev/null || code=$?
    case $code in
    0) record "$name" passed $(($(now_ms) - began)) ;;
    124 | 137) record "$name" "failed: not done after $limit s" $(($(now_ms) - began)) ;;
    *) record "$name" "failed: exit code $code: $(tail -n 3 "$work/$name.err" | tr '\t\n' '  ' | cut -c -400)" $(($(now_ms) - began)) ;;
    esac
    ((code == 0)) || tail -n 5 "$work/$name.err" >&2
    return "$code"
}

# answer NAME MODEL LIMIT_S TOKENS FLAGS...: the same request on the card and on the processor.
answer() {
    local name=$1 model=$2 limit=$3 tokens=$4 side on
    shift 4
    for side in device cpu; do
        on=cpu
        [[ $side == cpu ]] || on=$backend
        part "answer.$name.$side" "$limit" \
            "$binary" generate --backend "$on" --model "$model" --max-tokens "$tokens" --json "$@" "What is the sea?"
    done
}

if [[ $backend == cuda ]]; then
    shape=8b batches=1,8,32,128 prompt=1024 completion=128 long=2048
    part device 60 "$binary" device --check --copy --json
    if [[ -d $real ]]; then part equal.real 60 "$binary" device --check --model "$real" --json; else skip equal.real "no model in $real"; fi
    if command -v compute-sanitizer >/dev/null; then
        part sanitizer 60 compute-sanitizer --error-exitcode 9 "$binary" device --check
    else
        skip sanitizer "compute-sanitizer is not installed"
    fi
else
    shape=tiny batches=1,8 prompt=100 completion=1500 long=200
    for name in device equal.real sanitizer; do skip "$name" "no card is used"; done
fi

part model 150 "$binary" model random --shape "$shape" --seed 1 "$work/random"
small=$real
if [[ ! -d $small ]]; then
    small=$work/tiny
    part model.tiny 20 "$binary" model random --shape tiny --seed 2 "$small"
fi
answer greedy "$small" 30 64
answer warm "$small" 30 64 --temperature 1 --seed 1
answer top_k "$small" 30 64 --temperature 0.8 --top-k 40 --seed 2
answer top_p "$small" 30 64 --temperature 0.8 --top-p 0.9 --seed 3
answer both "$small" 30 64 --temperature 1.5 --top-k 200 --top-p 0.95 --seed 4
answer random "$work/random" 60 12 --temperature 0.8 --top-p 0.9 --seed 5

speed() { part "$1" "$2" "$binary" bench --backend "$backend" --model "$work/random" --json "${@:3}"; }
speed decode 120 --batch "$batches" --prompt-tokens "$prompt" --completion-tokens "$completion" --runs 2
speed sampled 60 --batch 1,32 --prompt-tokens "$prompt" --completion-tokens "$completion" --runs 1 --temperature 0.8 --top-p 0.9
speed prompt 40 --prompt-tokens "$long" --completion-tokens 2 --runs 3
part first_token 40 "$binary" generate --backend "$backend" --model "$work/random" --max-tokens 1 --json Hello

if [[ $backend == cuda ]]; then
    part equal.random 150 "$binary" device --check --model "$work/random" --json
else
    skip equal.random "no card is used"
fi
if [[ -n ${LLAMA_BENCH:-} && -n ${LLAMA_MODEL:-} ]]; then
    part llama_cpp 90 "$LLAMA_BENCH" -m "$LLAMA_MODEL" -p 2048 -n 128 -d 1024 -ngl 99 -o json
else
    skip llama_cpp "LLAMA_BENCH and LLAMA_MODEL name none"
fi
torch_python=${TORCH_PYTHON:-python3}
torch_flags=()
[[ $backend == cuda ]] || torch_flags=(--device cpu --shape tiny --batch 1,8 --context 100 --prompt 200 --steps 8)
if "$torch_python" -c 'import torch' 2>/dev/null; then
    part pytorch 90 "$torch_python" gpu-node/benches/torch_loop.py "${torch_flags[@]}"
else
    skip pytorch "$torch_python has no PyTorch; TORCH_PYTHON names another"
fi
