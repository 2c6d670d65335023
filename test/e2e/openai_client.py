"""The unmodified `openai` client against the meter: chat, streaming with usage, log-probabilities, biases, JSON answers, models,
and an error of each kind.

Reads OPENAI_BASE_URL and, from the file that KEY_FILE names, the API key. Prints one line for each check that holds.
"""

import json
import os
import sys

import openai

with open(os.environ["KEY_FILE"], encoding="utf-8") as file:
    KEY = file.read().strip()
MODEL = os.environ["MODEL"]
ASK = [{"role": "user", "content": "What is the sea?"}]
client = openai.OpenAI(api_key=KEY, max_retries=0, timeout=60)


def holds(name, condition, shown=None):
    if not condition:
        sys.exit(f"{name} does not hold: {shown}")
    print(f"holds: {name}")


def refused(name, error_type, call):
    try:
        call()
    except error_type as error:
        holds(name, error.message and error.code, error)
    else:
        sys.exit(f"{name}: no error")


models = [model.id for model in client.models.list()]
holds("models are listed", MODEL in models, models)
holds("a model is shown", client.models.retrieve(MODEL).id == MODEL)

answer = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=12, temperature=0)
holds("a chat answers", answer.choices[0].message.content and answer.choices[0].message.role == "assistant", answer)
holds("it has usage", answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens, answer.usage)
holds("it has a cost", answer.usage.model_extra["cost_credits"] > 0, answer.usage)

text, usage, reasons = "", None, []
for chunk in client.chat.completions.create(
    model=MODEL, messages=ASK, max_tokens=12, temperature=0, stream=True, stream_options={"include_usage": True}
):
    usage = chunk.usage or usage
    for choice in chunk.choices:
        text += choice.delta.content or ""
        reasons += [choice.finish_reason] if choice.finish_reason else []
holds("a stream says the same", text == answer.choices[0].message.content, (text, answer.choices[0].message.content))
holds("a stream has usage", usage and usage.total_tokens == answer.usage.total_tokens, usage)
holds("a stream ends once", reasons == [answer.choices[0].finish_reason], reasons)

completion = client.completions.create(model=MODEL, prompt="The sea is", max_tokens=8, temperature=0)
holds("a text completion answers", completion.choices[0].text, completion)

scored = client.chat.completions.create(
    model=MODEL, messages=ASK, max_tokens=12, temperature=0, logprobs=True, top_logprobs=3
)
tokens = scored.choices[0].logprobs.content
holds("log-probabilities change nothing", scored.choices[0].message.content == answer.choices[0].message.content, scored)
shown = b"".join(bytes(token.bytes) for token in tokens).decode()
holds("their bytes are the text", shown == scored.choices[0].message.content, shown)
holds("the likeliest was taken", all(token.top_logprobs[0].token == token.token for token in tokens), tokens)
holds(
    "they are logarithms",
    all(len(token.top_logprobs) == 3 and token.logprob == token.top_logprobs[0].logprob <= 0 for token in tokens),
    tokens,
)
streamed = []
for chunk in client.chat.completions.create(
    model=MODEL, messages=ASK, max_tokens=12, temperature=0, logprobs=True, top_logprobs=3, stream=True
):
    for choice in chunk.choices:
        streamed += choice.logprobs.content if choice.logprobs else []
holds("a stream has the same ones", streamed == tokens, streamed)

legacy = client.completions.create(model=MODEL, prompt="The sea is", max_tokens=8, temperature=0, logprobs=2).choices[0]
holds("a text completion has its four lists", "".join(legacy.logprobs.tokens) == legacy.text == completion.choices[0].text, legacy)
holds("its offsets are the text's", all(legacy.text[at:].startswith(token) for token, at in zip(legacy.logprobs.tokens, legacy.logprobs.text_offset)), legacy)

banned = {str(id): -100 for id in range(1000)}
free = client.completions.create(model=MODEL, prompt="The sea is", max_tokens=8, temperature=0, logit_bias=banned)
holds("a bias changes the answer", free.choices[0].text != completion.choices[0].text, free)

schema = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 40},
        "depth": {"type": "integer", "minimum": 0, "maximum": 11000},
        "salty": {"type": "boolean"},
    },
    "required": ["title", "depth", "salty"],
    "additionalProperties": False,
}
held = client.chat.completions.create(
    model=MODEL,
    messages=ASK,
    max_tokens=200,
    temperature=0,
    response_format={"type": "json_schema", "json_schema": {"name": "sea", "strict": True, "schema": schema}},
)
value = json.loads(held.choices[0].message.content)
holds(
    "an answer satisfies its schema",
    list(value) == ["title", "depth", "salty"]
    and isinstance(value["title"], str)
    and isinstance(value["depth"], int)
    and 0 <= value["depth"] <= 11000
    and isinstance(value["salty"], bool),
    value,
)
holds("it ends by itself", held.choices[0].finish_reason == "stop", held)
refused(
    "a schema that can't be held is a 400",
    openai.BadRequestError,
    lambda: client.chat.completions.create(
        model=MODEL,
        messages=ASK,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "banana"}}},
    ),
)
refused(
    "an unknown biased token is a 400",
    openai.BadRequestError,
    lambda: client.chat.completions.create(model=MODEL, messages=ASK, logit_bias={"99999999": 1}),
)
refused("10,000 stop strings are a 400", openai.BadRequestError, lambda: client.chat.completions.create(model=MODEL, messages=ASK, stop=["x"] * 10000))

refused("an unknown model is a 404", openai.NotFoundError, lambda: client.chat.completions.create(model="gpt-9", messages=ASK))
refused("no message is a 400", openai.BadRequestError, lambda: client.chat.completions.create(model=MODEL, messages=[]))
refused(
    "an absurd temperature is a 400",
    openai.BadRequestError,
    lambda: client.chat.completions.create(model=MODEL, messages=ASK, temperature=99),
)
stranger = client.with_options(api_key="prlx_unknown")
refused("an unknown key is a 401", openai.AuthenticationError, lambda: stranger.chat.completions.create(model=MODEL, messages=ASK))

with open(os.environ["POOR_KEY_FILE"], encoding="utf-8") as file:
    poor = client.with_options(api_key=file.read().strip())
try:
    poor.chat.completions.create(model=MODEL, messages=ASK, max_tokens=4000)
except openai.APIStatusError as error:
    holds("too few credits are a 402", error.status_code == 402 and error.code == "insufficient_credits", error)
else:
    sys.exit("too few credits: no error")
