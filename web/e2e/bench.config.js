// Figures, not tests: nothing here passes or fails by the clock.

import { defineConfig } from "vitest/config";

export default defineConfig({
  test: { include: ["e2e/**/*.figures.ts"], environment: "node", fileParallelism: false, maxWorkers: 1, testTimeout: 600_000, hookTimeout: 240_000, reporters: ["verbose"], disableConsoleIntercept: true },
});
