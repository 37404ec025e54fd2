/** A packet in words, on one line. What came from elsewhere is not made harmless here: printable() does that. */
import type { Command } from '../codec/commands.js';
import type { OddPacket } from '../codec/parser.js';
import type { Reply } from '../codec/replies.js';
import { toText } from '../codec/text.js';
import { showLetter } from '../capture/show.js';
import { actionNames, protocolNames } from '../names.js';
import { replyWords } from '../replay/outcome.js';
import { stageOfLetter } from '../stages.js';
import { count } from './terminal.js';

/** @returns what stands behind the packet's name */
export function detailsOf(packet: Command | Reply | OddPacket): string {
  switch (packet.type) {
    case 'negotiate': {
      const { version, actions, protocol } = packet;
      const lists = ('macros' in packet ? packet.macros : undefined) ?? [];
      const macros = lists.map(({ stage, names }) => `${stage}: ${names || 'none'}`);
      return [
        `version ${version}`,
        `actions ${actionNames(actions).join(' ') || 'none'}`,
        `protocol ${protocolNames(protocol).join(' ') || 'none'}`,
        ...(macros.length === 0 ? [] : [`macros ${macros.join('; ')}`]),
      ].join(', ');
    }
    case 'macro': {
      const { stage, macros } = packet;
      return [`for ${stageOfLetter(stage) ?? stage}:`, ...macros.map(([name, value]) => `${name}=${value}`)].join(' ');
    }
    case 'connect': {
      const { hostname, family, address, port } = packet;
      return `${hostname} [${address}]${family === 'U' || family === 'L' ? ` ${family}` : `:${port}`}`;
    }
    case 'helo':
      return packet.name;
    case 'mailFrom':
    case 'rcpt':
      return [packet.address, ...packet.args].join(' ');
    case 'header':
    case 'addHeader':
      return `${packet.name}:${spaced(packet.value)}`;
    case 'insHeader':
      return `${packet.index} ${packet.name}:${spaced(packet.value)}`;
    case 'chgHeader':
      return packet.value === ''
        ? `${packet.index} ${packet.name} removed`
        : `${packet.index} ${packet.name}:${spaced(packet.value)}`;
    case 'body':
    case 'replBody':
      return count(packet.chunk.length, 'byte');
    case 'eob':
      return packet.chunk === undefined ? '' : `with ${count(packet.chunk.length, 'byte')} of the body`;
    case 'unknown':
      return packet.line;
    case 'replyCode':
      return replyWords(packet.text);
    case 'addRcpt':
    case 'delRcpt':
      return packet.address;
    case 'addRcptPar':
    case 'chgFrom':
      return `${packet.address} ${packet.args ?? ''}`.trimEnd();
    case 'quarantine':
      return packet.reason;
    case 'setSymList':
      return `${packet.stage}: ${packet.names}`;
    case 'unrecognized':
      return `${showLetter(packet.code)}, ${count(packet.payload.length, 'byte')}: ${bytesInWords(packet.payload)}`;
    case 'malformed':
      return `${showLetter(packet.code)}: ${bytesInWords((packet.raw as Buffer).subarray(5))}`;
    default:
      return '';
  }
}

/** With SMFIP_HDR_LEADSPC the space is there. */
function spaced(value: string): string {
  return /^\s/.test(value) || value === '' ? value : ` ${value}`;
}

const MOST_SHOWN = 24;

/** Bytes that are no packet: in hexadecimal, and as text. */
export function bytesInWords(bytes: Buffer): string {
  const shown = bytes.subarray(0, MOST_SHOWN);
  const more = bytes.length > MOST_SHOWN ? ' …' : '';
  return `${shown.toString('hex').replace(/..(?=.)/g, '$& ')}${more} ${JSON.stringify(toText(shown))}`;
}
