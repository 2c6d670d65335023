// The wallet's API keys: made, shown once, listed, revoked.

import { prlx } from "./amounts.js";
import { plainWords } from "./api.js";
import { byId, el } from "./dom.js";

export function startKeys({ api }) {
  const note = byId("keys-new");
  let listed = false;

  function say(...parts) {
    note.replaceChildren(...parts);
    note.hidden = false;
  }

  const complain = (failure) => {
    const { title, text } = plainWords(failure);
    say(`${title}. ${text}`);
  };

  function item(key) {
    const limit = key.limit_credits === null ? "" : ` of ${prlx(key.limit_credits)}`;
    const spent = key.spent_credits === undefined ? "" : `${prlx(key.spent_credits)}${limit} PRLX`;
    const revoke = el("button", { type: "button", class: "quiet", click: () => end(key) }, "Revoke");
    return el("li", { class: key.revoked_at ? "revoked" : "" },
      el("strong", {}, key.name), el("code", {}, `${key.prefix}…`), el("span", { class: "note" }, spent),
      key.revoked_at ? el("span", { class: "note" }, "revoked") : revoke);
  }

  async function list() {
    try {
      const { data } = await api.json("GET", "/v1/keys");
      byId("keys-list").replaceChildren(...data.map(item));
    } catch (failure) {
      complain(failure);
    }
  }

  async function make(event) {
    event.preventDefault();
    try {
      const made = await api.json("POST", "/v1/keys", { body: { name: byId("keys-name").value } });
      const copy = el("button", { type: "button", click: () => navigator.clipboard.writeText(made.key) }, "Copy");
      say("Copy it now, it is not shown again: ", el("code", {}, made.key), " ", copy);
      byId("keys-name").value = "";
      await list();
    } catch (failure) {
      complain(failure);
    }
  }

  async function end(key) {
    try {
      await api.json("DELETE", `/v1/keys/${encodeURIComponent(key.id)}`);
      say(`The key ${key.name} no longer works.`);
      await list();
    } catch (failure) {
      complain(failure);
    }
  }

  byId("keys-form").addEventListener("submit", make);

  return {
    /** Shows the section to a session, and lists the keys when it appears. */
    show(visible) {
      byId("keys").hidden = !visible;
      if (visible && !listed) list();
      if (!visible) note.hidden = true;
      listed = visible;
    },
  };
}
