#!/usr/bin/env python3
"""Tiny random models of every family with logits by Hugging Face `transformers`, as vectors for import and engine.

    python3 test/parity/peer_transformers.py test/vectors/families

Needs PyPI `torch`, `transformers` and `tokenizers` (2.15.0, 5.24.0 and 0.23.3 made the committed files). Each model is saved by
`save_pretrained` as its authors would publish it. Weights are whole numbers up to 127 times a power of two, and every block of
32 has a weight of magnitude 127: our int8 blocks hold them without rounding, and so do bf16 and f16. What then differs
between `transformers` in f32 and another engine is that engine's arithmetic and nothing else.

`golden.json` holds a prompt, the greedy answer, logits at some positions, and `without`: how far the logits move (relative L2
distance over all positions) when the family's own feature is left out; `rounded`: how far when `transformers` rounds the inputs
of every product to int8 in blocks of 32. A tolerance between the two tells an engine's rounding from a feature's absence.
"""

import json
import os
import shutil
import sys

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

DIM, HEAD_DIM, CONTEXT = 64, 32, 512
ANSWER = 24
SHOWN = 8  # logits of every eighth position are written
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

COMMON = {
    "hidden_size": DIM, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "vocab_size": 260,
    "bos_token_id": 257, "eos_token_id": 258, "pad_token_id": 256,
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}


def families():
    """Name, configuration class, fields, storage type, shard size, and what its feature's absence means."""
    t = transformers
    yield "llama3", t.LlamaConfig, {"rope_parameters": LLAMA3, "tie_word_embeddings": False}, torch.bfloat16, "120KB", {"rope_parameters": PLAIN}
    yield "qwen2", t.Qwen2Config, {"rope_parameters": {**PLAIN, "rope_theta": 1e6}, "tie_word_embeddings": True, "use_sliding_window": False, "sliding_window": 16}, torch.float16, "5GB", "bias"
    yield "qwen3", t.Qwen3Config, {"rope_parameters": {**PLAIN, "rope_theta": 1e6}, "tie_word_embeddings": True, "num_attention_heads": 4, "head_dim": HEAD_DIM}, torch.bfloat16, "5GB", "qk_norm"
    yield "mistral", t.MistralConfig, {"rope_parameters": PLAIN, "tie_word_embeddings": False, "head_dim": HEAD_DIM, "sliding_window": 8}, torch.bfloat16, "5GB", {"sliding_window": None}
    yield "smollm", t.LlamaConfig, {"rope_parameters": {**PLAIN, "rope_theta": 1e5}, "tie_word_embeddings": True, "num_hidden_layers": 1}, torch.float32, "5GB", {"rope_parameters": {**PLAIN, "rope_theta": 1e3}}


def exact(shape, generator):
    """Whole numbers times powers of two, one of magnitude 127 in each block of 32 along the rows."""
    rows, columns = shape
    values = torch.randint(-127, 128, (rows, columns // 32, 32), generator=generator)
    at = torch.randint(0, 32, (rows, columns // 32, 1), generator=generator)
    sign = torch.randint(0, 2, (rows, columns // 32, 1), generator=generator) * 254 - 127
    values.scatter_(2, at, sign)
    exponents = torch.randint(-10, -7, (rows, columns // 32, 1), generator=generator)
    return torch.ldexp(values.float(), exponents).reshape(rows, columns)


def fill(model, generator):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.copy_(exact(parameter.shape, generator))
            else:
                noise = torch.randint(-32, 33, parameter.shape, generator=generator) / 64
                parameter.copy_(noise if name.endswith("bias") else 1 + noise)


def tokenizer():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    outer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=SPECIAL[1], eos_token=SPECIAL[2], pad_token=SPECIAL[0])
    outer.chat_template = TEMPLATE
    return outer


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].float()


def without(model, config_class, fields, feature):
    """The same weights in a model that lacks the feature."""
    changed = {**COMMON, **fields, **(feature if isinstance(feature, dict) else {})}
    other = AutoModelForCausalLM.from_config(config_class(**changed), attn_implementation="eager").float().eval()
    other.load_state_dict(model.state_dict())
    for name, parameter in other.named_parameters():
        if feature == "bias" and name.endswith("bias"):
            parameter.data.zero_()
    if feature == "qk_norm":
        for layer in other.model.layers:
            layer.self_attn.q_norm = torch.nn.Identity()
            layer.self_attn.k_norm = torch.nn.Identity()
    return other


def rounded_inputs(_, inputs):
    """Activations rounded to int8 in blocks of 32, as an engine with 8-bit arithmetic has them."""
    blocks = inputs[0].unflatten(-1, (-1, 32))
    scale = (blocks.abs().amax(-1, keepdim=True) / 127).clamp_min(1e-30)
    return ((blocks / scale).round() * scale).flatten(-2)


def golden(name, config_class, fields, dtype, shard, feature, out):
    generator = torch.Generator().manual_seed(sum(name.encode()))
    config = config_class(**{**COMMON, **fields})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    fill(model, generator)
    if config.tie_word_embeddings:
        model.tie_weights()
    tokens = tokenizer()
    message = {"role": "user", "content": f"Tell me of the {name}."}
    text = tokens.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    prompt = tokens.encode(text, add_special_tokens=False)
    ids = list(prompt)
    for _ in range(ANSWER):
        ids.append(int(logits(model, ids)[-1].argmax()))
    all_logits = logits(model, ids)
    moved = logits(without(model, config_class, fields, feature), ids) - all_logits
    hooks = [m.register_forward_pre_hook(rounded_inputs) for m in model.modules() if isinstance(m, torch.nn.Linear)]
    rounded = logits(model, ids) - all_logits
    for hook in hooks:
        hook.remove()

    shutil.rmtree(out, ignore_errors=True)
    model.to(dtype).save_pretrained(out, max_shard_size=shard)
    tokens.save_pretrained(out)
    again = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
    assert torch.equal(logits(again, ids), all_logits), "the saved weights are not exact"
    positions = range(SHOWN - 1, len(ids), SHOWN)
    document = {
        "peer": f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}",
        "user": message["content"],
        "prompt": prompt,
        "answer": ids[len(prompt):],
        "logits": [{"position": p, "values": [round(float(x), 4) for x in all_logits[p]]} for p in positions],
        "without": round(float(moved.norm() / all_logits.norm()), 4),
        "rounded": round(float(rounded.norm() / all_logits.norm()), 4),
    }
    with open(os.path.join(out, "golden.json"), "w", encoding="utf-8") as file:
        json.dump(document, file)
        file.write("\n")
    second, first = torch.topk(all_logits[len(prompt) - 1 : -1], 2).values.T.flip(0)
    print(f"{name}: {len(ids)} tokens, without its feature {document['without']}, rounded {document['rounded']}, smallest gap {float((first - second).min()):.4f}, std {float(all_logits.std()):.2f}")


def main():
    for name, *rest in families():
        golden(name, *rest, os.path.join(sys.argv[1], name))


if __name__ == "__main__":
    main()
