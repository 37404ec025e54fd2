/** A packet of the network as the file has it. */
export interface Frame {
  /** Counted from 1, as Wireshark does. */
  readonly number: number;
  /** ms since 1970, with fractions. */
  readonly time: number;
  /** LINKTYPE_: what `bytes` begins with. */
  readonly linkType: number;
  readonly bytes: Buffer;
  /** How long it was on the wire; more than there are bytes where only its beginning was captured. */
  readonly size: number;
  readonly comment?: string;
}

/** A block or a frame that is larger is none: tcpdump takes at most 256 KiB of each. */
export const MAX_BLOCK = 16 * 1024 * 1024;
