// The live list of nodes. Each figure says whether the meter measured it or the node declared it.

import { byId, el, figure, poll, shortHex } from "./dom.js";

const PERIOD_MS = 2_000;
const STALE_AFTER_MS = 10_000;

const WORDS = { measured: "measured by the meter", declared: "declared by the node" };

/** The speed of a node: what the meter measured, or before the first answer what the node declares. */
export function speedOf(node) {
  const measured = node.answer_tokens_per_s;
  if (measured?.value) return measured;
  return node.decode_tokens_per_s?.value ? node.decode_tokens_per_s : null;
}

function marked(figureGiven, unit) {
  if (figureGiven?.value === null || figureGiven?.value === undefined) return null;
  const { value, source } = figureGiven;
  const sign = el("abbr", { class: `mark ${source}`, title: WORDS[source] ?? source }, source === "measured" ? "m" : "d");
  return el("span", {}, `${figure(value)} ${unit} `, sign);
}

function nodeItem(node) {
  const active = node.active?.value ?? 0;
  const capacity = Math.max(1, node.capacity?.value ?? 1);
  const device = node.device?.value;
  return el("li", { class: "node" },
    el("div", { class: "node-head" },
      el("code", { title: `${node.node}, operator ${node.operator}` }, shortHex(String(node.node))),
      node.fallback ? el("span", { class: "badge" }, "Fallback") : el("span", { class: "note" }, `operator ${node.operator}`)),
    el("div", {}, (node.models ?? []).map((model) => String(model.id)).join(", ")),
    el("div", { class: "note" }, device ? `${device.kind} · ${device.name} ` : "", node.draining?.value && "· leaving"),
    el("progress", { max: capacity, value: Math.min(active, capacity), "aria-label": `${active} of ${capacity} places in use` }),
    el("div", { class: "figures" },
      marked(node.active, `of ${capacity} active`),
      marked(node.queued, "queued"),
      marked(speedOf(node), "tok/s")));
}

/** Keeps the list fresh; `onPool` hears each reply. */
export function startPool({ api, onPool }) {
  let freshAt = 0;

  async function refresh() {
    try {
      const pool = await api.json("GET", "/v1/pool");
      const { nodes } = pool;
      freshAt = performance.now();
      byId("pool-list").replaceChildren(...nodes.map(nodeItem));
      byId("pool-note").textContent = nodes.length === 0 ? "none online" : `${nodes.length} online`;
      onPool(nodes);
    } catch {
      const ageS = Math.round((performance.now() - freshAt) / 1000);
      byId("pool-note").textContent = freshAt === 0 ? "not reachable" : `last heard ${ageS} s ago`;
    }
    const stale = performance.now() - freshAt > STALE_AFTER_MS;
    for (const item of byId("pool-list").children) item.classList.toggle("stale", stale);
  }

  poll(refresh, PERIOD_MS);
  byId("pool-open").addEventListener("click", () => {
    const open = byId("pool").classList.toggle("open");
    byId("pool-open").setAttribute("aria-expanded", String(open));
    byId("pool-open").textContent = open ? "Chat" : "Nodes";
  });
}
