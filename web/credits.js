// The pill in the head: what may be spent now; behind it, where every credit is.

import { byId, el, poll } from "./dom.js";

const PERIOD_MS = 5_000;

/** Rows of the credits dialog as `[name, PRLX or words, meaning]`. */
export function creditRows(credits) {
  const { authorization } = credits;
  const of = (name) => `${credits[name] ?? "0"} PRLX`; // a wallet without an account has less to show
  const rows = [
    ["Spendable", of("spendable"), "what one answer may cost right now"],
    ["Available", of("available"), "deposited, neither reserved nor spent"],
    ["Held", of("held"), "reserved for answers under way; what is not used comes back"],
    ["Unsettled", of("unsettled"), "spent, not yet paid out on chain"],
  ];
  if (credits.pending_credits > 0) rows.push(["Pending", of("pending"), "deposited, waiting for confirmations"]);
  if (!authorization) return [...rows, ["Authorization", "none", "sign one with the wallet before the first message"]];
  const until = authorization.valid_until > 0 ? new Date(authorization.valid_until * 1000).toLocaleString() : "revoked";
  return [...rows, ["Authorization", authorization.live ? `${authorization.room} PRLX left` : "over", `valid until ${until}`]];
}

/** Keeps the pill fresh while somebody is connected. Returns a function that refreshes it now. */
export function startCredits({ api, onConnected }) {
  const pill = byId("credits");

  async function refresh() {
    try {
      const credits = await api.json("GET", "/v1/credits");
      const beside = ["held", "unsettled"].filter((name) => credits[`${name}_credits`] > 0).map((name) => ` · ${credits[name]} ${name}`);
      pill.replaceChildren(`${credits.spendable} PRLX`, el("span", { class: "beside" }, beside.join("")));
      pill.setAttribute("aria-label", `Credits: ${credits.spendable} PRLX spendable, ${credits.held ?? 0} held, ${credits.unsettled ?? 0} unsettled`);
      pill.hidden = false;
      const rows = creditRows(credits).flatMap(([name, amount, meaning]) => [el("dt", {}, name), el("dd", {}, amount, el("div", { class: "note" }, meaning))]);
      byId("credits-list").replaceChildren(...rows);
      onConnected(null);
    } catch (failure) {
      if (failure.code === "offline" || failure.status >= 500) return;
      pill.hidden = true;
      onConnected(failure);
    }
  }

  pill.addEventListener("click", () => byId("credits-dialog").showModal());
  return poll(refresh, PERIOD_MS);
}
