"""The unmodified `openai` client against the meter: chat, streaming with usage, models, and an error of each kind.

Reads OPENAI_BASE_URL and, from the file that KEY_FILE names, the API key. Prints one line for each check that holds.
"""

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
