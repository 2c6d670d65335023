/**
 * The meter as a page sees it, but for its answers: whatever a hostile model could say, in whatever pieces.
 *
 * Everything else goes to the real meter and comes from it, its page and the page's policy with it.
 */

import { createServer, request as forward } from "node:http";
import type { IncomingMessage, Server, ServerResponse } from "node:http";

import { facts } from "./facts";

const METER = new URL(facts.apiUrl);

/** The pieces of an answer's text, and the pause before each. */
export interface Script {
  pieces: string[];
  pauseMs: number;
}

export class Relay {
  script: Script = { pieces: ["nothing"], pauseMs: 0 };
  private jobs = 0;
  private readonly scripts = new Map<string, Script>();
  private readonly stopped = new Set<string>();

  private constructor(private readonly server: Server) {}

  static async open(): Promise<Relay> {
    // Assigned before the first request can come.
    let relay: Relay | null = null;
    const server = createServer((request, response) => void relay?.serve(request, response));
    relay = new Relay(server);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return relay;
  }

  get url(): string {
    return `http://localhost:${this.server.address().port}/`;
  }

  close(): void {
    this.server.closeAllConnections();
    this.server.close();
  }

  private async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = request.url.split("?")[0] ?? "";
    if (request.method === "POST" && path === "/v1/jobs") return this.open(response);
    const job = /^\/v1\/jobs\/(0x[0-9a-f]+)(\/events)?$/.exec(path);
    const script = job?.[1] ? this.scripts.get(job[1]) : undefined;
    if (job?.[1] && script) {
      if (job[2]) return this.stream(job[1], script, response);
      if (request.method === "DELETE") {
        this.stopped.add(job[1]);
        return json(response, 202, { ...this.described(job[1]), state: "running" });
      }
      return json(response, 200, { ...this.described(job[1]), state: "running", model: facts.model, events: script.pieces.length, created_at: 0 });
    }
    this.pass(request, response);
  }

  private open(response: ServerResponse): void {
    const id = `0x${(++this.jobs).toString(16).padStart(64, "0")}`;
    this.scripts.set(id, this.script);
    json(response, 201, { ...this.described(id), state: "queued" });
  }

  private described(id: string) {
    return { id, receipt_id: id };
  }

  private async stream(id: string, { pieces, pauseMs }: Script, response: ServerResponse): Promise<void> {
    let isOpen = true;
    response.on("close", () => (isOpen = false));
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
    const chunk = (choices: unknown[], more: object = {}) => ({ id, object: "chat.completion.chunk", created: 0, model: facts.model, choices, ...more });
    const say = (event: number, data: unknown) => response.write(`id: ${event}\ndata: ${typeof data === "string" ? data : JSON.stringify(data)}\n\n`);
    let event = 0;
    for (const piece of pieces) {
      if (!isOpen) return;
      if (this.stopped.has(id)) break;
      if (pauseMs > 0) await new Promise((resolve) => setTimeout(resolve, pauseMs));
      say(++event, chunk([{ index: 0, delta: { content: piece }, finish_reason: null }]));
    }
    const usage = { prompt_tokens: 7, completion_tokens: event, total_tokens: 7 + event, cost: "0.000028", cost_credits: 28_000 };
    say(++event, chunk([{ index: 0, delta: {}, finish_reason: "stop" }]));
    say(++event, chunk([], { usage, parallelix: { receipt_id: id, node: facts.nodes[0]?.address, operator: facts.nodes[0]?.operator, fallback: false } }));
    say(++event, "[DONE]");
    response.end();
  }

  private pass(request: IncomingMessage, response: ServerResponse): void {
    const upstream = forward({ host: METER.hostname, port: Number(METER.port), method: request.method, path: request.url, headers: request.headers }, (reply) => {
      response.writeHead(reply.statusCode, reply.headers);
      reply.pipe(response);
    });
    upstream.on("error", () => response.destroy());
    response.on("close", () => upstream.destroy());
    request.pipe(upstream);
  }
}

function json(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(body));
}

/** `text` in pieces of 1 to `most` characters, the same for the same seed. */
export function split(text: string, seed: number, most = 7): string[] {
  const pieces: string[] = [];
  let state = seed >>> 0 || 1;
  for (let at = 0; at < text.length; ) {
    // xorshift32: enough to put the cuts where nobody thought of them.
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    const length = 1 + ((state >>> 0) % most);
    pieces.push(text.slice(at, at + length));
    at += length;
  }
  return pieces;
}
