/** The time of an event: ms since 1970, with fractions, and never back. */
export function now(): number {
  return performance.timeOrigin + performance.now();
}
