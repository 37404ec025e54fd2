import { soakForks, soakThreads } from './variants.js';

soakForks('sendmail');
soakThreads('sendmail');
