/** What a peer seems to be whose first bytes are no milter packet: most often somebody dialled the wrong port. */

const peers: ReadonlyArray<readonly [RegExp, string]> = [
  [/^(HELO|EHLO|LHLO|MAIL|RCPT|QUIT|NOOP|STARTTLS)\b/i, 'an SMTP client'],
  [/^220[ -]/, 'an SMTP server'],
  [/^(GET|POST|PUT|HEAD|OPTIONS|DELETE|PATCH|CONNECT) /, 'an HTTP client'],
  [/^HTTP\/\d/, 'an HTTP server'],
  [/^[nz]?(INSTREAM|PING|VERSION|SCAN|IDSESSION)\b/, 'a client of clamd'],
  [/^(UNKN|PONG|ClamAV|stream: )/, 'clamd, the virus scanner (its milter is clamav-milter)'],
  [/^PROXY (TCP|UNKNOWN)|^\r\n\r\n\0\r\nQUIT\n/, 'a proxy that sends a PROXY protocol header'],
  [/^SSH-/, 'an SSH peer'],
];

/** A sentence about the first bytes of a stream; empty where they say nothing. */
export function guessPeer(bytes: Buffer): string {
  if (bytes[0] === 0x16 && bytes[1] === 0x03) return '; the peer seems to speak TLS';
  const text = bytes.toString('latin1');
  const known = peers.find(([pattern]) => pattern.test(text));
  if (known !== undefined) return `; the peer seems to be ${known[1]}`;
  return /^[\x20-\x7e\r\n\t]{4,}/.test(text) ? `; the peer speaks text: ${JSON.stringify(text)}` : '';
}
