// Fails the build when the page grew past its budget. Sizes are gzip level 9, as the meter stores the files.

import { readFileSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const FIRST_LOAD_BYTES_MAX = 110_000;
const ALL_BYTES_MAX = 260_000;
const FIRST_REQUESTS_MAX = 6;

const dist = fileURLToPath(new URL("../dist/", import.meta.url));
const read = (name) => readFileSync(dist + name);
const packed = (name) => gzipSync(read(name), { level: 9 }).length;

const names = readdirSync(dist, { recursive: true, withFileTypes: true })
  .filter((entry) => entry.isFile())
  .map((entry) => `${entry.parentPath}/${entry.name}`.replace(dist, "").replace(/^\//, ""));

const page = read("index.html").toString();
// What the document names and, behind it, what those scripts import before they run.
const first = new Set(["index.html"]);
const waiting = [...page.matchAll(/(?:src|href)="\/([^"]+)"/g)].map(([, name]) => name);
while (waiting.length > 0) {
  const name = waiting.pop();
  if (first.has(name) || !names.includes(name)) continue;
  first.add(name);
  if (!name.endsWith(".js")) continue;
  for (const [, imported] of read(name).toString().matchAll(/(?:from|import)\s*"\.\/([^"]+\.js)"/g)) waiting.push(`assets/${imported}`);
}

const problems = [];
if (/<style|style="|<script>|<script type="module">| on\w+="/.test(page)) problems.push("index.html holds an inline script or style");
for (const name of names) {
  if (name.startsWith("assets/") && !/-[\w-]{8}\.\w+$/.test(name)) problems.push(`${name} has no hash in its name`);
  if (name.endsWith(".js") && /\beval\(|new Function\(/.test(read(name).toString())) problems.push(`${name} turns a string into code`);
}

const sum = (some) => [...some].reduce((total, name) => total + packed(name), 0);
const firstBytes = sum(first);
const allBytes = sum(names);
for (const name of names.toSorted((a, b) => packed(b) - packed(a))) console.log(`${String(packed(name)).padStart(8)}  ${first.has(name) ? "first" : "     "}  ${name}`);
console.log(`first load ${firstBytes} of ${FIRST_LOAD_BYTES_MAX} bytes in ${first.size} of ${FIRST_REQUESTS_MAX} requests; all ${allBytes} of ${ALL_BYTES_MAX} bytes`);
if (firstBytes > FIRST_LOAD_BYTES_MAX) problems.push(`the first load has ${firstBytes} bytes, more than ${FIRST_LOAD_BYTES_MAX}`);
if (allBytes > ALL_BYTES_MAX) problems.push(`the page has ${allBytes} bytes, more than ${ALL_BYTES_MAX}`);
if (first.size > FIRST_REQUESTS_MAX) problems.push(`the first load takes ${first.size} requests, more than ${FIRST_REQUESTS_MAX}`);
for (const problem of problems) console.error(`size: ${problem}`);
process.exit(problems.length > 0 ? 1 : 0);
