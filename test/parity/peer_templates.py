#!/usr/bin/env python3
"""Prompts whose last answer goes on, rendered by Hugging Face `transformers`, as vectors for our chat templates.

    python3 test/parity/peer_templates.py test/vectors/continued.json

Needs PyPI `transformers` and `jinja2` (4.57.6 and 3.1.6 made the committed file). The templates are those of the families
that we serve, shortened to what chats without tools print.
"""

import json
import sys

import jinja2
import tokenizers
import transformers

TEMPLATES = {
    "smollm2": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama3": "{{- bos_token }}\n{%- for message in messages %}\n    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n",
    "mistral": "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ message['content'] + eos_token}}{% endif %}{% endfor %}",
}
ANSWERS = ["The kee", "1. one\n2. t", "a a a", "</s> is the end", "é漢字🙂", " led by a space", "ends in a space ", "ends in lines\n\n"]


def main(path):
    vectors = {"peer": f"transformers {transformers.__version__}, jinja2 {jinja2.__version__}", "cases": []}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE()), bos_token="<s>", eos_token="</s>")
    for family, template in TEMPLATES.items():
        for answer in ANSWERS:
            messages = [{"role": "user", "content": "Tell a a story"}, {"role": "assistant", "content": answer}]
            text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, continue_final_message=True)
            vectors["cases"].append({"family": family, "template": template, "answer": answer, "text": text})
    with open(path, "w", encoding="utf-8") as file:
        json.dump(vectors, file, ensure_ascii=False, indent=1)
        file.write("\n")


main(sys.argv[1])
