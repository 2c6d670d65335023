// The conversation: compose, stream, stop, and what each answer cost. Answers enter the page as text nodes and nothing else.

import { estimateTokens, messageCostUp, prlx, tokensForDown } from "./amounts.js";
import { ApiFailure, failureFrom, plainWords } from "./api.js";
import { announce, byId, el, figure, shortHex } from "./dom.js";
import { readSse } from "./sse.js";

// Small models ramble at the API's default of 1.
const TEMPERATURE = 0.3;
const LOG_STICK_PX = 80;
const RECEIPT_TRIES_MAX = 20;
const RECEIPT_PERIOD_MS = 500;

/** What one completion chunk adds to an answer. Throws the failure that an error event stands for. */
export function readChunk(answer, chunk) {
  const choice = chunk.choices?.[0];
  if (chunk.parallelix) answer.served = chunk.parallelix;
  if (chunk.usage) answer.usage = chunk.usage;
  if (chunk.error) throw failureFrom(200, chunk);
  if (choice?.finish_reason) answer.finishReason = choice.finish_reason;
  const delta = choice?.delta?.content;
  return typeof delta === "string" ? delta : "";
}

/** What a stored receipt says of an answer whose last event was never seen, because the reader stopped it. */
export function readReceipt(answer, stored) {
  const { prompt_tokens, completion_tokens, operator } = stored.receipt;
  answer.usage = { prompt_tokens, completion_tokens, cost_credits: stored.cost_credits, cost: stored.cost };
  answer.served = { receipt_id: stored.id, node: stored.node, operator, fallback: stored.fallback };
}

/** How many tokens an answer may have so that a refused request fits what is available; null when none do. */
export function answerThatFits(metadata, rate, maxTokens) {
  if (metadata.available_credits === undefined || metadata.needed_credits === undefined) return null;
  const affordable = tokensForDown(rate, metadata.available_credits);
  const needed = tokensForDown(rate, metadata.needed_credits);
  if (affordable === null || needed === null) return null;
  const promptTokens = needed - BigInt(maxTokens);
  const room = affordable - (promptTokens > 0n ? promptTokens : 0n);
  return room >= 1n ? Number(room) : null;
}

