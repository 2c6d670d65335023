// Puts the page together: access, models, credits, chat, receipts, nodes.

import { createAccess, looksLikeKey } from "./access.js";
import { prlx } from "./amounts.js";
import { createApi, plainWords } from "./api.js";
import { createChat } from "./chat.js";
import { startCredits } from "./credits.js";
import { byId, el } from "./dom.js";
import { startKeys } from "./keys.js";
import { startPool } from "./pool.js";
import { createReceiptView } from "./receipt.js";
import { startWallet } from "./wallet.js";

const access = createAccess();
const api = createApi(access.key);
const receipts = createReceiptView(api);
const models = createModels();

const openAccess = () => byId("access").showModal();
const chat = createChat({ api, models, openAccess, openReceipt: receipts.open, onSpent: () => refreshCredits() });
const keys = startKeys({ api });
const refreshCredits = startCredits({ api, onConnected: showAccess });
startWallet({ api, access });
startPool({ api, onPool: models.online });

let failureShown = null;
access.onChange(() => {
  failureShown = null;
  refreshCredits();
});
byId("access-open").addEventListener("click", openAccess);
byId("key-form").addEventListener("submit", useKey);
byId("sign-out").addEventListener("click", signOut);
byId("model").addEventListener("change", chat.showEstimate);
models.load();

/** The models with their prices, and which of them somebody serves now. */
function createModels() {
  let list = [];
  const served = new Map();

  function show() {
    const select = byId("model");
    const chosen = select.value;
    const options = list.map((model) => {
      const nodes = served.get(model.id) ?? model.nodes;
      const text = `${model.id} — ${prlx(model.rate)} PRLX per 1M tokens${nodes === 0 ? ", no node online" : ""}`;
      return el("option", { value: model.id, selected: model.id === chosen }, text);
    });
    select.replaceChildren(...options);
    const model = chosenModel();
    byId("model-note").textContent = model?.context ? `${model.context.toLocaleString()} tokens of context` : "";
  }

  const chosenModel = () => list.find((model) => model.id === byId("model").value) ?? list[0];

  return {
    chosen: chosenModel,
    async load() {
      try {
        const reply = await api.json("GET", "/v1/models");
        list = reply.data.map((model) => ({
          id: model.id,
          rate: model.credits_per_million_tokens ?? 0,
          context: model.context_tokens,
          nodes: model.nodes_online + model.fallback_nodes_online,
        }));
        show();
        chat.showEstimate();
      } catch (failure) {
        const { title, text } = plainWords(failure);
        byId("model-note").textContent = `${title}. ${text}`;
        setTimeout(this.load.bind(this), 5_000);
      }
    },
    online(nodes) {
      served.clear();
      for (const model of list) served.set(model.id, 0);
      for (const node of nodes) {
        for (const model of node.models ?? []) {
          const id = String(model.id);
          served.set(id, (served.get(id) ?? 0) + 1);
        }
      }
      // Rebuilding an open list would close it under the reader's hand.
      if (document.activeElement !== byId("model")) show();
    },
  };
}

function showAccess(failure) {
  const key = access.key();
  const connected = failure === null;
  byId("access-open").textContent = connected ? "Account" : "Connect";
  byId("access-title").textContent = connected ? "Account" : "Connect";
  byId("sign-out").hidden = !connected;
  byId("sign-out").textContent = key ? "Forget this key" : "Sign out";
  byId("access-state").textContent = connected ? (key ? `Connected with the API key ${key.slice(0, 11)}…` : "Connected with a wallet.") : "Not connected.";
  keys.show(connected && !key);
  if (!connected && key && failureShown !== failure.code) {
    const { title, text } = plainWords(failure);
    byId("key-note").textContent = `${title}. ${text}`;
    if (failureShown === null) openAccess();
    failureShown = failure.code;
  }
}

function useKey(event) {
  event.preventDefault();
  const field = byId("key");
  if (!looksLikeKey(field.value)) {
    byId("key-note").textContent = "An API key starts with prlx_ and has only letters and digits. Copy the whole key.";
    field.focus();
    return;
  }
  access.use(field.value);
  field.value = "";
  byId("key-note").textContent = "It stays in this tab and is gone when the tab is closed.";
  byId("access").close();
}

async function signOut() {
  if (access.key()) {
    access.forget();
    return;
  }
  try {
    await api.json("DELETE", "/v1/session");
  } catch (failure) {
    if (failure.status !== 401) byId("access-state").textContent = plainWords(failure).title;
  }
  access.changed();
}
