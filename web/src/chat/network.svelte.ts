// Whether this device has a network at all. "online" promises nothing, "offline" is certain.

class Network {
  online = $state(navigator.onLine);

  constructor() {
    addEventListener("online", () => (this.online = true));
    addEventListener("offline", () => (this.online = false));
  }
}

export const network = new Network();

/** Does the work unless another tab of this page does it under that name: undefined then. A browser without locks just does it. */
export async function exclusively<T>(name: string, work: () => Promise<T>): Promise<T | undefined> {
  if (!navigator.locks) return work();
  return navigator.locks.request(`parallelix.${name}`, { ifAvailable: true }, async (lock): Promise<T | undefined> => (lock ? work() : undefined));
}

/** Waits `ms`; ends early when the network comes back or the page is looked at again. */
export function untilOnline(ms: number): Promise<void> {
  return new Promise((resolve) => {
    const wake = () => {
      clearTimeout(timer);
      removeEventListener("online", wake);
      document.removeEventListener("visibilitychange", seen);
      resolve();
    };
    const seen = () => document.visibilityState === "visible" && wake();
    const timer = setTimeout(wake, ms);
    addEventListener("online", wake);
    document.addEventListener("visibilitychange", seen);
  });
}
