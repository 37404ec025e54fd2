/** The macros that a mail server sends when nobody says otherwise, and what the caller makes of them. */
import { bareAddress } from '../envelope.js';
import type { Stage } from '../stages.js';
import type { ClientMacros, ClientPeer } from './types.js';

let queueIds = 0;

/** A queue id of our own. */
export function newQueueId(): string {
  return `MS${(++queueIds).toString(16).toUpperCase().padStart(6, '0')}`;
}

/** A peer with everything filled in. */
export type FullPeer = Required<Omit<ClientPeer, 'helo'>> & Pick<ClientPeer, 'helo'>;

export function fullPeer(peer: ClientPeer): FullPeer {
  const { hostname = 'localhost', address = '127.0.0.1', port = 25_000 } = peer;
  const family = peer.family ?? (address.startsWith('/') ? 'L' : address.includes(':') ? '6' : '4');
  return { hostname, address, port: family === 'L' ? 0 : port, family, helo: peer.helo ?? hostname };
}

/** What CONNECT comes with. */
export function connectMacros({ hostname, address }: FullPeer): ClientMacros {
  const _ = `${hostname} [${address}]`;
  return { connect: { j: 'localhost', '{daemon_name}': 'milter-stream', v: 'milter-stream', _ } };
}

/** What Postfix knows of the SMTP client, too, and says only where a milter asks for it. */
export function peerMacros({ hostname, address, port }: FullPeer): Record<string, string> {
  return { client_name: hostname, client_addr: address, client_port: String(port), client_ptr: hostname };
}

/** What the commands of a message come with. */
export function messageMacros(from: string): ClientMacros {
  const i = newQueueId();
  return { mailFrom: { i, '{mail_addr}': bareAddress(from) }, rcpt: { i }, data: { i }, eoh: { i }, eob: { i } };
}

export function recipientMacros(address: string): Readonly<Record<string, string>> {
  return { '{rcpt_addr}': bareAddress(address) };
}

/** What both mail servers say of a recipient that they have refused themselves. */
export function refusalMacros(enhanced: string, text: string): Readonly<Record<string, string>> {
  return { '{rcpt_mailer}': 'error', '{rcpt_host}': enhanced, '{rcpt_addr}': text };
}

/** Macros of several origins, name by name; the last one counts. */
export function merged(...origins: ReadonlyArray<ClientMacros | undefined>): ClientMacros {
  const all: Partial<Record<Stage, Record<string, string | undefined>>> = {};
  for (const origin of origins) {
    for (const [stage, macros] of Object.entries(origin ?? {})) {
      all[stage as Stage] = { ...all[stage as Stage], ...macros };
    }
  }
  return all;
}
