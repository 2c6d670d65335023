#!/usr/bin/env node
// The compiler of script/solc for a worker that compiles hundreds of times: `serve FOLDER` loads it once and stays, and
// what forge calls only passes its input on. Loading and warming it up is nine tenths of a small contract's compilation.
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const args = process.argv.slice(2);
const folder = args[0] === "serve" ? args[1] : dirname(fileURLToPath(import.meta.url));
// A socket's path may have a hundred bytes, so that it is named from where it is.
process.chdir(folder);
const socket = "solc.socket";
const version = "solc.version";

async function serve() {
  const { createRequire } = await import("node:module");
  const solc = createRequire(join(folder, "solc"))("solc");
  writeFileSync(version, solc.version().replace(".Emscripten.clang", ".Linux.g++"));
  const server = createServer({ allowHalfOpen: true }, (client) => {
    const parts = [];
    client.on("data", (part) => parts.push(part));
    // A forge that was ended while it compiled.
    client.on("error", () => client.destroy());
    client.on("end", () => client.end(solc.compile(Buffer.concat(parts).toString())));
  });
  // Listening under another name first: a socket under its own name can be used.
  server.listen(`${socket}.new`, () => renameSync(`${socket}.new`, socket));
  // The pipe from the mutator ends with it, however it ended.
  process.stdin.on("end", () => process.exit(0)).resume();
}

if (args[0] === "serve") {
  await serve();
} else if (args.includes("--version") && existsSync(version)) {
  console.log("solc, the solidity compiler commandline interface");
  console.log(`Version: ${readFileSync(version, "utf8")}`);
} else if (args.includes("--standard-json")) {
  const server = connect(socket);
  server.pipe(process.stdout);
  process.stdin.pipe(server);
} else {
  console.error(`warm solc: expected --version or --standard-json, got: ${args.join(" ") || "nothing"}`);
  process.exit(1);
}
