// How figures are written: short, in the reader's own manner, with their unit.

const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });

export const counted = (value: number): string => whole.format(value);

/** Tokens per second. */
export const speed = (tokensPerS: number): string => `${(tokensPerS < 10 ? tenth : whole).format(tokensPerS)} tok/s`;

export const seconds = (ms: number): string => `${tenth.format(ms / 1000)} s`;

/** `0x12…ab` of an address or a hash. */
export const shortHex = (hex: string): string => (hex.length > 12 ? `${hex.slice(0, 6)}…${hex.slice(-4)}` : hex);

export const when = (ms: number): string => new Date(ms).toLocaleString();
