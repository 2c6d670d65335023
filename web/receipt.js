// One receipt: what was served and charged, where it stands, and the path from it to the root on chain.

import { plainWords } from "./api.js";
import { prlx } from "./amounts.js";
import { byId, el } from "./dom.js";

const PERIOD_MS = 2_000;
const OVER = ["settled", "refunded", "disputed"];

/** The states as steps: each with whether it is reached and whether it is a bad end. */
export function stepsOf(state) {
  const way = ["signed", "batched", "settled"];
  const at = way.indexOf(state);
  const steps = way.map((name, index) => ({ name, reached: index <= at, bad: false }));
  if (state === "awaiting_signature") return [{ name: "waiting for the node's signature", reached: true, bad: false }, ...steps];
  if (state === "refunded" || state === "disputed") return [{ name: state, reached: true, bad: true }];
  return steps;
}

const NOTES = {
  awaiting_signature: "The node has not signed yet. It is asked again when it is back; after 24 hours the charge is given back.",
  signed: "Signed by the node. It waits for the next settlement.",
  batched: "In a batch. It waits for the chain.",
  settled: "Paid out on chain. Anybody can check the receipt against the batch's root with verifyReceipt.",
  refunded: "The node never signed: the charge was given back.",
  disputed: "This receipt is disputed and was not paid.",
};

const time = (seconds) => new Date(Number(seconds) * 1000).toLocaleString();

/** Rows of the receipt as `[name, value]`, in the order of the protocol's section 5; what is absent is left out. */
export function fieldsOf(stored) {
  const receipt = stored.receipt ?? {};
  const tokens = `${receipt.prompt_tokens} in · ${receipt.completion_tokens} out`;
  const rate = receipt.model_rate === undefined ? undefined : `${prlx(receipt.model_rate)} PRLX per 1,000,000 tokens`;
  const rows = [
    ["Charge", receipt.amount === undefined ? undefined : `${prlx(receipt.amount)} PRLX`],
    ["Tokens", tokens],
    ["Rate", rate],
    ["Model", stored.model],
    ["Ended by", stored.finish_reason],
    ["Operator", receipt.operator],
    ["Node", stored.node && `${stored.node}${stored.fallback ? " (fallback)" : ""}`],
    ["Started", receipt.started_at && time(receipt.started_at)],
    ["Served", receipt.served_at && time(receipt.served_at)],
    ["Request", receipt.request_id],
    ["Model root", receipt.model_root],
    ["Engine", receipt.engine],
    ["Prompt hash", receipt.prompt_hash],
    ["Answer hash", receipt.completion_hash],
    ["Parameters", receipt.params_hash],
    ["Proof root", receipt.proof_root],
    ["Signature", stored.signature],
    ["Signed digest", stored.digest],
    ["Leaf", stored.leaf],
    ["Batch", stored.batch?.seq],
    ["Merkle path", stored.batch?.proof],
    ["Root", stored.batch?.root],
    ["Transaction", stored.batch?.transaction],
  ];
  return rows.filter(([, value]) => value !== undefined && value !== null);
}

function value(given) {
  if (Array.isArray(given)) {
    return given.length === 0 ? "none: the receipt is alone in its batch" : el("ol", {}, given.map((hash) => el("li", {}, el("code", {}, String(hash)))));
  }
  const text = String(given);
  return /^0x/.test(text) ? el("code", {}, text) : text;
}

export function createReceiptView(api) {
  const dialog = byId("receipt");
  let shown = null;
  let timer = null;

  function render(stored) {
    const steps = stepsOf(stored.state).map(({ name, reached, bad }) => el("li", { "data-reached": reached && !bad, "data-bad": bad }, name));
    byId("receipt-states").replaceChildren(...steps);
    byId("receipt-note").textContent = NOTES[stored.state] ?? stored.state;
    byId("receipt-fields").replaceChildren(...fieldsOf(stored).flatMap(([name, given]) => [el("dt", {}, name), el("dd", {}, value(given))]));
  }

  async function refresh(id) {
    try {
      const stored = await api.json("GET", `/v1/receipts/${encodeURIComponent(id)}`);
      if (shown !== id) return;
      render(stored);
      if (OVER.includes(stored.state)) return;
    } catch (error) {
      if (shown !== id) return;
      const { title, text } = plainWords(error);
      byId("receipt-note").textContent = `${title}. ${text}`;
    }
    timer = setTimeout(() => refresh(id), PERIOD_MS);
  }

  dialog.addEventListener("close", () => {
    shown = null;
    clearTimeout(timer);
  });

  return {
    open(id) {
      clearTimeout(timer);
      shown = id;
      byId("receipt-states").replaceChildren();
      byId("receipt-fields").replaceChildren();
      byId("receipt-note").textContent = "Loading";
      dialog.showModal();
      refresh(id);
    },
  };
}
