/** Conversations to look at: on a page that is served while they go, or in a file. */
export { createLadder, Ladder, type LadderOptions, type LadderPlace } from './server.js';
export { htmlReport, type ReportOptions } from './report.js';
export { parseWebPlace, type WebPlace } from './place.js';
export type { PageOptions } from './page.js';
export { MilterError, type MilterErrorCode } from '../errors.js';
