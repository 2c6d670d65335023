// Where the reader is: `#/page/argument`. The fragment never reaches a server, so a link may name a conversation.

import { linkTo, type Route, routeOf } from "./routes";

export { linkTo, type Route, routeOf };

class Router {
  #route = $state.raw<Route>(routeOf(location.hash));

  constructor() {
    addEventListener("hashchange", () => (this.#route = routeOf(location.hash)));
  }

  get route(): Route {
    return this.#route;
  }

  go(page: string, argument?: string | null): void {
    location.hash = linkTo(page, argument);
  }

  /** Like `go`, without a step in the browser's history. */
  replace(page: string, argument?: string | null): void {
    history.replaceState(null, "", linkTo(page, argument));
    this.#route = routeOf(location.hash);
  }
}

export const router = new Router();
