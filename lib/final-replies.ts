/** The replies that are the answer to a command; before them may come progress and, at the end of a message, edits. */
export const FINAL_REPLIES: ReadonlySet<string | undefined> = new Set([
  'continue',
  'accept',
  'reject',
  'tempFail',
  'discard',
  'connFail',
  'shutdown',
  'skip',
  'replyCode',
]);
