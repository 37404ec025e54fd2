/** What an examination has found. */
export interface Finding {
  /** A note is nothing to do anything about, a warning may be; with a problem mail does not pass as it should. */
  readonly level: 'ok' | 'note' | 'warning' | 'problem';
  readonly text: string;
}

export const ok = (text: string): Finding => ({ level: 'ok', text });
export const note = (text: string): Finding => ({ level: 'note', text });
export const warning = (text: string): Finding => ({ level: 'warning', text });
export const problem = (text: string): Finding => ({ level: 'problem', text });
