import assert from "node:assert/strict";
import { test } from "node:test";

import { accountOfData, accountsData, authorizeData, normalizedSignature, readAccount, typedData } from "../vault.js";
import { isAuthorized, walletWords } from "../wallet.js";

const OWNER = "0x1111111111111111111111111111111111111111";

test("call data is what cast makes of the same values", () => {
  const authorization = {
    owner: OWNER, cap: "100000000000", exposure: "1000000000", validUntil: "1900000000",
    challenge: `0x${"22".repeat(32)}`, nonce: "3", signDeadline: "1800000000",
  };
  // cast calldata, Foundry 1.7.1
  const expected = "0x1d3814660000000000000000000000001111111111111111111111111111111111111111000000000000000000000000000000000000000000000000000000174876e800000000000000000000000000000000000000000000000000000000003b9aca0000000000000000000000000000000000000000000000000000000000713fb30022222222222222222222222222222222222222222222222222222222222222220000000000000000000000000000000000000000000000000000000000000003000000000000000000000000000000000000000000000000000000006b49d20000000000000000000000000000000000000000000000000000000000000001000000000000000000000000000000000000000000000000000000000000000041ababababababababababababababababababababababababababababababababababababababababababababababababababababababababababababababababab00000000000000000000000000000000000000000000000000000000000000";
  assert.equal(authorizeData(authorization, `0x${"ab".repeat(65)}`), expected);
  assert.equal(accountOfData(OWNER), `0x8086b8ba${"0".repeat(24)}${"11".repeat(20)}`);
  assert.equal(accountsData(7n), "0x77c42799000000000000000000000000000000000000000000000000000000000000002000000000000000000000000000000000000000000000000000000000000000010000000000000000000000000000000000000000000000000000000000000007");
});

test("an account is read from the vault's answer", () => {
  const word = (value) => BigInt(value).toString(16).padStart(64, "0");
  const answer = `0x${[32, 1, OWNER, 10, 500, 20, 1, 1_900_000_000, 600, 510, 4].map(word).join("")}`;
  assert.deepEqual(readAccount(answer), {
    settled: 10n, limit: 500n, exposure: 20n, settleDeadline: 1_900_000_000n, netDeposited: 600n, authorizedCum: 510n, authNonce: 4n,
  });
  assert.equal(readAccount("0x"), null);
});

test("spending is authorized while debits outlast the exit delay and something is left", () => {
  const account = { settleDeadline: 10_000n, authorizedCum: 5n, settled: 4n };
  assert.ok(isAuthorized(account, 3_600, 6_000));
  assert.ok(!isAuthorized(account, 3_600, 6_400));
  assert.ok(!isAuthorized({ ...account, settled: 5n }, 3_600, 6_000));
  assert.ok(!isAuthorized(null, 3_600, 0));
});

test("a recovery id of 0 or 1 becomes 27 or 28, and nothing else changes", () => {
  const rs = `0x${"11".repeat(64)}`;
  assert.deepEqual(["00", "01", "1b", "1c"].map((v) => normalizedSignature(rs + v).slice(-2)), ["1b", "1c", "1b", "1c"]);
  assert.equal(normalizedSignature(`${rs}00ff`), `${rs}00ff`);
});

test("typed data names the vault's domain and every field", () => {
  const typed = JSON.parse(typedData("SignIn", { owner: OWNER }, { chainId: 31_337, credits: OWNER }));
  assert.deepEqual(typed.domain, { name: "ParalleliXAICredits", version: "1", chainId: "31337", verifyingContract: OWNER });
  assert.deepEqual(typed.types.SignIn.map((field) => `${field.type} ${field.name}`), ["address owner", "bytes32 challenge", "uint40 signDeadline"]);
});

test("a wallet's refusal is told by its code", () => {
  assert.match(walletWords({ code: 4001 }), /declined/);
  assert.match(walletWords({ code: -32002 }), /already asking/);
  assert.match(walletWords(new Error("boom")), /boom/);
});
