// Builds the page into dist/: hashed names, nothing inline, nothing that depends on the machine or on when it was built.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vitest/config";

const PREPAINT = fileURLToPath(new URL("./src/theme/prepaint.js", import.meta.url));

/** A plain script that runs before the first paint. Vite only bundles modules, and a module runs too late. */
function prepaint() {
  const source = readFileSync(PREPAINT, "utf8");
  const fileName = `assets/theme-${createHash("sha256").update(source).digest("hex").slice(0, 8)}.js`;
  let building = false;
  return {
    name: "parallelix-prepaint",
    configResolved(config) {
      building = config.command === "build";
    },
    buildStart() {
      if (building) this.emitFile({ type: "asset", fileName, source });
    },
    transformIndexHtml() {
      const src = building ? `/${fileName}` : "/src/theme/prepaint.js";
      return [{ tag: "script", attrs: { src }, injectTo: "head-prepend" }];
    },
  };
}

// Where `vite dev` and `vite preview` find a meter; the built page always talks to the meter that served it.
const METER = process.env.PARALLELIX_METER ?? "http://127.0.0.1:8080";
const proxy = Object.fromEntries(["/v1", "/openapi.json"].map((path) => [path, { target: METER, changeOrigin: false }]));

export default defineConfig({
  plugins: [svelte(), prepaint()],
  build: {
    target: "es2022",
    assetsInlineLimit: 0,
    // One sheet of some 7 kB packed: a part that is fetched later then waits for nothing but its own code, and asking again is enough where that fails.
    cssCodeSplit: false,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 300,
  },
  server: { proxy },
  preview: { proxy },
  // Vitest resolves Svelte's server build unless it is told that the tests stand in for a browser.
  resolve: process.env.VITEST ? { conditions: ["browser"] } : {},
  test: { include: ["test/**/*.test.ts"], testTimeout: 60_000, hookTimeout: 60_000 },
});
