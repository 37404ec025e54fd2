/** Applies what a milter asked for to a message and its envelope, in the order it asked. */
import type { Reply } from '../codec/replies.js';
import * as c from '../constants.js';
import { bareAddress } from '../envelope.js';
import { makeHeader, type Message, type MessageHeader } from './message.js';

/** The replies that change a message. */
export type Modification = Extract<
  Reply,
  {
    type:
      | 'addHeader'
      | 'insHeader'
      | 'chgHeader'
      | 'addRcpt'
      | 'addRcptPar'
      | 'delRcpt'
      | 'chgFrom'
      | 'replBody'
      | 'quarantine';
  }
>;

/** SMFIF_: what has to be agreed for each. */
export const ACTION_OF: Readonly<Record<Modification['type'], number>> = {
  addHeader: c.SMFIF_ADDHDRS,
  insHeader: c.SMFIF_ADDHDRS,
  chgHeader: c.SMFIF_CHGHDRS,
  addRcpt: c.SMFIF_ADDRCPT,
  addRcptPar: c.SMFIF_ADDRCPT_PAR,
  delRcpt: c.SMFIF_DELRCPT,
  chgFrom: c.SMFIF_CHGFROM,
  replBody: c.SMFIF_CHGBODY,
  quarantine: c.SMFIF_QUARANTINE,
};

export function isModification(reply: Reply): reply is Modification {
  return Object.hasOwn(ACTION_OF, reply.type);
}

/** Who a message is from and for. */
export interface Envelope {
  from: string;
  to: string[];
}

/** What mail servers do differently, and what was agreed. */
export interface ModifyOptions {
  /** Header values come with their leading space (SMFIP_HDR_LEADSPC); else one is put before them. */
  readonly leadingSpace: boolean;
  /** A header that was removed still counts for the index of chgHeader: so it is in Sendmail, in Postfix it is not. */
  readonly removedCount: boolean;
}

/** @returns the reason of a quarantine, where one was asked for */
export function applyModifications(
  message: Message,
  envelope: Envelope,
  modifications: readonly Modification[],
  { leadingSpace, removedCount }: ModifyOptions,
): string | undefined {
  let quarantined: string | undefined;
  const body: Buffer[] = [];
  const made = ({ name, value }: { name: string; value: string }): MessageHeader =>
    makeHeader(name, leadingSpace ? value : ` ${value}`);
  for (const change of modifications) {
    switch (change.type) {
      case 'addHeader':
        message.headers.push(made(change));
        break;
      case 'insHeader':
        message.headers.splice(change.index, 0, made(change));
        break;
      case 'chgHeader': {
        const at = message.find(change.name, change.index);
        if (change.value !== '') message.headers.splice(at < 0 ? message.headers.length : at, 1, made(change));
        else if (at >= 0) message.headers.splice(at, 1, ...(removedCount ? [removed(change.name)] : []));
        break;
      }
      case 'addRcpt':
      case 'addRcptPar':
        if (!envelope.to.some((to) => bareAddress(to) === bareAddress(change.address)))
          envelope.to.push(change.address);
        break;
      case 'delRcpt':
        envelope.to = envelope.to.filter((to) => bareAddress(to) !== bareAddress(change.address));
        break;
      case 'chgFrom':
        envelope.from = change.address;
        break;
      case 'replBody':
        body.push(change.chunk);
        break;
      case 'quarantine':
        quarantined = change.reason;
        break;
    }
  }
  message.headers = message.headers.filter((header) => header.bytes.length > 0);
  if (body.length > 0) message.body = Buffer.concat(body);
  return quarantined;
}

/** Holds the place of a header that is not there any more. */
function removed(name: string): MessageHeader {
  return { name, value: '', bytes: Buffer.alloc(0) };
}
