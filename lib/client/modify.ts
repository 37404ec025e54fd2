/** Applies what a milter asked for to a message and its envelope, in the order it asked. */
import type { Reply } from '../codec/replies.js';
import * as c from '../constants.js';
import { bareAddress } from '../envelope.js';
import { Body } from './body.js';
import type { Message } from './message.js';
import { recipientKey, milterHeader, settle, settledBody, type Model } from './models.js';

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

/** What was agreed, and whom to behave like. */
export interface ModifyOptions {
  /** Header values come with their leading space (SMFIP_HDR_LEADSPC); else one is put before them. */
  readonly leadingSpace: boolean;
  readonly model: Model;
}

/** @returns the reason of a quarantine, where one was asked for */
export function applyModifications(
  message: Message,
  envelope: Envelope,
  modifications: readonly Modification[],
  { leadingSpace, model }: ModifyOptions,
): string | undefined {
  let quarantined: string | undefined;
  let known: Set<string> | undefined;
  const body: Buffer[] = [];
  for (const change of modifications) {
    switch (change.type) {
      case 'addHeader':
        model.add(message, milterHeader(change.name, change.value, leadingSpace));
        break;
      case 'insHeader':
        model.insert(message, change.index, milterHeader(change.name, change.value, leadingSpace));
        break;
      case 'chgHeader': {
        const { name, value, index } = change;
        const make = (itsName: string) => milterHeader(itsName, value, leadingSpace);
        model.change(message, name, index, value === '' ? undefined : make);
        break;
      }
      case 'addRcpt':
      case 'addRcptPar':
        known ??= new Set(envelope.to.map(recipientKey));
        if (!known.has(recipientKey(change.address))) envelope.to.push(change.address);
        known.add(recipientKey(change.address));
        break;
      case 'delRcpt':
        envelope.to = envelope.to.filter((to) => bareAddress(to) !== bareAddress(change.address));
        known = undefined;
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
  settle(message);
  if (body.length > 0) message.body = Body.of(...settledBody(body, model));
  return quarantined;
}
