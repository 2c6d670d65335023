"""Makes one JSON of what the parts of gpu.sh left. Called by gpu.sh.

gpu_report.py WORK BACKEND RESULT.json   exit code 0 when every part passed and all answers are equal
"""

import datetime
import json
import pathlib
import subprocess
import sys

# Llama 3.1 8B, as `gpu-node model random --shape 8b` writes it.
LAYERS, DIM, HIDDEN, KV_DIM, VOCABULARY = 32, 4096, 14336, 1024, 128256
WEIGHTS = LAYERS * (DIM * (2 * DIM + 2 * KV_DIM) + 3 * DIM * HIDDEN) + VOCABULARY * DIM
BYTES_A_WEIGHT = 1.0625
SEQUENCE_BYTES_A_TOKEN = LAYERS * 2 * KV_DIM * 2


def read_parts(work):
    """States by name, in the order of the parts; nothing when the first one never began."""
    parts = {}
    table = work / "parts.tsv"
    for line in table.read_text(errors="replace").splitlines() if table.exists() else []:
        name, state, took_ms = line.split("\t")
        parts[name] = {"state": state, "took_ms": int(took_ms)}
    return parts


def load(work, parts, name):
    """The JSON that a part printed; None unless it passed. A part that passed and printed none has failed."""
    if parts.get(name, {}).get("state") != "passed":
        return None
    try:
        return json.loads((work / f"{name}.out").read_text())
    except (OSError, ValueError) as error:
        parts[name]["state"] = f"failed: its output is no JSON: {error}"
        return None


def answers(work, parts):
    """Whether each request's tokens and proof root are the same on the card and on the processor; None where one is missing."""
    equal = {}
    names = [
        name.removeprefix("answer.").removesuffix(".device") for name in parts if name.startswith("answer.") and name.endswith(".device")
    ]
    for name in names:
        device, processor = (load(work, parts, f"answer.{name}.{side}") for side in ("device", "cpu"))
        keys = ("tokens", "proof_root", "finish_reason")
        equal[name] = all(device[key] == processor[key] for key in keys) if device and processor else None
    return equal


def speeds(bench, copy_gb_per_s):
    """Tokens per second by batch, and the share of the copy bandwidth that the bytes of a step take."""
    if bench is None:
        return None
    rows = {}
    for batch, speed in bench["decode_tokens_per_s_by_batch"].items():
        context_tokens = bench["decode_context_tokens_by_batch"][batch]
        step_bytes = WEIGHTS * BYTES_A_WEIGHT + int(batch) * SEQUENCE_BYTES_A_TOKEN * context_tokens
        share = speed / int(batch) * step_bytes / 1e9 / copy_gb_per_s if copy_gb_per_s else None
        rows[batch] = {"tokens_per_s": speed, "context_tokens": context_tokens, "share_of_copy_bandwidth": share}
    return rows


def prompts(bench):
    """Prefill speed, and the operations behind it."""
    if bench is None:
        return None
    speed = bench["prefill_tokens_per_s"]
    tokens = bench["prompt_tokens"]
    return {
        "prompt_tokens": tokens,
        "tokens_per_s": speed,
        "tflop_per_s": speed * 2 * (WEIGHTS - VOCABULARY * DIM) / 1e12,
        "first_token_ms": tokens / speed * 1e3 if speed else None,
    }


def main():
    work, backend, result = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
    parts = read_parts(work)
    device = load(work, parts, "device")
    copy_gb_per_s = device["copy_gb_per_s"] if device else None
    first_token = parts.get("first_token", {})
    is_trial = backend == "cpu"
    equal = answers(work, parts)
    values = {name: (load(work, parts, name) or {}).get("equal_values") for name in ("device", "equal.real", "equal.random")}
    report = {
        "v": 2,
        "is_trial_without_card": is_trial,
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip() or None,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "device": device,
        "equal_values": values,
        "equal_answers": equal,
        "model": "random, tiny" if is_trial else "Llama 3.1 8B shapes, int8, random weights",
        # The shares and operations are those of 8B shapes.
        "decode": speeds(load(work, parts, "decode"), copy_gb_per_s),
        "decode_sampled": speeds(load(work, parts, "sampled"), copy_gb_per_s),
        "prefill": None if is_trial else prompts(load(work, parts, "prompt")),
        "start_to_first_token_ms": first_token["took_ms"] if first_token.get("state") == "passed" else None,
        "llama_cpp": load(work, parts, "llama_cpp"),
        "pytorch": load(work, parts, "pytorch"),
    }
    report["parts"] = parts
    failed = [name for name, part in parts.items() if part["state"].startswith("failed")]
    differs = [name for name, same in equal.items() if same is False]
    passed = bool(parts) and not failed and not differs and all(equal.values())
    report["passed"] = passed
    result.write_text(json.dumps(report, indent=2) + "\n")
    print(result)
    for name in failed:
        print(f"{name}: {parts[name]['state']}", file=sys.stderr)
    for name in differs:
        print(f"answer {name}: the card's differs from the processor's", file=sys.stderr)
    sys.exit(0 if passed else 1)


main()
