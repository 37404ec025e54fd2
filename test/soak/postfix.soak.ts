import { soakForks, soakThreads } from './variants.js';

soakForks('postfix');
soakThreads('postfix');
