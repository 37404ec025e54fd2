/** Addresses of the envelope, with and without their angle brackets. */

/** An address without its angle brackets: `<a@b.org>` and `a@b.org` both give `a@b.org`, `<>` gives ''. */
export function bareAddress(address: string): string {
  const trimmed = address.trim();
  return trimmed.startsWith('<') && trimmed.endsWith('>') ? trimmed.slice(1, -1) : trimmed;
}

/** An address in angle brackets: what a mail server expects. */
export function bracketAddress(address: string): string {
  return `<${bareAddress(address)}>`;
}
