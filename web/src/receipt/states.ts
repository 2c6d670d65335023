// Where a receipt stands, in words.

export interface StateWords {
  readonly name: string;
  readonly text: string;
  readonly kind: "plain" | "good" | "warn" | "bad" | "accent";
  /** Nothing changes any more. */
  readonly isFinal: boolean;
}

const STATES: Readonly<Record<string, StateWords>> = {
  awaiting_signature: { name: "waiting for the node", kind: "warn", isFinal: false, text: "The node has not signed yet. It is asked again when it is back; after 24 hours the charge is given back." },
  signed: { name: "signed", kind: "accent", isFinal: false, text: "Signed by the node. It waits for the next settlement." },
  batched: { name: "batched", kind: "accent", isFinal: false, text: "It stands in a batch. The batch waits for the chain." },
  settled: { name: "settled", kind: "good", isFinal: true, text: "Paid out on the chain. Anybody can check it against the batch's root." },
  refunded: { name: "refunded", kind: "plain", isFinal: true, text: "The node never signed, so the charge was given back." },
  disputed: { name: "disputed", kind: "bad", isFinal: true, text: "Its node failed an audit, so it was not paid and the charge was given back." },
};

export const stateWords = (state: string): StateWords => STATES[state] ?? { name: state, kind: "plain", isFinal: false, text: "This page does not know this state; reload it." };

export interface Step {
  readonly name: string;
  readonly reached: boolean;
}

/** The way from signature to chain; empty for a receipt that left it. */
export function stepsOf(state: string): Step[] {
  const way = ["signed", "batched", "settled"];
  if (state === "refunded" || state === "disputed") return [];
  const at = way.indexOf(state);
  return way.map((name, index) => ({ name, reached: index <= at }));
}
