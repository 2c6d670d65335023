// Elements out of names and text. There is no way in from text to markup: children become text nodes, attributes are set by name.

/** Makes an element: `el("p", {class: "note"}, "text", other)`. Functions among the properties are event listeners. */
export function el(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") element.addEventListener(key, value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** The element of the page with this id. */
export const byId = (id) => document.getElementById(id);

/** Says a sentence to screen readers. */
export function announce(sentence) {
  byId("announcer").textContent = sentence;
}

/** The beginning and end of a long hex text: `0x1234…abcd`. */
export function shortHex(text) {
  return text.length > 14 ? `${text.slice(0, 6)}…${text.slice(-4)}` : text;
}

/** A rate or count for reading: three digits at most. */
export function figure(value) {
  if (value === null || value === undefined || !Number.isFinite(Number(value))) return "–";
  const number = Number(value);
  return number >= 100 || Number.isInteger(number) ? Math.round(number).toLocaleString() : number.toFixed(1);
}

/** Runs `task` every `periodMs` while the page is visible, one at a time. Returns a function that runs it now. */
export function poll(task, periodMs) {
  let timer = null;
  let running = false;
  async function run() {
    clearTimeout(timer);
    if (running) return;
    running = true;
    try {
      if (document.visibilityState === "visible") await task();
    } finally {
      running = false;
      timer = setTimeout(run, periodMs);
    }
  }
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && run());
  run();
  return run;
}
