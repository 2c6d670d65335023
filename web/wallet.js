// Wallets in the browser: found by EIP-6963, asked for one signature. Without a live authorization that signature is one,
// and its terms are said in words before the wallet opens.

import { parsePrlx, prlx } from "./amounts.js";
import { plainWords } from "./api.js";
import { byId, el } from "./dom.js";
import { accountOfData, accountsData, authorizeData, normalizedSignature, readAccount, typedData } from "./vault.js";

const SIGN_WITHIN_S = 600;
const ICON_FORM = /^data:image\/(png|jpeg|webp|gif|svg\+xml)[;,]/;

const nowS = () => Math.floor(Date.now() / 1000);

/** A wallet's refusal in plain words, by its code (EIP-1193, EIP-3085). */
export function walletWords(error) {
  const words = {
    4001: "You declined in the wallet. Nothing was signed.",
    4100: "The wallet did not allow this page. Allow it in the wallet and try again.",
    4200: "This wallet can't sign typed data (EIP-712). Use another wallet.",
    4902: "The wallet does not know this chain. Add it in the wallet and try again.",
    [-32002]: "The wallet is already asking. Open it and answer there.",
  };
  return words[error?.code] ?? `The wallet failed: ${String(error?.message ?? error).slice(0, 200)}`;
}

/** Whether spending is authorized now and stays so for a minute: the authorization ends `exitDelay` before the last debit. */
export const isAuthorized = (account, exitDelayS, atS) =>
  account !== null && account.settleDeadline > BigInt(atS + exitDelayS + 60) && account.authorizedCum > account.settled;