export function createChat({ api, models, openAccess, openReceipt, onSpent }) {
  const messages = [];
  let running = null;
  let conversation = 0; // counts up when the chat is cleared, so that an answer under way does not come back

  const prompt = byId("prompt");
  const log = byId("log");
  const maxTokens = () => Math.max(1, Math.min(131_072, Number.parseInt(byId("max-tokens").value, 10) || 1));

  function showEstimate() {
    const model = models.chosen();
    if (!model) return;
    const tokens = estimateTokens([...messages, { content: prompt.value }]) + maxTokens();
    byId("estimate").textContent = `up to about ${prlx(messageCostUp(model.rate, tokens))} PRLX`;
  }

  function addMessage(role, text) {
    byId("welcome")?.setAttribute("hidden", "");
    const body = el("div", { class: "text" }, document.createTextNode(text));
    const article = el("article", { class: `message ${role}`, "aria-label": role === "user" ? "You" : "Answer" }, body);
    log.append(article);
    log.scrollTop = log.scrollHeight;
    return { article, text: body.firstChild };
  }

  /** Appends deltas once a frame, and keeps the end in view unless the reader scrolled up. */
  function writer(textNode) {
    let waiting = "";
    let scheduled = false;
    const flush = () => {
      scheduled = false;
      if (waiting === "") return;
      const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < LOG_STICK_PX;
      textNode.appendData(waiting);
      waiting = "";
      if (atEnd) log.scrollTop = log.scrollHeight;
    };
    return {
      push(delta) {
        waiting += delta;
        if (!scheduled) requestAnimationFrame(flush);
        scheduled = true;
      },
      flush,
    };
  }

  function showNotice(failure) {
    const { title, text, action } = plainWords(failure);
    const notice = byId("notice");
    notice.replaceChildren(el("div", {}, el("strong", {}, title), text && ` — ${text}`));
    const fits = action === "shorten" ? answerThatFits(failure.metadata, models.chosen()?.rate ?? 0, maxTokens()) : null;
    if (action === "access") notice.append(el("button", { type: "button", click: openAccess }, "Connect"));
    if (action === "retry") notice.append(el("button", { type: "button", click: () => send() }, "Try again"));
    if (fits) {
      const shorten = () => {
        byId("max-tokens").value = String(fits);
        showEstimate();
        send();
      };
      notice.append(el("button", { type: "button", click: shorten }, `Allow ${fits.toLocaleString()} tokens and send`));
    }
    notice.append(el("button", { type: "button", class: "quiet", click: hideNotice }, "Dismiss"));
    notice.hidden = false;
  }

  function hideNotice() {
    byId("notice").hidden = true;
  }

  /** The line under an answer: tokens, cost, speed, node, badge, receipt. */
  function meterLine(answer) {
    const { usage, served } = answer;
    const cost = usage?.cost ?? (usage?.cost_credits === undefined ? null : prlx(usage.cost_credits));
    const spanS = (answer.lastAt - answer.firstAt) / 1000;
    const speed = usage?.completion_tokens > 1 && spanS > 0 ? (usage.completion_tokens - 1) / spanS : null;
    const parts = [
      usage && `${figure(usage.prompt_tokens)} in · ${figure(usage.completion_tokens)} out`,
      cost !== null && cost !== undefined && `${cost} PRLX`,
      speed && el("span", { title: "tokens per second, as this page received them" }, `${figure(speed)} tok/s`),
      served.node && el("span", { title: `node ${served.node}, operator ${served.operator ?? "?"}` }, `node ${shortHex(served.node)}`),
    ];
    const line = el("p", { class: "meter" }, parts.map((part) => part && el("span", {}, part)));
    if (served.fallback) {
      line.append(el("span", { class: "badge", title: "No network node was online for this model: the project's own hardware answered." }, "Fallback"));
    }
    if (answer.finishReason === "length") line.append(el("span", {}, "cut at the longest answer"));
    if (served.receipt_id) {
      line.append(el("button", { type: "button", class: "quiet", click: () => openReceipt(served.receipt_id) }, "Receipt"));
    }
    return line;
  }

  async function send() {
    const text = prompt.value.trim();
    const model = models.chosen();
    if (running || text === "" || !model) return;
    hideNotice();
    running = new AbortController();
    const { signal } = running;
    const begunIn = conversation;
    byId("send").disabled = true;
    byId("stop").hidden = false;

    const question = addMessage("user", text);
    const shown = addMessage("assistant", "");
    shown.article.classList.add("streaming");
    const write = writer(shown.text);
    const answer = { text: "", usage: null, served: {}, finishReason: null, requestId: null, firstAt: 0, lastAt: 0 };
    prompt.value = "";

    let failure = null;
    try {
      const request = {
        model: model.id,
        messages: [...messages, { role: "user", content: text }],
        max_tokens: maxTokens(),
        temperature: TEMPERATURE,
        stream: true,
        stream_options: { include_usage: true },
      };
      const response = await api.stream("/v1/chat/completions", request, signal);
      answer.requestId = response.headers.get("x-request-id");
      let finished = false;
      await readSse(response.body, ({ data }) => {
        if (data === "[DONE]") {
          finished = true;
          return;
        }
        const delta = readChunk(answer, JSON.parse(data));
        if (delta === "") return;
        answer.firstAt ||= performance.now();
        answer.lastAt = performance.now();
        answer.text += delta;
        write.push(delta);
      });
      if (!finished) throw new ApiFailure({ code: "cut_off" });
    } catch (error) {
      const expected = error instanceof ApiFailure || error?.name === "AbortError";
      failure = expected ? error : new ApiFailure({ code: "cut_off" });
    }

    write.flush();
    shown.article.classList.remove("streaming");
    if (begunIn === conversation) settle({ question, shown, answer, text, failure });
    running = null;
    byId("send").disabled = false;
    byId("stop").hidden = true;
    showEstimate();
    onSpent();
    prompt.focus();
  }

  /** What stays in the page when an answer is over, whole or not. */
  function settle({ question, shown, answer, text, failure }) {
    const stopped = failure?.name === "AbortError";
    if (failure && answer.text === "") {
      // Nothing arrived: the draft goes back where it was.
      question.article.remove();
      shown.article.remove();
      prompt.value = text;
      if (messages.length === 0) byId("welcome")?.removeAttribute("hidden");
      if (!stopped) showNotice(failure);
      return;
    }
    messages.push({ role: "user", content: text }, { role: "assistant", content: answer.text });
    if (stopped) {
      const note = el("p", { class: "note" }, "Stopped. Only what arrived is charged.");
      shown.article.append(note);
      announce("Stopped");
      fetchMeter(answer, note);
      return;
    }
    shown.article.append(meterLine(answer));
    if (failure) {
      const { title, text: advice } = plainWords(failure);
      shown.article.append(el("p", { class: "broken", role: "alert" }, `${title}. ${advice}`));
    } else {
      announce(`Answer: ${answer.text}`);
    }
  }

  /** A stopped answer is charged when its node has said where it stopped; its figures come from the receipt then. */
  async function fetchMeter(answer, note) {
    for (let attempt = 0; answer.requestId && attempt < RECEIPT_TRIES_MAX; attempt += 1) {
      await new Promise((wake) => setTimeout(wake, RECEIPT_PERIOD_MS));
      const stored = await api.json("GET", `/v1/receipts/${answer.requestId}`).catch(() => null);
      if (!stored) continue;
      readReceipt(answer, stored);
      note.before(meterLine(answer));
      onSpent();
      return;
    }
  }

  function clear() {
    running?.abort();
    conversation += 1;
    messages.length = 0;
    for (const article of log.querySelectorAll(".message")) article.remove();
    byId("welcome")?.removeAttribute("hidden");
    hideNotice();
    showEstimate();
    prompt.focus();
  }

  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && running && !document.querySelector("dialog[open]")) running.abort();
  });
  byId("stop").addEventListener("click", () => running?.abort());
  byId("clear").addEventListener("click", clear);
  prompt.addEventListener("input", showEstimate);
  byId("max-tokens").addEventListener("input", showEstimate);

  return { showEstimate };
}
