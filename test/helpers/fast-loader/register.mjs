// What workers of tests load TypeScript with: tap's own loader takes seconds in each, which hundreds of workers add up to.
import { register } from 'node:module';

register('./hooks.mjs', import.meta.url);
