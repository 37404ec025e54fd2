/** The bits of negotiation as names, for people: in errors, logs and tools. */
import * as constants from './constants.js';

/** Names that mean several bits, or a second name of a bit: a mask is printed without them. */
const notABit = /_ALLOPTS|_ALLPROTOS|SMFIF_MODBODY|SMFIP_NOHREPL/;

function bitNames(prefix: string): ReadonlyArray<readonly [string, number]> {
  return Object.entries(constants)
    .filter((entry): entry is [string, number] => entry[0].startsWith(prefix) && !notABit.test(entry[0]))
    .toSorted((a, b) => a[1] - b[1]);
}

const actions = bitNames('SMFIF_');
const protocol = bitNames('SMFIP_');

function namesOf(bits: ReadonlyArray<readonly [string, number]>, mask: number): string[] {
  const names: string[] = [];
  let rest = mask >>> 0;
  for (const [name, bit] of bits) {
    if ((rest & bit) === 0) continue;
    names.push(name);
    rest = (rest & ~bit) >>> 0;
  }
  if (rest !== 0) names.push(`0x${rest.toString(16)}`);
  return names;
}

/** The names of the SMFIF_* bits in a mask, low bits first; bits without a name come last, in hexadecimal. */
export function actionNames(mask: number): string[] {
  return namesOf(actions, mask);
}

/** The names of the SMFIP_* bits in a mask, low bits first; bits without a name come last, in hexadecimal. */
export function protocolNames(mask: number): string[] {
  return namesOf(protocol, mask);
}
