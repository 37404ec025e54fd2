/** Options that let workers of tests start in a tenth of the time: with a lighter loader of TypeScript. */
import type { FactoryOptions } from '../../lib/index.js';

export const FAST: FactoryOptions = {
  execArgv: ['--enable-source-maps', `--import=${new URL('./fast-loader/register.mjs', import.meta.url).href}`],
};
