// The few things of Node.js that the specs use; the whole package of its types would be one more to trust.

declare const process: {
  env: Record<string, string | undefined>;
  kill(pid: number, signal: string | 0): true;
};

declare class Buffer extends Uint8Array {
  static concat(parts: Uint8Array[]): Buffer;
  static from(text: string): Buffer;
  toString(encoding?: "utf8" | "base64"): string;
}

declare module "node:fs" {
  export function readFileSync(path: string | URL, encoding: "utf8"): string;
  export function writeFileSync(path: string, content: string | Uint8Array): void;
  export function mkdirSync(path: string, options: { recursive: true }): void;
  export function openSync(path: string, flags: "a"): number;
}

declare module "node:path" {
  export function join(...parts: string[]): string;
}

declare module "node:module" {
  export function createRequire(from: string): { resolve(name: string): string };
}

declare module "node:child_process" {
  export interface ChildProcess {
    pid: number | undefined;
    kill(signal: string): boolean;
  }
  export function spawn(program: string, args: string[], options: { cwd: string; stdio: ["ignore", number, number] }): ChildProcess;
}

declare module "node:http" {
  export interface IncomingMessage extends AsyncIterable<Uint8Array> {
    method: string;
    url: string;
    statusCode: number;
    headers: Record<string, string | string[] | undefined>;
    pipe(to: ServerResponse | ClientRequest): void;
  }
  export interface ServerResponse {
    writeHead(status: number, headers: Record<string, string | string[] | undefined>): this;
    write(chunk: string | Uint8Array): boolean;
    end(chunk?: string | Uint8Array): void;
    destroy(): void;
    on(event: "close", listener: () => void): void;
  }
  export interface ClientRequest {
    on(event: "error", listener: (error: Error) => void): void;
    end(): void;
    destroy(): void;
  }
  export interface Server {
    listen(port: number, host: string, listening: () => void): void;
    address(): { port: number };
    close(): void;
    closeAllConnections(): void;
  }
  export function createServer(listener: (request: IncomingMessage, response: ServerResponse) => void): Server;
  export function request(
    options: { host: string; port: number; method: string; path: string; headers: Record<string, string | string[] | undefined> },
    listener: (response: IncomingMessage) => void,
  ): ClientRequest;
}