export function startWallet({ api, access }) {
  const found = new Map();
  const say = (text) => {
    byId("wallet-note").textContent = text;
  };
  let pending = null; // a wallet that waits for the form below the buttons

  function show() {
    const wallets = [...found.values()];
    if (wallets.length === 0 && globalThis.ethereum) wallets.push({ info: { name: "Browser wallet" }, provider: globalThis.ethereum });
    const buttons = wallets.map(({ info, provider }) => {
      const icon = ICON_FORM.test(info.icon ?? "") && el("img", { src: info.icon, alt: "", width: 20, height: 20 });
      return el("button", { type: "button", class: "wallet", click: () => connect(provider) }, icon, String(info.name).slice(0, 40));
    });
    const none = el("p", { class: "note" }, "No wallet was found in this browser. A wallet is an extension that keeps your key; reading prices and nodes needs none.");
    byId("wallets").replaceChildren(...(buttons.length > 0 ? buttons : [none]));
  }

  /** Runs one step with the wallet and says what went wrong, if something did. */
  async function attempt(step) {
    try {
      await step();
    } catch (error) {
      if (error?.name !== "Error" || error.status === undefined) say(walletWords(error));
      else {
        const { title, text } = plainWords(error);
        say(`${title}. ${text}`);
      }
    }
  }

  const connect = (provider) =>
    attempt(async () => {
      say("Waiting for the wallet…");
      const [owner] = await provider.request({ method: "eth_requestAccounts" });
      const deployment = await api.json("GET", "/v1/deployment");
      await switchChain(provider, deployment.chainId);
      const account = await vaultAccount(provider, deployment, owner);
      const wallet = { provider, owner, deployment, account };
      provider.on?.("accountsChanged", endSession);
      if (isAuthorized(account, deployment.exitDelay, nowS())) {
        await signIn(wallet);
      } else {
        offerAuthorization(wallet);
      }
    });

  async function switchChain(provider, chainId) {
    const present = BigInt(await provider.request({ method: "eth_chainId" }));
    if (present === BigInt(chainId)) return;
    await provider.request({ method: "wallet_switchEthereumChain", params: [{ chainId: `0x${BigInt(chainId).toString(16)}` }] });
  }

  /** The vault's account of `owner`, read through the wallet's own view of the chain; null before the first deposit. */
  async function vaultAccount(provider, deployment, owner) {
    const call = (data) => provider.request({ method: "eth_call", params: [{ to: deployment.credits, data }, "latest"] });
    const id = BigInt(await call(accountOfData(owner)));
    return id === 0n ? null : readAccount(await call(accountsData(id)));
  }

  function offerAuthorization(wallet) {
    pending = wallet;
    const balance = wallet.account ? wallet.account.netDeposited - wallet.account.settled : 0n;
    const held = `The vault has ${prlx(balance)} PRLX of this wallet.`;
    byId("authorize-words").textContent = `${held} Before the first message, sign once how much may be spent. You can withdraw everything else at any time, and revoke this.`;
    byId("authorize").hidden = false;
    const only = el("button", { type: "button", class: "quiet", click: () => attempt(() => signIn(wallet)) }, "Only sign in");
    byId("wallets").replaceChildren(only);
    say("");
    byId("authorize-cap").focus();
  }

  async function signIn(wallet) {
    say("Sign in the wallet to open a session. It costs nothing.");
    const given = await api.json("POST", "/v1/session/challenge");
    const message = { owner: wallet.owner, challenge: given.challenge, signDeadline: String(nowS() + SIGN_WITHIN_S) };
    const signature = await sign(wallet, "SignIn", message);
    await open({ secret: given.secret, sign_in: message, signature });
  }

  async function authorize(wallet) {
    const cap = parsePrlx(byId("authorize-cap").value);
    const exposure = parsePrlx(byId("authorize-exposure").value);
    const days = Number.parseInt(byId("authorize-days").value, 10);
    if (!cap || !exposure || exposure > cap || exposure >= 1n << 48n || !(days >= 1 && days <= 365)) {
      say("Write amounts in PRLX with at most nine digits after the point, not more unsettled than in all, and 1 to 365 days.");
      return;
    }
    say(`Sign in the wallet: at most ${prlx(cap)} PRLX in all, at most ${prlx(exposure)} PRLX unsettled at any moment, for ${days} days.`);
    const given = await api.json("POST", "/v1/session/challenge");
    const message = {
      owner: wallet.owner,
      cap: String(cap),
      exposure: String(exposure),
      validUntil: String(nowS() + days * 86_400),
      challenge: given.challenge,
      nonce: String(wallet.account?.authNonce ?? 0n),
      signDeadline: String(nowS() + SIGN_WITHIN_S),
    };
    const signature = await sign(wallet, "SpendAuthorization", message);
    await open({ secret: given.secret, authorization: message, signature });
    say("Signed in. Confirm the transaction in the wallet: it puts the authorization on chain.");
    const transaction = { from: wallet.owner, to: wallet.deployment.credits, data: authorizeData(message, signature) };
    const hash = await wallet.provider.request({ method: "eth_sendTransaction", params: [transaction] });
    say(`Sent as ${hash}. Credits become spendable when the chain has confirmed it.`);
  }

  async function sign(wallet, type, message) {
    const params = [wallet.owner, typedData(type, message, wallet.deployment)];
    return normalizedSignature(await wallet.provider.request({ method: "eth_signTypedData_v4", params }));
  }

  /** Hands the signature in; the session lives in a cookie that no script can read. */
  async function open(body) {
    await api.json("POST", "/v1/session", { body });
    say("Signed in.");
    byId("authorize").hidden = true;
    pending = null;
    show();
    access.forget();
  }

  /** Another account in the wallet must not go on with this one's session. */
  async function endSession() {
    if (access.key()) return;
    await api.json("DELETE", "/v1/session").catch(() => null);
    access.changed();
    say("The wallet's account changed, so the session was ended. Connect again.");
  }

  globalThis.addEventListener("eip6963:announceProvider", (event) => {
    const { info, provider } = event.detail ?? {};
    if (!info?.uuid || typeof provider?.request !== "function") return;
    found.set(`${info.rdns} ${info.uuid}`, { info, provider });
    show();
  });
  globalThis.dispatchEvent(new Event("eip6963:requestProvider"));
  byId("authorize").addEventListener("submit", (event) => {
    event.preventDefault();
    if (pending) attempt(() => authorize(pending));
  });
  show();
}
