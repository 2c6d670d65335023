// The specs drive one browser against one network, so they run one after the other.

import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["e2e/**/*.spec.ts"],
    environment: "node",
    fileParallelism: false,
    maxWorkers: 1,
    // A model computes on whatever processors there are; these end what hangs, and measure nothing.
    testTimeout: 600_000,
    hookTimeout: 240_000,
    teardownTimeout: 60_000,
    reporters: ["verbose"],
  },
});
